"""What a rule gets of a Work, and the two rules on it, on a model of a few hundred weights."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import rung.parts as p
from rung.maths.returns import outcome_to_token
from rung.network.model import Model
from rung.recipes import Recipe
from rung.records import Batch, Tokens
from rung.training.micro import Micro
from rung.training.optimizer import MasterAdamW
from rung.training.policy import Policy
from rung.training.work import Work

RECIPE = Recipe(name="own", ratio=p.TokenRatio(), surrogate=p.Importance())


def policy() -> Policy:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    return Policy(Model(LlamaForCausalLM(config).eval(), None, True), 0.8)  # type: ignore[arg-type]


def batch(actor: Policy) -> Batch:
    """Six answers to three prompts, of 1 to 5 tokens, drawn at random; every one has an advantage."""
    length_B = torch.tensor([1, 2, 5, 4, 1, 3])
    mask_BT = torch.arange(5) < length_B[:, None]
    answer_BT = torch.randint(3, 11, (6, 5), generator=torch.Generator().manual_seed(3))
    prompts = [torch.tensor([1, 5, 6]), torch.tensor([1, 7, 8, 9]), torch.tensor([1, 3])]
    tokens = Tokens(prompts, answer_BT, mask_BT, length_B, torch.tensor([0, 1, 2, 0, 1, 2]))
    logp_BT = actor.score(tokens).logp_BT.detach()
    yes, adv_B = torch.ones(6, dtype=torch.bool), torch.tensor([1.0, -1.0, 2.0, -0.5, 0.3, 1.2])
    return Batch(
        outcome_to_token(adv_B, mask_BT), mask_BT, tokens.group_B, yes, yes, ~yes, logp_BT, logp_BT,
        tokens=tokens, adv_BT=adv_B[:, None] * mask_BT,
    )  # fmt: skip


def work(update: p.UpdateRule, micro_tokens: int = 14, **more) -> Work:
    actor = policy()
    made = Work(replace(RECIPE, update=update), actor, batch(actor), torch.arange(6), 5, Micro(micro_tokens), **more)
    made.optimizer, made.learning_rate = MasterAdamW(made.parameters, 1e-2), 1e-2
    return made


def gain(w: Work) -> float:
    """J of the whole batch now, against what pi_old said."""
    with torch.no_grad():
        return sum(float(w.J(part, w.count())[0]) for part in w.parts(w.active))


def flat(w: Work) -> torch.Tensor:
    return torch.cat([x.detach().reshape(-1) for x in w.parameters])


def test_a_step_goes_up():
    w = work(p.GradientSteps())
    before = gain(w)
    metrics = w.recipe.update.run(w)
    assert gain(w) > before + 1e-3 and metrics["update/steps"] == 1 and metrics["learning_rate"] == 1e-2


def test_the_gradient_is_that_of_j_and_points_up_however_it_is_cut():
    """Against finite differences along a random direction, and the same in one micro-batch and in several."""
    found = []
    for micro_tokens in (5, 1000):
        w = work(p.GradientSteps(), micro_tokens)
        for minibatch in w.cut():
            w.gradient(minibatch)
        found.append(w.take())
        assert all(x.grad is None for x in w.parameters)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    v = torch.nn.functional.normalize(torch.randn(len(found[0]), generator=torch.Generator().manual_seed(1)), dim=0)
    w.move(1e-2 * v)
    above = gain(w)
    w.move(-1e-2 * v)
    assert (above - gain(w)) / 2e-2 == pytest.approx(float(found[0] @ v), rel=0.02)


def test_a_pass_after_a_step_sees_the_ratio_and_the_kl_of_that_pass_alone():
    w = work(p.GradientSteps(epochs=2))
    (whole,) = w.cut(again=True)
    w.gradient(whole)
    assert w.old_kl() == pytest.approx(0, abs=1e-9)
    w.step()
    w.gradient(whole)
    ratio_BT, _ = w.remembered()
    rho = ratio_BT[w.batch.mask_BT]
    k3 = float((rho - 1 - rho.log()).mean())
    assert k3 > 1e-4 and w.old_kl() == pytest.approx(k3, rel=1e-4)


@pytest.mark.parametrize(("target", "steps", "stopped"), [(1e-7, 1, 1), (None, 4, 0)])
def test_passes_stop_once_the_policy_is_too_far(target, steps, stopped):
    w, once = work(p.GradientSteps(epochs=4, target_kl=target)), work(p.GradientSteps())
    metrics = w.recipe.update.run(w)
    assert (metrics["update/steps"], metrics["update/stopped_early"]) == (steps, stopped)
    once.recipe.update.run(once)
    assert torch.equal(flat(w), flat(once)) == bool(stopped), "what is stopped was not stepped"
    assert all(x.grad is None for x in w.parameters)


def test_a_batch_that_serves_several_steps_leaves_its_ratios():
    w = work(p.GradientSteps(minibatches=3))
    assert w.recipe.update.run(w)["update/steps"] == 3
    ratio_BT, _ = w.remembered()
    assert torch.equal(ratio_BT.isfinite() | ~w.batch.mask_BT, torch.ones_like(w.batch.mask_BT))
    single = work(p.GradientSteps())
    single.recipe.update.run(single)
    assert single.remembered() == (None, None)


# -- the natural step ---------------------------------------------------------------------------------------------------
def test_an_accepted_step_reports_what_it_gained_and_how_far_it_went():
    w = work(p.NaturalStep(max_kl=8.0, damping=0.01))
    before, start = gain(w), flat(w)
    metrics = w.recipe.update.run(w)
    assert 0 < metrics["trpo/fraction"] < 1, "the quadratic bound is too wide here, so the search shortens the step"
    assert metrics["trpo/gain"] == pytest.approx(gain(w) - before, rel=1e-3) and before > 0.1
    assert metrics["trpo/kl"] == pytest.approx(w.moved(), rel=1e-3) and metrics["trpo/kl"] <= 8
    assert not torch.equal(flat(w), start)


def test_a_refused_step_leaves_every_bit():
    w = work(p.NaturalStep(max_kl=8.0, damping=0.01, backtracks=1))  # the one trial loses, far from where it began
    start = flat(w)
    assert w.recipe.update.run(w)["update/steps"] == 0 and torch.equal(flat(w), start)


def test_curvature_is_averaged_over_as_many_tokens_as_asked_for():
    w = work(p.NaturalStep())
    v = torch.randn(len(flat(w)), generator=torch.Generator().manual_seed(2))
    with w.curvature(None) as every, w.curvature(16) as most, w.curvature(1) as few:
        whole, nearly, little = every(v), most(v), few(v)
    torch.testing.assert_close(whole, nearly)  # there are 16
    assert float((whole - little).norm()) > 1e-3 * float(whole.norm())


# -- the optimizer ------------------------------------------------------------------------------------------------------
def stepped(dtype: torch.dtype, clip: float = 0.0, scale: float = 1.0) -> tuple[torch.Tensor, MasterAdamW, float]:
    x = torch.ones(4, dtype=dtype, requires_grad=True)
    optimizer = MasterAdamW([x], 0.1)
    x.grad = torch.full_like(x, 3.0)
    norm = optimizer.step(clip, scale)
    assert x.grad is None
    return x.detach(), optimizer, norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_optimizer_clips_scales_and_keeps_its_masters(dtype):
    x, optimizer, norm = stepped(dtype)
    assert norm == 6.0 and torch.allclose(x.float(), torch.full((4,), 0.9), atol=4e-3)
    _, clipped, _ = stepped(dtype, clip=1.5)
    first, second = (o.adam.state[o.masters[0]]["exp_avg"] for o in (optimizer, clipped))
    torch.testing.assert_close(second, first / 4)
    half, _, _ = stepped(dtype, scale=0.5)
    assert torch.allclose(half.float(), torch.full((4,), 0.95), atol=4e-3)
