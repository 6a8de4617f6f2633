"""Parts put together at random, from every slot of a recipe: each composition is refused with a reason, or is right.

Right is what its parts promise on-policy (the sampler, pi_old and pi are one):
- of every batch, the gradient is the plain score-function form of its own parts,
      sum_bt m_bt w_bt [A_bt grad log pi_bt - beta kappa'_bt + c_H grad H_bt] + mu grad mean log pi of right answers,
  with A of its credit and normalization, w of its aggregate, kappa' the gradient that its KL declares. That holds whatever
  bias those parts have by themselves: std, length means, TD with an inexact critic, masks. Ratio, surrogate, correction
  and the KL to the old policy have to leave it as it is;
- where each of these parts is unbiased by itself, the expected gradient is the true one up to a positive constant.
And two training steps on a tiny model keep every number finite.
"""

from __future__ import annotations

import contextlib
import functools
import random
import types
import typing
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace

import pytest
import torch
from torch import Tensor

import rung.parts as p
from rung.errors import InputError
from rung.exact.causes import STRAIGHT
from rung.exact.estimate import Estimate
from rung.exact.oracle import advantages, all_batches, batch_gradients
from rung.exact.world import Condition, Scene, World, scene
from rung.maths.kl import difference
from rung.maths.objective import count
from rung.models import starter
from rung.network import model as models
from rung.recipe_io import LABELS, PARTS, all_recipes
from rung.recipe_rules import refuse_sampling
from rung.recipes import Recipe
from rung.records import Batch, SamplingLaw
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.settings.ranges import FINITE, hints, options_of
from rung.tasks import registry
from rung.training.learner import Hyper, LocalLearner

torch.set_num_threads(1)
F64 = torch.float64


# -- drawing ---------------------------------------------------------------------------------------------------------------
def draw_part(kinds: tuple[type, ...], g: random.Random) -> typing.Any:
    cls: typing.Any = g.choice(kinds)
    return cls(**{f.name: draw_field(cls, f, g) for f in fields(cls)})


def draw_field(cls: type, f: Field, g: random.Random) -> typing.Any:
    """Any legal value of a field: its default every second time, so that parts meet as they are mostly used."""
    options = options_of(hints(cls)[f.name])
    kinds = tuple(x for x in options if is_dataclass(x))
    usual = f.default if f.default is not MISSING else f.default_factory()
    if (type(None) in options or not kinds) and g.random() < 0.5:
        return usual
    if kinds:
        return draw_part(kinds, g)
    option = g.choice([x for x in options if x is not type(None)])
    if option is bool:
        return g.random() < 0.5
    return g.choice(typing.get_args(option)) if typing.get_origin(option) is typing.Literal else draw_number(option, g)


def draw_number(option: typing.Any, g: random.Random) -> float:
    """A number inside the range of its annotation: an end of it, or one between a thousandth and ten."""
    kind, (ranged, *_) = (
        (option, (FINITE,)) if option in (int, float) else (lambda k, *r: (k, r))(*typing.get_args(option))
    )
    if kind is int:
        return int(ranged.low) + g.randrange(ranged.above, 4)
    ends = [x for x in (ranged.low, ranged.high) if x is not None and abs(x) < 100 and ranged.holds(x)]
    if ends and g.random() < 0.3:
        return float(g.choice(ends))
    return next(x for x in iter(lambda: 10 ** g.uniform(-3, 1), None) if ranged.holds(x))


def slots() -> dict[str, tuple[type, ...]]:
    """Each field of a recipe that a part fills, with every part that fits."""
    out = {}
    for f in fields(Recipe):
        hint = typing.get_type_hints(Recipe)[f.name]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        found = tuple(x for x in PARTS.values() if issubclass(x, tuple(o for o in options if isinstance(o, type))))
        if found and f.name not in LABELS:
            out[f.name] = tuple(x for x in found if x.__name__ != "ReferenceKL")
    return out


SLOTS = slots()
EXACT = {"normalize": (p.AsIs,), "kl": (p.NoKL, p.K1), "aggregate": (p.SequenceSum, p.FixedBudget)}


def draw(seed: int) -> dict[str, typing.Any]:
    """The fields of one composition. Ratio and surrogate are drawn as a pair every second time: most others are refused."""
    g = random.Random(seed)
    parts = {name: draw_part(kinds, g) for name, kinds in SLOTS.items()}
    if g.random() < 0.5:
        plain = g.random() < 0.3
        parts["ratio"] = p.NoRatio() if plain else draw_part(tuple(x for x in SLOTS["ratio"] if x is not p.NoRatio), g)
        moved = tuple(x for x in SLOTS["surrogate"] if x not in (p.ScoreFunction, p.MirrorDescent))
        parts["surrogate"] = draw_part((p.ScoreFunction, p.MirrorDescent) if plain else moved, g)
    if g.random() < 0.5:
        parts |= {"update": p.GradientSteps(), "correction": p.NoCorrection()}
    terms = {name: g.choice((0.0, 0.1, 10 ** g.uniform(-3, 1))) for name in ("entropy", "imitation")}
    if g.random() < 0.3:  # parts that are unbiased more often than not, which chance alone hardly ever puts together
        parts |= {name: draw_part(kinds, g) for name, kinds in EXACT.items()} | {"data": p.Data()}
        terms = {"entropy": 0.0, "imitation": 0.0}
    if isinstance(parts["update"], p.NaturalStep) and g.random() < 0.5:
        parts |= {"ratio": p.TokenRatio(), "surrogate": p.Importance(), "trust": p.NoTrust()}
        terms["imitation"] = 0.0
    return {**parts, **terms}


