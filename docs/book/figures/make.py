"""The exact figures of the book: python docs/book/figures/make.py [NAME ...]   (needs matplotlib; all of them without a name)

Nothing is sampled but the errors of the wrong critics. The pictures have no background, so that they stand on a
light page and on a dark one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GRAY, BLUE, ORANGE, GREEN = "#808080", "#3b82d6", "#d9731f", "#2c9c69"  # each at least 3:1 on white and on #131416
mpl.rcParams.update({
    "svg.hashsalt": "rung", "font.size": 10, "savefig.transparent": True, "lines.linewidth": 1.8, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "legend.labelcolor": GRAY,
    **dict.fromkeys(["axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "text.color", "xtick.color", "ytick.color"], GRAY),
})  # fmt: skip


TOY_SCORE = np.array([  # of `4`, `5`, `think 4`, `think 5`
    [.7, -.3, -.4, 0, 0], [-.3, .7, -.4, 0, 0], [-.3, -.3, .6, .25, -.25], [-.3, -.3, .6, -.75, .75],
])  # fmt: skip
TOY = (np.array([0.3, 0.3, 0.3, 0.1]), TOY_SCORE, np.array([1.0, 0.0, 1.0, 0.0]))
SURE = (np.array([0.9, 0.1]), np.array([[0.1, -0.1], [-0.9, 0.9]]), np.array([1.0, 0.0]))


# -- chapter 4 ---------------------------------------------------------------------------------------------------
def cloud() -> Figure:
    """Every estimate from a batch of 8, area = its chance, in the logits of `4` and `think`; three codings of one verdict."""
    prob, score, reward = TOY
    batches = [n for n in product(range(9), repeat=4) if sum(n) == 8]  # how often each answer was drawn
    orders = [math.factorial(8) / math.prod(map(math.factorial, n)) for n in batches]
    chance = np.array(orders) * np.prod(prob ** np.array(batches), axis=1)
    drawn = chance > 5e-4
    figure, panels = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained", sharex=True, sharey=True)
    for axes, shift in zip(panels, (-0.5, 0.0, 1.0), strict=True):
        each, g = np.array(batches) * (reward + shift) @ score / 8, (prob * reward) @ score
        wrong = each @ g < 0
        for colour, here in [(BLUE, drawn & ~wrong), (ORANGE, drawn & wrong)]:
            axes.scatter(*each[here][:, [0, 2]].T, s=1500 * chance[here], color=colour, alpha=0.6, linewidths=0)
        axes.annotate(
            "", g[[0, 2]], (0, 0), arrowprops={"arrowstyle": "->", "color": GREEN, "lw": 2, "shrinkA": 0, "shrinkB": 0}
        )
        share = chance[wrong].sum()
        axes.set(title=f"wrong {shift:g}, right {shift + 1:g}\n{share:.1%} point away", xlabel="logit of “4”")
        axes.axhline(0, color=GRAY, linewidth=0.5)
        axes.axvline(0, color=GRAY, linewidth=0.5)
    panels[0].set(ylabel="logit of “think”", xlim=(-0.95, 0.95), ylim=(-0.95, 0.95))
    return figure


# -- chapter 6 ---------------------------------------------------------------------------------------------------
def parabola() -> Figure:
    """Var (R - b) score = E (R - b)^2 |score|^2 - |grad J|^2, over b."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    _parabola(left, TOY, 0.0, BLUE, "rewards 0 and 1", (-0.6, 2.2))
    _parabola(left, TOY, 1.0, ORANGE, "rewards 1 and 2", (-0.6, 2.2))
    _parabola(right, SURE, 0.0, BLUE, "right nine times in ten", (-0.25, 1.1))
    left.set(title="The toy", ylim=(-0.2, 2.2), ylabel="variance of one answer's gradient")
    right.set(title="A policy that is nearly always right", ylim=(-0.02, 0.2))
    for axes in (left, right):
        axes.set_xlabel("baseline b")
        axes.legend(fontsize=9, loc="upper center")
    return figure


