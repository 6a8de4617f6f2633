"""KL estimators, their clamps and their adaptive weights, computed by hand."""

import math
from dataclasses import replace

import pytest
import torch

import rung.parts as p
from rung.maths.kl import difference, k1, k2, k3
from rung.records import Scores, State

NAN = math.nan
LN2 = math.log(2)


def f(x):
    return torch.tensor(x, dtype=torch.float64)


def same(got, want, why=None):
    torch.testing.assert_close(got, f(want) if isinstance(want, list) else want, rtol=1e-12, atol=1e-12, msg=why)


@pytest.mark.parametrize(
    ("estimator", "delta", "value", "slope", "why"),
    [
        (k1, LN2, LN2, 1.0, "delta"),
        (k1, -LN2, -LN2, 1.0, "any sign"),
        (k2, LN2, LN2**2 / 2, LN2, "delta^2 / 2"),
        (k2, -LN2, LN2**2 / 2, -LN2, "never negative"),
        (k3, LN2, 0.5 - 1 + LN2, 0.5, "q = pi_ref/pi = 1/2: q - 1 - log q, slope 1 - q"),
        (k3, -LN2, 2 - 1 - LN2, -1.0, "q = 2"),
        (k3, 1e-9, 0.5e-18, 1e-9, "expm1 keeps what exp(x) - 1 would round away"),
    ],
)
def test_estimators(estimator, delta, value, slope, why):
    d = f(delta).requires_grad_()
    got = estimator(d)
    torch.testing.assert_close(got, f(value), rtol=1e-6, atol=1e-24, msg=why)
    torch.testing.assert_close(torch.autograd.grad(got, d)[0], f(slope), rtol=1e-6, atol=1e-24, msg=why)


def test_k1_and_k3_are_unbiased_for_the_reverse_kl_and_k2_is_not():
    pi, ref = f([0.7, 0.2, 0.1]), f([0.2, 0.5, 0.3])
    delta = pi.log() - ref.log()
    kl = (pi * delta).sum()
    same((pi * k1(delta)).sum(), kl)
    same((pi * k3(delta)).sum(), kl)
    assert abs(float((pi * k2(delta)).sum() - kl)) > 0.01


@pytest.mark.parametrize(("gap", "cut"), [(60.0, 20.0), (-60.0, -20.0), (5.0, 5.0)])
@pytest.mark.parametrize("part", [p.K2(), p.K3(), p.RatioK3(), p.StraightThrough(), p.SequenceK2()], ids=str)
def test_far_from_the_reference_everything_stays_finite(batch_of, part, gap, cut):
    batch = batch_of([[0.0, 1.0, 0.0]], mask=[[1, 1, 0]], ref_logp_BT=[[-gap - 1.0, -1.0, NAN]])
    logp = f([[-1.0, -1.0, NAN]]).requires_grad_()
    log_ratio = p.TokenRatio()(logp, logp.detach(), batch.mask_BT)
    kappa = part.penalty(batch, Scores(logp), logp, log_ratio)
    assert kappa.isfinite().all()
    (grad,) = torch.autograd.grad(kappa.sum(), logp)
    assert grad.isfinite().all()
    assert grad[0, 2] == 0
    same(difference(logp, batch.ref_logp_BT, batch.mask_BT), [[cut, 0.0, 0.0]])
    if isinstance(part, p.K3):
        assert kappa[0, 0].item() == pytest.approx(math.expm1(-cut) + cut), "the result itself is never cut"


@pytest.mark.parametrize(
    ("part", "value", "slope", "why"),
    [
        (p.NoKL(), [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], "nothing"),
        (p.K1(where="loss"), [0.3, 0.0, -0.1], [1.0, 0.0, 1.0], "delta"),
        (p.K2(), [0.045, 0.0, 0.005], [0.3, 0.0, -0.1], "delta^2/2, slope delta"),
        (
            p.K3(),
            [math.exp(-0.3) - 0.7, 0.0, math.exp(0.1) - 1.1],
            [1 - math.exp(-0.3), 0.0, 1 - math.exp(0.1)],
            "slope 1 - q",
        ),
        (
            p.StraightThrough(),
            [math.exp(-0.3) - 0.7, 0.0, math.exp(0.1) - 1.1],
            [0.3, 0.0, -0.1],
            "the value of k3, the slope of k2",
        ),
        (
            p.RatioK3(),
            [2 * (math.exp(-0.3) - 0.7), 0.0, 2 * (math.exp(0.1) - 1.1)],
            [2 * (math.exp(-0.3) - 0.7 + 1 - math.exp(-0.3)), 0.0, 2 * (math.exp(0.1) - 1.1 + 1 - math.exp(0.1))],
            "rho = 2 times k3; the slope flows through rho too",
        ),
        (p.SequenceK2(), [0.01, 0.0, 0.01], [0.2, 0.0, 0.2], "(0.3 - 0.1)^2 / 2 over two actions; slope the sum"),
        (p.FullKL(), [0.7, 0.8, 0.9], [0.0, 0.0, 0.0], "what the policy computed over the vocabulary"),
    ],
)
def test_penalties(batch_of, part, value, slope, why):
    batch = batch_of(
        [[0.0, NAN, 1.0]],
        mask=[[1, 0, 1]],
        ref_logp_BT=[[-1.3, NAN, -1.9]],
        old_logp_BT=[[-1.0 - LN2, NAN, -2.0 - LN2]],
    )
    logp = f([[-1.0, NAN, -2.0]]).requires_grad_()
    log_ratio = p.TokenRatio()(logp, batch.old_logp_BT, batch.mask_BT)
    kappa = part.penalty(batch, Scores(logp, ref_kl_BT=f([[0.7, 0.8, 0.9]])), logp, log_ratio)
    same(kappa, [value], why)
    grad = torch.autograd.grad(kappa.sum(), logp, allow_unused=True)[0] if kappa.requires_grad else None
    same(torch.zeros_like(logp) if grad is None else grad, [slope], why)