# -- what the parts promise --------------------------------------------------------------------------------------------------
WORLD = World(vocabulary=3, horizon=2, prompts=1, samples=2, reward="dense", policy="mlp")
TWO = replace(WORLD, prompts=2)


def kappa_slope(kl: p.ReferenceKL, batch: Batch, logp_BT: Tensor) -> Tensor | None:
    """d kappa / d log pi of each token where kappa acts through log pi (None: through the full distribution)."""
    delta_BT = difference(logp_BT, batch.ref_logp_BT, batch.mask_BT)
    return {
        p.K2: delta_BT,
        p.K3: -torch.expm1(-delta_BT),
        p.RatioK3: delta_BT,  # k3 from rho, 1 - exp(-delta) from k3
        p.StraightThrough: delta_BT,
        p.SequenceK2: delta_BT.sum(1, keepdim=True).expand_as(delta_BT),
        p.FullKL: None,
    }[type(kl)]


def promised(recipe: Recipe, s: Scene) -> Tensor:
    """The plain score-function form of each batch's gradient: [N, D]."""
    rows, batches = s.rows(recipe), all_batches(recipe, s)
    shaped = recipe.kl.shape_reward(rows)
    adv_NBT = advantages(recipe, s, rows, shaped, batches)
    T, D = s.world.horizon, len(s.theta)
    jacobian = s.jacobian.view(4, -1, T, D)  # of log pi, entropy, KL to ref, KL to old at each cell
    logp_CT = s.score_values[0].view(-1, T)
    out_ND = []
    for cells, adv_BT in zip(batches.cells_NB, adv_NBT, strict=True):
        batch = replace(shaped.rows(cells), group_B=batches.group_B)
        total = count(batch, T)
        weight_BT = recipe.aggregate(batch.mask_BT, batch.group_B, total) * batch.loss_mask_BT
        slope_BT, full_BT = weight_BT * adv_BT, torch.zeros_like(weight_BT)
        if recipe.kl.coef and recipe.kl.where == "loss":
            kappa_BT = kappa_slope(recipe.kl, batch, logp_CT[cells])
            if kappa_BT is None:
                full_BT = -recipe.kl.coef * weight_BT
            else:
                slope_BT = slope_BT - recipe.kl.coef * weight_BT * kappa_BT
        if recipe.imitation:
            right_B = batch.valid_B & (s.reward_PAT.sum(-1).flatten()[cells] > 0)
            N_plus = max(int((batch.mask_BT & right_B[:, None]).sum()), 1)
            slope_BT = slope_BT + recipe.imitation * (batch.loss_mask_BT & right_B[:, None]).to(F64) / N_plus
        pulls = (slope_BT, recipe.entropy * weight_BT, full_BT)
        out_ND.append(sum(torch.einsum("bt,btd->d", x_BT, jacobian[k][cells]) for k, x_BT in enumerate(pulls)))
    return torch.stack(out_ND)


def unbiased_by_parts(r: Recipe) -> bool:
    """Whether every part is unbiased by itself, up to a constant, in a world of one prompt with an exact critic."""
    kl_exact = not r.kl.coef or isinstance(r.kl, p.K1)
    if isinstance(r.kl, p.SequenceK2):
        kl_exact = r.aggregate == p.SequenceSum() or not r.kl.coef
    credit = r.credit
    gammas = {getattr(x, "gamma", 1.0) for x in (credit, getattr(credit, "estimator", None))}
    exact_credit = not isinstance(credit, p.StepMean | p.LengthWeighted) and gammas == {1.0}
    if isinstance(credit, p.GroupMean):
        exact_credit = credit.scale == "none"
    if isinstance(credit, p.BatchMean) and not credit.leave_one_out and r.kl.coef:
        exact_credit = False  # 1 - 1/B scales the reward and its KL, not a KL in the loss
    plain = isinstance(r.normalize, p.AsIs) and isinstance(r.aggregate, p.SequenceSum | p.FixedBudget)
    return (
        plain
        and kl_exact
        and exact_credit
        and not (r.entropy or r.imitation or r.data.drop_truncated or r.data.resample)
    )


def check_promise(recipe: Recipe, world: World) -> None:
    s = scene(world, Condition())
    got_ND, want_ND = batch_gradients(recipe, s, batches := all_batches(recipe, s)), promised(recipe, s)
    torch.testing.assert_close(got_ND, want_ND, rtol=1e-9, atol=1e-11)
    if unbiased_by_parts(recipe):
        mean, zero = batches.weight_N @ got_ND, torch.zeros(len(s.theta), len(s.theta), dtype=F64)
        estimate = Estimate(mean, s.true_gradient(recipe), zero, len(got_ND))
        assert estimate.bend < STRAIGHT, f"E[g] bends away from grad J: cosine {estimate.cosine}"


