"""polgrad 0.2.1, an independent implementation of the same papers: its ten algorithms against our recipes.

Same batch in, float64: the weights of the tokens, the advantages, the loss (ours is -J) and its gradient must agree.
Where a recipe differs from polgrad's entry, the field and the reason stand in TABLE; each is put back and must make a
difference, so that no explanation outlives what it explains. Behavior that no field can level follows as tests of its
own, named after the difference. One long file, because both halves need the same batch and the same two functions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import rung.parts as p
from rung.maths.credit import outcome_to_token
from rung.maths.kl import k1, k2, k3
from rung.maths.objective import count, objective
from rung.maths.value import gae
from rung.recipe_io import find
from rung.recipes import Recipe
from rung.records import Batch, Scores, Totals

pg = pytest.importorskip("polgrad", reason="installed by `make conformance`")

LIMIT = 16  # max_new_tokens: the budget M of Dr. GRPO, larger than any answer here
SEEDS = range(8)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def same(got: Tensor, want: Tensor, why: str | None = None) -> None:
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13, msg=why)


# -- one batch for both ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class World:
    batch: Batch
    logp_BT: Tensor  # what the policy says now

    @property
    def outcome_B(self) -> Tensor:
        return self.batch.reward_BT.sum(1)


def world(seed: int, drift: float = 0.3, *, longest: int = 7) -> World:
    """Four prompts with three answers each, rows interleaved, lengths 1 to `longest`, padding full of numbers."""
    g = torch.Generator().manual_seed(seed)
    B, T = 12, longest

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    length_B = torch.randint(1, T + 1, (B,), generator=g)
    length_B[0] = T
    mask_BT = torch.arange(T) < length_B[:, None]
    old_BT = -rand(B, T).abs() - 0.1
    batch = Batch(
        reward_BT=outcome_to_token(rand(B), mask_BT),
        mask_BT=mask_BT,
        group_B=torch.arange(B)[torch.randperm(B, generator=g)] % 4,
        valid_B=torch.ones(B, dtype=torch.bool),
        keep_B=torch.ones(B, dtype=torch.bool),
        truncated_B=torch.zeros(B, dtype=torch.bool),
        behavior_logp_BT=old_BT + 1.5 * rand(B, T),
        old_logp_BT=old_BT,
        ref_logp_BT=old_BT + 0.4 * rand(B, T),
        value_BT=rand(B, T),
    )
    return World(batch, old_BT + drift * rand(B, T))


@dataclass(frozen=True)
class Result:
    weight_BT: Tensor
    adv_BT: Tensor
    loss: Tensor
    grad_BT: Tensor


def ours(recipe: Recipe, w: World) -> Result:
    """As Learner.step does it."""
    batch = recipe.kl.shape_reward(replace(w.batch, state=recipe.initial_state()))
    adv_BT = recipe.normalize(recipe.credit(batch), batch.mask_BT & batch.valid_B[:, None])
    total, logp_BT = count(batch, LIMIT), w.logp_BT.clone().requires_grad_()
    loss = -objective(recipe, batch, Scores(logp_BT), adv_BT, total)
    (grad_BT,) = torch.autograd.grad(loss, logp_BT)
    return Result(recipe.aggregate(batch.mask_BT, batch.group_B, total), adv_BT, loss.detach(), grad_BT)


def theirs(spec: Any, w: World) -> Result:
    """As polgrad's registry entry and its notes say."""
    b, mask_BT = w.batch, w.batch.mask_BT
    reward_BT = b.reward_BT
    if spec.kl_placement == "reward":
        kl = spec.kl_reward
        reward_BT = pg.kl_in_reward(reward_BT, b.old_logp_BT, b.ref_logp_BT, kl.kind, kl.coef, response_mask=mask_BT)
    adv = {
        "grpo": lambda: pg.grpo_advantages(reward_BT.sum(1), b.group_B, spec.advantage_config),
        "rloo": lambda: pg.rloo_advantages(reward_BT.sum(1), b.group_B),
        "gae": lambda: pg.gae(reward_BT, b.value_BT, config=spec.advantage_config, response_mask=mask_BT)[0],
        "reinforce_pp": lambda: pg.whiten(to_go(reward_BT, mask_BT), mask_BT),  # "the paper-faithful composition"
    }[spec.advantage]()
    adv_BT = pg.broadcast_to_tokens(adv, mask_BT) if adv.dim() == 1 else adv
    loss_config = replace(spec.loss, norm_len=LIMIT) if spec.name == "dr_grpo" else spec.loss
    logp_BT = w.logp_BT.clone().requires_grad_()
    loss = pg.policy_loss(
        loss_config, logprobs=logp_BT, old_logprobs=b.old_logp_BT, advantages=adv_BT, response_mask=mask_BT,
        ref_logprobs=b.ref_logp_BT, rollout_logprobs=b.behavior_logp_BT,
    ).loss  # fmt: skip
    (grad_BT,) = torch.autograd.grad(loss, logp_BT)
    weight_BT = pg.effective_token_weights(mask_BT, loss_config.aggregation, norm_len=loss_config.norm_len)
    return Result(weight_BT, adv_BT, loss.detach(), grad_BT)


