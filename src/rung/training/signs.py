"""How what goes wrong in a training shows in its metrics. health.py names each of these signs, its cause and its remedy.

A sign is a function of the rows so far. It returns what is seen, with numbers, or None. What chance could give must last
STEPS steps; where one mean is compared with another, they must differ by more than their standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rung.training.seen import STEPS, Row, Seen, mean_of, number

START = 2  # steps that a run's beginning is read from
PAIRS = 8  # pairs of identical answers, below which nothing is said about a verifier
GAPS = {"float32": 2e-3, "bfloat16": 0.1}  # nats between sampler and trainer, far above what rounding gives
ENGINE_GAP = 0.1  # the same where the sampler runs the model by code of its own


# -- rewards -------------------------------------------------------------------------------------------------------
def unscored(run: Seen) -> str | None:
    answers = run.facts.answers
    count = (run.last("rewards/unscored", 1) or [0.0])[0]
    if not count or count < answers / 2:
        return None
    if number(run.train[-1], "reward") is None:
        return f"none of the {answers} answers could be scored, so nothing was learned"
    return f"{count:.0f} of {answers} answers could not be scored; they are left out"


def _parts(row: Row, of: str) -> float:
    """Sum of the rewards' means or stds over the step's answers, without a fine for length."""
    ends = f"/{of}"
    names = [k for k in row if k.startswith("rewards/") and k.endswith(ends) and k != f"rewards/overlong{ends}"]
    return sum(number(row, k) or 0.0 for k in names)


def _signal(run: Seen) -> tuple[str, str] | None:
    """(which of three kinds, what is seen) where no prompt's answers differ in reward for STEPS steps."""
    rows = run.train[-STEPS:]
    alone, earned = run.facts.samples == 1, run.last("reward")
    flat = [_parts(row, "std") == 0 if alone else (number(row, "frac_reward_zero_std") or 0.0) == 1 for row in rows]
    if not earned or not all(flat) or cut(run) or no_format(run):
        return None
    alike = all(_parts(row, "std") == 0 for row in rows)
    if alike and all(_parts(row, "mean") == 0 for row in rows):
        return "hard", f"no answer of {STEPS} steps earned anything above 0 (reward {earned[-1]:.3g})"
    any_answer = run.mean("rewards/any_answer") >= 0.5
    constant = alike and max(earned) - min(earned) <= 1e-9 * max(map(abs, earned)) and not _varied(run, earned[-1])
    if any_answer or constant:
        more = ", whatever its final answer is" if any_answer else ""
        return (
            "constant",
            f"every answer of {STEPS} steps earned the same as the others to its prompt, {earned[-1]:.3g}{more}",
        )
    if min(run.last("frac_all_right") or [0.0]) >= 0.9:
        return (
            "easy",
            f"every answer of {STEPS} steps earned the best reward ({earned[-1]:.3g}), so none is better than another",
        )
    return (
        "constant",
        f"in {STEPS} steps all answers to a prompt earned the same, though prompts differ (mean {earned[-1]:.3g})",
    )


def _varied(run: Seen, value: float) -> bool:
    """Whether a reward other than `value` was ever paid in training, or whether held-out problems all earn a full 1."""
    if any(differ(row) for row in run.train):
        return True
    return value == 1.0 and any(full(row) for row in run.held_out)


def differ(row: Row) -> bool:
    return _parts(row, "std") > 0


def full(row: Row) -> bool:
    return score(row)[0] == 1.0


def no_signal(kind: str) -> Callable[[Seen], str | None]:
    def seen(run: Seen) -> str | None:
        found = _signal(run)
        return found[1] if found and found[0] == kind else None

    return seen


def noise(run: Seen) -> str | None:
    rows = [r for r in run.train[-5:] if number(r, "rewards/noise") is not None]
    pairs = [r["rewards/identical"] for r in rows]
    if sum(pairs) < PAIRS:
        return None
    noise = sum(n * r["rewards/noise"] for n, r in zip(pairs, rows, strict=True)) / sum(pairs)
    if noise < 0.5:
        return None
    return (
        f"identical answers to one prompt earn different rewards: {sum(pairs):.0f} pairs of them differ {noise:.0%} as much as "
        "any two answers"
    )


def paid_by_length(run: Seen) -> str | None:
    low = min(run.last("rewards/length_correlation") or [0.0])
    if low < 0.95:
        return None
    floor = math.floor(100 * low) / 100
    return f"in {STEPS} steps the correlation of reward and length among the answers to a prompt was never below {floor:.2f}"


def reward_falls(run: Seen) -> str | None:
    change, error = _change(run)
    start = mean_of([r["reward"] for r in run.train[:START] if number(r, "reward") is not None])
    if not change < 0 or change > -max(3 * error, 0.5 * abs(start)):
        return None
    return (
        f"the mean reward fell from {start:.3g} in the first {START} steps to {start + change:.3g} in the last {STEPS}"
    )