def _parabola(
    axes: Axes, world: tuple[np.ndarray, ...], shift: float, colour: str, name: str, span: tuple[float, float]
) -> None:
    prob, score, reward = world[0], world[1], world[2] + shift
    norm = (score**2).sum(1)
    length = ((prob * reward) @ score) @ ((prob * reward) @ score)

    def variance(b: float) -> float:
        return float(prob @ ((reward - b) ** 2 * norm) - length)

    b = np.linspace(*span, 200)
    axes.plot(b, [variance(x) for x in b], color=colour, label=name)
    best, mean = (prob * norm) @ reward / (prob @ norm), prob @ reward
    for x, marker, text in [(0.0, "s", "none"), (mean, "o", "mean"), (best, "v", "b*")]:
        axes.plot(x, variance(x), marker, color=colour, markersize=6)
        offset = {"none": (-8, -12), "mean": (4, -13), "b*": (0, 8)}[text]
        axes.annotate(text, (x, variance(x)), xytext=offset, textcoords="offset points", fontsize=9,
                      ha={"none": "right", "mean": "left", "b*": "center"}[text])  # fmt: skip


# -- chapter 7 ---------------------------------------------------------------------------------------------------
STEPS, RIGHT, NEEDED = 6, 0.7, 5


def gae() -> Figure:
    """Bias and variance of GAE over lambda: 6 tokens, each right with .7; reward 1 if at least 5 are; all answers enumerated."""
    lams = np.linspace(0, 1, 41)
    rng = np.random.default_rng(0)
    rows = {}
    for name, size, colour in [("exact critic", 0.0, GREEN), ("off by .1", 0.1, BLUE), ("off by .3", 0.3, ORANGE)]:
        errors = [size * rng.standard_normal((STEPS, STEPS + 1)) for _ in range(20 if size else 1)]
        rows[name] = colour, np.mean([[_bias_and_variance(lam, e) for lam in lams] for e in errors], axis=0)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for name, (colour, values) in rows.items():
        left.plot(lams, values[:, 0], color=colour, label=name)
        middle.plot(lams, values[:, 1], color=colour)
    colour, values = rows["off by .3"]
    for answers, style in [(16, "-"), (256, "--")]:
        error = values[:, 0] + values[:, 1] / answers
        error = error / error.min()
        right.plot(lams, error, style, color=colour, label=f"{answers} answers")
        right.plot(lams[error.argmin()], 1, "o", color=colour)
    left.set(title="squared bias", xlabel="λ")
    middle.set(title="variance of one answer", xlabel="λ", ylim=(0, None))
    right.set(title="squared error of a batch, best = 1", xlabel="λ", ylim=(0, 8))
    left.legend(fontsize=9)
    right.legend(fontsize=9, title="off by .3", title_fontsize=9)
    return figure


def _bias_and_variance(lam: float, error: np.ndarray) -> tuple[float, float]:
    """One logit a position; the state is (tokens so far, right ones so far); V is exact up to `error`."""
    value = np.zeros((STEPS + 1, STEPS + 1))
    last = (np.arange(STEPS + 1) >= NEEDED).astype(float)
    exact = last
    for t in reversed(range(STEPS)):
        exact = np.array([RIGHT * exact[min(n + 1, STEPS)] + (1 - RIGHT) * exact[n] for n in range(STEPS + 1)])
        value[t] = exact + error[t]
    probs, estimates, truths = [], [], []
    for answer in product((0, 1), repeat=STEPS):
        done = np.concatenate([[0], np.cumsum(answer)])
        reward = last[done[-1]]
        v = [*(value[t, done[t]] for t in range(STEPS)), 0.0]
        advantage, later = np.zeros(STEPS), 0.0
        for t in reversed(range(STEPS)):
            later = (reward if t == STEPS - 1 else 0.0) + v[t + 1] - v[t] + lam * later
            advantage[t] = later
        score = np.array(answer) - RIGHT
        probs.append(RIGHT ** done[-1] * (1 - RIGHT) ** (STEPS - done[-1]))
        estimates.append(advantage * score)
        truths.append(reward * score)
    prob, g = np.array(probs), np.array(estimates)
    mean = prob @ g
    return float(((mean - prob @ np.array(truths)) ** 2).sum()), float(prob @ ((g - mean) ** 2).sum(1))


