// The page's only script: reading values off the charts, and the browser of answers.
// Everything from a model reaches the page as text (textContent), never as markup.
"use strict";

const load = (id) => JSON.parse(document.getElementById(id).textContent);
const make = (name, className, text) => {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
const short = (v) => {
  if (v === null || v === undefined) return "–";
  const size = Math.abs(v);
  if (size && size < 1e-3) return v.toExponential(1);
  return size >= 1000 ? Math.round(v).toLocaleString("en") : String(+v.toPrecision(4));
};

// -- charts: a hair line at the pointer or at the arrow keys, with the values beside it ------------------------------
function readable(svg, chart) {
  const NS = "http://www.w3.org/2000/svg";
  const plot = svg.parentNode;
  const [left, right, top, bottom] = chart.frame;
  const points = new Map(); // pixel -> x
  for (const s of chart.series) s.px.forEach((p, i) => points.set(p, s.x[i]));
  const stops = [...points.keys()].sort((a, b) => a - b);
  let at = -1, drawn = [], tip = null;

  function clear() {
    drawn.forEach((node) => node.remove());
    drawn = [];
    if (tip) tip.remove();
    tip = null;
  }
  function add(name, attributes, className) {
    const node = document.createElementNS(NS, name);
    for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
    node.setAttribute("class", className);
    svg.append(node);
    drawn.push(node);
  }
  function show(index) {
    clear();
    at = Math.max(0, Math.min(stops.length - 1, index));
    const px = stops[at], x = points.get(px);
    add("line", { x1: px, x2: px, y1: top, y2: bottom }, "hair");
    tip = make("div", "tip");
    tip.setAttribute("role", "status");
    tip.append(make("div", "", `${chart.xlabel} ${short(x)}`));
    for (const s of chart.series) {
      const i = s.px.indexOf(px);
      if (i < 0 || s.y[i] === null) continue;
      add("circle", { cx: px + s.aside, cy: s.py[i], r: 4 }, `spot c${s.color % 8}`);
      const line = make("div");
      line.append(make("i", `swatch c${s.color % 8}`), make("b", "", short(s.y[i])));
      const low = s.low[i], high = s.high[i];
      if (low !== null && low !== undefined) line.append(`  ${short(low)} to ${short(high)}`);
      if (s.dots.length && s.dots[i] !== null) line.append(`  single ${short(s.dots[i])}`);
      if (s.label) line.append(`  ${s.label}`);
      tip.append(line);
    }
    plot.append(tip);
    const scale = svg.clientWidth / svg.viewBox.baseVal.width;
    const wide = tip.offsetWidth, x0 = px * scale;
    tip.style.left = `${Math.max(0, x0 + 14 + wide > plot.clientWidth ? x0 - wide - 14 : x0 + 14)}px`;
    tip.style.top = `${top * scale}px`;
  }
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const px = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    let best = 0;
    stops.forEach((stop, i) => { if (Math.abs(stop - px) < Math.abs(stops[best] - px)) best = i; });
    return best;
  };
  svg.addEventListener("pointermove", (event) => show(nearest(event)));
  svg.addEventListener("pointerleave", clear);
  svg.addEventListener("blur", clear);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: stops.length - 1 }[event.key];
    if (move === undefined) return event.key === "Escape" ? clear() : undefined;
    event.preventDefault();
    show(event.key === "ArrowLeft" && at < 0 ? stops.length - 1 : move);
  });
}
for (const [id, chart] of Object.entries(load("charts"))) readable(document.getElementById(id), chart);

