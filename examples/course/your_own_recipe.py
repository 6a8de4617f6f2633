"""A lesson: a method of your own, with its exact verdict before a single training step.

marimo edit examples/course/your_own_recipe.py    # or: python examples/course/your_own_recipe.py
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App()


@app.cell
def _():
    from dataclasses import dataclass, replace

    import marimo as mo

    import rung
    from rung.exact.audit import audit
    from rung.parts import SequenceSum
    from rung.recipe_io import diff
    from rung.recipes import DR_GRPO, GRPO

    STEPS = 40
    return DR_GRPO, GRPO, STEPS, SequenceSum, audit, dataclass, diff, mo, replace, rung


@app.cell
def _(mo):
    mo.md(r"""
    # A recipe of your own

    A recipe is a value: one part for each question. GRPO is PPO with five parts changed, Dr. GRPO is GRPO with three.
    What
    would you change? Three steps: say it as a part, ask the oracle, train.

    The example here is a compromise. GRPO divides an answer's tokens by its length $L$, Dr. GRPO does not divide.
    Divide by $\sqrt{L}$: is that half as wrong?
    """)
    return


@app.cell
def _(SequenceSum, dataclass):
    @dataclass(frozen=True)
    class SquareRoot(SequenceSum):
        """w_bt = m_bt / (B sqrt|y_b|)."""

        def __call__(self, mask_BT, group_B, total):
            return super().__call__(mask_BT, group_B, total) / mask_BT.sum(1, keepdim=True).clamp(min=1).sqrt()

    return (SquareRoot,)


@app.cell
def _(DR_GRPO, SquareRoot, diff, replace):
    mine = replace(DR_GRPO, name="mine", parent="dr_grpo", aggregate=SquareRoot())
    for _field, (_old, _new) in diff(DR_GRPO, mine).items():
        print(f"{_field}: {_old} -> {_new}")
    return (mine,)


@app.cell
def _(mo):
    mo.md(r"""
    ## The verdict

    Every batch of a small world, weighed by its probability. The cosine says how far the mean gradient is turned away
    from the policy gradient, and the
    words say which part turns it. So does GRPO's division, for comparison (with its credit and KL put right, so that
    only the length differs).
    """)
    return


@app.cell
def _(DR_GRPO, GRPO, audit, mine, replace):
    by_length = replace(DR_GRPO, name="by length", aggregate=GRPO.aggregate)
    verdicts = {recipe.name: audit(recipe) for recipe in (by_length, mine, DR_GRPO)}
    for _name, _verdict in verdicts.items():
        print(f"{_name:10} {_verdict.words}")
    return (verdicts,)


@app.cell
def _(mo):
    mo.md(r"""
    ## The training

    An exact verdict is about the mean of the gradient, at one point. Whether it matters where you train is a question
    for an experiment, with several
    seeds; one run is a demonstration that the part works.
    """)
    return


@app.cell
def _(STEPS, mine, rung):
    run = rung.train(mine, model="starter", steps=STEPS, eval_problems=128, quiet=True)
    print(f"mine: accuracy {run.before.accuracy:.2f} before, {run.after.accuracy:.2f} after {run.steps} steps")
    return (run,)


@app.cell
def _(mo):
    mo.md(r"""
    ## Exercises

    1. Divide by the *mean* length of the group's answers instead of each answer's own. Predict the oracle's verdict
       first: does that number differ between the answers of a group? Does it depend on which answers were drawn?
    2. Change the credit: half the group's mean. Is it biased? What does it do to the variance? (`verdict.variance`)
    3. Read the page of [GRPO](../../docs/ladder/grpo.md) and write its credit as a part of your own. The oracle's
       verdict must be the same to the last digit.

    The cells below solve all three; the box runs them. Do it yourself first.
    """)
    return


@app.cell
def _(mo):
    solutions = mo.ui.checkbox(value=mo.app_meta().mode == "script", label="show the solutions")
    solutions
    return (solutions,)


@app.cell
def _(DR_GRPO, SequenceSum, audit, dataclass, mo, replace, solutions, verdicts):
    mo.stop(not solutions.value)

    @dataclass(frozen=True)
    class MeanLength(SequenceSum):
        """w_bt = m_bt G / (B N_g), N_g the tokens of the group: counted over the whole step, as Totals has them."""

        def __call__(self, mask_BT, group_B, total):
            G = total.sequences / len(total.prompt_tokens_P)
            return super().__call__(mask_BT, group_B, total) * G / total.prompt_tokens_P[group_B][:, None].clamp(min=1)

    by_mean = audit(replace(DR_GRPO, name="by mean length", aggregate=MeanLength()))
    print(f"1. {by_mean.words}")
    print(
        "   The same for all answers of a group, but longer groups weigh less, and an answer lengthens its own group:"
    )
    print(f"   less wrong than each answer's own length ({verdicts['by length'].cosine:.4f}), and still biased.")
    print("   (The longest answer would be no part at all: a micro-batch does not know it, and the oracle refuses.)")
    return MeanLength, by_mean


@app.cell
def _(DR_GRPO, audit, dataclass, mo, replace, solutions):
    mo.stop(not solutions.value)
    from rung.parts import GroupMean, TotalReturn

    @dataclass(frozen=True)
    class HalfMean(GroupMean):
        """A_i = R_i - mean_G(R) / 2: half way between the plain return and the return less the mean."""

        def __call__(self, batch):
            return (TotalReturn()(batch) + super().__call__(batch)) / 2

    halves = {
        _name: audit(replace(DR_GRPO, name=_name, credit=_credit))
        for _name, _credit in (
            ("no mean", TotalReturn()),
            ("half", HalfMean(scale="none")),
            ("whole", GroupMean(scale="none")),
        )
    }
    for _name, _verdict in halves.items():
        print(
            f"2. {_name:7} {_verdict.kind}, c = {_verdict.scale:.4g}, noise {_verdict.variance**0.5 / _verdict.scale:.2f}"
        )
    print(
        "   No bias but a factor. Noise is the standard deviation over c; in this world, with groups of two, whose mean is"
    )
    print("   itself noisy, half of it is the best of the three.")
    return GroupMean, HalfMean, TotalReturn, halves


@app.cell
def _(GRPO, audit, dataclass, mo, replace, solutions):
    mo.stop(not solutions.value)
    from rung.parts import Credit

    @dataclass(frozen=True)
    class Mine(Credit):
        """A_i = (R_i - mean_G R) / (std_G R + 0.0001), and 0 where all are the same."""

        needs = frozenset({"groups"})

        def __call__(self, batch):
            R = batch.reward_BT.sum(1)
            A = R.clone()
            for g in batch.group_B.unique():
                of_g = batch.group_B == g
                same = R[of_g].max() == R[of_g].min()
                A[of_g] = 0.0 if same else (R[of_g] - R[of_g].mean()) / (R[of_g].std() + 1e-4)
            return A[:, None] * batch.mask_BT

    own, theirs = (audit(recipe).cosine for recipe in (replace(GRPO, name="own", credit=Mine()), GRPO))
    print(f"3. GRPO with a credit of one's own: cosine {own:.12f}, with rung's: {theirs:.12f}")
    return Credit, Mine, own, theirs


if __name__ == "__main__":
    app.run()
