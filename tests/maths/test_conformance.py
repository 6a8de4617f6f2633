"""Every recipe is a row here: join the family, inherit its tests.

A small world with everything that occurs: prompts interleaved, an observation inside an answer, a truncated answer, an
answer without a known reward, one without a token, step rewards, a sampler that differs from the trainer. The
policy is a table of logits, so that every gradient is exact in float64.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

import rung.parts as p
from rung.maths.logprob import entropy_of, full_kl
from rung.maths.objective import count, objective
from rung.recipe_io import all_recipes, from_dict, to_dict
from rung.recipes import Recipe
from rung.records import Batch, Scores, Totals

NAN = math.nan
RECIPES = all_recipes()
every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
MAX_TOKENS, V = 8, 4

# One unusual correction or KL in a recipe that is otherwise plain: parts of no recipe join the family as well.
GRPO = RECIPES["grpo"]
EXTRA = {
    str(type(x).__name__ if not isinstance(x, str) else x): recipe
    for x, recipe in {
        **{c: replace(GRPO, correction=c) for c in (p.TokenTIS(), p.SequenceTIS(), p.TokenMask(), p.SequenceMask())},
        **{c: replace(GRPO, correction=c) for c in (p.GeometricMask(0.5, 2.0), p.StaleNegativeMask(0.01))},
        **{k: replace(GRPO, kl=k) for k in (p.RatioK3(), p.StraightThrough(), p.SequenceK2(), p.FullKL())},
        **{a: replace(GRPO, aggregate=a) for a in (p.PromptMean(),)},
        **{c: replace(RECIPES["a2c"], credit=p.Value(c)) for c in (p.TD(), p.NStep(n=2))},
        "bootstrap": replace(RECIPES["a2c"], credit=p.Value(p.GAE(), bootstrap_truncated=True)),
        "discounted": replace(RECIPES["reward_to_go"], credit=p.RewardToGo(0.9, discount_state_weight=True)),
        "batch_loo": replace(RECIPES["batch_mean"], credit=p.BatchMean(leave_one_out=True)),
        "scaled only": replace(RECIPES["reinforce_pp_baseline"], normalize=p.Whiten(shift=False)),
        **{r: replace(GRPO, ratio=r) for r in (p.SequenceProduct(), p.PerDecision(), p.SequenceRatio())},
        "dual": replace(GRPO, surrogate=p.Clip(dual=3.0)),
        "two-sided": replace(GRPO, surrogate=p.Clip(two_sided=4.0)),
    }.items()
}
ROWS = {**RECIPES, **EXTRA}
every_row = pytest.mark.parametrize("recipe", ROWS.values(), ids=ROWS.keys())


@dataclass(frozen=True)
class World:
    """A batch, and what the policy is at each of its tokens."""

    batch: Batch
    token_BT: Tensor
    logits_BTV: Tensor
    old_BTV: Tensor
    ref_BTV: Tensor

    def rows(self, index) -> "World":
        return World(
            self.batch.rows(index), *(x[index] for x in (self.token_BT, self.logits_BTV, self.old_BTV, self.ref_BTV))
        )


LENGTHS = [3, 6, 4, 1, 0, 5, 2, 6, 3, 4]
GROUPS = [0, 1, 2, 0, 1, 2, 1, 0, 2, 1]
REWARDS = [1.0, 0.3, NAN, 0.0, 0.0, 1.0, 1.0, 0.5, -0.5, 0.0]


@pytest.fixture(scope="module")
def world(batch_of: Callable[..., Batch]) -> World:
    g = torch.Generator().manual_seed(3)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    B, T = len(LENGTHS), max(LENGTHS)
    mask_BT = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    mask_BT[1, 2], mask_BT[5, 0] = False, False  # observations
    plain = batch_of(REWARDS, mask=mask_BT.tolist(), group=GROUPS)
    step_end_BT = (plain.reward_BT != 0) | (plain.mask_BT & (torch.arange(T) % 3 == 1))
    dense_BT = plain.reward_BT + torch.where(step_end_BT & plain.mask_BT, 0.3 * rand(B, T), 0.0)
    logits = rand(B, T, V)
    token_BT = torch.randint(V, (B, T), generator=g)
    old, ref = logits + 0.15 * rand(B, T, V), logits + 0.4 * rand(B, T, V)
    at = lambda z: z.log_softmax(-1).gather(-1, token_BT[..., None])[..., 0]  # noqa: E731
    batch = replace(
        plain, reward_BT=dense_BT, step_end_BT=step_end_BT, old_logp_BT=at(old), ref_logp_BT=at(ref),
        behavior_logp_BT=at(old + 0.1 * rand(B, T, V)), value_BT=0.5 * rand(B, T),
        greedy_B=torch.tensor([0.4, NAN, 0.1], dtype=torch.float64)[plain.group_B], bootstrap_B=rand(B),
        truncated_B=torch.tensor([x == T for x in LENGTHS]),
    )  # fmt: skip
    return World(batch, token_BT, logits, old, ref)


def scores(w: World, logits: Tensor) -> Scores:
    log_p, log_old, log_ref = logits.log_softmax(-1), w.old_BTV.log_softmax(-1), w.ref_BTV.log_softmax(-1)
    logp_BT = log_p.gather(-1, w.token_BT[..., None])[..., 0]
    return Scores(logp_BT, entropy_of(log_p), full_kl(log_p, log_ref), full_kl(log_old, log_p))


def prepare(recipe: Recipe, batch: Batch) -> tuple[Batch, Tensor]:
    """The batch and its advantages as the loop makes them."""
    batch = replace(batch, state=recipe.initial_state())
    if "steps" not in recipe.needs:
        batch = replace(batch, step_end_BT=None)
    if recipe.data.drop_truncated:
        batch = replace(batch, keep_B=~batch.truncated_B)
    if not any(n in recipe.needs for n in ("ref_logp",)):
        batch = replace(batch, ref_logp_BT=None)
    shaped = recipe.kl.shape_reward(batch)
    return shaped, recipe.normalize(recipe.credit(shaped), shaped.mask_BT & shaped.valid_B[:, None])


def gain(recipe: Recipe, w: World, shaped: Batch, adv_BT: Tensor, total: Totals, logits: Tensor) -> Tensor:
    s = scores(w, logits)
    if "old_full" not in recipe.needs:
        s = replace(s, old_kl_BT=None)
    return objective(recipe, shaped, s, adv_BT, total)


def gradient(recipe: Recipe, w: World) -> Tensor:
    """dJ/dlogits of the whole batch."""
    shaped, adv_BT = prepare(recipe, w.batch)
    logits = w.logits_BTV.clone().requires_grad_()
    J = gain(recipe, w, shaped, adv_BT, count(shaped, MAX_TOKENS), logits)
    assert J.isfinite()
    return torch.autograd.grad(J, logits)[0]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@every_row
def test_the_world_moves_every_recipe(recipe, world):
    grad = gradient(recipe, world)
    in_loss_BT = prepare(recipe, world.batch)[0].loss_mask_BT
    assert (grad[~in_loss_BT] == 0).all()
    assert (grad[in_loss_BT] != 0).any(-1).sum() > 5


@every_row
@pytest.mark.parametrize("split", [[4, 6], [1] * 10], ids=["two parts", "row by row"])
def test_any_micro_batch_split_sums_to_the_same_gradient(recipe, world, split):
    shaped, adv_BT = prepare(recipe, world.batch)
    total = count(shaped, MAX_TOKENS)
    got = torch.zeros_like(world.logits_BTV)
    for rows in torch.arange(10).split(split):
        width = int(max(LENGTHS[int(b)] for b in rows)) or 1  # a micro-batch is narrowed to its longest answer
        part = world.rows(rows)
        narrow = {
            f.name: x[:, :width]
            for f in fields(Batch)
            if isinstance(x := getattr(shaped.rows(rows), f.name), Tensor) and x.dim() == 2
        }
        small = World(
            replace(shaped.rows(rows), **narrow),
            *(x[:, :width] for x in (part.token_BT, part.logits_BTV, part.old_BTV, part.ref_BTV)),
        )
        logits = small.logits_BTV.clone().requires_grad_()
        J = gain(recipe, small, small.batch, adv_BT[rows, :width], total, logits)
        got[rows, :width] += torch.autograd.grad(J, logits)[0]
    close(got, gradient(recipe, world))


@every_row
@pytest.mark.parametrize("junk", [NAN, 77.0], ids=str)
def test_tokens_off_the_mask_may_hold_anything(recipe, world, junk):
    def spoil(x: Tensor | None) -> Tensor | None:
        return None if x is None else torch.where(world.batch.mask_BT, x, junk)

    b = world.batch
    names = ("reward_BT", "behavior_logp_BT", "old_logp_BT", "ref_logp_BT", "value_BT")
    spoiled = replace(b, **{n: spoil(getattr(b, n)) for n in names}, step_end_BT=b.step_end_BT | ~b.mask_BT)
    shaped, adv_BT = prepare(recipe, spoiled)
    close(adv_BT, prepare(recipe, b)[1])
    s = scores(world, world.logits_BTV)
    leaves = [
        x.requires_grad_() for x in (spoil(s.logp_BT), spoil(s.entropy_BT), spoil(s.ref_kl_BT), spoil(s.old_kl_BT))
    ]
    J = objective(recipe, shaped, Scores(*leaves), adv_BT, count(shaped, MAX_TOKENS))
    grads = torch.autograd.grad(J, leaves, allow_unused=True)
    clean = [x.detach().clone().requires_grad_() for x in (s.logp_BT, s.entropy_BT, s.ref_kl_BT, s.old_kl_BT)]
    shaped, adv_BT = prepare(recipe, b)
    J_clean = objective(recipe, shaped, Scores(*clean), adv_BT, count(shaped, MAX_TOKENS))
    close(J, J_clean)
    for got, want in zip(grads, torch.autograd.grad(J_clean, clean, allow_unused=True), strict=True):
        if want is not None:
            close(got, want)


@every_row
def test_rows_may_come_in_any_order(recipe, world):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    close(gradient(recipe, world.rows(order)), gradient(recipe, world)[order])
    side_by_side = world.batch.group_B.argsort(stable=True)
    close(gradient(recipe, world.rows(side_by_side)), gradient(recipe, world)[side_by_side])


@every_row
def test_prompts_may_have_any_number(recipe, world):
    renamed = replace(world, batch=replace(world.batch, group_B=torch.tensor([4, 0, 2])[world.batch.group_B]))
    close(gradient(recipe, renamed), gradient(recipe, world))


@every_row
def test_wider_padding_changes_nothing(recipe, world):
    pad = lambda x: torch.cat([x, x[:, :3]], 1)  # noqa: E731
    wide = {
        f.name: pad(x) for f in fields(Batch) if isinstance(x := getattr(world.batch, f.name), Tensor) and x.dim() == 2
    }
    wide["mask_BT"][:, -3:] = False
    wider = World(
        replace(world.batch, **wide), *map(pad, (world.token_BT, world.logits_BTV, world.old_BTV, world.ref_BTV))
    )
    grad = gradient(recipe, wider)
    close(grad[:, :-3], gradient(recipe, world))
    assert (grad[:, -3:] == 0).all()


@every_row
def test_observations_equal_the_compacted_sequence(recipe, world):
    order_BT = world.batch.mask_BT.long().argsort(dim=1, descending=True, stable=True)

    def compact(x: Tensor) -> Tensor:
        return x.gather(1, order_BT.reshape(*order_BT.shape, *[1] * (x.dim() - 2)).expand_as(x))

    moved = {
        f.name: compact(x)
        for f in fields(Batch)
        if isinstance(x := getattr(world.batch, f.name), Tensor) and x.dim() == 2
    }
    small = World(
        replace(world.batch, **moved), *map(compact, (world.token_BT, world.logits_BTV, world.old_BTV, world.ref_BTV))
    )
    assert (small.batch.mask_BT != world.batch.mask_BT).any(), "there are observations"
    close(gradient(recipe, small), compact(gradient(recipe, world)))


@every_row
def test_what_an_invalid_row_holds_changes_nothing(recipe, world):
    b = world.batch
    bad_B = ~b.valid_B
    assert bad_B.sum() == 2
    reward = torch.where(bad_B[:, None] & b.mask_BT, 1e6, b.reward_BT)
    other = replace(b, reward_BT=reward, value_BT=torch.where(bad_B[:, None], -55.0, b.value_BT))
    close(gradient(recipe, replace(world, batch=other)), gradient(recipe, world))
    adv_BT = prepare(recipe, other)[1]
    assert (adv_BT[bad_B] == 0).all()


@every_row
def test_statistics_are_those_of_the_valid_rows_alone(recipe, world):
    adv_BT = prepare(recipe, world.batch)[1]
    valid = world.batch.valid_B.nonzero()[:, 0]
    close(prepare(recipe, world.batch.rows(valid))[1], adv_BT[valid])


# -- edges ------------------------------------------------------------------------------------------------------------
def all_equal(b: Batch) -> Batch:
    last_BT = b.mask_BT & (b.mask_BT.flip(1).cumsum(1).flip(1) == 1)
    return replace(b, reward_BT=last_BT * 0.1, ref_logp_BT=b.old_logp_BT)


def one_left(b: Batch) -> Batch:
    return replace(b, valid_B=torch.arange(len(b.valid_B)) == 5)


EDGES = {
    "all rewards equal": all_equal,
    "no reward known": lambda b: replace(
        b, reward_BT=torch.full_like(b.reward_BT, NAN), valid_B=torch.zeros_like(b.valid_B)
    ),
    "one valid answer left": one_left,
    "all answers cut and dropped": lambda b: replace(
        b, truncated_B=~b.truncated_B | True, keep_B=torch.zeros_like(b.keep_B)
    ),
    "some answers cut and dropped": lambda b: replace(b, keep_B=~b.truncated_B),
    "no token anywhere": lambda b: replace(b, mask_BT=torch.zeros_like(b.mask_BT), valid_B=torch.zeros_like(b.valid_B)),
    "far from the old policy": lambda b: replace(
        b, old_logp_BT=b.old_logp_BT - 300.0, behavior_logp_BT=b.old_logp_BT - 900.0
    ),
    "far from the reference": lambda b: replace(b, ref_logp_BT=b.ref_logp_BT - 300.0),
    "far above the reference": lambda b: replace(b, ref_logp_BT=b.ref_logp_BT + 300.0),
    "no greedy reward known": lambda b: replace(b, greedy_B=torch.full_like(b.greedy_B, NAN)),
    "large rewards": lambda b: replace(b, reward_BT=b.reward_BT * 1e9),
}


@every_row
@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES.keys())
def test_edges_are_finite(recipe, world, edge):
    spoiled = replace(world, batch=edge(world.batch))
    shaped, adv_BT = prepare(recipe, spoiled.batch)
    assert adv_BT.isfinite().all()
    assert (adv_BT[~(shaped.mask_BT & shaped.valid_B[:, None])] == 0).all()
    grad = gradient(recipe, spoiled)
    assert grad.isfinite().all()
    assert (grad[~shaped.loss_mask_BT] == 0).all()


@every_recipe
def test_equal_rewards_teach_a_group_nothing(recipe, world):
    adv_BT = prepare(recipe, all_equal(world.batch))[1]
    if "groups" in recipe.needs and "steps" not in recipe.needs:
        assert (adv_BT == 0).all()


@every_recipe
def test_truncated_answers_leave_the_loss_where_the_recipe_says_so(recipe, world):
    dropping = replace(recipe, data=replace(recipe.data, drop_truncated=True))
    cut = world.batch.truncated_B
    assert cut.any()
    assert (gradient(dropping, world)[cut] == 0).all()
    close(prepare(dropping, world.batch)[1], prepare(recipe, world.batch)[1])  # they stay in the statistics
    if not recipe.imitation:
        close(gradient(dropping, world)[~cut], gradient(recipe, world)[~cut])  # and in the denominators


# -- the connecting test ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ROWS)
def test_on_policy_all_recipes_are_one(name, world):
    """One update, sampler == trainer, the same credit and weights: PPO, GRPO, GSPO, CISPO, SAPO ... are REINFORCE."""
    here = on_policy(world)
    close(gradient(replace(ROWS[name], **SAME), here), gradient(replace(RECIPES["reinforce"], **SAME), here))


SAME = {
    "credit": p.LeaveOneOut(),
    "normalize": p.AsIs(),
    "kl": p.NoKL(),
    "aggregate": p.SequenceMean(),
    "entropy": 0.0,
    "imitation": 0.0,
}


def on_policy(world: World) -> World:
    logp_BT = scores(world, world.logits_BTV).logp_BT
    return replace(
        world, batch=replace(world.batch, old_logp_BT=logp_BT, behavior_logp_BT=logp_BT), old_BTV=world.logits_BTV
    )


def test_on_policy_the_kl_to_the_old_policy_has_no_gradient(world):
    here = on_policy(world)
    close(gradient(RECIPES["ppo_kl"], here), gradient(replace(RECIPES["ppo_kl"], trust=p.NoTrust()), here))


# -- recipes as data
@every_row
def test_json_round_trip(recipe):
    assert from_dict(json.loads(json.dumps(to_dict(recipe)))) == recipe


def test_more_needs():
    assert EXTRA["bootstrap"].needs == {"values", "bootstrap"}
    assert EXTRA["TokenTIS"].needs == {"groups", "ref_logp", "old_logp"}
    assert EXTRA["StaleNegativeMask"].needs == {"groups", "ref_logp"}