# -- chapter 8 ---------------------------------------------------------------------------------------------------
def weights() -> Figure:
    """What importance weights leave of a batch: 1 / E rho^2 = 1 / (1 + chi^2)^L; tokens of two words, drawn with .5 each."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    q = 0.5 + np.logspace(-3, np.log10(0.35), 200)
    kl = -0.5 * np.log(4 * q * (1 - q))  # of one token, KL(old || new)
    second = 2 * (q**2 + (1 - q) ** 2)  # E rho^2 of one token
    for length, colour in [(1, GREEN), (10, BLUE), (100, ORANGE), (1000, GRAY)]:
        left.plot(kl, second**-length, color=colour, label=f"{length} token{'s' * (length > 1)}")
        right.plot(kl * length, second**-length, color=colour)
    left.set(
        xscale="log", xlim=(1e-5, 0.1), xlabel="KL(old ‖ new) of one token, nats", ylabel="effective share of the batch"
    )
    right.set(xscale="log", xlim=(1e-2, 10), xlabel="KL(old ‖ new) of the whole answer, nats")
    left.legend(fontsize=9)
    for axes in (left, right):
        axes.set_ylim(0, 1.02)
    return figure


# -- chapter 9 ---------------------------------------------------------------------------------------------------
def trust() -> Figure:
    """Two of the toy's five logits, `think` made rare: J around a policy, the ball of KL, its ellipse, and two steps to its rim."""
    bound, rare, right = 0.02, 0.1, 0.75

    def law(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """P(think) and P(4 | think) after the logits moved by x and y."""
        return _sigmoid(math.log(rare / (1 - rare)) + x), _sigmoid(math.log(right / (1 - right)) + y)

    def kl(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        think, four = law(x, y)
        return _bernoulli_kl(rare, think) + rare * _bernoulli_kl(right, four)

    X, Y = np.meshgrid(np.linspace(-1.3, 1.3, 200), np.linspace(-2.1, 2.6, 200))
    think, four = law(X, Y)
    figure, axes = plt.subplots(figsize=(5.8, 5), layout="constrained")
    lines = axes.contour(X, Y, (1 - think) / 2 + think * four, levels=14, colors=GRAY, linewidths=0.8)
    axes.clabel(lines, fontsize=7)
    axes.contour(X, Y, kl(X, Y), levels=[bound], colors=[ORANGE], linewidths=2)
    F = np.array([rare * (1 - rare), rare * right * (1 - right)])
    axes.contour(
        X, Y, (F[0] * X**2 + F[1] * Y**2) / 2, levels=[bound], colors=[ORANGE], linewidths=1.2, linestyles="--"
    )
    g = np.array([rare * (1 - rare) * (right - 0.5), rare * right * (1 - right)])
    for step, colour, name in [(g, BLUE, "gradient"), (g / F, GREEN, "natural gradient")]:
        tip = step * math.sqrt(2 * bound / (F @ step**2))
        axes.annotate(
            "", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "lw": 2, "shrinkA": 0, "shrinkB": 0}
        )
        axes.plot([], [], color=colour, label=name)
    axes.plot(0, 0, "o", color=GRAY)
    axes.plot([], [], color=GRAY, linewidth=0.8, label="J")
    axes.plot([], [], color=ORANGE, label=f"KL(old ‖ new) = {bound}")
    axes.plot([], [], "--", color=ORANGE, linewidth=1.2, label="its quadratic form")
    axes.set(xlabel="change of the logit of “think”", ylabel="change of the logit of “4” after “think”")
    figure.legend(fontsize=9, loc="outside upper center", ncols=3)
    return figure


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _bernoulli_kl(p: float, q: np.ndarray) -> np.ndarray:
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


FIGURES: Mapping[str, Callable[[], Figure]] = {f.__name__: f for f in (cloud, parabola, gae, weights, trust)}


def main() -> None:
    for name in sys.argv[1:] or FIGURES:
        figure = FIGURES[name]()
        figure.savefig(Path(__file__).parent / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
