"""Conjugate gradient, the scaled step and the line search, against direct linear algebra."""

import math

import pytest
import torch

from rung.maths.natural import Trial, conjugate_gradient, full_step, line_search


def system(n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=g, dtype=torch.float64)
    return root @ root.T + torch.eye(n, dtype=torch.float64), torch.randn(n, generator=g, dtype=torch.float64)


def test_conjugate_gradient_solves():
    A, g = system()
    x = conjugate_gradient(lambda v: A @ v, g, 12)
    torch.testing.assert_close(x, torch.linalg.solve(A, g), rtol=1e-7, atol=1e-8)


def test_conjugate_gradient_by_hand():
    A, g = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64)), torch.tensor([2.0, 2.0], dtype=torch.float64)
    first = conjugate_gradient(lambda v: A @ v, g, 1)
    torch.testing.assert_close(first, 0.4 * g, msg="alpha = g.g / g.Ag = 8 / 20")
    torch.testing.assert_close(conjugate_gradient(lambda v: A @ v, g, 2), torch.tensor([2.0, 0.5], dtype=torch.float64))
    assert (conjugate_gradient(lambda v: A @ v, g, 0) == 0).all()


def test_conjugate_gradient_stops_when_it_is_done_or_lost():
    calls = []

    def product(v):
        calls.append(v)
        return 2 * v

    g = torch.tensor([1.0, -3.0], dtype=torch.float64)
    torch.testing.assert_close(conjugate_gradient(product, g, 50), g / 2)
    assert len(calls) == 1, "the residual is zero after one step"
    assert (conjugate_gradient(lambda v: -v, g, 50) == 0).all(), (
        "not positive definite: no step rather than a wrong one"
    )
    assert (conjugate_gradient(lambda v: 0 * v, g, 50) == 0).all()
    assert (conjugate_gradient(product, 0 * g, 50) == 0).all()
    loose = conjugate_gradient(lambda v: system(2)[0] @ v, g, 50, tolerance=1e9)
    assert (loose == 0).all(), "the tolerance is relative to g.g"


@pytest.mark.parametrize("damping", [0.0, 0.1, 3.0])
def test_the_step_uses_up_the_kl_bound(damping):
    F, g = system()
    H = F + damping * torch.eye(6, dtype=torch.float64)
    step = full_step(lambda v: F @ v, g, max_kl=0.01, damping=damping, iterations=20)
    assert (step @ H @ step / 2).item() == pytest.approx(0.01, rel=1e-7), "x'Hx / 2 = max_kl"
    direction = torch.linalg.solve(H, g)
    torch.testing.assert_close(step / step.norm(), direction / direction.norm(), rtol=1e-6, atol=1e-7)
    assert step @ g > 0, "upwards"


def test_no_step_without_a_direction():
    F, g = system()
    for bad in (0 * g, g * math.nan, g * math.inf):
        assert full_step(lambda v: F @ v, bad, 0.01, 0.1, 10) is None
    assert full_step(lambda v: -F @ v, g, 0.01, 0.0, 10) is None, "no positive curvature"
    one = torch.zeros_like(g)
    one[2] = -1e-30
    assert full_step(lambda v: v, one, 0.01, 0.0, 10) is not None, "a tiny gradient is a direction"


def search(trials, backtracks=10, max_kl=0.01, shrink=0.5):
    asked = []

    def evaluate(fraction):
        asked.append(fraction)
        return trials[len(asked) - 1]

    return line_search(evaluate, max_kl, shrink, backtracks), asked


GOOD, FAR, WORSE, EVEN = Trial(1.0, 0.01), Trial(1.0, 0.011), Trial(-1.0, 0.001), Trial(0.0, 0.0)


@pytest.mark.parametrize(
    ("trials", "fraction", "asked", "why"),
    [
        ([GOOD], 1.0, [1.0], "the full step holds; the bound itself is allowed"),
        ([FAR, GOOD], 0.5, [1.0, 0.5], "too far: shrink"),
        ([WORSE, EVEN, GOOD], 0.25, [1.0, 0.5, 0.25], "lower or equal: shrink"),
        ([FAR, FAR, WORSE], 0.0, [1.0, 0.5, 0.25], "nothing holds: refused"),
    ],
)
def test_line_search(trials, fraction, asked, why):
    (got, trial), tried = search(trials, backtracks=3)
    assert (got, tried) == (fraction, asked), why
    assert trial == trials[-1]


def test_line_search_without_tries():
    assert line_search(lambda _: GOOD, 0.01, 0.5, 0) == (0.0, Trial(0.0, 0.0))


def test_nan_is_never_accepted():
    assert search([Trial(math.nan, 0.0), Trial(1.0, math.nan)], backtracks=2)[0][0] == 0.0
