"""A lesson: an expected gradient that is computed, not estimated.

pip install marimo; marimo edit examples/course/exact_gradients.py    # or: python examples/course/exact_gradients.py
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App()


@app.cell
def _():
    from math import log

    import marimo as mo
    import torch

    return log, mo, torch


@app.cell
def _(mo):
    mo.md(r"""
    # Exact gradients

    A language model of two states: after the prompt "2+2=" it says `4`, `5` or `think`; after `think` it says `4` or
    `5`.
    There are four answers, and an answer that ends in 4 earns 1. Everything about it can be written down, so nothing
    here has to be believed. The story behind it is in [the book](../../docs/book/02_objective.md).
    """)
    return


@app.cell
def _(log, torch):
    theta = torch.tensor([log(0.3), log(0.3), log(0.4), log(0.75), log(0.25)], dtype=torch.float64)
    answers = ["4", "5", "think 4", "think 5"]
    reward = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)

    def logp(x):
        """log-probability of each answer: [4]"""
        first, second = x[:3].log_softmax(0), x[3:].log_softmax(0)
        return torch.stack([first[0], first[1], first[2] + second[0], first[2] + second[1]])

    prob = logp(theta).exp()
    score = torch.func.jacrev(logp)(theta)  # grad log pi of each answer: [4, 5]
    true_gradient = torch.func.grad(lambda x: logp(x).exp() @ reward)(theta)
    for _answer, _p, _r in zip(answers, prob.tolist(), reward.tolist(), strict=True):
        print(f"{_answer:8} probability {_p:.2f}  reward {_r:.0f}")
    print("J =", round(float(prob @ reward), 6), " its gradient:", [round(g, 4) for g in true_gradient.tolist()])
    return answers, prob, reward, score, true_gradient


@app.cell
def _(mo):
    mo.md(r"""
    ## The policy gradient is an expectation

    $\nabla J = \mathbb{E}[R \, \nabla \log \pi]$: the gradient of a sum over answers became a mean over answers,
    which samples can
    estimate. Choose how many samples, and a baseline that is subtracted from the reward. Does the mean of many
    estimates move
    with the baseline? Does their spread?
    """)
    return


@app.cell
def _(mo):
    samples = mo.ui.slider(1, 64, value=8, label="answers in an estimate")
    baseline = mo.ui.slider(-2.0, 2.0, step=0.1, value=0.0, label="baseline")
    mo.hstack([samples, baseline])
    return baseline, samples


@app.cell
def _(baseline, prob, reward, samples, score, torch, true_gradient):
    credit = reward - baseline.value
    exact_mean = (prob * credit) @ score
    exact_spread = float(prob @ ((credit[:, None] * score - exact_mean) ** 2).sum(1)) / samples.value
    _drawn = torch.multinomial(prob, 2000 * samples.value, replacement=True, generator=torch.Generator().manual_seed(0))
    estimates = (credit[:, None] * score)[_drawn].view(2000, samples.value, -1).mean(1)
    measured_spread = float(((estimates - estimates.mean(0)) ** 2).sum(1).mean())
    print("bias, exactly:     ", [round(abs(float(x)), 12) for x in exact_mean - true_gradient])
    print(f"variance, exactly:  {exact_spread:.4f}   of 2,000 estimates: {measured_spread:.4f}")
    return exact_mean, exact_spread, measured_spread


@app.cell
def _(mo):
    mo.md(r"""
    ## The same for a whole recipe

    rung's oracle enumerates every batch of a small world, weighs it by its probability, and calls the functions that
    train. It says
    whether a recipe's expected gradient is the policy gradient and, if not, which of its parts bends it.
    """)
    return


@app.cell
def _(mo):
    recipe = mo.ui.dropdown(["leave_one_out", "grpo", "dr_grpo", "dapo", "rloo"], value="grpo", label="recipe")
    recipe
    return (recipe,)


@app.cell
def _(recipe):
    from rung.exact.audit import audit
    from rung.recipes import LADDER

    verdict = audit(LADDER[recipe.value])
    print(f"{recipe.value}: {verdict.words}")
    return LADDER, audit, verdict


@app.cell
def _(mo):
    mo.md(r"""
    ## Exercises

    1. Which baseline makes the variance smallest? Find it with the slider, then from the formula
       $b^\ast = \mathbb{E}[\lVert z \rVert^2 R] / \mathbb{E}[\lVert z \rVert^2]$, with $z$ the score.
    2. The oracle names three parts of GRPO. Replace all three; what is the recipe that you have then?

    The cell below solves both.
    """)
    return


@app.cell
def _(LADDER, audit, prob, reward, score):
    from dataclasses import replace

    from rung.parts import GroupMean, NoKL, SequenceSum

    _size = (score**2).sum(1)
    best_baseline = float((prob * _size) @ reward / (prob @ _size))
    mended = replace(LADDER["grpo"], credit=GroupMean(scale="none"), aggregate=SequenceSum(), kl=NoKL())
    mended_verdict = audit(mended)
    print(f"best baseline: {best_baseline:.4f}")
    print(f"GRPO with three parts replaced: {mended_verdict.words} (Dr. GRPO, but for its constant divisor)")
    return best_baseline, mended_verdict


if __name__ == "__main__":
    app.run()
