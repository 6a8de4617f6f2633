"""What parts need is prepared: every need of every part, also of a user's own, in every update; an unknown one is refused."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import pytest
import torch

import rung.parts as p
from rung.errors import InputError
from rung.exact.needs import PREPARED as EXACT
from rung.models import starter
from rung.network import model as models
from rung.recipe_io import PARTS, all_recipes, find, override
from rung.recipe_rules import NEEDS, needs_of, refuse_sampling
from rung.records import SamplingLaw
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks import registry
from rung.training.learner import Hyper, LocalLearner
from rung.training.needs import NEEDS as PREPARED
from rung.training.needs import collected
from rung.training.policy import minibatches

torch.set_num_threads(1)
MODEL = models.load(str(starter.path()))
WEIGHTS = {k: v.clone() for k, v in MODEL.hf.state_dict().items()}
TASK = registry.load("chained_arithmetic").train


def step(recipe, tokens=12, prompts=4, samples=2):
    """A learner, and one step's answers as the recipe asks for them; few tokens, so that some are truncated."""
    MODEL.hf.load_state_dict(WEIGHTS)
    torch.manual_seed(0)
    learner = LocalLearner(recipe, MODEL, Hyper(learning_rate=1e-3, max_new_tokens=tokens))
    law = SamplingLaw(max_new_tokens=tokens)
    collector = Collector(
        TASK, MODEL.codec, TorchSampler(MODEL), law, recipe.data, prompts, samples, 0, **collected(recipe.needs)
    )
    return learner, collector.collect(0, learner.state)


def test_one_name_one_preparation():
    assert [*PREPARED] == [*NEEDS], "every need is prepared in one place, and nothing else is"
    assert [*EXACT] == [*NEEDS], "and in the worlds that are enumerated"
    for name, entry in PREPARED.items():
        said = [bool(entry.collect), entry.fill is not None, entry.freeze is not None]
        assert sum(said) == (name != "groups"), f"{name} is prepared once"


@pytest.mark.parametrize("name", PARTS)
def test_every_need_of_every_part_is_known(name):
    cls, own = PARTS[name], {f.name: f.type for f in fields(PARTS[name])}
    for changed in (
        {},
        *({k: True} for k, kind in own.items() if kind == "bool"),
        {"coef": 0.1} if "coef" in own else {},
    ):
        assert needs_of(cls(**changed)) <= NEEDS.keys()


FILLED: dict[str, Callable] = {
    "groups": lambda b: b.group_B.bincount().min() > 1,
    "greedy": lambda b: b.greedy_B is not None,
    "steps": lambda b: b.step_end_BT is not None,
    "old_logp": lambda b: b.old_logp_BT is not b.behavior_logp_BT,
    "ref_logp": lambda b: b.ref_logp_BT is not None,
    "values": lambda b: b.value_BT is not None,
    "bootstrap": lambda b: b.bootstrap_B is not None,
}


@pytest.mark.parametrize("need", FILLED)
def test_a_users_own_part_gets_what_it_asks_for(need):
    seen = []
    base = p.Value if need in ("values", "bootstrap") else p.RewardToGo

    @dataclass(frozen=True)
    class Own(base):
        needs: ClassVar = frozenset({need, "values"} if base is p.Value else {need})

        def __call__(self, batch):
            seen.append(bool(FILLED[need](batch)))
            return super().__call__(batch)

    learner, answers = step(replace(find("reinforce"), name="own", credit=Own()))
    learner.step(answers)
    assert seen and all(seen)


@pytest.mark.parametrize("need", [name for name, entry in PREPARED.items() if entry.freeze])
@pytest.mark.parametrize("update", [p.GradientSteps(), p.NaturalStep(curvature_tokens=64, backtracks=1)])
def test_a_users_own_kl_gets_full_distributions(need, update):
    seen = []

    @dataclass(frozen=True)
    class Own(p.K2):
        @property
        def needs(self):
            return frozenset({need})

        def penalty(self, batch, scores, logp_BT, log_ratio_BT):
            kl_BT = {"ref_full": scores.ref_kl_BT, "old_full": scores.old_kl_BT}[need]
            seen.append(kl_BT is not None)
            return 0 * logp_BT

    learner, answers = step(override(find("trpo"), {"kl": Own(), "update": update}))
    learner.step(answers)
    assert seen and all(seen)


def test_an_unknown_need_is_refused_when_the_recipe_is_made():
    @dataclass(frozen=True)
    class Own(p.Credit):
        needs: ClassVar = frozenset({"valus"})

        def __call__(self, batch):
            return batch.reward_BT

    with pytest.raises(InputError, match=r"unknown need of the part Own: 'valus'\. Did you mean 'values'\?"):
        replace(find("reinforce"), credit=Own())

    @dataclass(frozen=True)
    class Odd(p.Importance):  # a surrogate may need something, too
        needs: ClassVar = frozenset({"bootstrapped"})

    with pytest.raises(InputError, match="unknown need of the part Odd: 'bootstrapped'"):
        replace(find("grpo"), surrogate=Odd())


