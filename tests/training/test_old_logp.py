"""pi_old is the trainer's own policy: whatever the sampler's numbers are, nothing is clipped before anything has moved."""

from dataclasses import replace
from functools import cache

import pytest
import torch

import rung.parts as p
from rung.maths.objective import objective
from rung.models import starter
from rung.network import model as models
from rung.recipe_io import all_recipes, find, override
from rung.records import SamplingLaw
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks import registry
from rung.training.learner import Hyper, LocalLearner

torch.set_num_threads(1)
LAW = SamplingLaw(max_new_tokens=12)
BF16, F32 = torch.bfloat16, torch.float32


def load(dtype=F32):
    return models.load(str(starter.path()), dtype=dtype)


def learner_of(recipe, model, **hyper):
    return LocalLearner(recipe, model, Hyper(**{"learning_rate": 1e-3, "max_new_tokens": 12, **hyper}))


@cache
def same_weights():
    """The starter in bfloat16, and the very same weights in float32; nobody steps on them."""
    low, high = load(BF16), load()
    high.hf.load_state_dict({k: v.float() for k, v in low.hf.state_dict().items()})
    return low, high


@cache
def answers(dtype=F32):
    """Some answers of the starter in this precision, with all that any recipe needs."""
    model, env = load(dtype), registry.load("chained_arithmetic").train
    collector = Collector(env, model.codec, TorchSampler(model), LAW, p.Data(), 8, 4, 0, greedy=True)
    return collector.collect(0, find("grpo").initial_state())


