// The toy's page: controls, pictures and tables of what toy.js computes. In the browser it fills the element with the id "toy";
// `node docs/_static/toy_view.js > docs/pictures/toy.svg` draws the still picture, for print and where no script runs.
"use strict";

(() => {
  const toy = typeof module === "undefined" ? rungToy : require("./toy.js");
  const RIGHT = [1, 0, 1, 0, 1, 0, 0];
  const REWARDS = {
    "right is 1, wrong is 0": [RIGHT, 0],
    "right is 2, wrong is 1": [RIGHT.map((x) => x + 1), 0],
    "right is 1, wrong is -1": [RIGHT.map((x) => 2 * x - 1), 0],
    "right is 1, and each think costs 0.2": [RIGHT, -0.2],
    "a right answer earns more if it was thought about": [[0.5, 0, 1, 0, 1, 0, 0], 0],
    "all the same": [RIGHT.map(() => 1), 0],
  };
  const POLICIES = { // weights of 4, 5, think in each state; their shares are the probabilities
    "of the book": [[30, 30, 40], [75, 25, 0], [75, 25, 0]],
    "thinks at length": [[20, 20, 60], [20, 20, 60], [30, 30, 40]],
    "knows nothing": [[33, 33, 33], [33, 33, 33], [33, 33, 33]],
    "nearly solved": [[85, 5, 10], [90, 5, 5], [90, 5, 5]],
    "nearly hopeless": [[3, 87, 10], [10, 85, 5], [10, 85, 5]],
    "thinks and is wrong": [[10, 30, 60], [5, 55, 40], [5, 55, 40]],
  };
  const WORDS = {
    reinforce: "REINFORCE", reward_to_go: "reward-to-go", batch_mean: "batch mean", leave_one_out: "leave-one-out (RLOO without its KL)",
    remax: "ReMax", opo: "OPO", value_baseline: "value baseline, exact critic", a2c: "actor-critic (GAE), exact critic",
    trpo: "TRPO's objective, exact critic", ppo: "PPO, exact critic", grpo: "GRPO", dr_grpo: "Dr. GRPO", dapo: "DAPO", lite_ppo: "Lite PPO",
    gspo: "GSPO", cispo: "CISPO", gmpo: "GMPO", sapo: "SAPO", maxrl: "MaxRL", kimi: "Kimi k1.5", reinforce_pp: "REINFORCE++",
    reinforce_pp_baseline: "REINFORCE++ with a group baseline",
  };
  // The headings of "What to try" in docs/book/toy.md, as a link names them, and what is chosen there.
  const SCENES = {
    "where-the-zero-lies": { recipe: "reinforce", rewards: "right is 2, wrong is 1" },
    "what-cannot-be-caused": { recipe: "reward_to_go", rewards: "right is 1, and each think costs 0.2", policy: "thinks at length" },
    "what-is-usual": { recipe: "leave_one_out", rewards: "right is 2, wrong is 1" },
    "the-clip-lets-go": { recipe: "ppo", moved: 2 },
    "the-others-judge": { recipe: "grpo" },
    "a-short-and-a-long-answer": { recipe: "grpo", policy: "thinks and is wrong", step: 10 },
    "nearly-solved-nearly-hopeless": { recipe: "grpo", policy: "nearly solved" },
  };
  const STATES = ["first token", "after think", "after think think"];
  const START = { reward: RIGHT, think: 0, weights: POLICIES["of the book"], recipe: "grpo", G: 4, moved: 0, step: 1 };
  const NAMED = { rewards: Object.keys(REWARDS)[0], policy: "of the book" };

  // -- numbers ---------------------------------------------------------------------------------------------------------
  const logits = (weights) => weights.map((row) => {
    const all = row.reduce((a, b) => a + b, 0);
    return row.map((w) => (all > 0 ? Math.log(w / all) : 0));
  });
  function settingOf(chosen) {
    const old = logits(chosen.weights), setting = { ...chosen, old, now: old };
    return chosen.moved > 0 ? { ...setting, now: toy.moved(setting, chosen.moved) } : setting;
  }
  const number = (x, digits = 2) => (Number.isFinite(x) ? (Math.abs(x) < 0.5 * 10 ** -digits ? 0 : x).toFixed(digits).replace("-", "−") : "–");
  const percent = (x) => `${number(100 * x, x > 0 && x < 0.0995 ? 1 : 0)} %`;
  const sign = (x) => (x > 1e-9 ? "up" : x < -1e-9 ? "down" : "flat");

  // -- pictures: text of SVG ----------------------------------------------------------------------------------------------
  const CORNER = [[14, 96], [126, 96], [70, 14]]; // 4, 5, think

  function triangle(state, pi, target, gradient, reached) {
    const at = (weights) => [0, 1].map((i) => weights.reduce((all, w, b) => all + w * CORNER[b][i], 0));
    const longest = (g) => Math.max(...[0, 1, 2].map((s) => Math.hypot(...at(g.slice(3 * s, 3 * s + 3)))));
    const [x, y] = at(pi[state]);
    const arrow = (g, kind) => {
      const [dx, dy] = at(g.slice(3 * state, 3 * state + 3)).map((v) => (longest(g) > 1e-12 ? (34 * v) / longest(g) : 0)), size = Math.hypot(dx, dy);
      if (size < 1) return "";
      const [ux, uy] = [dx / size, dy / size], [tx, ty] = [x + dx, y + dy], head = Math.min(7, size);
      const wing = (k) => `${(tx - head * ux + k * head * 0.5 * uy).toFixed(1)},${(ty - head * uy - k * head * 0.5 * ux).toFixed(1)}`;
      return `<g class="${kind}"><path d="M${x.toFixed(1)},${y.toFixed(1)}L${tx.toFixed(1)},${ty.toFixed(1)}"/>` +
        `<polygon points="${tx.toFixed(1)},${ty.toFixed(1)} ${wing(1)} ${wing(-1)}"/></g>`;
    };
    const inside = reached ? arrow(target, "truth") + arrow(gradient, "method") + `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="2.5"/>`
      : '<text x="70" y="74" class="small">never reached</text>';
    return `<g class="triangle"><polygon class="edge" points="${CORNER.map((c) => c.join()).join(" ")}"/>` +
      `<text x="14" y="110">4</text><text x="126" y="110">5</text><text x="70" y="9">think</text>${inside}</g>`;
  }

  function arrows(found, now) {
    const pi = toy.law(now).map((row) => row.map(Math.exp)), seen = [1, pi[0][2], pi[0][2] * pi[1][2]];
    return STATES.map((name, s) => `<figure><svg viewBox="0 0 140 114" role="img" aria-label="${name}: the true gradient and the method's">` +
      `${triangle(s, pi, found.target, found.gradient, seen[s] > 0)}</svg><figcaption>${name}</figcaption></figure>`).join("");
  }

  function slopeCurve(name) { // how much of A grad log pi is left at each ratio, for both signs of A
    const recipe = toy.RECIPES[name], X = (rho) => 30 + 80 * rho, Y = (v) => 118 - 36 * Math.min(v, 2.8);
    const line = (A) => Array.from({ length: 240 }, (_, k) => 0.01 + (k * 2.5) / 240)
      .map((rho, k) => `${k ? "L" : "M"}${X(rho).toFixed(1)},${Y(toy.slopes(recipe, [Math.log(rho)], [A])[0] / A).toFixed(1)}`).join("");
    const ticks = [0, 0.5, 1, 1.5, 2, 2.5].map((v) => `<text x="${X(v)}" y="132">${v}</text>`).join("") +
      [0, 1, 2].map((v) => `<text x="20" y="${Y(v) + 4}">${v}</text><path class="grid" d="M30,${Y(v)}H230"/>`).join("");
    return `<svg viewBox="0 0 240 150" role="img" aria-label="share of the gradient that is left at each ratio">${ticks}` +
      `<path class="grid" d="M${X(1)},18V118"/><path class="good" d="${line(1)}"/><path class="bad" d="${line(-1)}"/>` +
      '<text x="130" y="147">ratio to the old policy</text></svg>';
  }

  // -- tables -----------------------------------------------------------------------------------------------------------
  const bar = (p, kind) => `<span class="bar ${kind}" style="width:${(60 * p).toFixed(1)}px"></span>`;
  const perToken = (answer, xs) => toy.ANSWERS[answer].map((token, t) =>
    `<span class="token ${sign(xs[t])}">${toy.TOKENS[token]} <b>${number(xs[t])}</b></span>`).join(" ");

  function answersTable(found, after) {
    const rows = found.answers.map((a, i) => (a.now + a.old + after[i] > 0 ? `<tr><th scope="row">${a.name}</th><td>${number(a.R)}</td>` +
      `<td>${bar(a.now, "before")}${percent(a.now)}<br>${bar(after[i], "after")}${percent(after[i])}</td>` +
      `<td>${perToken(i, a.credit)}</td><td>${number(a.weight)}</td><td>${perToken(i, a.pull)}</td></tr>` : "")).join("");
    return `<table><thead><tr><th>answer</th><th>return</th><th>probability, and after the step</th><th>credit of each token</th>` +
      `<th>weight of a token</th><th>push: weight × slope × credit</th></tr></thead><tbody>${rows}</tbody></table>`;
  }

  function caseTable(found, name) {
    const recipe = toy.RECIPES[name], cuts = ["clip", "gmpo"].includes(recipe.surrogate.kind), [low, high] = toy.edges(recipe.surrogate);
    const cell = (share, off) => `<td class="${off ? "off" : ""}">${percent(share)}${off ? "<br>silent" : ""}</td>`;
    const row = (label, shares, silent) => `<tr><th scope="row">${label}</th>${shares.map((x, k) => cell(x, cuts && k === silent)).join("")}</tr>`;
    return `<table><thead><tr><th>tokens with</th><th>ratio below ${number(low, low > 0.99 ? 4 : 2)}</th><th>between</th><th>above ${number(high, high < 1.01 ? 4 : 2)}</th></tr></thead>` +
      `<tbody>${row("A &gt; 0", found.cases.positive, 2)}${row("A &lt; 0", found.cases.negative, 0)}</tbody></table>`;
  }

  const able = (G) => Object.keys(toy.RECIPES).filter((name) => G > 1 || !toy.COMPARES.has(toy.RECIPES[name].credit));
  function methodRow(name, setting) {
    const e = toy.evaluate({ ...setting, recipe: name }), noise = Math.sqrt(e.variance) / (e.norm || NaN);
    return `<tr class="${name === setting.recipe ? "chosen" : ""}"><th scope="row">${WORDS[name]}</th><td>${number(e.cosine, 4)}</td>` +
      `<td>${number(e.scale, 3)}</td><td>${number(e.variance, 3)}</td><td>${number(noise)}</td></tr>`;
  }
  const methodTable = (rows) => "<table><thead><tr><th>method</th><th>cosine</th><th>c</th><th>variance</th><th>noise</th></tr></thead>" +
    `<tbody>${rows.join("")}</tbody></table>`;

  function verdict(found, setting, J, Jafter) {
    const exact = found.cosine > 1 - 1e-12 ? (Math.abs(found.scale - 1) < 1e-9 ? "unbiased" : `unbiased up to the constant c = ${number(found.scale, 4)}`)
      : found.norm > 1e-12 ? `biased: cosine ${number(found.cosine, 4)} to the true gradient` : "no gradient at all";
    return `<p><strong>${WORDS[setting.recipe]}: ${exact}.</strong> ${found.groups} groups of ${setting.G} enumerated; c = ${number(found.scale, 4)}, ` +
      `variance of one group's gradient ${number(found.variance, 4)}. The expected return is ${number(J, 4)}, and ${number(Jafter, 4)} after the step.</p>`;
  }

  // -- the still picture ---------------------------------------------------------------------------------------------------
  const STYLE = ".paper{fill:#fff}text{font:11px sans-serif;fill:#222;text-anchor:middle}.left{text-anchor:start}.bold{font-weight:bold}.small{fill:#777}" +
    ".edge{fill:none;stroke:#bbb}.truth path{stroke:#1f6fb4;stroke-width:4}.truth polygon{fill:#1f6fb4}.method path{stroke:#d9480f;stroke-width:1.6}" +
    ".method polygon{fill:#d9480f}.up{fill:#2b8a3e}.down{fill:#c92a2a}.flat{fill:#777}.grid{stroke:#ddd}";

  function still() {
    const names = ["reinforce", "reward_to_go", "batch_mean", "leave_one_out", "value_baseline", "grpo", "dr_grpo"];
    const rows = names.map((name, n) => {
      const setting = settingOf({ ...START, recipe: name }), e = toy.evaluate(setting), pi = toy.law(setting.now).map((row) => row.map(Math.exp)), y = 62 + 122 * n;
      const credit = [0, 1, 2, 3].flatMap((a) => toy.ANSWERS[a].map((token, t) =>
        `<text class="left" x="${170 + 78 * a}" y="${y + 44 + 18 * t}">${toy.TOKENS[token]}</text>` +
        `<text class="${sign(e.answers[a].credit[t])}" x="${222 + 78 * a}" y="${y + 44 + 18 * t}">${number(e.answers[a].credit[t])}</text>`));
      return `<path class="grid" d="M10,${y - 4}H830"/><text class="left bold" x="14" y="${y + 44}">${WORDS[name].split(",")[0].split(" (")[0]}</text>` +
        `<text class="left" x="14" y="${y + 62}">cosine ${number(e.cosine, 4)}, c ${number(e.scale, 2)}</text><text class="left" x="14" y="${y + 80}">variance ${number(e.variance, 3)}</text>` +
        credit.join("") + [0, 1].map((s) => `<g transform="translate(${510 + 160 * s} ${y})">${triangle(s, pi, e.target, e.gradient, true)}</g>`).join("");
    });
    const head = [[14, "method"], [170, "credit of each token of the four answers, on average"], [548, "first token"], [706, "after think"]]
      .map(([x, text]) => `<text class="left bold" x="${x}" y="44">${text}</text>`).join("");
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 924" role="img"><title>The same four answers, weighted by seven methods</title><style>${STYLE}</style>` +
      '<rect class="paper" width="840" height="924"/><text class="left" x="14" y="20">2+2= with the policy of the book, groups of 4. Thick: the true gradient; thin: what the method expects to do, at the same length.</text>' +
      `${head}${rows.join("")}</svg>\n`;
  }

  // -- the page ------------------------------------------------------------------------------------------------------------
  const option = (name, text = name, chosen = false) => `<option value="${name}"${chosen ? " selected" : ""}>${text}</option>`;
  const presets = (table) => Object.keys(table).map((name) => option(name)).join("") + option("", "your own");
  const range = (id, label, min, max, by, value) => `<label for="${id}">${label} <output id="${id}-is"></output></label>` +
    `<input type="range" id="${id}" min="${min}" max="${max}" step="${by}" value="${value}">`;
  const FORM = () => `<form class="toy-form" onsubmit="return false">
    <fieldset><legend>Method</legend><label for="toy-recipe">method</label><select id="toy-recipe">
      ${Object.keys(toy.RECIPES).map((r) => option(r, WORDS[r], r === START.recipe)).join("")}</select>
      ${range("toy-G", "answers in a group, G =", 1, 8, 1, START.G)}
      ${range("toy-moved", "policy moved since it answered, by", 0, 4, 0.1, START.moved)}
      ${range("toy-step", "size of the step shown", 0, 10, 0.25, START.step)}</fieldset>
    <fieldset><legend>Rewards</legend><label for="toy-rewards">start from</label><select id="toy-rewards">${presets(REWARDS)}</select>
      <div class="toy-grid">${toy.NAMES.map((name, i) => `<label for="toy-r${i}">${name}</label><input type="number" id="toy-r${i}" step="0.1">`).join("")}
      <label for="toy-think">each think, at once</label><input type="number" id="toy-think" step="0.1"></div></fieldset>
    <fieldset><legend>Policy that answers</legend><label for="toy-policy">start from</label><select id="toy-policy">${presets(POLICIES)}</select>
      ${STATES.map((state, s) => `<div role="group" aria-label="${state}"><em>${state}</em>${toy.TOKENS.map((token, b) => range(`toy-w${s}${b}`, token, 0, 100, 1, 0)).join("")}</div>`).join("")}</fieldset></form>`;
  const RESULTS = `<div id="toy-verdict" role="status"></div>
    <h2>The expected gradient, beside the true one</h2><p>In each state: the policy (dot) between its three tokens, <span class="truth-word">the true gradient</span> and
    <span class="method-word">the method's</span>, both drawn to the same length.</p><div id="toy-arrows" class="toy-figures"></div>
    <h2>What each token is credited with</h2><div id="toy-answers" class="toy-scroll"></div>
    <h2>The clip's cases</h2><p>How much of A ∇log π is left, for <span class="good-word">A &gt; 0</span> and <span class="bad-word">A &lt; 0</span>; and where the tokens are.</p>
    <div class="toy-figures"><figure id="toy-slope"></figure><div id="toy-cases" class="toy-scroll"></div></div>
    <h2>All methods, here</h2><p>Noise is the standard deviation of one group's gradient over the length of the expected one.</p><div id="toy-all" class="toy-scroll"></div>`;

  function start(place) {
    place.innerHTML = FORM() + `<div class="toy-results">${RESULTS}</div>`;
    const get = (id) => document.getElementById(`toy-${id}`), value = (id) => Number(get(id).value) || 0;
    const each = (f) => STATES.forEach((_, s) => toy.TOKENS.forEach((_, b) => f(s, b)));
    const fillRewards = () => { if (!get("rewards").value) return; const [r, think] = REWARDS[get("rewards").value]; r.forEach((x, i) => { get(`r${i}`).value = x; }); get("think").value = think; };
    const fillPolicy = () => get("policy").value && each((s, b) => { get(`w${s}${b}`).value = POLICIES[get("policy").value][s][b]; });
    let later = 0;
    function compare(setting, rows) { // one method at a time, so that a slider never waits for all of them
      const names = able(setting.G);
      if (rows.length === names.length) get("all").innerHTML = methodTable(rows);
      else later = setTimeout(() => compare(setting, [...rows, methodRow(names[rows.length], setting)]), rows.length ? 0 : 150);
    }
    function show() {
      const chosen = {
        recipe: get("recipe").value, G: value("G"), moved: value("moved"), step: value("step"), think: value("think"),
        reward: toy.NAMES.map((_, i) => value(`r${i}`)), weights: STATES.map((_, s) => toy.TOKENS.map((_, b) => value(`w${s}${b}`))),
      };
      ["G", "moved", "step"].forEach((id) => { get(`${id}-is`).value = get(id).value; });
      const old = toy.law(logits(chosen.weights));
      each((s, b) => { get(`w${s}${b}-is`).value = percent(Math.exp(old[s][b])); });
      if (chosen.G < 2 && toy.COMPARES.has(toy.RECIPES[chosen.recipe].credit)) {
        get("verdict").innerHTML = `<p><strong>${WORDS[chosen.recipe]} compares answers to one prompt with each other: with one it would be 0/0. Take G = 2 or more.</strong></p>`;
        return;
      }
      const setting = settingOf(chosen), found = toy.evaluate(setting), stepped = toy.step(setting.now, found.gradient, chosen.step), r = found.world.r;
      get("verdict").innerHTML = verdict(found, setting, toy.J(setting.now, r), toy.J(stepped, r));
      get("arrows").innerHTML = arrows(found, setting.now);
      get("answers").innerHTML = answersTable(found, toy.probabilities(stepped));
      get("slope").innerHTML = slopeCurve(chosen.recipe);
      get("cases").innerHTML = caseTable(found, chosen.recipe);
      clearTimeout(later);
      compare(setting, []);
    }
    function choose() { // what the address names: its settings, and the results in sight
      const scene = SCENES[location.hash.slice(1)], wanted = { ...START, ...NAMED, ...scene };
      if (scene) ["recipe", "G", "moved", "step", "rewards", "policy"].forEach((id) => { get(id).value = wanted[id]; });
      fillRewards();
      fillPolicy();
      show();
      if (scene) setTimeout(() => place.scrollIntoView()); // after the browser's own jump to the heading
    }
    get("rewards").addEventListener("change", fillRewards);
    get("policy").addEventListener("change", fillPolicy);
    window.addEventListener("hashchange", choose);
    place.addEventListener("input", ({ target }) => {
      if (target.type === "number") get("rewards").value = "";
      if (/^toy-w/.test(target.id)) get("policy").value = "";
      show();
    });
    place.addEventListener("change", show);
    choose();
  }

  if (typeof module !== "undefined") {
    module.exports = { still, SCENES, REWARDS, POLICIES };
    if (require.main === module) process.stdout.write(still());
  } else {
    document.addEventListener("DOMContentLoaded", () => { document.body.classList.add("toy-lives"); start(document.getElementById("toy")); });
  }
})();
