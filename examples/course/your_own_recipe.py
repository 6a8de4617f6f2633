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

    1. Divide by the *longest* answer of the group instead. Predict the oracle's verdict first: does that number
       differ between answers? Between prompts?
    2. Change the credit: half the group's mean. Is it biased? What does it do to the variance? (`verdict.variance`)
    3. Read the page of [GRPO](../../docs/ladder/grpo.md) and write its credit as a part of your own. The oracle's
       verdict must be the same to the last digit.
    """)
    return


if __name__ == "__main__":
    app.run()
