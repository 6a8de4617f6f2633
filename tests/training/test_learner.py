"""The training step on a real (tiny) model: split invariance, what may not move, what must be restored."""

import math
from dataclasses import replace

import pytest
import torch

import rung.parts as p
from rung.errors import InputError
from rung.maths.objective import right
from rung.maths.returns import outcome_to_token
from rung.models import starter
from rung.network import model as models
from rung.recipe_io import all_recipes, find, override
from rung.recipes import GRPO, REINFORCE, TRPO
from rung.records import SamplingLaw
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks import registry
from rung.training.config import TrainConfig
from rung.training.learner import Hyper, LocalLearner
from rung.training.micro import Micro
from rung.training.setup import prepare, train_only
from rung.training.work import Work

torch.set_num_threads(1)
LAW = SamplingLaw(max_new_tokens=16)


def fresh(recipe, *, prompts=6, samples=4, law=LAW, **hyper):
    """A learner on the starter and one step's answers for it."""
    torch.manual_seed(0)
    model = models.load(str(starter.path()))
    settings = {"learning_rate": 1e-3, "max_new_tokens": law.max_new_tokens, "temperature": law.temperature}
    learner = LocalLearner(recipe, model, Hyper(**{**settings, **hyper}))
    env = registry.load("chained_arithmetic").train
    greedy = "greedy" in recipe.needs
    collector = Collector(env, model.codec, TorchSampler(model), law, recipe.data, prompts, samples, 0, greedy=greedy)
    return learner, collector.collect(0, learner.state)


def weights(learner):
    return torch.cat([x.detach().flatten() for x in learner.model.hf.parameters()]).clone()


@pytest.mark.parametrize("recipe", all_recipes().values(), ids=lambda r: r.name)
def test_every_recipe_takes_a_finite_step(recipe):
    learner, collected = fresh(recipe)
    before = weights(learner)
    metrics = learner.step(collected).metrics
    bad = {k: v for k, v in metrics.items() if v != v and k != "critic/explained_variance"}
    assert not bad and weights(learner).isfinite().all()
    warmup = learner.critic is not None and learner.critic.config.warmup > 0
    assert (weights(learner) != before).any() != warmup, "a step moves the policy, unless the critic is warming up"


@pytest.mark.parametrize("name", ["reinforce", "grpo", "dr_grpo", "dapo", "gspo", "ppo_kl"])
def test_micro_batches_do_not_change_the_gradient(name, monkeypatch):
    recipe = override(find(name), {"entropy": 0.01})
    gradients = []
    for micro_tokens in (100_000, 40):  # everything at once; a prompt or so at a time
        learner, collected = fresh(recipe)
        learner.micro.tokens = micro_tokens
        seen = []

        def step(*_, learner=learner, seen=seen):
            seen.append(torch.cat([x.grad.flatten() for x in learner.parameters]))
            learner.optimizer.zero_grad()
            return 0.0

        monkeypatch.setattr(learner.optimizer, "step", step)
        learner.step(collected)
        gradients.append(torch.stack(seen))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6 * float(gradients[0].norm()), rtol=1e-4)


def test_the_kl_to_the_old_policy_is_measured_on_the_whole_step():
    moved = []
    for micro_tokens in (100_000, 40):
        learner, collected = fresh(find("ppo_kl"))
        learner.micro.tokens = micro_tokens
        moved.append(learner.step(collected).metrics["trust/kl"])
    assert moved[0] > 1e-5
    assert moved[1] == pytest.approx(moved[0], rel=1e-3)


def test_the_sampler_and_the_trainer_agree_on_log_probabilities():
    for temperature in (0.7, 1.0):
        learner, collected = fresh(GRPO, law=replace(LAW, temperature=temperature))
        metrics = learner.step(collected).metrics
        assert metrics["sampling/logp_gap_max"] < 1e-4 and abs(metrics["sampling/kl"]) < 1e-7
        assert metrics["update/changed"] > 0.5
        assert abs(metrics["ratio/token_p50"] - 1) < 1e-4, "the ratio is 1 before the first update"


def test_scoring_at_another_temperature_is_seen():
    learner, collected = fresh(GRPO, law=replace(LAW, temperature=0.7), temperature=1.0)
    metrics = learner.step(collected).metrics
    assert metrics["sampling/logp_gap_max"] > 0.1 and metrics["sampling/kl"] > 0.01


def test_the_second_minibatch_sees_a_ratio_that_moved():
    learner, collected = fresh(override(GRPO, {"update.minibatches": 3}))
    metrics = learner.step(collected).metrics
    assert metrics["update/steps"] == 3
    assert metrics["ratio/token_p99"] > 1.001, "old log-probabilities are those of before the first update"


