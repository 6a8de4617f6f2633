// A language model of three tokens, exactly: every group of answers, weighed by its probability. No library, no drawing.
//
//   E[g] = sum over groups of p(group) sum_bt w_bt slope_bt grad log pi(a_bt | s_bt),   against   grad sum_y pi(y) R(y)
//
// The prompt is "2+2=". `4` and `5` end the answer, `think` goes on; an answer of three thinks is cut. A state is the number of
// thinks so far. A parameter is a logit, one per state and token. It is tested against rung's own oracle: tests/docs/test_toy.py.
"use strict";

const rungToy = (() => {
  const TOKENS = ["4", "5", "think"], STATES = 3, LIMIT = 20, EQUAL = 1e-13, MAX_TOKENS = 3;
  const ANSWERS = [[0], [1], [2, 0], [2, 1], [2, 2, 0], [2, 2, 1], [2, 2, 2]]; // the t-th token is said in state t
  const NAMES = ANSWERS.map((a) => a.map((token) => TOKENS[token]).join(" "));

  // A recipe is its parent with some parts changed, as in rung/recipes.py. No KL to a reference: beta is 0 here.
  const clip = (low, high) => ({ kind: "clip", low, high });
  const REINFORCE = { credit: "return", whiten: false, ratio: "token", surrogate: { kind: "score" }, aggregate: "sum" };
  const TO_GO = { ...REINFORCE, credit: "to_go" };
  const VALUE = { ...TO_GO, credit: "value", lambda: 1 };
  const PPO = { ...VALUE, lambda: 0.95, whiten: true, surrogate: clip(0.2, 0.2), aggregate: "token" };
  const GRPO = { ...PPO, credit: "group", scale: "group", whiten: false, aggregate: "mean" };
  const RECIPES = {
    reinforce: REINFORCE,
    reward_to_go: TO_GO,
    batch_mean: { ...TO_GO, credit: "batch_mean" },
    leave_one_out: { ...REINFORCE, credit: "others" },
    remax: { ...REINFORCE, credit: "greedy" },
    opo: { ...REINFORCE, credit: "length_weighted", aggregate: "token" },
    value_baseline: VALUE,
    a2c: { ...VALUE, lambda: 0.95, aggregate: "token" },
    trpo: { ...PPO, surrogate: { kind: "importance" } },
    ppo: PPO,
    grpo: GRPO,
    dr_grpo: { ...GRPO, scale: "none", aggregate: "budget" },
    dapo: { ...GRPO, surrogate: clip(0.2, 0.28), aggregate: "token", resample: 3 },
    lite_ppo: { ...GRPO, aggregate: "token" }, // one prompt: the batch is the group
    gspo: { ...GRPO, ratio: "sequence", surrogate: clip(3e-4, 4e-4) },
    cispo: { ...GRPO, surrogate: { kind: "cispo", low: 0, high: 5 }, aggregate: "token" },
    gmpo: { ...GRPO, surrogate: { kind: "gmpo", width: 0.4 } },
    sapo: { ...GRPO, surrogate: { kind: "sapo", positive: 1, negative: 1.05 } },
    maxrl: { ...GRPO, scale: "mean", aggregate: "sum" },
    kimi: { ...REINFORCE, credit: "group", scale: "none", surrogate: { kind: "mirror", tau: 0.1 } },
    reinforce_pp: { ...PPO, credit: "to_go" },
    reinforce_pp_baseline: { ...PPO, credit: "group", scale: "none" },
  };
  const COMPARES = new Set(["others", "group", "length_weighted"]); // 0/0 with a single answer

  // -- policies ------------------------------------------------------------------------------------------------------
  const sum = (xs) => xs.reduce((a, b) => a + b, 0);
  const dot = (a, b) => sum(a.map((x, i) => x * b[i]));
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

  function logSoftmax(logits) {
    const top = Math.max(...logits), z = Math.log(sum(logits.map((x) => Math.exp(x - top))));
    return logits.map((x) => x - top - z);
  }
  const law = (theta) => theta.map(logSoftmax); // theta[state][token] -> log pi
  const logps = (law_, answer) => answer.map((token, t) => law_[t][token]);
  const probabilities = (theta) => ANSWERS.map((a) => Math.exp(sum(logps(law(theta), a))));

  // sum_t pull_t grad log pi(a_t|s_t), with the pulls added up by state and token: d log pi(a|s) / d theta_sb = 1[a=b] - pi(b|s)
  function gradientOf(pull, pi) {
    return pull.flatMap((row, s) => { const all = sum(row); return row.map((k, b) => k - pi[s][b] * all); });
  }
  const zeros = () => Array.from({ length: STATES }, () => [0, 0, 0]);

  // -- rewards -------------------------------------------------------------------------------------------------------
  // reward[answer] for the answer as a whole, paid with its last token; `think` is paid with every think.
  function rewardsOf(reward, think) {
    return ANSWERS.map((a, i) => a.map((token, t) => (token === 2 ? think : 0) + (t === a.length - 1 ? reward[i] : 0)));
  }
  const toGo = (r) => r.map((_, t) => sum(r.slice(t)));

  function valuesOf(r, prob) { // V(s) = E[reward still to come | s]; every answer passes through its first states
    return [0, 1, 2].map((s) => {
      const through = ANSWERS.map((a, i) => (a.length > s ? prob[i] : 0)), all = sum(through);
      return all > 0 ? sum(ANSWERS.map((a, i) => (through[i] ? through[i] * toGo(r[i])[s] : 0))) / all : 0;
    });
  }

  function truth(theta, r) { // grad J = sum_y pi(y) R(y) grad log pi(y)
    const pull = zeros(), prob = probabilities(theta);
    ANSWERS.forEach((a, i) => { if (prob[i] > 0) a.forEach((token, t) => { pull[t][token] += prob[i] * sum(r[i]); }); });
    return gradientOf(pull, law(theta).map((row) => row.map(Math.exp)));
  }
  const J = (theta, r) => sum(probabilities(theta).map((p, i) => p * sum(r[i])));

  // -- groups --------------------------------------------------------------------------------------------------------
  // visit([[answer, how many]...], probability) for every unordered group: the multinomial law.
  function everyGroup(prob, G, visit) {
    const able = ANSWERS.map((_, i) => i).filter((i) => prob[i] > 0), rows = [];
    (function choose(at, left, weight) { // weight: G! prod p^c / c! so far
      if (at === able.length - 1) {
        let last = weight;
        for (let k = 1; k <= left; k++) last *= prob[able[at]] / k;
        if (left) rows.push([able[at], left]);
        visit(rows, last);
        if (left) rows.pop();
        return;
      }
      choose(at + 1, left, weight);
      for (let k = 1; k <= left; k++) {
        weight *= prob[able[at]] / k;
        rows.push([able[at], k]);
        choose(at + 1, left - k, weight);
        rows.pop();
      }
    })(0, G, Array.from({ length: G }, (_, k) => k + 1).reduce((a, b) => a * b, 1));
  }

  // -- credit: which token earned what ---------------------------------------------------------------------------------
  function differ(rows, world) { // decided on the rewards, not on their std
    const R = rows.map(([a]) => world.R[a]), size = Math.max(...rows.map(([a]) => world.size[a]));
    return Math.max(...R) - Math.min(...R) > EQUAL * size;
  }

  function gae(r, values, lambda) { // A_t = delta_t + lambda A_{t+1}
    const out = r.map(() => 0);
    for (let t = r.length - 1, next = 0, A = 0; t >= 0; t--) {
      A = r[t] + next - values[t] + lambda * A;
      [out[t], next] = [A, values[t]];
    }
    return out;
  }

  function perAnswer(recipe, rows, world) { // one advantage for the whole answer
    const G = sum(rows.map(([, n]) => n)), total = sum(rows.map(([a, n]) => n * world.R[a])), mean = total / G;
    if (recipe.credit === "return") return rows.map(([a]) => world.R[a]);
    if (!differ(rows, world)) return rows.map(() => 0);
    if (recipe.credit === "others") return rows.map(([a]) => world.R[a] - (total - world.R[a]) / (G - 1));
    if (recipe.credit === "length_weighted") {
      const L = ([a, n]) => n * ANSWERS[a].length, b = sum(rows.map((x) => L(x) * world.R[x[0]])) / sum(rows.map(L));
      return rows.map(([a]) => world.R[a] - b);
    }
    const std = Math.sqrt(sum(rows.map(([a, n]) => n * (world.R[a] - mean) ** 2)) / (G - 1));
    const top = EQUAL * Math.max(...rows.map(([a]) => Math.abs(world.R[a])));
    const by = { group: 1 / (std + 1e-4), none: 1, mean: mean > top ? 1 / mean : 0 }[recipe.scale];
    return rows.map(([a]) => (world.R[a] - mean) * by);
  }

  function credits(recipe, rows, world) { // advantages[row][token]
    const each = (f) => rows.map(([a]) => ANSWERS[a].map((_, t) => f(a, t)));
    const mean = () => sum(rows.map(([a, n]) => n * world.R[a])) / sum(rows.map(([, n]) => n));
    if (recipe.credit === "to_go") return each((a, t) => world.toGo[a][t]);
    if (recipe.credit === "batch_mean") { const b = mean(); return each((a, t) => world.toGo[a][t] - b); }
    if (recipe.credit === "greedy") return each((a, t) => world.toGo[a][t] - world.greedy);
    if (recipe.credit === "value") return rows.map(([a]) => gae(world.r[a], world.values, recipe.lambda));
    const A = perAnswer(recipe, rows, world);
    return rows.map(([a], i) => ANSWERS[a].map(() => A[i]));
  }

  function whiten(adv, rows, world) { // over all tokens of the batch, Bessel's correction, eps 1e-8
    const all = adv.flatMap((row, i) => row.map((A) => [A, rows[i][1]])), n = sum(all.map(([, k]) => k));
    const mean = sum(all.map(([A, k]) => k * A)) / n, variance = sum(all.map(([A, k]) => k * (A - mean) ** 2)) / (n - 1);
    const flat = n <= 1 || !differ(rows, world) || Math.sqrt(variance) <= EQUAL * Math.max(...all.map(([A]) => Math.abs(A)));
    return adv.map((row) => row.map((A) => (flat ? 0 : (A - mean) / Math.sqrt(variance + 1e-8))));
  }

  // -- surrogate: what a moved policy may still gain -----------------------------------------------------------------------
  // d gain_t / d log pi_t of each token of an answer; d: log-ratios to the old policy.
  function slopes(recipe, d, A) {
    const s = recipe.surrogate, mean = sum(d) / d.length, moves = (x) => (Math.abs(x) < LIMIT ? 1 : 0);
    if (s.kind === "score") return A.slice();
    if (s.kind === "mirror") return A.map((a, t) => (a - s.tau * sum(d)) * moves(d[t]));
    if (s.kind === "gmpo") {
      const worse = d.map((x, t) => (A[t] > 0 ? Math.min(x, s.width) : Math.max(x, -s.width))), all = sum(worse) / d.length;
      return A.map((a, t) => a * Math.exp(all) * (worse[t] === d[t] ? moves(d[t]) : 0));
    }
    return A.map((a, t) => {
      const x = recipe.ratio === "sequence" ? mean : d[t], rho = Math.exp(x), live = moves(x) * moves(d[t]);
      if (s.kind === "cispo") return clamp(Math.exp(d[t]), s.low, s.high) * a;
      if (s.kind === "sapo") {
        const tau = a > 0 ? s.positive : s.negative, gate = 1 / (1 + Math.exp(-tau * (rho - 1)));
        return 4 * gate * (1 - gate) * rho * a * live;
      }
      const off = s.kind === "clip" && ((a > 0 && rho > 1 + s.high) || (a < 0 && rho < 1 - s.low));
      return off ? 0 : rho * a * live;
    });
  }

  // w_bt of a token: 1 / what the sum over tokens is divided by.
  const weightOf = (recipe, L, G, N) => 1 / { sum: G, mean: G * L, token: N, budget: G * MAX_TOKENS }[recipe.aggregate];

  // -- everything about one setting ----------------------------------------------------------------------------------------
  function worldOf({ reward, think, old }) {
    const r = rewardsOf(reward, think), prob = probabilities(old), best = law(old).map((row) => row.indexOf(Math.max(...row)));
    const R = r.map(sum), size = r.map((row) => sum(row.map(Math.abs)));
    const greedy = R[ANSWERS.findIndex((a) => a.every((token, t) => token === best[t]))];
    return { r, R, size, prob, greedy, toGo: r.map(toGo), values: valuesOf(r, prob) };
  }

  // The clip's cases: sign of A x side of the ratio, and how much of the tokens is in each.
  const edges = (s) => (s.kind === "clip" ? [1 - s.low, 1 + s.high] : s.kind === "gmpo" ? [Math.exp(-s.width), Math.exp(s.width)] : [0.8, 1.2]);
  const side = (rho, [low, high]) => (rho < low ? 0 : rho > high ? 2 : 1);

  // setting: reward[answer], think (reward of each think), old and now (logits[state][token]), recipe, G.
  function evaluate(setting) {
    const recipe = RECIPES[setting.recipe], world = worldOf(setting), { G, now } = setting;
    if (G < 2 && COMPARES.has(recipe.credit)) throw new Error("this method compares answers with each other: G must be 2 or more");
    const lawNow = law(now), lawOld = law(setting.old), pi = lawNow.map((row) => row.map(Math.exp));
    const d = ANSWERS.map((a) => a.map((token, t) => clamp(lawNow[t][token] - lawOld[t][token], -LIMIT, LIMIT)));
    const seen = ANSWERS.map((a) => ({ rows: 0, credit: a.map(() => 0), weight: 0, pull: a.map(() => 0) }));
    const cases = { positive: [0, 0, 0], negative: [0, 0, 0], silent: [0, 0] };
    const mean = Array(9).fill(0);
    let square = 0, groups = 0, tokens = 0, dull = 1;
    if (recipe.resample) everyGroup(world.prob, G, (rows, p) => { if (differ(rows, world)) dull -= p; });
    const fresh = sum(Array.from({ length: recipe.resample || 0 }, (_, k) => dull ** k));
    everyGroup(world.prob, G, (rows, p) => {
      if (recipe.resample) p *= differ(rows, world) ? 1 + dull * fresh : dull ** recipe.resample;
      let adv = credits(recipe, rows, world);
      if (recipe.whiten) adv = whiten(adv, rows, world);
      const N = sum(rows.map(([a, n]) => n * ANSWERS[a].length)), pull = zeros();
      rows.forEach(([a, n], i) => {
        const slope = slopes(recipe, d[a], adv[i]), w = weightOf(recipe, ANSWERS[a].length, G, N), about = seen[a];
        about.rows += p * n;
        about.weight += p * n * w;
        ANSWERS[a].forEach((token, t) => {
          pull[t][token] += n * w * slope[t];
          about.credit[t] += p * n * adv[i][t];
          about.pull[t] += p * n * w * slope[t];
          tally(cases, recipe.surrogate, recipe.ratio === "sequence" ? sum(d[a]) / d[a].length : d[a][t], adv[i][t], p * n);
        });
      });
      const g = gradientOf(pull, pi);
      g.forEach((x, k) => { mean[k] += p * x; });
      [square, tokens, groups] = [square + p * dot(g, g), tokens + p * N, groups + 1];
    });
    for (const each of Object.values(cases)) each.forEach((x, i) => { each[i] = x / tokens; });
    return { ...summary(mean, truth(now, world.r), square), groups, cases, world, answers: perRow(seen, world, now, d, G) };
  }

  function tally(cases, surrogate, logRatio, A, p) {
    const at = side(Math.exp(logRatio), edges(surrogate));
    if (A > 0) cases.positive[at] += p;
    if (A < 0) cases.negative[at] += p;
    if (surrogate.kind !== "clip" && surrogate.kind !== "gmpo") return;
    if (A < 0 && at === 0) cases.silent[0] += p;
    if (A > 0 && at === 2) cases.silent[1] += p;
  }

  function summary(gradient, target, square) {
    const norm = Math.sqrt(dot(gradient, gradient)), along = dot(gradient, target), size = Math.sqrt(dot(target, target));
    return {
      gradient, target, norm,
      cosine: norm * size > 0 ? along / (norm * size) : 0,
      scale: size > 0 ? along / size ** 2 : 0,
      variance: Math.max(square - norm ** 2, 0),
    };
  }

  // Of each answer: what its tokens are credited with, what a token of it weighs (1: a share of 1/G), how it is pushed; all on average.
  function perRow(seen, world, now, d, G) {
    const after = probabilities(now);
    return ANSWERS.map((a, i) => {
      const { rows, credit, weight, pull } = seen[i], over = (x) => (rows > 0 ? x / rows : NaN);
      return {
        name: NAMES[i], length: a.length, R: world.R[i], old: world.prob[i], now: after[i], ratio: d[i].map(Math.exp),
        credit: credit.map(over), weight: G * over(weight), pull: pull.map((x) => G * over(x)),
      };
    });
  }

  const step = (theta, gradient, size) => theta.map((row, s) => row.map((x, b) => x + size * gradient[3 * s + b]));

  // Where the policy is after a move of length m along the method's own gradient: what a batch that is used again meets.
  function moved(setting, m) {
    const { gradient, norm } = evaluate({ ...setting, now: setting.old });
    return norm > 0 ? step(setting.old, gradient, m / norm) : setting.old;
  }

  return { TOKENS, ANSWERS, NAMES, RECIPES, COMPARES, evaluate, moved, step, slopes, edges, probabilities, law, J, rewardsOf };
})();

if (typeof module !== "undefined") module.exports = rungToy;