def to_go(reward_BT: Tensor, mask_BT: Tensor) -> Tensor:
    one = pg.GAEConfig(gamma=1.0, lam=1.0)
    return pg.gae(reward_BT, torch.zeros_like(reward_BT), config=one, response_mask=mask_BT)[0]


# -- the ten algorithms ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Row:
    """polgrad's algorithm as our recipe.

    variant:  what makes this recipe that algorithm (we have no rung of its own for it).
    differs:  field -> (polgrad's choice in our parts, why ours is another one).
    drift:    how far the policy has moved, so that clips bind for some tokens and not for others.
    """

    recipe: str
    variant: Mapping[str, Any] = field(default_factory=dict)
    differs: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    drift: float = 0.3

    def build(self, *, without: str = "") -> Recipe:
        changes = {name: part for name, (part, _) in self.differs.items() if name != without}
        return replace(find(self.recipe), **self.variant, **changes)


GAMMA = "the paper's 0.99 is for games; an answer's reward lies at its end, and 0.99 would be a length penalty"
TABLE = {
    "ppo": Row(
        "ppo",
        differs={
            "credit": (p.Value(p.GAE(gamma=0.99), critic=p.Critic(clip=0.2)), GAMMA),
            "normalize": (p.AsIs(), "every implementation for language models whitens; the paper does not say"),
            "kl": (p.NoKL(), "practice of RLHF: the KL to the reference is in the reward, coefficient 0.01"),
        },
    ),
    "grpo": Row("grpo"),
    "dr_grpo": Row("dr_grpo"),
    "dapo": Row("dapo"),
    "gspo": Row("gspo", drift=1e-3),
    "gspo_token": Row("gspo", drift=1e-3),
    "cispo": Row(
        "cispo",
        differs={"surrogate": (p.CISPO(high=1.2), "the paper hides its cap: polgrad takes verl's 1.2, we ScaleRL's 5")},
    ),
    "rloo": Row("rloo"),
    "reinforce_pp": Row(
        "reinforce_pp",
        differs={"aggregate": (p.SequenceMean(), "ours keeps PPO's mean over tokens; eq. 1 averages answers first")},
    ),
    "grpo_tis": Row("grpo", variant={"correction": p.TokenTIS(cap=10.0)}),
}
every_algorithm = pytest.mark.parametrize("name", TABLE)


def test_this_is_the_polgrad_that_the_table_describes():
    assert pg.__version__ == "0.2.1"
    assert set(TABLE) == set(pg.ALGORITHMS)


@every_seed
@every_algorithm
def test_weights_advantages_loss_and_gradient(name, seed):
    w = world(seed, TABLE[name].drift)
    got, want = ours(TABLE[name].build(), w), theirs(pg.get_algorithm(name), w)
    same(got.weight_BT, want.weight_BT, "weights")
    same(got.adv_BT, want.adv_BT, "advantages")
    same(got.loss, want.loss, "loss")
    same(got.grad_BT, want.grad_BT, "gradient")
    assert want.grad_BT.abs().sum() > 1e-3, "an equality of zeros would prove nothing"


