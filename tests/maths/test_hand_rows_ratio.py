"""Ratios, sampler corrections and surrogates: values and gradients, computed by hand."""

import math

import pytest
import torch

import rung.parts as p
from rung.maths.ratio import LIMIT, log_difference

NAN = math.nan
LN2 = math.log(2)


def f(x):
    return torch.tensor(x, dtype=torch.float64)


def same(got, want, why=None):
    torch.testing.assert_close(got, f(want) if isinstance(want, list) else want, rtol=1e-12, atol=1e-12, msg=why)


# -- ratio ---------------------------------------------------------------------------------------------------------
MASK = torch.tensor([[True, False, True, True, False], [False] * 5])


@pytest.mark.parametrize(
    ("ratio", "want", "why"),
    [
        (p.NoRatio(), [0.5, 0.0, -0.2, 0.3, 0.0], "the drift is measured as with TokenRatio"),
        (p.TokenRatio(), [0.5, 0.0, -0.2, 0.3, 0.0], "log pi - log pi_old per action"),
        (p.SequenceRatio(), [0.2] * 5, "(.5 - .2 + .3) / 3 actions, on every token"),
        (p.SequenceProduct(), [0.6] * 5, ".5 - .2 + .3"),
        (p.PerDecision(), [0.5, 0.5, 0.3, 0.6, 0.6], "the running sum"),
    ],
)
def test_ratio_values(ratio, want, why):
    logp = f([[-1.0, NAN, -2.2, -0.7, NAN], [NAN] * 5])
    old = f([[-1.5, NAN, -2.0, -1.0, NAN], [NAN] * 5])
    same(ratio(logp, old, MASK), [want, [0.0] * 5], why)


@pytest.mark.parametrize(
    "ratio",
    [
        p.NoRatio(), p.TokenRatio(), p.SequenceRatio(), p.SequenceProduct(), p.PerDecision(),
    ],
    ids=str,
)  # fmt: skip
def test_the_gradient_of_a_tokens_ratio_is_that_of_its_own_log_pi(ratio):
    logp = f([[-1.0, NAN, -2.2, -0.7, NAN], [NAN] * 5]).requires_grad_()
    log_ratio = ratio(logp, f([[-1.0, 0, -2.0, -1.0, 0], [0.0] * 5]), MASK)
    for t in (0, 2, 3):
        (grad,) = torch.autograd.grad(log_ratio[0, t], logp, retain_graph=True)
        same(grad, [[float(k == t) for k in range(5)], [0.0] * 5], f"token {t}")


@pytest.mark.parametrize(("gap", "cut"), [(60.0, 20.0), (-60.0, -20.0), (19.0, 19.0), (-math.inf, -20.0)])
def test_log_ratios_are_cut_before_any_exp(gap, cut):
    assert LIMIT == 20.0
    logp = f([[gap]]).requires_grad_()
    d = log_difference(logp, f([[0.0]]), torch.tensor([[True]]))
    same(d, [[cut]])
    same(torch.autograd.grad(d.sum(), logp)[0], [[1.0 if gap == cut else 0.0]], "no gradient beyond the cut")


def test_sums_of_log_ratios_are_cut_as_well():
    logp, old, mask = f([[15.0, 15.0, -45.0]]), f([[0.0] * 3]), torch.ones(1, 3, dtype=torch.bool)
    same(p.SequenceProduct()(logp[:, :2], old[:, :2], mask[:, :2]), [[20.0, 20.0]])
    same(p.PerDecision()(logp, old, mask), [[15.0, 20.0, 10.0]], "15, 30 cut to 20, 15 + 15 - 20")
    moving = logp.requires_grad_()
    (grad,) = torch.autograd.grad(p.PerDecision()(moving, old, mask).sum(), moving)
    same(grad, [[1.0, 0.0, 0.0]], "no gradient beyond the cut: of the running sum, of the token itself")


