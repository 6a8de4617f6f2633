"""Aggregation, normalization, denominators, length shaping and the assembled objective, computed by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import rung.parts as p
from rung.maths.objective import count, objective, right
from rung.records import Scores, State, Totals

NAN = math.nan


def f(x):
    return torch.tensor(x, dtype=torch.float64)


def same(got, want, why=None):
    torch.testing.assert_close(got, f(want) if isinstance(want, list) else want, rtol=1e-12, atol=1e-12, msg=why)


# -- aggregation: answers of 1, 3 and 2 actions (the second with an observation), padded to 5 ----------------------
MASK = torch.tensor([[1, 0, 0, 0, 0], [1, 0, 1, 1, 0], [1, 1, 0, 0, 0]]).bool()
GROUP = torch.tensor([0, 1, 0])
TOTAL = Totals(tokens=12, sequences=4, max_tokens=10, prompt_tokens_P=torch.tensor([3, 6, 3]))


@pytest.mark.parametrize(
    ("part", "weights", "why"),
    [
        (p.SequenceSum(), [1 / 4] * 3, "1/B, B = 4 rows in the whole step"),
        (p.SequenceMean(), [1 / 4, 1 / 12, 1 / 8], "1/(B L), L counts actions"),
        (p.TokenMean(), [1 / 12] * 3, "1/N, N = 12 actions in the whole step"),
        (p.FixedBudget(), [1 / 40] * 3, "1/(B M), M = 10 is the sampling limit, not the width 5"),
        (p.FixedBudget(budget=25), [1 / 100] * 3, "a larger budget"),
        (p.PromptMean(), [1 / 9, 1 / 18, 1 / 9], "1/(P N_g): three prompts of 3, 6 and 3 actions"),
    ],
)
def test_weights(part, weights, why):
    same(part(MASK, GROUP, TOTAL), MASK * f(weights)[:, None], why)


def test_weights_are_finite_where_there_is_nothing():
    none = torch.zeros(2, 3, dtype=torch.bool)
    total = Totals(tokens=0, sequences=0, max_tokens=4, prompt_tokens_P=torch.tensor([0, 0]))
    for part in (p.SequenceSum(), p.SequenceMean(), p.TokenMean(), p.FixedBudget(), p.PromptMean()):
        same(part(none, torch.tensor([0, 1]), total), [[0.0] * 3] * 2)


def test_prompt_mean_counts_the_prompts_of_this_step_only():
    """A minibatch holds rows of some prompts; ids of the others have no tokens in its totals."""
    total = Totals(tokens=9, sequences=2, max_tokens=10, prompt_tokens_P=torch.tensor([0, 3, 0, 6]))
    got = p.PromptMean()(torch.tensor([[True], [True]]), torch.tensor([1, 3]), total)
    same(got, [[1 / 6], [1 / 12]], "two prompts, not four")


def test_count_is_over_all_rows(batch_of):
    batch = batch_of([1.0, NAN, 0.0, 2.0, -1.0], lengths=[1, 2, 3, 4, 0], group=[0, 2, 0, 2, 1])
    batch = replace(batch, keep_B=torch.tensor([True, True, True, False, True]))
    total = count(batch, 7)
    assert (total.tokens, total.sequences, total.max_tokens) == (10, 5, 7), "dropped rows still count"
    assert total.prompt_tokens_P.tolist() == [4, 0, 6]
    assert total.right_tokens == 5, "the right answers have 1 and 4 tokens"
    assert right(batch).tolist() == [True, False, False, True, False]


def test_what_is_right_is_the_tasks_word_whatever_a_kl_did_to_the_reward(batch_of):
    batch = batch_of([1.0, 0.0], lengths=[2, 2], old_logp_BT=[[-3.0] * 2] * 2, ref_logp_BT=[[-1.0, -3.0], [-1.0, -1.0]])
    shaped = p.K1(1.0).shape_reward(replace(batch, state=State(kl_coef=1.0)))
    assert (shaped.reward_BT.sum(1) > 0).all(), "far below the reference: paid for it"
    assert right(shaped).tolist() == [True, False]
    assert not right(replace(shaped, right_B=None)).any(), "nobody said what is right"


# -- normalization -------------------------------------------------------------------------------------------------
WHITEN_MASK = torch.tensor([[True, True, False], [True, False, False]])


@pytest.mark.parametrize(
    ("part", "want", "why"),
    [
        (p.AsIs(), [1.0, 2.0, 6.0], "as it is"),
        (p.Whiten(eps=0.0), [-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5], "mean 3, variance (4 + 1 + 9)/2"),
        (p.Whiten(eps=9.0), [-0.5, -0.25, 0.75], "eps stands under the root: sqrt(7 + 9)"),
        (p.Whiten(eps=0.0, bessel=False), [x / (14 / 3) ** 0.5 for x in (-2, -1, 3)], "over n"),
        (p.Whiten(eps=9.0, shift=False), [0.25, 0.5, 1.5], "only divided: every sign stays"),
    ],
)
def test_normalize(part, want, why):
    got = part(f([[1.0, 2.0, 0.0], [6.0, 0.0, 0.0]]), WHITEN_MASK)
    same(got, [[want[0], want[1], 0.0], [want[2], 0.0, 0.0]], why)


@pytest.mark.parametrize(
    ("adv", "mask"),
    [([[3.0, 3.0]], [[True, True]]), ([[3.0, 0.0]], [[True, False]]), ([[0.0, 0.0]], [[False, False]])],
    ids=["no variance", "one token", "no token"],
)
def test_nothing_to_whiten(adv, mask):
    same(p.Whiten()(f(adv), torch.tensor(mask)), [[0.0, 0.0]])
    same(p.Whiten(shift=False)(f(adv), torch.tensor(mask)), adv)


def test_two_tokens_are_enough_to_whiten():
    same(p.Whiten(eps=0.0)(f([[1.0, 3.0]]), torch.tensor([[True, True]])), [[-1 / 2**0.5, 1 / 2**0.5]])


# -- length shaping ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("part", "length", "limit", "want"),
    [
        (p.Overlong(), 16384, 20480, 0.0),
        (p.Overlong(), 18432, 20480, -0.5),
        (p.Overlong(), 20480, 20480, -1.0),
        (p.Overlong(), 30000, 20480, -1.0),
        (p.Overlong(), 3, 20480, 0.0),
        (p.Overlong(buffer=0.5, factor=2.0), 75, 100, -1.0),
        (p.Overlong(buffer=0.0), 10, 10, -1.0),  # a buffer of at least one token
        (p.Overlong(buffer=0.0), 9, 10, 0.0),
    ],
)
def test_overlong(part, length, limit, want):
    assert part(length, limit) == pytest.approx(want)


# -- the objective -------------------------------------------------------------------------------------------------
def parts(**changes):
    plain = {
        "ratio": p.TokenRatio(),
        "correction": p.NoCorrection(),
        "surrogate": p.Importance(),
        "kl": p.NoKL(),
        "aggregate": p.SequenceSum(),
        "entropy": 0.0,
        "imitation": 0.0,
    }
    return SimpleNamespace(**{**plain, **changes})


@pytest.fixture
def world(batch_of):
    """Two answers, padded; the second is kept out of the loss. Padding holds NaN."""
    batch = batch_of(
        [[0.0, 1.0], [2.0, NAN], [NAN, NAN]], mask=[[1, 1], [1, 0], [0, 0]],
        old_logp_BT=[[-1.0, -2.0], [-1.0, NAN], [NAN, NAN]],
        behavior_logp_BT=[[-1.0 - math.log(2), -2.0], [-1.0, NAN], [NAN, NAN]],
        ref_logp_BT=[[-1.5, -1.0], [-3.0, NAN], [NAN, NAN]], keep_B=torch.tensor([True, False, True]),
        state=State(kl_coef=0.1, trust_coef=0.5),
    )  # fmt: skip
    scores = Scores(
        logp_BT=f([[-1.0 + math.log(1.5), -2.0], [-0.5, NAN], [NAN, NAN]]).requires_grad_(),
        entropy_BT=f([[0.7, 0.2], [9.0, NAN], [NAN, NAN]]),
        old_kl_BT=f([[0.3, 0.4], [9.0, NAN], [NAN, NAN]]),
    )
    adv_BT = f([[2.0, -1.0], [5.0, 0.0], [0.0, 0.0]])
    return batch, scores, adv_BT, Totals(tokens=8, sequences=4, max_tokens=10, right_tokens=5)


DELTA = (0.5 + math.log(1.5), -1.0)


@pytest.mark.parametrize(
    ("changes", "want", "why"),
    [
        ({}, (1.5 * 2 - 1 - 0.5 * 0.7) / 4, "(rho A summed - beta_old KL(old||new)) / B"),
        (
            {"correction": p.TokenTIS()},
            (2 * 1.5 * 2 - 1 - 0.5 * 0.7) / 4,
            "the sampler's weight 2 is on the policy term only",
        ),
        ({"entropy": 0.01}, (2 - 0.35 + 0.01 * 0.9) / 4, "+ c_H H"),
        (
            {"kl": p.K2()},
            (2 - 0.35 - 0.1 * (DELTA[0] ** 2 + DELTA[1] ** 2) / 2) / 4,
            "- beta kappa, beta from the state",
        ),
        ({"kl": p.K1()}, (2 - 0.35) / 4, "a KL in the reward is not in the loss"),
        ({"aggregate": p.TokenMean()}, (2 - 0.35) / 8, "1/N of the step"),
        ({"surrogate": p.Clip()}, (1.2 * 2 - 1 - 0.35) / 4, "1.5 is cut at 1.2"),
        (
            {"imitation": 0.1},
            (2 - 0.35) / 4 + 0.1 * (-1.0 + math.log(1.5) - 2.0) / 5,
            "+ mu / N_+ of the whole step, over the right answers in the loss",
        ),
    ],
)
def test_objective(world, changes, want, why):
    batch, scores, adv_BT, total = world
    J = objective(parts(**changes), batch, scores, adv_BT, total)
    assert J.item() == pytest.approx(want, rel=1e-12), why
    (grad,) = torch.autograd.grad(J, scores.logp_BT)
    assert grad.isfinite().all()
    assert (grad[1:] == 0).all(), "neither the answer out of the loss nor padding has a gradient"


def test_objective_without_optional_scores(world):
    batch, scores, adv_BT, total = world
    bare = Scores(scores.logp_BT)
    assert objective(parts(entropy=0.01), batch, bare, adv_BT, total).item() == pytest.approx(2 / 4)


def test_an_invalid_row_has_no_part_in_the_objective(world):
    batch, scores, adv_BT, total = world
    batch = replace(batch, keep_B=torch.ones(3, dtype=torch.bool), valid_B=torch.tensor([False, True, False]))
    J = objective(parts(imitation=0.1), batch, scores, adv_BT, total)
    rho = math.exp(0.5)
    assert J.item() == pytest.approx((5 * rho - 0.5 * 9) / 4 + 0.1 * -0.5 / 5)


def test_the_weight_of_imitation_without_a_right_answer_is_finite(world):
    batch, scores, adv_BT, _ = world
    total = Totals(tokens=8, sequences=4, max_tokens=10, right_tokens=0)
    batch = replace(batch, right_B=torch.zeros(3, dtype=torch.bool))
    assert objective(parts(imitation=0.1), batch, scores, adv_BT, total).item() == pytest.approx((2 - 0.35) / 4)