@pytest.mark.parametrize(("name", "fieldname"), [(n, f) for n, row in TABLE.items() for f in row.differs])
def test_each_listed_difference_is_one(name, fieldname):
    """With this one field as in our recipe, the numbers are other ones: the reason in TABLE is needed."""
    row, w = TABLE[name], world(0, TABLE[name].drift)
    got, want = ours(row.build(without=fieldname), w), theirs(pg.get_algorithm(name), w)
    assert (got.grad_BT - want.grad_BT).abs().max() > 1e-5, "equal ones agree to 1e-10"
    assert row.differs[fieldname][1]


@pytest.mark.parametrize("name", ["ppo", "grpo", "dapo", "gspo", "gspo_token", "reinforce_pp"])
def test_the_same_tokens_are_clipped(name):
    seen = torch.zeros(2, dtype=torch.bool)
    for seed in SEEDS:
        w, recipe, spec = world(seed, TABLE[name].drift), TABLE[name].build(), pg.get_algorithm(name)
        b, adv_BT = w.batch, theirs(spec, w).adv_BT
        out = pg.policy_loss(
            replace(spec.loss, kl=None), logprobs=w.logp_BT, old_logprobs=b.old_logp_BT, advantages=adv_BT,
            response_mask=b.mask_BT,
        )  # fmt: skip
        low_BT, high_BT = recipe.surrogate.clipped(recipe.ratio(w.logp_BT, b.old_logp_BT, b.mask_BT), adv_BT)
        assert torch.equal(low_BT & b.mask_BT, out.clipped_low)
        assert torch.equal(high_BT & b.mask_BT, out.clipped_high)
        same(recipe.ratio(w.logp_BT, b.old_logp_BT, b.mask_BT).exp()[b.mask_BT], out.ratio[b.mask_BT])
        seen |= torch.stack([low_BT.any(), high_BT.any()])
        assert not (low_BT | high_BT | ~b.mask_BT).all()
    assert seen.all(), "both clips bind somewhere, or the test is empty"


# -- parts that no algorithm of the ten uses ------------------------------------------------------------------------
def config(**changes: Any) -> Any:
    plain = {
        "ratio": pg.RatioKind.TOKEN, "surrogate": pg.SurrogateKind.PG_CLIP, "clip": pg.ClipConfig(0.2, 0.2),
        "aggregation": pg.Aggregation.SEQ_MEAN_TOKEN_MEAN,
    }  # fmt: skip
    return pg.PolicyLossConfig(**{**plain, **changes})


GRPO = replace(find("grpo"), kl=p.NoKL())
EXTRA = {
    "dual clip": (replace(GRPO, surrogate=p.Clip(dual=1.5)), {"clip": pg.ClipConfig(0.2, 0.2, 1.5)}),
    "importance": (replace(GRPO, surrogate=p.Importance()), {"surrogate": pg.SurrogateKind.PG, "clip": None}),
    "two-sided CISPO, verl": (
        replace(GRPO, surrogate=p.CISPO(0.8, 1.2)),
        {"surrogate": pg.SurrogateKind.CISPO, "clip": pg.ClipConfig(0.2, 0.2)},
    ),
    "sequence TIS": (
        replace(GRPO, correction=p.SequenceTIS(2.0)),
        {"is_correction": pg.ISCorrectionConfig(2.0, "sequence")},
    ),
    "k2 in the loss": (replace(GRPO, kl=p.K2(0.1)), {"kl": pg.KLLossConfig(pg.KLEstimator.K2, 0.1)}),
    "sum over the answer": (
        replace(GRPO, aggregate=p.SequenceSum()),
        {"aggregation": pg.Aggregation.SEQ_MEAN_TOKEN_SUM},
    ),
}


@every_seed
@pytest.mark.parametrize(("recipe", "changes"), EXTRA.values(), ids=EXTRA)
def test_other_parts(recipe, changes, seed):
    w = world(seed, 0.6)
    spec = replace(pg.get_algorithm("grpo"), loss=config(**changes), kl_placement="loss" if "kl" in changes else "none")
    got, want = ours(recipe, w), theirs(spec, w)
    same(got.loss, want.loss, "loss")
    same(got.grad_BT, want.grad_BT, "gradient")