# -- correction: d = log old - log behavior = ln 2, (hole), ln 4, padding ------------------------------------------
@pytest.mark.parametrize(
    ("part", "want", "why"),
    [
        (p.NoCorrection(), [1.0, 1.0, 1.0, 1.0], "one engine"),
        (p.TokenTIS(cap=3.0), [2.0, 1.0, 3.0, 1.0], "4 is cut at 3; what is not sampled has d = 0"),
        (p.TokenTIS(), [2.0, 1.0, 2.0, 1.0], "the default cap is 2"),
        (p.SequenceTIS(cap=10.0), [8.0] * 4, "2 * 4 for the answer"),
        (p.SequenceTIS(cap=5.0), [5.0] * 4, "cut at 5"),
        (p.TokenMask(low=0.5, high=3.0), [2.0, 1.0, 0.0, 1.0], "4 is outside: dropped, not cut"),
        (p.TokenMask(low=3.0, high=5.0), [0.0, 0.0, 4.0, 0.0], "2 lies below"),
        (p.TokenMask(), [2.0, 1.0, 4.0, 1.0], "0.5 to 5"),
        (p.SequenceMask(), [0.0] * 4, "8 > 3: the answer is dropped"),
        (p.SequenceMask(cap=9.0), [8.0] * 4, "8 <= 9: kept with its weight"),
        (p.GeometricMask(low=0.5, high=3.0, cap=3.0), [2.0, 1.0, 3.0, 1.0], "sqrt 8 = 2.83 is inside; tokens are cut"),
        (p.GeometricMask(low=0.5, high=2.5, cap=9.0), [0.0] * 4, "2.83 > 2.5"),
        (p.GeometricMask(low=2.9, high=3.5, cap=9.0), [0.0] * 4, "2.83 < 2.9"),
        (p.GeometricMask(), [0.0] * 4, "0.99 to 1.01"),
    ],
)
def test_corrections(batch_of, part, want, why):
    old = f([[-1.0 + LN2, NAN, -2.0 + 2 * LN2, NAN]]).requires_grad_()
    behavior = f([[-1.0, NAN, -2.0, NAN]])
    batch = batch_of([[0.0, 0.0, 1.0, 0.0]], mask=[[1, 0, 1, 0]], old_logp_BT=old, behavior_logp_BT=behavior)
    got = part(batch, torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64))
    same(got, [want], why)
    assert not got.requires_grad, "the weight is a constant"


@pytest.mark.parametrize(
    ("drift", "adv", "want", "why"),
    [
        (0.6, -1.0, 0.0, "a bad answer that the policy has left already"),
        (0.4, -1.0, 1.0, "not left far enough"),
        (0.6, 1.0, 1.0, "a good answer stays"),
        (0.6, 0.0, 1.0, "no advantage, no matter"),
        (-0.6, -1.0, 1.0, "the policy moved towards it: it has to be corrected"),
    ],
)
def test_stale_negatives_leave(batch_of, drift, adv, want, why):
    batch = batch_of([[0.0, 1.0, 0.0]], mask=[[1, 1, 0]], old_logp_BT=f([[drift + 0.3, drift - 0.3, NAN]]))
    got = p.StaleNegativeMask(delta=0.5)(batch, torch.zeros(1, 3, dtype=torch.float64), f([[adv, adv, 0.0]]))
    same(got[:, :2], [[want, want]], why)


# -- surrogates: one token -----------------------------------------------------------------------------------------
def gain(part, rho, adv, logp=-1.5):
    """Value, slope in log rho and slope in log pi of one token's gain."""
    d, l = f([[math.log(rho)]]).requires_grad_(), f([[logp]]).requires_grad_()
    g = part(d, l, f([[adv]]), torch.tensor([[True]]))
    slopes = torch.autograd.grad(g.sum(), (d, l), allow_unused=True)
    return [g.item(), *(0.0 if s is None else s.item() for s in slopes)]


CLIP, DUAL, TWO = p.Clip(low=0.2, high=0.3), p.Clip(dual=3.0), p.Clip(two_sided=4.0)