def test_the_reference_never_moves():
    learner, collected = fresh(GRPO)
    before = [x.clone() for x in learner.reference.model.hf.parameters()]
    assert learner.step(collected).metrics["kl"] == pytest.approx(0, abs=1e-6)
    again = learner.step(collected).metrics
    assert again["kl"] > 0, "the policy has left the reference"
    for x, y in zip(before, learner.reference.model.hf.parameters(), strict=True):
        assert torch.equal(x, y)


def test_a_surrogate_that_acts_without_an_advantage_keeps_every_row():
    learner, collected = fresh(find("kimi"))
    assert learner.step(collected).metrics["active_rows"] == collected.batch.valid_B.sum()


def test_a_batch_without_signal_changes_nothing_and_says_so():
    learner, collected = fresh(override(GRPO, {"kl": "NoKL"}))
    same = replace(collected.batch, reward_BT=torch.zeros_like(collected.batch.reward_BT))
    before = weights(learner)
    metrics = learner.step(replace(collected, batch=same)).metrics
    assert metrics["update/skipped"] == 1 and metrics["active_rows"] == 0 and metrics["update/changed"] == 0
    assert torch.equal(weights(learner), before)


def test_unscored_rows_do_not_teach():
    """NaN rewards leave the loss: the step equals one in which their tokens are different."""
    moved = []
    for token in (3, 5):
        learner, collected = fresh(REINFORCE)
        valid_B = collected.batch.valid_B.clone()
        valid_B[0] = False
        tokens_BT = collected.batch.tokens.tokens_BT.clone()
        tokens_BT[0, 0] = token
        tokens = replace(collected.batch.tokens, tokens_BT=tokens_BT)
        learner.step(replace(collected, batch=replace(collected.batch, valid_B=valid_B, tokens=tokens)))
        moved.append(weights(learner))
    torch.testing.assert_close(moved[0], moved[1], atol=0, rtol=0)


def test_bfloat16_weights_follow_float32_masters():
    """A step of 1e-5 is lost in a bfloat16 weight of 0.1; a hundred of them in the master are not."""
    model = models.load(str(starter.path()), dtype=torch.bfloat16)
    learner = LocalLearner(REINFORCE, model, Hyper(learning_rate=1e-5))
    before = weights(learner)
    for _ in range(100):
        for x in learner.parameters:
            x.grad = torch.ones_like(x)
        learner.optimizer.step()
    assert (weights(learner) != before).float().mean() > 0.5
    for x, master in zip(learner.optimizer.parameters, learner.optimizer.masters, strict=True):
        assert torch.equal(x, master.bfloat16())


# -- TRPO ---------------------------------------------------------------------------------------------------------
def work_of(learner, collected):
    batch = learner.prepare(collected.batch)
    batch = replace(batch, adv_BT=learner.recipe.credit(batch))
    return Work(learner.recipe, learner.policy, batch, torch.arange(len(batch.valid_B)), 16, Micro(100_000))


def test_an_accepted_natural_step_keeps_the_bound_and_gains():
    learner, collected = fresh(TRPO, prompts=8, samples=4)
    metrics = learner.step(collected).metrics
    assert metrics["trpo/fraction"] > 0 and metrics["trpo/gain"] > 0
    assert 0 < metrics["trpo/kl"] <= learner.recipe.update.max_kl


def test_a_refused_natural_step_restores_every_bit(monkeypatch):
    monkeypatch.setattr("rung.maths.update.line_search", lambda evaluate, *rest: (0.0, evaluate(1.0)))
    learner, collected = fresh(TRPO)
    before = weights(learner)
    metrics = learner.step(collected).metrics
    assert metrics["update/skipped"] == 1 and torch.equal(weights(learner), before)


def test_the_fisher_product_is_symmetric_positive_and_equals_a_difference_of_gradients():
    learner, collected = fresh(override(TRPO, {"update.curvature_tokens": None}), prompts=4, samples=2)
    with work_of(learner, collected).curvature(learner.recipe.update.curvature_tokens) as F:
        pass
    n = sum(x.numel() for x in learner.parameters)
    u, v = torch.randn(2, n, generator=torch.Generator().manual_seed(1))
    assert float(u @ F(v)) == pytest.approx(float(v @ F(u)), rel=1e-3)
    assert float(v @ F(v)) > 0

    def quadratic(scale):  # KL(old || old + scale v) = scale^2 / 2 v'Fv + O(scale^3)
        frozen = learner.policy.freeze(collected.batch.tokens)
        torch.nn.utils.vector_to_parameters(weights(learner) + scale * v, learner.parameters)
        with torch.no_grad():
            kl_BT = learner.policy.score(collected.batch.tokens, old=frozen).old_kl_BT
        torch.nn.utils.vector_to_parameters(base, learner.parameters)
        return float(kl_BT.sum() / collected.batch.tokens.mask_BT.sum())

    base, scale = weights(learner), 1e-3
    both_sides = (quadratic(scale) + quadratic(-scale)) / 2
    assert 2 * both_sides / scale**2 == pytest.approx(float(v @ F(v)), rel=0.05)