# -- two steps on a tiny model -------------------------------------------------------------------------------------------------
LAW = SamplingLaw(max_new_tokens=6)


@functools.cache
def policy() -> tuple[models.Model, dict[str, Tensor]]:
    model = models.load(str(starter.path()))
    return model, {k: v.clone() for k, v in model.hf.state_dict().items()}


def check_training(recipe: Recipe) -> None:
    model, start = policy()
    model.hf.load_state_dict(start)
    learner = LocalLearner(recipe, model, Hyper(learning_rate=1e-3, max_new_tokens=6))
    env, greedy, steps = registry.load("chained_arithmetic").train, "greedy" in recipe.needs, "steps" in recipe.needs
    collector = Collector(env, model.codec, TorchSampler(model), LAW, recipe.data, 3, 2, 0, greedy=greedy, steps=steps)
    for step in range(2):
        metrics = learner.step(collector.collect(step, learner.state)).metrics
        unknown = {k for k, v in metrics.items() if v != v or abs(v) == float("inf")} - {"critic/explained_variance"}
        assert not unknown
        assert all(x.isfinite().all() for x in learner.parameters)


def check_composition(seed: int) -> bool:
    """Whether the composition was accepted; what is wrong with it raises."""
    try:
        recipe = Recipe(name=f"composition {seed}", **draw(seed))
        refuse_sampling(recipe, samples_per_prompt=2, rows=6, temperature=1.0, is_full=True, max_new_tokens=6)
    except InputError:  # anything else is an error of ours
        return False
    check_promise(recipe, WORLD)
    check_training(recipe)
    return True


# -- the tests -------------------------------------------------------------------------------------------------------------------
SOME, ALL = 60, 300


@pytest.mark.parametrize("ten", range(SOME // 10))
def test_a_composition_is_refused_with_a_reason_or_right(ten):
    assert sum(check_composition(seed) for seed in range(10 * ten, 10 * ten + 10)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("ten", range(SOME // 10, ALL // 10))
def test_so_are_many_more(ten):
    assert sum(check_composition(seed) for seed in range(10 * ten, 10 * ten + 10)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_and_with_two_prompts(seed):
    try:
        recipe = Recipe(name=f"composition {seed}", **draw(seed))
    except InputError:
        return
    check_promise(recipe, TWO)


@pytest.mark.parametrize("name", all_recipes())
def test_every_recipe_keeps_the_promise_of_its_parts(name):
    check_promise(all_recipes()[name], WORLD)


def test_the_draws_reach_every_part_and_a_quarter_is_accepted():
    seen, accepted, exact = set(), 0, 0
    for seed in range(4 * ALL):
        with contextlib.suppress(InputError):
            recipe = Recipe(name="x", **draw(seed))
            seen |= {type(getattr(recipe, name)) for name in SLOTS} | {type(getattr(recipe.credit, "estimator", None))}
            exact, accepted = exact + unbiased_by_parts(recipe), accepted + 1
    assert {x for kinds in SLOTS.values() for x in kinds} | {p.GAE, p.MC, p.TD, p.NStep, p.LengthAdaptiveGAE} <= seen
    assert accepted >= ALL and exact >= ALL // 10


@pytest.mark.parametrize(
    "parts",
    [
        {"ratio": p.PerDecision(), "credit": p.GroupMean(scale="none")},
        {"ratio": p.SequenceRatio(), "credit": p.RewardToGo()},
        {"ratio": p.SequenceProduct(), "credit": p.Value(p.GAE())},
        {"ratio": p.SequenceProduct(), "aggregate": p.TokenMean()},
        {"surrogate": p.GMPO(), "credit": p.Value(p.GAE())},
        {"surrogate": p.MirrorDescent(), "ratio": p.NoRatio(), "credit": p.Value(p.GAE())},
        {"ratio": p.SequenceRatio(), "kl": p.RatioK3(0.5)},
        {"ratio": p.PerDecision(), "kl": p.RatioK3(0.5)},
    ],
    ids=lambda parts: " ".join(type(x).__name__ for x in parts.values()),
)
def test_shared_ratios_stay_right_for_credit_and_weights_per_token(parts):
    check_promise(Recipe(**{"name": "x", "ratio": p.TokenRatio(), "surrogate": p.Importance(), **parts}), WORLD)


def test_a_ratio_whose_gradient_is_shared_breaks_the_promise():
    @dataclass(frozen=True)
    class Shared(p.Ratio):
        """log rho_b = sum_t Delta_bt with the gradient of all of them, on every token."""

        def __call__(self, logp_BT: Tensor, old_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
            d_BT = torch.where(mask_BT, logp_BT - old_logp_BT, 0.0)
            return d_BT.sum(1, keepdim=True).expand_as(d_BT)

    recipe = Recipe(name="x", ratio=Shared(), surrogate=p.Importance(), credit=p.RewardToGo())
    with pytest.raises(AssertionError, match="not close"):
        check_promise(recipe, WORLD)