def noisy(collected, size):
    """The same answers from a sampler whose log-probabilities are off by +-size."""
    b = collected.batch
    sign_BT = torch.randint(0, 2, b.mask_BT.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    logp_BT = (b.behavior_logp_BT + size * sign_BT).masked_fill(~b.mask_BT, 0.0)
    return replace(collected, batch=replace(b, behavior_logp_BT=logp_BT, old_logp_BT=logp_BT))


@pytest.fixture
def moved_tokens(monkeypatch):
    """A function: which tokens have a gradient in the first optimizer step of a recipe on some answers."""

    def of(recipe, model, collected):
        learner, found = learner_of(recipe, model), {}
        row_B = torch.arange(len(collected.batch.valid_B)).double()  # in a field that no recipe reads
        collected = replace(collected, batch=replace(collected.batch, bootstrap_B=row_B))

        def watched(recipe, batch, scores, adv_BT, total):
            J = objective(recipe, batch, scores, adv_BT, total)
            (grad_BT,) = torch.autograd.grad(J, scores.logp_BT, retain_graph=True)
            for row, grad_T in zip(batch.bootstrap_B.long().tolist(), grad_BT, strict=True):
                found[row] = (grad_T != 0).nonzero()[:, 0].tolist()
            return J

        def stop(*_):
            raise StopIteration

        monkeypatch.setattr("rung.training.work.objective", watched)
        monkeypatch.setattr(learner.optimizer, "step", stop)
        with pytest.raises(StopIteration):
            learner.step(collected)
        return found

    return of


GRADIENT = {name: r for name, r in all_recipes().items() if isinstance(r.update, p.GradientSteps)}


@pytest.mark.parametrize("name", GRADIENT)
def test_in_bfloat16_the_first_update_moves_the_tokens_that_it_moves_in_float32(name, moved_tokens):
    recipe = GRADIENT[name]
    if isinstance(recipe.credit, p.Value):  # a critic that says 0, so that advantages are the same in both
        recipe = override(recipe, {"credit.critic.warmup": 0})
    low, high = same_weights()
    collected = answers(BF16)
    logp_BT = learner_of(recipe, high).logp(learner_of(recipe, high).policy, collected.batch)
    exact = replace(collected, batch=replace(collected.batch, behavior_logp_BT=logp_BT, old_logp_BT=logp_BT))
    want, got = moved_tokens(recipe, high, exact), moved_tokens(recipe, low, collected)
    assert got == want
    assert sum(map(len, want.values())) > 10


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize(
    "recipe",
    [find("gspo"), find("ppo"), find("kimi"), override(find("grpo"), {"update.epochs": 2, "update.minibatches": 3})],
    ids=lambda r: r.name,
)
def test_every_ratio_is_one_where_no_step_moves_anything(recipe, dtype):
    """A learning rate of 0: all minibatches and passes are scored at pi_old."""
    learner = learner_of(recipe, load(dtype), learning_rate=0.0)
    metrics = learner.step(answers(dtype)).metrics
    exact = dtype == BF16  # in float32 sampler and trainer agree to rounding, and no pass is spent on less
    for name in ("token_p01", "token_p99", "sequence_p01", "sequence_p99"):
        assert metrics[f"ratio/{name}"] == pytest.approx(1.0, abs=0 if exact else 1e-5)
    assert metrics["clip_ratio/low_mean"] == metrics["clip_ratio/high_mean"] == 0
    assert metrics["sampling/logp_gap_max"] > (0.01 if exact else 0), "the gap to the sampler is reported as it is"


def test_in_low_precision_no_small_gap_of_a_first_step_is_trusted():
    """Two prompts on which sampler and trainer happen to be close: the second is scored by the trainer all the same."""
    learner, collected = learner_of(find("grpo"), load(BF16)), answers(BF16)
    b = collected.batch
    gap_BT = (learner.logp(learner.policy, b) - b.behavior_logp_BT).abs() * b.mask_BT
    near = torch.stack([gap_BT[b.group_B == g].max() for g in range(8)]).argsort()[:2]
    rows = torch.isin(b.group_B, near).nonzero()[:, 0]
    batch = b.rows(rows)
    few = replace(
        collected, scored=[collected.scored[r] for r in rows], batch=replace(batch, group_B=batch.tokens.group_B)
    )
    recipe = override(find("grpo"), {"kl": "NoKL", "entropy": 0.01, "update.minibatches": 2})
    metrics = learner_of(recipe, load(BF16), learning_rate=0.0).step(few).metrics
    assert 0 < metrics["sampling/logp_gap_max"] < recipe.surrogate.room / 10
    assert metrics["ratio/token_p01"] == metrics["ratio/token_p99"] == 1.0


def passes(recipe, collected, **hyper):
    """(metrics of a step, forward passes of the policy over all active rows)."""
    learner = learner_of(recipe, load(), learning_rate=0.0, **hyper)
    scored, score = [], learner.policy.score

    def counted(tokens, **frozen):
        scored.append(len(tokens.length_B))
        return score(tokens, **frozen)

    learner.policy.score = counted
    metrics = learner.step(collected).metrics
    return metrics, sum(scored) / metrics["active_rows"]


@pytest.mark.parametrize(
    ("name", "changes", "size", "spent", "off"),
    [
        ("gspo", {"update.minibatches": 1}, 0.5, 1, 0),  # one update: what the update itself says is pi_old
        ("grpo", {}, 0.5, 1, 0),
        ("grpo", {"update.epochs": 2}, 0.03, 2, 0),  # one minibatch has said it all in the first pass
        ("grpo", {"update.minibatches": 2}, 0.015, 1, 0.015),  # within a tenth of the clip's 0.2
        ("grpo", {"update.minibatches": 2}, 0.03, 1.5, 0),  # beyond: the other half is scored before the first step
        ("gspo", {"update.minibatches": 2}, 0.0, 1, 0),
        ("gspo", {"update.minibatches": 2}, 0.01, 1.5, 0),
    ],
)
def test_a_pass_is_spent_only_where_the_samplers_numbers_would_matter(name, changes, size, spent, off):
    recipe = override(find(name), {"kl": "NoKL", **changes})
    metrics, found = passes(recipe, noisy(answers(), size))
    assert found == pytest.approx(spent, abs=0.15)
    assert metrics["ratio/token_p99"] == pytest.approx(1 + off, abs=5e-4)
    assert metrics["clip_ratio/low_mean"] == metrics["clip_ratio/high_mean"] == 0


def test_a_correction_weighs_by_the_trainers_own_numbers():
    """c = exp(log pi_old - log mu): a sampler off by +-.1 is weighed by exp(-+.1), and the ratios stay 1."""
    collected = noisy(answers(), 0.1)
    recipe = override(find("grpo"), {"kl": "NoKL", "correction": "TokenTIS"})
    metrics, _ = passes(recipe, collected)
    assert metrics["ratio/token_p01"] == metrics["ratio/token_p99"] == 1.0
    assert metrics["sampling/logp_gap_mean"] == pytest.approx(0.1, rel=1e-3)


def test_in_low_precision_a_kl_in_the_reward_is_zero_at_its_reference():
    """log pi and log pi_ref by the same passes: the sampler's numbers would pay or fine each answer for rounding."""
    recipe = find("rloo")
    learner = learner_of(recipe, load(BF16))
    work = learner.assess(answers(BF16))
    assert torch.equal(work.batch.reward_BT, answers(BF16).batch.reward_BT)
    assert learner.step(answers(BF16)).metrics["kl"] == 0


def test_the_room_of_a_surrogate():
    rooms = {
        p.Clip(): 0.1823, p.Clip(3e-4, 4e-4): 3e-4, p.Clip(low=10.0, high=10.0): 0.2, p.Clip(low=0.0): 0.0,
        p.GMPO(): 0.2, p.GMPO(width=0.1): 0.1, p.CISPO(): 0.2, p.SAPO(): 0.2, p.Importance(): 0.2,
    }  # fmt: skip
    assert {part: part.room for part in rooms} == pytest.approx(rooms, rel=1e-3)