def test_kl_in_the_reward_uses_the_adapted_weight_and_every_action(batch_of):
    batch = batch_of(
        [[0.0, 5.0, 1.0, 9.0]], mask=[[1, 0, 1, 0]], ref_logp_BT=[[-1.3, NAN, -1.9, NAN]],
        old_logp_BT=[[-1.0, NAN, -2.0, NAN]], state=State(kl_coef=0.5),
    )  # fmt: skip
    part = p.K1(coef=0.05)
    shaped = part.shape_reward(batch)
    same(shaped.reward_BT, [[-0.15, 5.0, 1.05, 9.0]], "r - 0.5 (log pi_old - log pi_ref), the state's weight")
    assert not shaped.reward_BT.requires_grad
    same(p.TotalReturn()(shaped), [[0.9, 0.0, 0.9, 0.0]], "a sum over the answer's tokens, not a mean")
    same(
        part.penalty(batch, Scores(f([[0.0] * 4])), f([[0.0] * 4]), f([[0.0] * 4])),
        [[0.0] * 4],
        "and not in the loss as well",
    )


def test_kl_in_the_loss_leaves_the_reward_alone(batch_of):
    batch = batch_of([1.0], ref_logp_BT=[[-3.0]], state=State(kl_coef=0.5))
    assert p.K3().shape_reward(batch) is batch
    assert p.K2(where="reward").shape_reward(batch).reward_BT.item() == pytest.approx(1 - 0.5 * 4.5)


def test_without_a_reference_there_is_no_penalty(batch_of):
    batch = batch_of([1.0], state=State(kl_coef=0.5))
    logp = f([[-1.0]])
    assert p.K3().penalty(batch, Scores(logp), logp, logp * 0).item() == 0
    assert p.K1().shape_reward(batch) is batch


@pytest.mark.parametrize(
    ("kl", "want", "why"),
    [
        (0.10, 0.0500, "on target"),
        (0.11, 0.0505, "10 % too far: + 0.1 * 1000 / 10000"),
        (0.95, 0.0510, "far too far: the error is cut at 0.2"),
        (0.09, 0.0495, "10 % too near"),
        (0.00, 0.0490, "cut at -0.2"),
    ],
)
def test_ziegler_controller(kl, want, why):
    state = State(mean=3.0, kl_coef=0.05)
    got = p.K1(coef=0.05, target=0.1).observe(state, kl, 1000)
    assert got.kl_coef == pytest.approx(want), why
    assert replace(got, kl_coef=0.05) == state
    assert p.K1(coef=0.05).observe(state, kl, 1000) == state, "without a target nothing adapts"
    assert p.K1(coef=0.0, target=0.1).observe(state, kl, 1000) == state, "switched off stays off"


@pytest.mark.parametrize(
    ("kl", "factor", "why"),
    [
        (0.0066, 0.5, "below target / 1.5 = .00667: too tight"),
        (0.0068, 1.0, "within the band"),
        (0.0149, 1.0, "within the band"),
        (0.0151, 2.0, "above 1.5 target: too loose"),
    ],
)
def test_ppo_controller(kl, factor, why):
    state = State(trust_coef=3.0, kl_coef=0.05)
    got = p.OldKL(target=0.01).observe(state, kl)
    assert got == State(trust_coef=3.0 * factor, kl_coef=0.05), why
    assert p.OldKL().observe(state, kl) == state, "without a target nothing adapts"
    assert p.NoTrust().observe(state, kl) == state


def test_ppo_controller_stays_in_bounds():
    part = p.OldKL(target=0.01)
    assert part.observe(State(trust_coef=1e-4), 0.0).trust_coef == 1e-4
    assert part.observe(State(trust_coef=1e4), 1.0).trust_coef == 1e4


def test_what_a_kl_needs():
    assert p.K3().needs == {"ref_logp"}
    assert p.K3(coef=0.0).needs == p.NoKL().needs == frozenset()
    assert p.FullKL().needs == {"ref_logp", "ref_full"}
    assert p.FullKL(coef=0.0).needs == frozenset()
    assert p.OldKL().needs == {"old_full"}