@every_seed
def test_kl_estimators(seed):
    w = world(seed)
    mask_BT, ref_BT = w.batch.mask_BT, w.batch.ref_logp_BT
    for kind, estimator in ((pg.KLEstimator.K1, k1), (pg.KLEstimator.K2, k2), (pg.KLEstimator.K3, k3)):
        want = pg.kl_estimate(w.logp_BT, ref_BT, kind, response_mask=mask_BT)
        same(estimator(w.logp_BT - ref_BT) * mask_BT, want, kind.value)


@every_seed
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.99, 0.95), (1.0, 0.0)])
def test_gae_targets_and_value_loss(gamma, lam, seed):
    b = world(seed).batch
    want_BT, returns_BT = pg.gae(
        b.reward_BT, b.value_BT, config=pg.GAEConfig(gamma=gamma, lam=lam), response_mask=b.mask_BT
    )
    same(gae(b.reward_BT, b.value_BT, b.mask_BT, gamma, lam), want_BT)
    part = p.Value(p.GAE(gamma, lam), critic=p.Critic(clip=0.5))
    same(part.targets(b), returns_BT)
    new_BT = (b.value_BT + 0.8 * b.old_logp_BT).requires_grad_()
    weight_BT = p.TokenMean()(b.mask_BT, b.group_B, count(b, LIMIT))
    for clip in (0.5, None):
        got = p.Critic(clip=clip).loss(new_BT, b.value_BT, returns_BT, weight_BT)
        want = pg.value_loss(
            new_BT, b.value_BT, returns_BT, b.mask_BT, clip_eps=clip, aggregation=pg.Aggregation.TOKEN_MEAN
        ).loss
        same(got, want)
        same(torch.autograd.grad(got, new_BT)[0], torch.autograd.grad(want, new_BT)[0])


@every_seed
def test_group_scales_and_epsilons(seed):
    """std over n or n-1 and any epsilon: the conventions of the frameworks are fields in both libraries."""
    w = world(seed)
    for eps in (1e-4, 1e-6, 1e-8, 0.0):
        for bessel in (True, False):
            want = pg.grpo_advantages(w.outcome_B, w.batch.group_B, pg.GroupNormConfig(eps=eps, unbiased=bessel))
            got = p.GroupMean(eps=eps, bessel=bessel)(w.batch)
            same(got, want[:, None] * w.batch.mask_BT)


def test_gspo_and_its_token_form_agree_for_one_advantage_per_answer():
    """In both libraries: the same loss, and the same gradient at each token."""
    w = world(1, 1e-3)
    a, b = (ours(TABLE[name].build(), w) for name in ("gspo", "gspo_token"))
    same(a.loss, b.loss)
    same(a.grad_BT, b.grad_BT)


# -- known differences: behavior, not fields ------------------------------------------------------------------------
def single() -> Batch:
    """Prompt 0 has one answer, prompt 1 has two."""
    w = world(0, longest=2).batch.rows([0, 1, 2])
    return replace(w, group_B=torch.tensor([0, 1, 1]))


def test_known_difference_groups_of_one():
    """polgrad refuses them with the std and for RLOO, and returns 0 for Dr. GRPO. Ours always asks, and then is 0."""
    b = single()
    with pytest.raises(ValueError, match="single reward"):
        pg.grpo_advantages(b.reward_BT.sum(1), b.group_B, pg.GroupNormConfig())
    with pytest.raises(ValueError, match="single reward"):
        pg.rloo_advantages(b.reward_BT.sum(1), b.group_B)
    none = pg.grpo_advantages(b.reward_BT.sum(1), b.group_B, pg.GroupNormConfig(scale="none"))
    assert none[0] == 0
    for part in (p.GroupMean(), p.GroupMean(scale="none"), p.LeaveOneOut()):
        with pytest.raises(ValueError, match="only one answer"):
            part(b)
        assert (replace(part, on_singleton="zero")(b)[0] == 0).all()
    same(replace(p.GroupMean(scale="none"), on_singleton="zero")(b), none[:, None] * b.mask_BT)