@pytest.mark.parametrize(
    ("part", "rho", "adv", "value", "in_ratio", "in_logp", "why"),
    [
        (p.ScoreFunction(), 2.0, -3.0, 4.5, 0.0, -3.0, "A log pi with log pi = -1.5; no ratio"),
        (p.Importance(), 2.0, -3.0, -6.0, -6.0, 0.0, "rho A"),
        (CLIP, 1.0, 2.0, 2.0, 2.0, 0.0, "on policy: the plain surrogate"),
        (CLIP, 1.25, 2.0, 2.5, 2.5, 0.0, "clip-higher: 1.25 is still below 1.3"),
        (CLIP, 1.5, 2.0, 2.6, 0.0, 0.0, "past 1 + high with A > 0: flat"),
        (CLIP, 0.5, 2.0, 1.0, 1.0, 0.0, "fell though good: the min keeps the gradient"),
        (CLIP, 1.5, -2.0, -3.0, -3.0, 0.0, "rose though bad: the min keeps the gradient"),
        (CLIP, 0.5, -2.0, -1.6, 0.0, 0.0, "past 1 - low with A < 0: flat"),
        (CLIP, 0.75, -2.0, -1.6, 0.0, 0.0, "0.75 < 1 - low, though above 1 - high"),
        (p.Clip(), 50.0, -1.0, -50.0, -50.0, 0.0, "without a dual clip the loss has no bound"),
        (p.Clip(), 1.21, 1.0, 1.2, 0.0, 0.0, "the default is 0.2"),
        (DUAL, 50.0, -1.0, -3.0, 0.0, 0.0, "dual clip: never below 3 A"),
        (DUAL, 2.0, -1.0, -2.0, -2.0, 0.0, "dual clip: not reached"),
        (DUAL, 50.0, 1.0, 1.2, 0.0, 0.0, "dual clip: nothing for A > 0"),
        (TWO, 50.0, -1.0, -4.0, 0.0, 0.0, "two-sided: rho is cut at 4"),
        (TWO, 2.0, -1.0, -2.0, -2.0, 0.0, "two-sided: not reached"),
        (TWO, 50.0, 1.0, 1.2, 0.0, 0.0, "two-sided: the near branch is the smaller"),
        (p.Clip(low=10.0, high=10.0), 5.0, 1.0, 5.0, 5.0, 0.0, "R1's epsilon 10: off"),
        (p.CISPO(), 1.0, 2.0, -3.0, 0.0, 2.0, "A log pi"),
        (p.CISPO(), 3.0, 2.0, -9.0, 0.0, 6.0, "weighed by rho = 3"),
        (p.CISPO(), 8.0, 2.0, -15.0, 0.0, 10.0, "the weight is capped at 5, the token stays"),
        (p.CISPO(), 8.0, -2.0, 15.0, 0.0, -10.0, "on both signs"),
        (p.CISPO(low=0.5), 0.1, 2.0, -1.5, 0.0, 1.0, "with a lower cap 0.5"),
        (p.CISPO(), 0.1, 2.0, -0.3, 0.0, 0.2, "no lower cap by default"),
    ],
)
def test_surrogates(part, rho, adv, value, in_ratio, in_logp, why):
    assert gain(part, rho, adv) == pytest.approx([value, in_ratio, in_logp], rel=1e-12), why


@pytest.mark.parametrize(
    ("rho", "adv", "tau"), [(1.0, 2.0, 1.0), (1.5, 2.0, 1.0), (1.0, -2.0, 1.05), (3.0, -2.0, 1.05)]
)
def test_sapo_gate(rho, adv, tau):
    value, slope, _ = gain(p.SAPO(), rho, adv)
    gate = 1 / (1 + math.exp(-tau * (rho - 1)))
    assert value == pytest.approx(4 / tau * gate * adv, rel=1e-12)
    assert slope == pytest.approx(adv * rho / math.cosh(tau * (rho - 1) / 2) ** 2, rel=1e-12), (
        "rho sech^2, 1 at rho = 1"
    )


def test_sapo_value_on_policy_is_two_over_tau():
    assert gain(p.SAPO(positive=4.0), 1.0, 1.0)[0] == pytest.approx(0.5)
    assert gain(p.SAPO(negative=0.5), 1.0, -1.0)[0] == pytest.approx(-4.0)


GMPO_MASK = torch.tensor([[True, False, True]])