def _change(run: Seen) -> tuple[float, float]:
    """(mean reward of the last STEPS steps minus that of the first START, its standard error); NaN if too few steps."""
    first, last = run.train[:START], run.train[-STEPS:]
    if len(run.train) < START + STEPS or any(number(r, "reward") is None for r in (*first, *last)):
        return math.nan, math.nan
    error = math.sqrt(_variance(first, run.facts.answers) + _variance(last, run.facts.answers))
    return mean_of([r["reward"] for r in last]) - mean_of([r["reward"] for r in first]), error


def _variance(rows: Sequence[Row], answers: int) -> float:
    """Of these steps' mean reward, with each answer on its own."""
    return mean_of([_parts(row, "std") ** 2 for row in rows]) / max(answers * len(rows), 1)


def reward_slow(run: Seen) -> str | None:
    reward, step = run.last("time/reward"), run.last("step_time")
    if not reward or not step or mean_of(reward) < 1 or sum(reward) < 0.5 * sum(step):
        return None
    return f"judging the answers takes {mean_of(reward):.2g} of a step's {mean_of(step):.2g} seconds"


# -- answers -------------------------------------------------------------------------------------------------------
def cut(run: Seen) -> str | None:
    share, longest = run.mean("completions/clipped_ratio"), run.mean("completions/max_length", 1)
    return (
        f"{share:.0%} of {STEPS} steps' answers were cut by the token limit ({longest:.0f} tokens)"
        if share >= 0.5
        else None
    )


def no_format(run: Seen) -> str | None:
    cut, none = run.mean("completions/clipped_ratio"), run.mean("completions/no_answer_ratio")
    if not cut < 0.5 or not (none - cut) / (1 - cut) >= 0.9:
        return None
    return f"in {none:.0%} of {STEPS} steps' answers the verifier found no final answer, and only {cut:.0%} were cut"


def length_grows(run: Seen) -> str | None:
    first, last = run.train[:START], run.train[-START:]
    lengths = [mean_of([number(r, "completions/mean_length") or 0.0 for r in rows]) for rows in (first, last)]
    if len(run.train) < START + STEPS - 1 or lengths[1] < 1.5 * lengths[0]:
        return None
    what, before, after, error, unit = _progress(run)
    if not after - before + 3 * error <= 0.1 * unit:
        return None
    return f"answers grew from {lengths[0]:.1f} to {lengths[1]:.1f} tokens while the {what} went from {before:.3g} to {after:.3g}"


def _progress(run: Seen) -> tuple[str, float, float, float, float]:
    """(what, before, after, error of the change, std of one): held-out where evaluated since the start, else the reward."""
    if len(run.held_out) > 1:
        (a, low, high, n), (b, low_b, high_b, _) = score(run.held_out[0]), score(run.held_out[-1])
        error = math.hypot(high - low, high_b - low_b) / (2 * 1.96)
        return "held-out score", a, b, error, (high - low) * math.sqrt(n) / (2 * 1.96)
    change, error = _change(run)
    start = mean_of([number(r, "reward") or 0.0 for r in run.train[:START]])
    return "reward", start, start + change, error, _parts(run.train[0], "std")


def score(row: Row) -> tuple[float, float, float, float]:
    """An evaluation's (accuracy or mean reward, lower end, upper end, problems); NaN where there is none."""
    kind = "accuracy" if number(row, "eval/accuracy") is not None else "reward"
    mean, low, high, n = (number(row, f"eval/{kind}{end}") for end in ("", "_ci_low", "_ci_high", "_n"))
    mean = math.nan if mean is None else mean  # an interval is absent where all problems have the same mean
    return mean, mean if low is None else low, mean if high is None else high, n or 0.0


def held_out_falls(run: Seen) -> str | None:
    if len(run.held_out) < 2:
        return None
    best, now = best_of(run.held_out), run.held_out[-1]
    then = [r for r in run.train if around(best, r)]
    since = [r for r in run.train if r["step"] > best["step"] + 1][-STEPS:]
    paid = [[v for r in rows if (v := number(r, "reward")) is not None] for rows in (then, since)]
    if not score(now)[2] < score(best)[1] or not all(paid):
        return None
    rise = mean_of(paid[1]) - mean_of(paid[0])
    if rise <= 2 * math.sqrt(_variance(then, run.facts.answers) + _variance(since, run.facts.answers)):
        return None
    return (
        f"the held-out score fell from {score(best)[0]:.3g} (step {best['step']}) to {score(now)[0]:.3g} while the training "
        f"reward rose from {mean_of(paid[0]):.3g} to {mean_of(paid[1]):.3g}"
    )


def best_of(held_out: Sequence[Row]) -> Row:
    return max(held_out, key=lambda r: _or(score(r)[0], -math.inf))