def test_known_difference_equal_rewards():
    """polgrad divides the rounding error of equal float32 rewards by eps. Ours: no difference, no signal, exactly 0."""
    reward_B, group_B = torch.full((7,), 0.1), torch.zeros(7, dtype=torch.int64)
    residue = pg.grpo_advantages(reward_B, group_B, pg.GroupNormConfig(eps=1e-9))
    assert residue.abs().max() > 0.5, "a full-sized advantage out of nothing"
    assert 0 < pg.grpo_advantages(reward_B, group_B, pg.GroupNormConfig()).abs().max() < 1e-3
    b = replace(world(0, longest=1).batch.rows(slice(0, 7)), group_B=group_B, reward_BT=reward_B[:, None])
    for eps in (1e-9, 1e-4):
        assert (p.GroupMean(eps=eps)(b) == 0).all()


def test_rewards_closer_than_a_millionth_differ():
    """That rule is relative to the rewards' own size: what really differs is learned, however small."""
    b = replace(single(), group_B=torch.zeros(3, dtype=torch.int64))
    b = replace(b, reward_BT=outcome_to_token(torch.tensor([0, 1e-7, 2e-7], dtype=torch.float64), b.mask_BT))
    want = pg.grpo_advantages(b.reward_BT.sum(1), b.group_B, pg.GroupNormConfig(eps=0.0))
    same(want, torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
    same(p.GroupMean(eps=0.0)(b), want[:, None] * b.mask_BT)


def test_known_difference_whitening_without_shift():
    """polgrad adds the mean back after dividing, so that signs may flip; ours only divides, so that none does."""
    w = world(3)
    x_BT, mask_BT = w.batch.value_BT + 1.0, w.batch.mask_BT
    std = x_BT[mask_BT].var().add(1e-8).sqrt()
    mean = x_BT[mask_BT].mean()
    ours_BT, theirs_BT = p.Whiten(shift=False)(x_BT, mask_BT), pg.whiten(x_BT, mask_BT, shift_mean=False)
    same(ours_BT, x_BT / std * mask_BT)
    same(theirs_BT - ours_BT, (mean - mean / std) * mask_BT, "another constant for every token")
    same(p.Whiten()(x_BT, mask_BT), pg.whiten(x_BT, mask_BT), "with the shift they agree")


def test_known_difference_nothing_to_whiten():
    one, two = torch.tensor([[True, False]]), torch.tensor([[True, True]])
    with pytest.raises(ValueError, match="at least 2"):
        pg.whiten(torch.ones(1, 2), one)
    assert (p.Whiten()(torch.ones(1, 2), one) == 0).all()
    assert (p.Whiten()(torch.ones(1, 2), two) == pg.whiten(torch.ones(1, 2), two)).all()


def test_known_difference_reinforce_pp_per_answer():
    """polgrad also has a version per answer, (R - mean R) / (std R + eps). At one token an answer it is the paper's."""
    settings = pg.ReinforcePPConfig(batch_norm=True, eps=0.0)
    recipe = replace(find("reinforce_pp"), kl=p.NoKL(), normalize=p.Whiten(eps=0.0))
    short, long = world(0, longest=1), world(0)
    for w, equal in ((short, True), (long, False)):
        want = pg.reinforce_pp_advantages(w.outcome_B, config=settings)[:, None] * w.batch.mask_BT
        got = ours(recipe, w).adv_BT
        assert torch.allclose(got, want, rtol=1e-10, atol=1e-12) == equal
    baseline_B = pg.reinforce_pp_advantages(long.outcome_B, long.batch.group_B, config=settings)
    adv_BT = ours(find("reinforce_pp_baseline"), long).adv_BT
    assert not torch.allclose(adv_BT[:, 0], baseline_B), "ours are statistics over tokens here as well"


def test_known_difference_log_ratios_beyond_20():
    """Ours cuts log-ratios and log(pi/pi_ref) at +-20 before exp, without gradient beyond; polgrad does not."""
    b = world(0, longest=1).batch.rows([0])
    logp_BT = (b.old_logp_BT + 25.0).requires_grad_()
    scores, adv_BT, total = Scores(logp_BT), -torch.ones(1, 1, dtype=torch.float64), Totals(1, 1, 1)
    out = pg.policy_loss(
        config(surrogate=pg.SurrogateKind.PG, clip=None), logprobs=logp_BT, old_logprobs=b.old_logp_BT,
        advantages=adv_BT, response_mask=b.mask_BT,
    )  # fmt: skip
    J = objective(replace(GRPO, surrogate=p.Importance()), b, scores, adv_BT, total)
    assert out.loss.item() == pytest.approx(math.exp(25))
    assert -J.item() == pytest.approx(math.exp(20))
    assert torch.autograd.grad(out.loss, logp_BT)[0].item() == pytest.approx(math.exp(25))
    assert torch.autograd.grad(J, logp_BT)[0].item() == 0
    far = pg.kl_estimate(b.old_logp_BT, b.old_logp_BT + 25, pg.KLEstimator.K3, response_mask=b.mask_BT)
    b = replace(b, ref_logp_BT=b.old_logp_BT + 25)
    near = p.K3().penalty(b, Scores(b.old_logp_BT), b.old_logp_BT, adv_BT)
    assert (far.item(), near.item()) == pytest.approx((math.exp(25) - 26, math.exp(20) - 21))


def test_known_difference_answers_without_a_token():
    """polgrad refuses a batch with one; ours counts it in B, as an answer that says nothing."""
    b = world(0).batch
    mask_BT = b.mask_BT.clone()
    mask_BT[3] = False
    with pytest.raises(ValueError, match="response_mask"):
        pg.effective_token_weights(mask_BT, pg.Aggregation.SEQ_MEAN_TOKEN_MEAN)
    weight_BT = p.SequenceMean()(mask_BT, b.group_B, count(replace(b, mask_BT=mask_BT), LIMIT))
    same(weight_BT.sum(1), (torch.arange(12) != 3) / torch.tensor(12.0).double())


def test_known_difference_observations_inside_an_answer():
    """polgrad's GAE wants right-padded masks; ours steps over what the policy did not sample."""
    hole = torch.tensor([[True, False, True]])
    reward_BT, value_BT = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 9.0, 0.25]])
    with pytest.raises(ValueError, match="right-padded"):
        pg.gae(reward_BT, value_BT, config=pg.GAEConfig(gamma=0.9, lam=0.5), response_mask=hole)
    dense, _ = pg.gae(
        reward_BT[:, ::2], value_BT[:, ::2], config=pg.GAEConfig(gamma=0.9, lam=0.5), response_mask=hole[:, ::2]
    )
    same(gae(reward_BT, value_BT, hole, 0.9, 0.5)[:, ::2], dense, "as if the answer had been compacted")


