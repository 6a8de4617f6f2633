"""The functions that are registered in verl and SkyRL, called as those call them, without either (executed: inside/)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from flat_batches import LIMIT, recipes, wanted, world

from rung.errors import InputError
from rung.export.inside import skyrl
from rung.export.inside.flat import refuse_other
from rung.export.inside.verl import advantage_estimator, policy_loss
from rung.maths.objective import count
from rung.recipe_io import find

PLAIN = {name: r for name, r in recipes("verl").items() if not r.kl.coef and not r.entropy and not r.correction.needs}


@pytest.mark.parametrize("name", PLAIN)
def test_as_verl_calls_them(name):
    """The whole batch, then three micro-batches with the counts of all."""
    recipe = PLAIN[name]
    estimate, loss_of = advantage_estimator(recipe, {}), policy_loss(recipe, {})
    w = world(0, recipe)
    adv_BT, loss, slope_BT, _ = wanted(recipe, w)
    index = [f"prompt-{g}" for g in w.batch.group_B.tolist()]
    given_BT, _ = estimate(token_level_rewards=w.batch.reward_BT, response_mask=w.batch.mask_BT.long(), index=index)
    torch.testing.assert_close(given_BT, adv_BT, rtol=0, atol=1e-12)
    info = {
        "dp_size": 1,
        "batch_num_tokens": int(w.batch.mask_BT.sum()),
        "global_batch_size": 12,
        "loss_scale_factor": LIMIT,
    }
    info["loss_scale_factor"] = getattr(recipe.aggregate, "budget", None) or LIMIT
    config = SimpleNamespace(global_batch_info=info)
    total = 0.0
    for rows in ([0, 1, 2], [3, 4, 5, 6, 7], [8, 9, 10, 11]):
        own, said = loss_of(
            old_log_prob=w.batch.old_logp_BT[rows], log_prob=w.now_BT[rows], advantages=given_BT[rows],
            response_mask=w.batch.mask_BT[rows], loss_agg_mode="", config=config,
        )  # fmt: skip
        total = total + own
        assert {*said} == {"actor/pg_clipfrac", "actor/ppo_kl"}
    total.backward()
    torch.testing.assert_close(total.detach(), loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(w.now_BT.grad, slope_BT, rtol=1e-9, atol=1e-12)


def test_what_would_depend_on_micro_batches_is_refused():
    w, loss_of = world(0, find("gmpo")), policy_loss(find("gmpo"), {})
    given = {
        "old_log_prob": w.batch.old_logp_BT,
        "log_prob": w.now_BT,
        "advantages": w.now_BT,
        "response_mask": w.batch.mask_BT,
    }
    with pytest.raises(InputError, match="would depend on the size of micro-batches"):
        loss_of(**given, config=SimpleNamespace(global_batch_info={"dp_size": 1, "batch_num_tokens": None}))
    info = {"batch_num_tokens": 1, "global_batch_size": 1}
    with pytest.raises(InputError, match="loss_scale_factor is not set"):
        policy_loss(find("dr_grpo"), {})(**given, config=SimpleNamespace(global_batch_info=info))
    with pytest.raises(InputError, match="gmpo has NoCorrection, and verl has weights"):
        loss_of(**given, config=SimpleNamespace(global_batch_info=info), rollout_is_weights=w.now_BT)
    with pytest.raises(InputError, match="nothing says which rows answer one"):
        advantage_estimator(find("gmpo"), {})(w.batch.reward_BT, w.batch.mask_BT)


def test_a_setting_that_is_another_recipes_is_named_with_both_values():
    config = SimpleNamespace(a=1, b={"c": 2.0}, d=None)
    refuse_other(find("grpo"), "x", {"a": 1.0, "b.c": 2}, config)
    with pytest.raises(
        InputError, match=r"grpo: x.a is 1 and must be 2, x.b.c is 2.0 and must be 3, x.e is None and must be 'f'"
    ):
        refuse_other(find("grpo"), "x", {"a": 2, "b.c": 3, "e": "f"}, config)


OF_SKYRL = {name: r for name, r in recipes("skyrl").items() if not r.kl.coef}


@pytest.mark.parametrize("name", OF_SKYRL)
def test_as_skyrl_calls_them(name):
    """With the weights in A, as SkyRL puts them there; the corrections read what its sampler said."""
    recipe, w = OF_SKYRL[name], world(1, OF_SKYRL[name])
    adv_BT, loss, slope_BT, _ = wanted(recipe, w)
    given_BT, _ = skyrl.advantage_estimator(recipe, {})(w.batch.reward_BT, w.batch.mask_BT, index=w.batch.group_B)
    torch.testing.assert_close(given_BT, adv_BT, rtol=0, atol=1e-12)
    weight_BT = recipe.aggregate(w.batch.mask_BT, w.batch.group_B, count(w.batch, LIMIT))
    own, _ = skyrl.policy_loss(recipe, {})(
        w.now_BT,
        w.batch.old_logp_BT,
        given_BT * weight_BT,
        loss_mask=w.batch.mask_BT,
        rollout_logprobs=w.batch.behavior_logp_BT,
    )
    own.backward()
    torch.testing.assert_close(own.detach(), loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(w.now_BT.grad, slope_BT, rtol=1e-9, atol=1e-12)


def test_skyrls_loss_needs_its_sampler_where_the_recipe_corrects_for_it():
    recipe, w = recipes("skyrl")["grpo, answers dropped"], world(0, find("gmpo"))
    with pytest.raises(InputError, match="which gave no log-probabilities"):
        skyrl.policy_loss(recipe, {})(w.now_BT, w.batch.old_logp_BT, w.now_BT.detach())