// -- answers ----------------------------------------------------------------------------------------------------------
// A row: k 0 training, 1 held-out; s step; p prompt; r reward; w right (absent where no answer is right or wrong); rs parts of the reward; g group; n tokens;
// a text or t texts of the tokens; per token (or one for all) ad advantage, lp log p, ra ratio, cl clipped,
// u log p - log p_ref, v the critic's value; cut left out.
function answers() {
  const list = document.getElementById("answer-list");
  if (!list) return;
  const detail = document.getElementById("answer"), status = document.getElementById("answer-count");
  const field = (name) => document.getElementById(`f-${name}`);
  const value = (name) => (field(name) ? field(name).value : "");
  const PAGE = 200;
  const rows = [];
  load("answers-data").forEach((run, index) => {
    for (const row of run.rows) {
      row.run = index;
      row.name = run.name;
      row.prompt = run.prompts[row.p];
      row.text = row.t ? row.t.slice(0, row.stop === "stop" ? -1 : undefined).join("") : row.a; // no end token
      row.id = rows.push(row) - 1;
    }
  });
  const groupKey = (r) => `${r.run}/${r.k}/${r.s}/${r.k ? r.p : r.g}`;
  const groups = new Map();
  for (const r of rows) groups.has(groupKey(r)) ? groups.get(groupKey(r)).push(r) : groups.set(groupKey(r), [r]);
  const mark = (r) => (r.r === null ? "?" : r.w === undefined ? "" : r.w ? "✓" : "✗");
  const kind = (r) => (r.r === null ? "unknown" : r.w === undefined ? "graded" : r.w ? "right" : "wrong");
  const each = (v, i) => (Array.isArray(v) ? v[i] : v);
  const most = (v) => (v === undefined ? -1 : Array.isArray(v) ? Math.max(...v.map(Math.abs)) : Math.abs(v));
  const size = (r) => (r.n === undefined ? r.text.length : r.n);
  const mean = (v) => (v ? v.reduce((a, b) => a + b, 0) / v.length : 0);
  const ORDERS = {
    new: (a, b) => b.s - a.s || a.id - b.id, r: (a, b) => b.r - a.r, "r-": (a, b) => a.r - b.r,
    n: (a, b) => size(b) - size(a), "n-": (a, b) => size(a) - size(b),
    ad: (a, b) => most(b.ad) - most(a.ad), lp: (a, b) => mean(a.lp) - mean(b.lp),
  };
  const steps = [...new Set(rows.map((r) => r.s))].sort((a, b) => a - b);
  for (const s of steps) field("step").append(new Option(s === 0 ? "before" : String(s), String(s)));

  let found = [], shown = 0, chosen = null;

  function filter() {
    const text = value("text").toLowerCase();
    found = rows.filter((r) =>
      (value("run") === "" || String(r.run) === value("run")) &&
      (value("kind") === "" || String(r.k) === value("kind")) &&
      (value("step") === "" || String(r.s) === value("step")) &&
      (value("right") === "" || (r.r !== null && r.w === (value("right") === "1"))) &&
      (text === "" || r.prompt.toLowerCase().includes(text) || r.text.toLowerCase().includes(text)));
    const order = ORDERS[value("sort")];
    if (order) found.sort(order);
    const right = found.filter((r) => r.w).length;
    status.textContent = found.length
      ? `${found.length.toLocaleString("en")} answers${field("right") ? `, ${right.toLocaleString("en")} right` : ""}`
      : "No answer fits these choices.";
    list.replaceChildren();
    list.scrollTop = 0;
    shown = 0;
    more();
    choose(found[0] || null, false);
  }

  function more() {
    const button = list.querySelector(".more");
    if (button) button.remove();
    for (const r of found.slice(shown, shown + PAGE)) {
      const row = make("div", "row");
      row.id = `row${r.id}`;
      row.setAttribute("role", "option");
      row.setAttribute("aria-selected", "false");
      row.append(make("span", kind(r), mark(r)), make("span", "at", r.k ? `eval ${r.s}` : `step ${r.s}`));
      row.append(make("span", "", `${r.prompt.trim().slice(-60)}  ${r.text.trim().slice(0, 120)}`));
      row.append(make("span", "num", r.n === undefined ? "" : `${r.n} tok`));
      row.lastChild.title = "tokens";
      row.addEventListener("click", () => choose(r, false));
      list.append(row);
    }
    shown = Math.min(found.length, shown + PAGE);
    if (shown < found.length) {
      const next = make("button", "more", `show ${Math.min(PAGE, found.length - shown)} more of ${found.length - shown}`);
      next.type = "button";
      next.addEventListener("click", more);
      list.append(next);
    }
    select();
  }

  function select() {
    for (const row of list.querySelectorAll('[aria-selected="true"]')) row.setAttribute("aria-selected", "false");
    const row = chosen && document.getElementById(`row${chosen.id}`);
    if (!row) return list.removeAttribute("aria-activedescendant");
    row.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", row.id);
    return row;
  }

  function choose(r, scroll) {
    chosen = r;
    const row = select();
    if (row && scroll) row.scrollIntoView({ block: "nearest" });
    show();
  }

  function move(by) {
    if (!found.length) return;
    const to = Math.max(0, Math.min(found.length - 1, found.indexOf(chosen) + by));
    while (to >= shown && shown < found.length) more();
    choose(found[to], true);
  }

  // Colour of one token: blue above, orange below, as strong as it is large.
  function tint(r, i, mode, scale) {
    const v = each(r[mode], i);
    if (v === undefined || v === null) return "";
    const x = mode === "ra" ? Math.log(Math.max(v, 1e-6)) : v;
    const alpha = Math.min(1, Math.abs(x) / scale) * 0.6;
    return alpha < 0.02 ? "" : `rgba(var(--${x > 0 ? "plus" : "minus"}), ${alpha.toFixed(2)})`;
  }
  function scaleOf(r, mode) {
    if (mode === "ra") return Math.log(1.5);
    if (mode === "lp") return 3;
    if (mode === "u") return 0.5;
    const group = groups.get(groupKey(r)) || [r];
    return Math.max(1e-9, ...group.map((o) => most(o[mode])));
  }
  const CLIP = ["", "clipped: ratio too low", "clipped: ratio too high", "clipped: dual bound"];
  const facts = (r, i) => {
    const ad = each(r.ad, i), lp = each(r.lp, i), ra = each(r.ra, i), cl = r.cl && r.cl[i], u = each(r.u, i), v = each(r.v, i);
    return [
      ad !== undefined && `advantage ${short(ad)}`, lp !== undefined && `log p ${lp}`,
      r.ra && (ra === null ? "not in the update" : `ratio ${short(ra)}`), cl && CLIP[cl],
      u !== undefined && `log p − log p_ref ${short(u)}`, v !== undefined && `value ${short(v)}`,
    ].filter(Boolean).join("\n");
  };

  function tokens(r) {
    const mode = value("color"), box = make("p", "tokens");
    if (!r.t) {
      box.textContent = r.text;
      return box;
    }
    const scale = mode ? scaleOf(r, mode) : 1, gap = r.cut ? 700 : -1;
    r.t.forEach((piece, i) => {
      if (i === gap) box.append(make("span", "gap", `\n[… ${r.cut.toLocaleString("en")} tokens left out …]\n`));
      const tok = make("span", "tok", piece.replace(/\n/g, "↵\n"));
      if (i === r.t.length - 1 && r.stop === "stop") tok.className += " special";
      if (mode === "ra" && r.cl && r.cl[i]) tok.className += " clip";
      tok.style.background = mode && r[mode] !== undefined ? tint(r, i, mode, scale) : "";
      tok.title = facts(r, i);
      box.append(tok);
    });
    return box;
  }

  function legend(r) {
    const mode = value("color"), box = make("p", "legend");
    if (!r.t || !mode) return null;
    if (r[mode] === undefined) {
      box.textContent = mode === "ra" ? "No ratios stored for this answer: its batch served a single update, where each is 1." : "Not stored for this answer.";
      return box;
    }
    const s = scaleOf(r, mode);
    const ramp = make("i", "ramp");
    const ends = { ad: [short(-s), short(s)], lp: ["−log p: 3 or more", "0"], ra: ["0.67 or less", "1.5 or more"], u: ["−0.5 or less", "0.5 or more"] }[mode];
    const to = mode === "lp" ? "transparent" : "rgba(var(--plus), .6)";
    ramp.style.background = `linear-gradient(90deg, rgba(var(--minus), .6), transparent${mode === "lp" ? "" : " 50%"}, ${to})`;
    const text = make("span");
    text.append(ends[0], ramp, ends[1]);
    box.append(text);
    if (mode === "ad") box.append(make("span", "", "advantage, scaled to this prompt's answers"));
    if (mode === "u") box.append(make("span", "", "log p less that under the reference, when sampled"));
    if (mode === "ra") box.append(make("span", "clip", "clipped"), make("span", "", "ratio to the policy before the step, in its last pass"));
    return box;
  }

  function show() {
    detail.replaceChildren();
    const r = chosen;
    if (!r) return;
    const word = { unknown: "? not scored", graded: "", right: "✓ right, ", wrong: "✗ wrong, " }[kind(r)];
    detail.append(make("p", `verdict ${kind(r)}`, r.r === null ? word : `${word}reward ${short(r.r)}`));
    const parts = [r.k ? `held-out problem, ${r.s ? `after step ${r.s}` : "before training"}` : `training step ${r.s}`];
    if (r.n !== undefined) parts.push(`${r.n} tokens`);
    if (r.stop === "length") parts.push("cut by the token limit");
    if (rows[rows.length - 1].run) parts.push(r.name);
    if (r.ad !== undefined && !Array.isArray(r.ad)) parts.push(`advantage ${short(r.ad)} for every token`);
    detail.append(make("p", "meta", parts.join(" · ")));
    if (r.rs) detail.append(make("p", "meta", Object.entries(r.rs).map(([k, v]) => `${k} ${short(v)}`).join(" · ")));
    detail.append(make("h4", "", "prompt"), make("p", "prompt", r.prompt), make("h4", "", "answer"), tokens(r));
    const key = legend(r);
    if (key) detail.append(key);
    const others = groups.get(groupKey(r)) || [];
    if (others.length > 1) {
      detail.append(make("h4", "", `all ${others.length} answers to this prompt in this step`));
      const items = make("ul", "others");
      for (const o of others) {
        const button = make("button");
        button.type = "button";
        button.setAttribute("aria-current", String(o === r));
        button.append(make("span", kind(o), mark(o)), make("span", "", short(o.r)), make("span", "", o.text.trim().slice(0, 160)));
        button.addEventListener("click", () => choose(o, true));
        const item = make("li");
        item.append(button);
        items.append(item);
      }
      detail.append(items);
    }
  }

  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("filters").addEventListener("input", (event) =>
    event.target.id === "f-color" ? show() : filter());
  list.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: 12, PageUp: -12, Home: -1e9, End: 1e9 }[event.key];
    if (by === undefined || event.target !== list) return;
    event.preventDefault();
    move(by);
  });
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === "/" && !typing) {
      event.preventDefault();
      field("text").focus();
    } else if (event.key === "Escape" && typing) {
      list.focus();
    }
  });
  filter();
}
answers();