def test_known_difference_micro_batches():
    """polgrad computes how far local denominators go astray; ours are counted over the step, so that none does."""
    b, total = world(2).batch, count(world(2).batch, LIMIT)
    whole = pg.effective_token_weights(b.mask_BT, pg.Aggregation.TOKEN_MEAN)
    astray = pg.microbatch_token_weights(b.mask_BT, pg.Aggregation.TOKEN_MEAN, [9, 3])
    split = [p.TokenMean()(b.rows(r).mask_BT, b.rows(r).group_B, total) for r in (slice(0, 9), slice(9, 12))]
    same(torch.cat(split), whole)
    assert (astray - whole).abs().max() > 1e-3


def test_known_difference_rows_kept_out_of_the_loss():
    """A row dropped from polgrad's one mask makes the others larger; our keep_B leaves the denominators alone."""
    w, drop_B = world(4), torch.arange(12) == 5
    kept = World(replace(w.batch, keep_B=~drop_B), w.logp_BT)
    rest = World(w.batch.rows(~drop_B), w.logp_BT[~drop_B])
    recipe = replace(GRPO, credit=p.TotalReturn())
    got, without = ours(recipe, kept), ours(recipe, rest)
    assert (got.grad_BT[5] == 0).all()
    same(got.grad_BT[~drop_B] * 12 / 11, without.grad_BT)