@pytest.mark.parametrize(
    ("adv", "drift", "log_mean", "slopes", "why"),
    [
        (2.0, [0.1, 0.3], 0.2, [1.0, 1.0], "inside: the geometric mean of the ratios"),
        (2.0, [0.6, 0.2], 0.3, [0.0, 1.0], "rose past .4: cut and silent; the other token still learns"),
        (2.0, [-0.6, 0.2], -0.2, [1.0, 1.0], "fell though good: kept"),
        (-2.0, [-0.6, 0.2], -0.1, [0.0, 1.0], "fell past -.4 though bad: cut"),
        (-2.0, [0.6, 0.2], 0.4, [1.0, 1.0], "rose though bad: kept"),
    ],
)
def test_gmpo(adv, drift, log_mean, slopes, why):
    d = f([[drift[0], 7.0, drift[1]]]).requires_grad_()
    adv_BT = f([[adv, 0.0, adv]])
    g = p.GMPO()(d, torch.zeros_like(d), adv_BT, GMPO_MASK)
    same(g, [[adv * math.exp(log_mean), 0.0, adv * math.exp(log_mean)]], why)
    for t, slope in ((0, slopes[0]), (2, slopes[1])):
        (grad,) = torch.autograd.grad(g[0, t], d, retain_graph=True)
        same(grad, [[slope * g[0, 0].item() * (k == t) for k in range(3)]], f"{why}, token {t}")


def test_mirror_descent_pulls_back_by_the_drift_of_the_whole_answer():
    d = f([[0.2, NAN, 0.4]]).requires_grad_()
    g = p.MirrorDescent(tau=0.5)(d, torch.zeros(1, 3), f([[1.0, 0.0, 1.0]]), GMPO_MASK)
    same(g[:, [0, 2]], [[-0.245, -0.245]], "-(1 - .5 * .6)^2 / (2 * .5 * 2)")
    (grad,) = torch.autograd.grad(g[:, [0, 2]].sum(), d)
    same(grad, [[0.7, 0.0, 0.7]], "A - tau sum Delta on every action")


@pytest.mark.parametrize(
    ("part", "rho", "adv", "low", "high"),
    [
        (CLIP, 0.75, -1.0, True, False),
        (CLIP, 0.75, 1.0, False, False),
        (CLIP, 1.4, 1.0, False, True),
        (CLIP, 1.4, -1.0, False, False),
        (CLIP, 1.25, 1.0, False, False),
        (p.GMPO(), math.exp(0.5), 1.0, False, True),
        (p.GMPO(), math.exp(0.5), -1.0, False, False),
        (p.GMPO(), math.exp(-0.5), -1.0, True, False),
        (p.GMPO(), math.exp(0.3), 1.0, False, False),
        (p.CISPO(), 9.0, 1.0, False, False),
        (p.SAPO(), 9.0, 1.0, False, False),
    ],
)
def test_clipped_tokens_are_those_without_gradient(part, rho, adv, low, high):
    got = part.clipped(f([[math.log(rho)]]), f([[adv]]))
    assert [x.item() for x in got] == [low, high]
    if low or high:
        assert gain(part, rho, adv)[1:] == [0.0, 0.0]


@pytest.mark.parametrize(
    "part",
    [p.ScoreFunction(), p.Importance(), CLIP, DUAL, TWO, p.CISPO(), p.SAPO(), p.GMPO(), p.MirrorDescent()],
    ids=str,
)
@pytest.mark.parametrize("adv", [1.7, -0.6])
def test_on_policy_every_surrogate_has_the_gradient_of_a_log_pi(part, adv):
    """d = log pi - log pi_old is 0 and moves with log pi."""
    logp = f([[-1.5, NAN, -0.2]]).requires_grad_()
    seen = logp.masked_fill(~GMPO_MASK, 0.0)
    d = seen - seen.detach()
    g = part(d, seen, f([[adv, 0.0, adv]]), GMPO_MASK)
    (grad,) = torch.autograd.grad((g * GMPO_MASK).sum(), logp)
    same(grad, [[adv, 0.0, adv]])


@pytest.mark.parametrize(
    ("part", "rho", "adv", "want", "why"),
    [
        (p.Clip(dual=3.0), 3.5, -1.0, True, "bad and past the dual bound: silent"),
        (p.Clip(dual=3.0), 2.5, -1.0, False, "bad, but not yet past it"),
        (p.Clip(dual=3.0), 3.5, 1.0, False, "good: the ordinary clip holds it"),
        (p.Clip(two_sided=4.0), 4.5, -1.0, True, "the two-sided bound"),
        (p.Clip(), 1e6, -1.0, False, "no second bound"),
        (p.SAPO(), 1e6, -1.0, False, "no clip at all"),
    ],
)
def test_tokens_behind_a_second_bound(part, rho, adv, want, why):
    assert bool(part.bounded(torch.tensor([[rho]]).log(), torch.tensor([[adv]]))) is want, why