def around(best: Row, row: Row) -> bool:
    return bool(best["step"] - 2 < row["step"] <= best["step"] + 1)


def held_out_unscored(run: Seen) -> str | None:
    newest = run.held_out[-1] if run.held_out else {}
    if not (count := number(newest, "eval/unscored")):
        return None
    if number(newest, "eval/reward") is None:
        return "no held-out answer could be scored, so there is no accuracy and no mean"
    return f"{count:.0f} held-out answers could not be scored; they are in no mean"


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value


# -- policy --------------------------------------------------------------------------------------------------------
def entropy_collapses(run: Seen) -> str | None:
    start, now = [mean_of([number(r, "entropy") or 0.0 for r in rows]) for rows in (run.train[:1], run.train[-2:])]
    solved = run.mean("frac_all_right", 2) >= 0.8
    if len(run.train) < 3 or solved or not (now < 0.05 and now < 0.2 * start):
        return None
    return f"the entropy fell from {start:.3g} to {now:.3g} nats a token, and the prompts are not solved"


def kl_runs_away(run: Seen) -> str | None:
    two = [run.mean(name, 2) for name in ("kl", "kl_k1")]
    return (
        f"the KL to the reference is {two[0]:.3g} nats a token (its other estimate {two[1]:.3g})"
        if min(two) >= 1
        else None
    )


def ratios_useless(run: Seen) -> str | None:
    ess, moved = run.mean("ratio/ess"), run.mean("old_kl")
    if not (ess < 0.5 or moved >= 0.15):
        return None
    stopped = run.mean("clip_ratio/low_mean") + run.mean("clip_ratio/high_mean") + run.mean("clip_ratio/dual_mean")
    return (
        f"within one batch the policy moves {moved:.2g} nats a token away from the one that sampled it: the ratios leave "
        f"{ess:.0%} of the tokens' weight, {stopped:.0%} of the tokens are clipped"
    )


def sampler_disagrees(run: Seen) -> str | None:
    limit, gap = GAPS.get(run.facts.numbers, ENGINE_GAP), run.mean("sampling/logp_gap_mean", 1)
    if not gap > limit:
        return None
    said = f"before any update sampler and trainer differ by {gap:.2g} nats a token"
    return f"{said}; {run.facts.numbers} explains less than {limit:g}"


def critic_blind(run: Seen) -> str | None:
    dead, harm = run.last("critic/explained_variance", 4), run.last("critic/explained_variance", 5)
    if dead and max(map(abs, dead)) < 1e-3:
        return f"the critic explains {dead[-1]:.2g} of the returns' variance in 4 steps: it does not learn"
    if harm and mean_of(harm) <= -0.5:
        return f"the critic explains {mean_of(harm):.2g} of the returns' variance in 5 steps: worse than a constant"
    return None


def not_finite(run: Seen) -> str | None:
    names = ("grad_norm", "advantage/abs_mean", "critic/loss", "kl", "old_kl")
    bad = [name for name in names if run.train and name in run.train[-1] and number(run.train[-1], name) is None]
    if not bad:
        return None
    size = number(run.train[-1], "advantage/abs_mean")
    more = f"; the advantages are of size {size:.1g}" if size is not None else ""
    return f"{', '.join(bad)} is not finite{_moved_by(run) if 'grad_norm' in bad else ''}{more}"


def _moved_by(run: Seen) -> str:
    """What a step whose gradient was not finite has changed all the same: several updates on one batch are asked one by one."""
    steps = number(run.train[-1], "update/steps")
    if not steps:
        return ", so the policy was not changed"
    return f" in a part of the updates, which changed nothing; {steps:.0f} other{'s' if steps != 1 else ''} did"


def gradient_tiny(run: Seen) -> str | None:
    rms = (run.last("grad_rms", 1) or [0.0])[0]
    if not 0 < rms < 1e-8 or not run.mean("advantage/abs_mean", 1) > 0:
        return None
    return f"a weight's gradient is about {rms:.1g}, so that Adam's 1e-8 shortens the steps"


def eps_dominates(run: Seen) -> str | None:
    share = run.mean("advantage/eps_dominates", 1)
    if not share >= 0.5:
        return None
    return f"in {share:.0%} of the prompts whose answers earned different rewards, these differ by less than the recipe's eps"


def signal_lost(run: Seen) -> str | None:
    share = run.mean("advantage/lost")
    if not share >= 0.1:
        return None
    return f"in {STEPS} steps {share:.0%} of the prompts have answers of different rewards from which this recipe learns nothing"


# -- prompts -------------------------------------------------------------------------------------------------------
def template_unused(run: Seen) -> str | None:
    return "the prompts are plain text, so the model's chat template is not used" if run.facts.plain_prompts else None


def letters_unread(run: Seen) -> str | None:
    return run.facts.unread
