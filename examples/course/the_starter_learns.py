"""A lesson: a small language model learns to reason, and what its answers look like before and after.

marimo edit examples/course/the_starter_learns.py    # or: python examples/course/the_starter_learns.py; two minutes
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App()


@app.cell
def _():
    import marimo as mo

    import rung

    STEPS = 40
    return STEPS, mo, rung


@app.cell
def _(mo):
    mo.md(r"""
    # The starter learns

    rung brings a language model of 84,672 numbers along, the starter. It was trained to write what answers look like:
    `4*7-2=` is
    followed by intermediate results with `>` between them and a final one behind `#`, of each the last digit alone:
    `8>6#6`. It is
    right about one time in four. From here on nobody shows
    it a right answer; it only hears whether its last number is the right one.
    """)
    return


@app.cell
def _(mo):
    recipe = mo.ui.dropdown(["reinforce", "leave_one_out", "ppo", "grpo", "dr_grpo"], value="dr_grpo", label="recipe")
    recipe
    return (recipe,)


@app.cell
def _(STEPS, recipe, rung):
    run = rung.train(recipe.value, model="starter", steps=STEPS, eval_problems=128, quiet=True)
    print(
        f"{recipe.value}: accuracy {run.before.accuracy:.2f} before, {run.after.accuracy:.2f} after {run.steps} steps"
    )
    run
    return (run,)


@app.cell
def _(mo):
    mo.md(r"""
    ## What changed

    A problem that it never trained on, asked of the model as it was and as it is. Look for the step that went wrong
    before.
    """)
    return


@app.cell
def _(run):
    asked = str(run.ask("4*7-2="))
    print(asked)
    return (asked,)


@app.cell
def _(mo):
    mo.md(r"""
    ## What to watch

    The loss says nothing (it is about zero at every step). The mean reward of the sampled answers rises; the entropy
    falls as the
    policy becomes sure; groups in which all answers earn the same become frequent, and teach nothing.
    """)
    return


@app.cell
def _(run):
    watched = ["reward", "entropy", "frac_reward_zero_std"]
    for _step in sorted({1, run.steps // 2, run.steps}):
        print(f"step {_step:3}: " + "  ".join(f"{name} {run.metrics[name][_step]:.2f}" for name in watched))
    return (watched,)


@app.cell
def _(mo):
    mo.md(r"""
    ## Exercises

    1. Train with `reinforce` and with `dr_grpo`. Which ends higher? Repeat with another seed (`seed=1` in
       `rung.train`) before you answer.
    2. Set `samples_per_prompt=2`. What happens to `frac_reward_zero_std`, and why?
    3. Ask a problem with two operations more. Is it right? It never met one.

    The box below solves all three. Do it yourself first.
    """)
    return


@app.cell
def _(mo):
    solutions = mo.ui.checkbox(value=mo.app_meta().mode == "script", label="show the solutions: a few more trainings")
    solutions
    return (solutions,)


@app.cell
def _(STEPS, mo, rung, solutions):
    mo.stop(not solutions.value)
    after = {}
    for _name in ("reinforce", "dr_grpo"):
        for _seed in (0, 1):
            _run = rung.train(_name, model="starter", steps=STEPS, eval_problems=128, seed=_seed, quiet=True)
            after[_name, _seed] = _run.after.accuracy
    _low, _high = (
        f"{_name} {min(after[_name, s] for s in (0, 1)):.2f} and {max(after[_name, s] for s in (0, 1)):.2f}"
        for _name in ("reinforce", "dr_grpo")
    )
    print(
        f"1. with seeds 0 and 1: {_low}, {_high}. Of 128 problems one is 0.008, and two seeds differ by more than that:"
    )
    print("   on this task, with rewards of 0 and 1, nobody can say from two runs which is better.")
    return (after,)


@app.cell
def _(STEPS, mo, run, rung, solutions):
    mo.stop(not solutions.value)
    _few = {"prompts_per_step": 128, "samples_per_prompt": 2}  # as many answers in a step as before, in smaller groups
    pairs = rung.train("dr_grpo", model="starter", steps=STEPS, eval_problems=128, quiet=True, **_few)
    _silent = [sum(x.metrics["frac_reward_zero_std"].values()) / x.steps for x in (run, pairs)]
    print(
        f"2. groups in which all answers earn the same: {_silent[0]:.2f} of those of 8 answers, {_silent[1]:.2f} of those of 2."
    )
    print(
        "   With success rate p a group is all alike with probability p^G + (1-p)^G: at p = 1/2 that is 1/128, and 1/2."
    )
    return (pairs,)


@app.cell
def _(mo, run, solutions):
    mo.stop(not solutions.value)
    longer = str(run.ask("4*7-2+3-6="))
    print(f"3. {longer}")
    print(
        "   The last digits of 28, 26, 29, 23 are 8, 6, 9, 3. An answer of its own length it may still get right; it was"
    )
    print("   paid for problems of its own kind alone.")
    return (longer,)


if __name__ == "__main__":
    app.run()
