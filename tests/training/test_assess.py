"""Assessing looks at a batch and at nothing else: no model, no state but the batch's; the state moves on in one place."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

import rung.parts as p
from rung.maths.assess import assess, next_state
from rung.recipe_io import all_recipes, find
from rung.recipes import GRPO, MOVING_AVERAGE, PPO, PPO_KL, REINFORCE
from rung.records import Batch, State


def batch(**changes) -> Batch:
    """Three answers to each of two prompts, one without a known reward, with all that any part reads."""
    g = torch.Generator().manual_seed(0)
    length_B = torch.tensor([3, 1, 4, 2, 2, 4])
    mask_BT = torch.arange(4) < length_B[:, None]
    reward_BT = torch.zeros(6, 4, dtype=torch.float64)
    reward_BT[torch.arange(6), length_B - 1] = torch.tensor([1.0, 0.0, 1.0, 0.5, 0.5, 2.0], dtype=torch.float64)
    yes = torch.ones(6, dtype=torch.bool)
    logp_BT, ref_BT, value_BT = (-torch.rand(6, 4, generator=g) * mask_BT for _ in range(3))
    full = Batch(
        reward_BT=reward_BT, mask_BT=mask_BT, group_B=torch.tensor([0, 1, 0, 1, 1, 0]), valid_B=yes & (length_B != 1),
        keep_B=yes, truncated_B=~yes, behavior_logp_BT=logp_BT, old_logp_BT=logp_BT, ref_logp_BT=ref_BT,
        value_BT=value_BT, right_B=reward_BT.sum(1) >= 1, greedy_B=torch.full((6,), 0.5, dtype=torch.float64),
        state=State(mean=0.3, mean_updates=2, kl_coef=0.1, trust_coef=0.0),
    )  # fmt: skip
    return replace(full, **changes)


@pytest.mark.parametrize("recipe", all_recipes().values(), ids=lambda r: r.name)
def test_a_batch_is_read_and_left_as_it_was(recipe):
    given = batch()
    held = {f.name: x.clone() for f in fields(Batch) if isinstance(x := getattr(given, f.name), Tensor)}
    one, two = assess(recipe, given), assess(recipe, given)
    assert torch.equal(one.batch.adv_BT, two.batch.adv_BT) and torch.equal(one.active, two.active)
    assert all(torch.equal(getattr(given, name), x) for name, x in held.items()) and given.adv_BT is None
    assert one.batch.adv_BT.dtype == given.behavior_logp_BT.dtype
    assert not one.batch.adv_BT[~given.mask_BT].any() and not one.batch.adv_BT[1].any(), (
        "no credit off the mask, nor unscored"
    )


@pytest.mark.parametrize("recipe", all_recipes().values(), ids=lambda r: r.name)
def test_the_order_of_the_rows_is_nobodys_business(recipe):
    """Rows that come from several places are assessed as if they had come from one."""
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    one, two = assess(recipe, batch()), assess(recipe, batch().rows(order))
    torch.testing.assert_close(one.batch.adv_BT[order], two.batch.adv_BT)
    assert sorted(order[two.active].tolist()) == one.active.tolist()


def active(recipe, **changes) -> list[int]:
    return assess(recipe, batch(**{"state": recipe.initial_state(), **changes})).active.tolist()


def test_rows_without_an_advantage_are_active_only_where_something_acts_on_them():
    """Answers 0, 2 and 5 earned different rewards; 3 and 4, to the other problem, the same; 1 is unscored."""
    same = {"reward_BT": torch.zeros(6, 4, dtype=torch.float64)}
    plain, scored = replace(GRPO, kl=p.NoKL()), [0, 2, 3, 4, 5]
    assert active(plain) == [0, 2, 5] and active(plain, **same) == [], "nothing to learn, nothing to hold"
    assert active(GRPO) == active(GRPO, **same) == scored, "a KL in the loss acts on all"
    assert active(replace(plain, entropy=0.1), **same) == scored
    leashed = {"state": replace(plain.initial_state(), trust_coef=0.5)}
    assert active(plain, **leashed) == scored, "a leash to pi_old acts once others have moved the policy"
    assert active(plain, **leashed, **same) == []
    natural = replace(find("trpo"), credit=p.GroupMean(), normalize=p.AsIs())
    assert active(natural) == scored and active(natural, **same) == []
    assert active(replace(plain, imitation=0.1), **same) == [0, 2, 5], "right answers are imitated without an advantage"


def test_a_kl_in_the_reward_is_credited_and_what_nobody_could_replace_is_not():
    leash = replace(REINFORCE, kl=p.K1(0.1, where="reward"))
    free, held = (assess(r, batch()).batch.adv_BT for r in (REINFORCE, leash))
    assert ((free - held)[batch().mask_BT & batch().valid_B[:, None]] != 0).all()
    zero_variance_B = torch.tensor([True, False] * 3)
    kept = assess(REINFORCE, batch(zero_variance_B=zero_variance_B)).batch.adv_BT
    assert (
        not kept[zero_variance_B].any()
        and torch.equal(kept[~zero_variance_B], free[~zero_variance_B])
        and free[zero_variance_B].any()
    )


def test_the_state_moves_on_once_and_from_the_batchs_own():
    given = batch()
    mean = float(given.reward_BT.sum(1)[given.valid_B].mean())
    after = next_state(MOVING_AVERAGE, given)
    assert after.mean == pytest.approx(0.9 * 0.3 + 0.1 * mean) and after.mean_updates == 3
    assert given.state.mean == 0.3, "what the advantages were taken with stays as it was"
    assert next_state(REINFORCE, given, old_kl=1.0, ref_kl=1.0) == given.state, "nothing adapts that nobody asked for"
    leashed = replace(given, state=replace(given.state, trust_coef=1.0))
    for old_kl, coef in ((1.0, 2.0), (1e-6, 0.5), (None, 1.0)):
        assert next_state(PPO_KL, leashed, old_kl=old_kl).trust_coef == coef
    adaptive = replace(PPO, kl=p.K1(0.1, where="reward", target=6.0, horizon=100))
    tokens, answers = int(given.mask_BT.sum()), 6
    close = next_state(adaptive, given, ref_kl=6.0 * answers / tokens).kl_coef
    assert close == pytest.approx(0.1), "the KL of an answer, not of a token, is at its target"
    assert next_state(adaptive, given, ref_kl=100.0).kl_coef == pytest.approx(0.1 * (1 + 0.2 * answers / 100))
