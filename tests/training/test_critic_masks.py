"""The critic: what it reads, what it is trained on, and what it ignores."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers

from rung.network.model import Model, wrap
from rung.parts import GAE, MC, Critic, Value
from rung.records import Batch, Tokens
from rung.training.critic import ValueModel, explained_variance
from rung.training.micro import Micro

V = 17


@pytest.fixture
def policy() -> Model:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, eos_token_id=3,
    )  # fmt: skip
    hf = transformers.LlamaForCausalLM(config)
    for weight in hf.parameters():
        weight.data.mul_(5 if weight.dim() > 1 else 1)
    return wrap(hf, SimpleNamespace(eos_token_id=3))


def build(policy: Model, micro_tokens: int = 1000, zero: bool = False, **config) -> ValueModel:
    critic = ValueModel.build(
        Critic(**{"minibatches": 1, **config}), policy, learning_rate=1e-3, micro=Micro(micro_tokens)
    )
    if not zero:
        torch.manual_seed(1)
        torch.nn.init.normal_(critic.head.weight)
        torch.nn.init.constant_(critic.head.bias, 0.3)
    return critic


@pytest.fixture
def world() -> Batch:
    """Answers of 4, 1, 5 and 3 tokens, an observation in the third, the last without a known reward."""
    length_B = torch.tensor([4, 1, 5, 3])
    mask_BT = torch.arange(5) < length_B[:, None]
    mask_BT[2, 1] = False
    g = torch.Generator().manual_seed(2)
    prompts = [torch.tensor([5, 6, 7]), torch.tensor([8])]
    tokens = Tokens(prompts, torch.randint(4, V, (4, 5), generator=g), mask_BT, length_B, torch.tensor([1, 0, 1, 0]))
    reward_BT = torch.tensor([[0, 0, 0, 1.0, 0], [2.0, 0, 0, 0, 0], [0, 0, 0, 0, 3.0], [0, 0, 100.0, 0, 0]])
    yes = torch.ones(4, dtype=torch.bool)
    zero = torch.zeros(4, 5)
    valid_B = torch.tensor([True, True, True, False])
    batch = Batch(reward_BT, mask_BT, tokens.group_B, valid_B, yes, ~yes, zero, zero, value_BT=zero, tokens=tokens)
    return batch


def fit(critic: ValueModel, batch: Batch, credit: Value, clip_norm: float = 0.0, seed: int = 0) -> float:
    return critic.fit(replace(batch, target_BT=credit.targets(batch)), clip_norm, seed)


def test_v_is_read_before_the_token_is_emitted(policy, world):
    critic, tokens = build(policy), world.tokens
    got_BT = critic.values(tokens)
    for b, n in enumerate(tokens.length_B.tolist()):
        prompt = tokens.prompts[int(tokens.group_B[b])]
        ids = torch.cat([prompt, tokens.tokens_BT[b, :n]])[None]
        hidden = critic.model.hf.get_decoder()(input_ids=ids).last_hidden_state[0]
        want = critic.head(hidden[len(prompt) - 1 : -1])[:, 0]
        torch.testing.assert_close(
            got_BT[b, :n][tokens.mask_BT[b, :n]], want[tokens.mask_BT[b, :n]], rtol=1e-4, atol=1e-4
        )
    assert (got_BT[~tokens.mask_BT] == 0).all()
    for budget in (1, 1000):
        torch.testing.assert_close(build(policy, budget).predict(tokens), got_BT.detach(), rtol=1e-4, atol=1e-4)


def test_it_starts_at_zero(policy, world):
    assert (build(policy, zero=True).predict(world.tokens) == 0).all()


TARGETS = 4 * 1.0**2 + 1 * 2.0**2 + 4 * 3.0**2  # the return at each action of the valid rows


@pytest.mark.parametrize("micro_tokens", [1, 1000])
def test_the_loss_is_a_token_mean_over_valid_rows_counted_over_all_rows(policy, world, micro_tokens):
    batch, tokens = world, world.tokens
    critic = build(policy, micro_tokens, zero=True)
    loss = fit(critic, batch, Value(MC()), clip_norm=0.0, seed=0)
    assert loss == pytest.approx(0.5 * TARGETS / int(tokens.mask_BT.sum()), rel=1e-5)
    assert critic.predict(tokens)[tokens.mask_BT].mean() > 0.01, "it moved towards the positive targets"


def test_each_minibatch_has_a_denominator_of_its_own(policy, world):
    """Rows 0 and 2: 8 actions with targets 1 and 3; rows 1 and 3: 4 actions, of which the valid one has target 2."""
    critic = build(policy, zero=True, minibatches=2, learning_rate=0.0)
    loss = fit(critic, world, Value(MC()), clip_norm=0.0, seed=0)
    assert loss == pytest.approx((0.5 * (4 * 1 + 4 * 9) / 8 + 0.5 * 4 / 4) / 2, rel=1e-5)


def test_any_split_gives_the_same_gradient(policy, world):
    batch, tokens = world, world.tokens
    grads = []
    for micro_tokens in (1, 8, 1000):
        critic = build(policy, micro_tokens, shared=True, coef=0.5)
        policy.hf.zero_grad()
        fit(critic, replace(batch, value_BT=critic.predict(tokens)), Value(GAE()), 0.0, 0)
        grads.append(torch.cat([p.grad.flatten() for p in policy.hf.get_decoder().parameters()]))
    for g in grads[1:]:
        assert ((g - grads[0]).norm() / grads[0].norm()).item() < 1e-4


def test_a_shared_trunk_keeps_its_gradient_for_the_policy_scaled_by_coef(policy, world):
    norms = {}
    for coef in (1.0, 0.25):
        critic = build(policy, shared=True, coef=coef, epochs=5)
        assert critic.model is policy
        policy.hf.zero_grad()
        before = [p.detach().clone() for p in policy.hf.parameters()]
        fit(critic, world, Value(MC()), 0.0, 0)
        assert all(torch.equal(a, b) for a, b in zip(before, policy.hf.parameters(), strict=True)), (
            "only its head steps"
        )
        norms[coef] = math.sqrt(sum(float(p.grad.norm()) ** 2 for p in policy.hf.get_decoder().parameters()))
    assert norms[0.25] == pytest.approx(0.25 * norms[1.0], rel=1e-5)


def test_an_own_backbone_leaves_the_policy_alone_and_takes_its_steps(policy, world):
    moved = {}
    for epochs in (1, 4):
        critic = build(policy, epochs=epochs)
        before = [p.detach().clone() for p in policy.hf.parameters()]
        start = torch.cat([p.detach().flatten() for p in critic.model.hf.get_decoder().parameters()])
        fit(critic, world, Value(MC()), 0.0, 0)
        assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, policy.hf.parameters(), strict=True))
        now = torch.cat([p.detach().flatten() for p in critic.model.hf.get_decoder().parameters()])
        moved[epochs] = (now - start).abs().max().item()
    assert moved[1] > 0
    assert moved[4] > 1.5 * moved[1]


@pytest.mark.parametrize(("epochs", "parts"), [(1, 1), (1, 2), (3, 2)])
def test_each_minibatch_is_an_optimizer_step(policy, world, epochs, parts):
    critic = build(policy, epochs=epochs, minibatches=parts)
    fit(critic, world, Value(MC()), 0.0, 0)
    assert {int(s["step"]) for s in critic.optimizer.adam.state.values()} == {epochs * parts}


def test_the_learning_rate_is_a_multiple_of_the_policys(policy):
    assert build(policy, learning_rate=7.0).optimizer.learning_rate == pytest.approx(7e-3)
    own, shared = (len(build(policy, shared=s).optimizer.parameters) for s in (False, True))
    assert own > shared == 2


def test_invalid_rows_teach_the_critic_nothing(policy, world):
    batch = world
    one, other = build(policy), build(policy)
    fit(one, batch, Value(MC()), 0.0, 0)
    spoiled = replace(batch, reward_BT=torch.where(batch.valid_B[:, None], batch.reward_BT, math.nan))
    fit(other, spoiled, Value(MC()), 0.0, 0)
    assert torch.equal(one.head.weight, other.head.weight)


def test_the_clipped_loss_looks_at_the_values_of_rollout_time(policy, world):
    """V stands 0.3 or more from a distant old value on the target's side: clipped, so the head does not move."""
    batch, tokens = world, world.tokens
    critic = build(policy, zero=True, clip=0.2)
    far = replace(batch, value_BT=torch.where(tokens.mask_BT, -5.0, 0.0))
    fit(critic, far, Value(MC()), 0.0, 0)
    assert (critic.head.bias == 0).all()


@pytest.mark.parametrize(
    ("value", "want", "why"),
    [
        ([0.0, 2.0, 4.0], 1.0, "perfect"),
        ([2.0, 2.0, 2.0], 0.0, "a constant knows nothing"),
        ([4.0, 2.0, 0.0], -3.0, "1 - 16/4: harmful"),
        ([1.0, 3.0, 5.0], 1.0, "an offset explains the variance all the same"),
        ([1.0, 2.0, 3.0], 0.75, "1 - 1/4"),
    ],
)
def test_explained_variance(value, want, why):
    mask = torch.tensor([[True, True, True, False]])
    got = explained_variance(torch.tensor([[*value, 99.0]]), torch.tensor([[0.0, 2.0, 4.0, -99.0]]), mask)
    assert got == pytest.approx(want), why


def test_explained_variance_of_nothing():
    flat, mask = torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool)
    assert math.isnan(explained_variance(flat, flat, mask))
    assert math.isnan(explained_variance(flat, flat, mask & False))