def test_trpo_on_a_subset_of_the_parameters_moves_only_those():
    model = models.load(str(starter.path()))
    train_only(model, r"layers\.1\.mlp")
    learner = LocalLearner(TRPO, model, Hyper(max_new_tokens=16))
    env = registry.load("chained_arithmetic").train
    collected = Collector(env, model.codec, TorchSampler(model), LAW, TRPO.data, 8, 4, 0).collect(0, learner.state)
    before = {k: v.clone() for k, v in model.hf.state_dict().items()}
    assert learner.step(collected).metrics["trpo/fraction"] > 0
    moved = {k for k, v in model.hf.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all("layers.1.mlp" in k for k in moved)
    with pytest.raises(InputError, match="finds no parameter"):
        train_only(model, "nothing")


# -- critic ---------------------------------------------------------------------------------------------------------
def test_a_new_critic_says_zero_so_the_first_step_is_reward_to_go():
    value, plain = (find("value_baseline"), find("reward_to_go"))
    moved = []
    for recipe in (value, plain):
        learner, collected = fresh(recipe)
        learner.step(collected)
        moved.append(weights(learner))
    torch.testing.assert_close(moved[0], moved[1], atol=0, rtol=0)


def test_a_critic_learns_and_leaves_the_policy_alone():
    learner, collected = fresh(
        override(find("value_baseline"), {"credit.critic.warmup": 100, "credit.critic.epochs": 2})
    )
    before = weights(learner)
    first = learner.step(collected).metrics
    for _ in range(6):
        last = learner.step(collected).metrics
    assert last["critic/loss"] < 0.7 * first["critic/loss"]
    assert torch.equal(weights(learner), before)


def test_a_shared_trunk_is_trained_by_both():
    recipe = override(find("value_baseline"), {"credit": p.Value(p.MC(), critic=p.Critic(shared=True))})
    learner, collected = fresh(recipe)
    learner.step(collected)
    assert learner.critic.model.hf is learner.model.hf
    assert learner.critic.head.weight.abs().sum() > 0


def test_the_learning_rate_rises_stays_and_falls():
    """Linear on both sides: k/(w+1) over the first w steps, k/d over the last d, the last one at 1/d, not at 0."""
    hyper = Hyper(warmup_steps=1, decay_steps=4, steps=8)
    assert [hyper.rate(step) for step in range(8)] == [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert hyper.rate(8) == 0  # a run that goes on beyond its end changes nothing
    assert {Hyper().rate(step) for step in range(9)} == {1.0}


def test_a_cosine_falls_as_half_a_wave():
    """(1 + cos(pi k / d)) / 2 after k of d steps: transformers' cosine schedule."""
    hyper = Hyper(warmup_steps=2, decay_steps=4, steps=6, decay_shape="cosine")
    wanted = [1 / 3, 2 / 3, *((1 + math.cos(math.pi * k / 4)) / 2 for k in range(5))]
    assert [hyper.rate(step) for step in range(7)] == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize(("name", "other"), [("betas", (0.5, 0.95)), ("betas", (0.9, 0.5)), ("epsilon", 10.0)])
def test_adams_numbers_reach_adam(name, other):
    """Two steps, since the first one has the size of the rate whatever the betas are."""
    moved = []
    for settings in ({}, {name: other}):
        learner, collected = fresh(REINFORCE, **settings)
        learner.step(collected)
        learner.step(replace(collected, batch=replace(collected.batch, reward_BT=3 * collected.batch.reward_BT)))
        moved.append(weights(learner))
    assert not torch.equal(*moved)


def test_the_schedule_scales_the_step():
    """Adam's first step has the size of the rate: at a quarter of it the weights move a quarter as far."""
    moved = {}
    for decay in (0, 4):
        learner, collected = fresh(REINFORCE, decay_steps=decay, steps=1)
        before = weights(learner)
        learner.step(collected)
        moved[decay] = float((weights(learner) - before).abs().max())
    assert moved[4] == pytest.approx(moved[0] / 4, rel=1e-2)


def test_settings_reach_the_optimizer():
    config = TrainConfig(
        adam_beta1=0.5, adam_beta2=0.6, adam_epsilon=1e-6, steps=4, decay_steps=2, decay_shape="cosine"
    )
    learner = prepare(config).learner
    group = learner.optimizer.adam.param_groups[0]
    assert (group["betas"], group["eps"], learner.hyper.decay_shape) == ((0.5, 0.6), 1e-6, "cosine")


# -- terms that act without an advantage ------------------------------------------------------------------------------
def paid(collected, reward_B):
    """The same answers with other rewards from the task."""
    scored = [replace(row, reward=float(r), earned=float(r)) for row, r in zip(collected.scored, reward_B, strict=True)]
    reward_BT = outcome_to_token(torch.as_tensor(reward_B, dtype=torch.float64), collected.batch.mask_BT)
    right_B = torch.tensor([row.task_reward > 0 for row in scored])
    return replace(collected, scored=scored, batch=replace(collected.batch, reward_BT=reward_BT, right_B=right_B))


def leave_the_reference(learner):
    generator = torch.Generator().manual_seed(1)
    for x in learner.parameters:
        x.data += 0.03 * torch.randn(x.shape, generator=generator)


def test_imitation_copies_what_the_task_calls_right_whatever_a_kl_adds_to_the_reward():
    learner, collected = fresh(replace(find("vapo"), kl=p.K1(0.05)))
    leave_the_reference(learner)  # and be paid for answers that it found unlikelier than now
    right_B = torch.arange(24) % 3 == 0
    work = learner.assess(paid(collected, right_B.float()))
    assert ((work.batch.reward_BT.sum(1) > 0) != right_B).any(), "the KL alone would have called other answers right"
    assert torch.equal(right(work.batch), right_B)
    assert learner.step(paid(collected, right_B.float())).metrics["imitated_rows"] == right_B.sum()


def test_a_penalty_for_length_does_not_make_a_right_answer_wrong():
    recipe = replace(find("vapo"), data=p.Data(overlong=p.Overlong(buffer=1.0, factor=5.0)))
    _, collected = fresh(recipe)
    punished = [row for row in collected.scored if row.rewards["overlong"] < 0]
    assert any(row.reward < 0 < row.task_reward for row in punished)
    assert collected.batch.right_B.tolist() == [row.task_reward > 0 for row in collected.scored]


@pytest.mark.parametrize(
    ("recipe", "rows"),
    [
        (replace(GRPO, kl=p.NoKL(), imitation=0.1), 12),  # the right ones
        (replace(GRPO, kl=p.NoKL(), entropy=0.01), 24),
        (replace(GRPO, kl=p.K3(0.1)), 24),
        (replace(find("kimi"), imitation=0.1), 24),  # whose pull back acts on all once others move the policy
        (find("kimi"), 0),
        (find("leave_one_out"), 0),
        (replace(find("rloo"), imitation=0.0, kl=p.NoKL()), 0),
    ],
    ids=["imitation", "entropy", "kl", "kimi and imitation", "kimi", "leave_one_out", "rloo"],
)
def test_without_a_difference_the_other_terms_still_act(recipe, rows):
    """Prompts that are all right or all wrong: no advantage anywhere."""
    learner, collected = fresh(recipe)
    leave_the_reference(learner)
    before = weights(learner)
    metrics = learner.step(paid(collected, (collected.batch.group_B % 2 == 0).float())).metrics
    assert metrics["advantage/abs_mean"] == 0 and metrics["active_rows"] == rows
    assert (metrics["update/skipped"] == 0) == (rows > 0) == bool((weights(learner) != before).any())


def test_passes_end_by_the_kl_that_cannot_be_negative():
    """target_kl bounds the mean of rho - 1 - log rho (k3), not that of -log rho (k1): same mean, other numbers."""
    recipe = override(GRPO, {"kl": "NoKL", "update.epochs": 2})
    learner, collected = fresh(recipe)
    result = learner.step(collected)
    assert result.metrics["update/steps"] == 2
    rho = result.ratio_BT[result.ratio_BT.isfinite() & collected.batch.mask_BT]  # of the second pass
    k3, k1 = float((rho - 1 - rho.log()).mean()), float(-rho.log().mean())
    assert k3 > 1e-4 and abs(k1 - k3) > 0.02 * k3
    for target, stopped in ((k3 / 1.5 * 0.99, 1.0), (k3 / 1.5 * 1.01, 0.0)):
        learner, collected = fresh(override(recipe, {"update.target_kl": target}))
        assert learner.step(collected).metrics["update/stopped_early"] == stopped