# -- bootstrapping --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("shared", [False, True])
def test_truncated_answers_are_bootstrapped_with_the_value_after_their_last_token(shared, packs):
    recipe = override(find("a2c"), {"credit.bootstrap_truncated": True, "credit.critic.shared": shared})
    learner, answers = step(recipe, tokens=9, samples=4)
    torch.nn.init.normal_(learner.critic.head.weight, std=0.1)
    learner.critic.model = replace(learner.critic.model, packs=packs)
    batch = learner.prepare(answers.batch)
    cut_B, t = batch.truncated_B, answers.batch.tokens
    assert 0 < int(cut_B.sum()) < len(cut_B)
    for b in range(len(cut_B)):  # one row at a time, through the model's own forward
        ids = torch.cat([t.prompts[int(t.group_B[b])], t.tokens_BT[b, : int(t.length_B[b])]])
        hidden = learner.critic.model.hf.get_decoder()(input_ids=ids[None], use_cache=False).last_hidden_state[0, -1]
        expected = float(learner.critic.head(hidden.float()).detach()) if cut_B[b] else 0.0
        assert float(batch.bootstrap_B[b]) == pytest.approx(expected, abs=1e-5)
    plain = replace(recipe.credit, bootstrap_truncated=False)
    differs_B = (recipe.credit(batch) != plain(batch)).any(1)
    assert torch.equal(differs_B, cut_B), "only truncated answers are credited otherwise"
    assert torch.equal((recipe.credit.targets(batch) != plain.targets(batch)).any(1), cut_B), "and the critic's aim"


def test_the_switch_changes_what_is_learned():
    moved = {}
    for on in (False, True):
        recipe = override(
            find("value_baseline"), {"credit.bootstrap_truncated": on, "credit.critic.learning_rate": 1.0}
        )
        learner, answers = step(recipe, tokens=9, samples=4)
        learner.step(answers)
        moved[on] = learner.step(answers).metrics["grad_norm"]  # the head starts at zero: the second step sees values
    assert moved[True] != moved[False]


# -- every KL in every update -----------------------------------------------------------------------------------------------
KLS = [p.NoKL(), p.K1(), p.K2(), p.K2(where="reward"), p.K3(), p.K3(where="reward"), p.RatioK3(), p.StraightThrough(),
       p.SequenceK2(), p.FullKL()]  # fmt: skip
UPDATES = {
    "one step": p.GradientSteps(),
    "two passes of two": p.GradientSteps(epochs=2, minibatches=2),
    "natural": p.NaturalStep(curvature_tokens=32, max_kl=0.001, cg_iterations=2),
}


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("kl", KLS, ids=lambda kl: f"{type(kl).__name__}-{kl.where}")
def test_every_kl_works_in_every_update(kl, update):
    kl = replace(kl, coef=0.5 if kl.coef else 0.0)
    learner, answers = step(override(find("trpo"), {"kl": kl, "update": UPDATES[update]}))
    for _ in range(2):  # at first the policy is the reference
        metrics = learner.step(answers).metrics
        assert all(v == v for k, v in metrics.items() if k != "critic/explained_variance"), metrics
    assert metrics["update/steps"] == (4 if update == "two passes of two" else 1)


TRPO_3 = override(find("trpo"), {"update.max_kl": 0.02, "update.cg_iterations": 3, "update.curvature_tokens": 64})


def test_a_full_kl_holds_the_natural_step_back():
    far = {}
    for coef in (0.0, 50.0):
        learner, answers = step(override(TRPO_3, {"kl": p.FullKL(coef=coef)}))
        reference = LocalLearner(find("grpo"), MODEL, learner.hyper).reference
        for _ in range(3):
            learner.step(answers)
        logp_BT, ref_BT = learner.logp(learner.policy, answers.batch), learner.logp(reference, answers.batch)
        far[coef] = float((logp_BT - ref_BT).abs().sum())
    assert far[50.0] < 0.8 * far[0.0]


# -- minibatches ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("prompts", "parts"), [(6, 4), (10, 4), (8, 4), (7, 7), (9, 2), (5, 1), (64, 5)])
def test_minibatches_are_as_many_as_asked_for_and_as_even_as_can_be(prompts, parts):
    group_B = torch.arange(prompts).repeat_interleave(3)[torch.randperm(3 * prompts)]
    cut = minibatches(group_B, parts, seed=1)
    sizes = sorted(len(group_B[rows].unique()) for rows in cut)
    assert len(cut) == parts and sizes[-1] - sizes[0] <= 1
    assert sorted(torch.cat(cut).tolist()) == list(range(len(group_B)))
    assert sum(sizes) == prompts, "the answers to a prompt stay together"


def test_a_number_of_minibatches_that_divides_the_prompts_gives_the_parts_of_before():
    order = torch.randperm(8, generator=torch.Generator().manual_seed(5))
    for rows, expected in zip(minibatches(torch.arange(8), 4, seed=5), order.chunk(4), strict=True):
        assert sorted(expected.tolist()) == rows.tolist()


def test_more_minibatches_than_prompts_are_refused_before_the_run():
    how = {"temperature": 1.0, "is_full": True, "max_new_tokens": 8}
    refuse_sampling(find("ppo"), samples_per_prompt=2, rows=8, **how)
    with pytest.raises(InputError, match="4 minibatches of whole prompts, but a step has 3") as refused:
        refuse_sampling(find("ppo"), samples_per_prompt=2, rows=6, **how)
    assert "prompts_per_step=4" in str(refused.value)
    assert "overrides={'update.minibatches': 3}" in str(refused.value)
    with pytest.raises(InputError, match="the critic learns in 4 minibatches, but a step has 3 answers"):
        refuse_sampling(find("a2c"), samples_per_prompt=1, rows=3, **how)


@pytest.mark.parametrize("recipe", [r for r in all_recipes().values() if r.update.reuses_batch], ids=lambda r: r.name)
def test_a_step_takes_as_many_optimizer_steps_as_it_has_minibatches(recipe):
    recipe = override(
        recipe, {"entropy": 0.01, "kl": "NoKL", **({"credit.critic.warmup": 0} if "values" in recipe.needs else {})}
    )
    learner, answers = step(recipe, prompts=6)
    assert learner.step(answers).metrics["update/steps"] == recipe.update.epochs * recipe.update.minibatches
