"""Regression tests named after real bugs of other frameworks. Each asks for the right number where they had another."""

import math
from dataclasses import replace

import pytest
import torch

import rung.parts as p
from rung.errors import InputError
from rung.maths.kl import k1, k3
from rung.maths.logprob import token_logprob
from rung.maths.objective import count, objective
from rung.recipe_io import all_recipes, find
from rung.records import Scores, State, Totals

NAN = math.nan


def f(x):
    return torch.tensor(x, dtype=torch.float64)


def same(got, want, why=None):
    torch.testing.assert_close(got, f(want) if isinstance(want, list) else want, rtol=1e-12, atol=1e-12, msg=why)


# -- returns and masks ------------------------------------------------------------------------------------------------
def test_verl_reinforce_pp_resets_the_return_at_an_observation(batch_of):
    """verl core_algos.py 609-613, issue 7278: mask 1101 and reward 1 gave [0, 0, 1, 1]."""
    batch = batch_of([[0.0, 0.0, 0.0, 1.0]], mask=[[1, 1, 0, 1]])
    same(p.RewardToGo()(batch), [[1.0, 1.0, 0.0, 1.0]])


def test_openrlhf_gae_discounts_observations(batch_of):
    """OpenRLHF experience_maker.py 361-377: one more gamma lambda for every observation token."""
    hole = batch_of([[0.0, 0.0, 1.0]], mask=[[1, 0, 1]], value_BT=[[0.0, 5.0, 0.0]])
    same(p.Value(p.GAE(gamma=0.9, lam=0.5))(hole), [[0.45, 0.0, 1.0]], "0.9 * 0.5, not squared")


def test_trl_ppo_puts_the_reward_behind_the_end_token(batch_of):
    """TRL ppo_trainer.py 727: the reward at the first padding position costs one more gamma lambda step."""
    batch = batch_of([1.0], lengths=[2], value_BT=[[0.0, 0.0]])
    same(batch.reward_BT, [[0.0, 1.0]], "on the last action, the end token")
    same(p.Value(p.GAE(lam=0.5))(batch), [[0.5, 1.0]])


def test_end_tokens_masked_because_pad_is_eos(batch_of):
    """rlhf-book rollout.py 139, tiny-grpo train.py 93, TRL 6357: a mask from token ids loses the end token."""
    pad = eos = 0
    tokens_BT, length_B = torch.tensor([[5, 6, eos, pad], [7, eos, pad, pad]]), torch.tensor([3, 2])
    from_lengths_BT = torch.arange(4) < length_B[:, None]
    assert ((tokens_BT != pad).sum(1) == length_B - 1).all(), "the ids alone lose one action a row"
    batch = batch_of([1.0, 0.0], mask=from_lengths_BT.tolist())
    assert count(batch, 4).tokens == 5
    same(p.TotalReturn()(batch), [[1.0, 1.0, 1.0, 0.0], [0.0] * 4], "the end token is an action and is credited")


def test_verl_value_of_an_empty_answer_indexes_backwards(batch_of):
    """verl reward_manager/dapo.py 116: valid_len - 1 = -1 writes the reward into the last column."""
    batch = batch_of([3.0, 1.0], lengths=[0, 2])
    same(batch.reward_BT[0], [0.0, 0.0])
    assert batch.valid_B.tolist() == [False, True]
    same(p.TotalReturn()(batch)[0], [0.0, 0.0])


# -- baselines --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [4, 8, 16, 64])
def test_verl_4597_equal_rewards_divided_by_the_residue_of_their_std(batch_of, size):
    """verl 4597 and 4598, NeMo-RL 4161 (advantage 7428): identical float32 rewards, std 1e-9, eps 1e-9."""
    reward = torch.tensor([0.1] * size, dtype=torch.float32).tolist()
    batch = replace(batch_of(reward), reward_BT=torch.tensor(reward, dtype=torch.float32)[:, None])
    for eps in (1e-9, 1e-4, 0.0):
        for scale in ("group", "batch", "mean", "none"):
            assert (p.GroupMean(scale=scale, eps=eps)(batch) == 0).all()
    assert (p.Whiten(eps=0.0)(batch.reward_BT, batch.mask_BT) == 0).all()


def test_verl_group_of_one_gets_its_raw_reward(batch_of):
    """verl core_algos.py 312-328 and 519: a group of one has mean 0 and std 1, so A = R = .7."""
    batch = batch_of([0.7])
    for part in (p.GroupMean(), p.LeaveOneOut()):
        with pytest.raises(ValueError, match="only one answer"):
            part(batch)
        assert replace(part, on_singleton="zero")(batch).item() == 0


def test_grpo_zero_groups_prompts_by_their_text(batch_of):
    """GRPO-Zero grpo.py 117: two prompts with one text merge. Here a group is a number."""
    batch = batch_of([0.0, 1.0, 5.0, 7.0], group=[0, 0, 1, 1])
    same(p.GroupMean(scale="none")(batch)[:, 0], [-0.5, 0.5, -1.0, 1.0])


def test_unscorable_answers_counted_as_wrong(batch_of):
    """A verifier that timed out is not a wrong answer: it leaves statistics and loss."""
    batch = batch_of([1.0, NAN, 0.0])
    same(p.LeaveOneOut()(batch)[:, 0], [1.0, 0.0, -1.0], "the others are one answer, not two")


def test_cleanrl_whitens_each_minibatch(batch_of):
    """cleanrl ppo.py 262: statistics of a part depend on the split; ours are taken once, before it."""
    adv_BT, mask_BT = f([[1.0], [2.0], [3.0], [6.0]]), torch.ones(4, 1, dtype=torch.bool)
    whole = p.Whiten()(adv_BT, mask_BT)
    split = torch.cat([p.Whiten()(adv_BT[:2], mask_BT[:2]), p.Whiten()(adv_BT[2:], mask_BT[2:])])
    assert (whole - split).abs().max() > 0.3, "why it matters"
    assert list(p.Whiten.__call__.__annotations__)[:2] == ["adv_BT", "mask_BT"]


def test_rlhf_book_whitens_over_padding():
    """rlhf-book ch. 6: padding in the mean and std. Widening the padding must change nothing."""
    adv, mask = f([[1.0, 2.0], [6.0, 0.0]]), torch.tensor([[True, True], [True, False]])
    wide = p.Whiten()(torch.cat([adv, 0 * adv], 1), torch.cat([mask, mask & False], 1))
    same(wide[:, :2], p.Whiten()(adv, mask))


# -- denominators -----------------------------------------------------------------------------------------------------
LENGTHS = [6, 2, 4, 4, 2, 6, 8, 4]


def step(part, split, batch_of):
    """The weight of each row's first token when the step is split into parts."""
    batch = batch_of([1.0] * 8, lengths=LENGTHS)
    total = count(batch, 16)
    return torch.cat(
        [part(batch.rows(rows).mask_BT, batch.rows(rows).group_B, total)[:, 0] for rows in torch.arange(8).split(split)]
    )


@pytest.mark.parametrize(
    "part", [p.TokenMean(), p.FixedBudget(), p.SequenceMean(), p.SequenceSum(), p.PromptMean()], ids=str
)
def test_verl_and_trl_bnpo_divide_by_the_tokens_of_the_micro_batch(batch_of, part):
    """verl dp_actor.py: split [6, 2] gave .0357 and .0167 where .0278 is right; TRL 5619, prime: local denominators."""
    same(step(part, [6, 2], batch_of), step(part, [8], batch_of))
    if isinstance(part, p.TokenMean):
        same(step(part, [6, 2], batch_of), f([1 / 36] * 8))


def test_verl_sum_norm_forgets_the_batch_and_uses_the_padded_width(batch_of):
    """verl core_algos.py 1072, issue 3741: no division by B, and M is whatever the batch is padded to."""
    batch = batch_of([1.0, 1.0], lengths=[2, 3])
    wide = torch.nn.functional.pad(batch.mask_BT, (0, 9))
    total = count(batch, 16)
    weight = p.FixedBudget()(wide, batch.group_B, total)
    assert weight[wide].unique().tolist() == [1 / 32]
    assert count(batch.rows(slice(0, 1)), 16).sequences == 1


def test_length_plus_epsilon(batch_of):
    """verl core_algos.py 1067: L + 1e-8 instead of a clamp makes a row weigh less than 1/B."""
    batch = batch_of([1.0, 1.0], lengths=[1, 3])
    same(p.SequenceMean()(batch.mask_BT, batch.group_B, count(batch, 4)).sum(1), [0.5, 0.5])


def test_verl_drops_masked_rows_from_the_denominator(batch_of):
    """verl core_algos.py 1068: filtering one row makes the others larger."""
    batch = batch_of([1.0, 2.0], lengths=[2, 2])
    dropped = replace(batch, keep_B=torch.tensor([True, False]))
    assert count(dropped, 4).sequences == count(batch, 4).sequences == 2
    assert count(dropped, 4).tokens == 4


def test_verl_dual_clip_is_always_on():
    """verl core_algos.py 1229 cannot switch it off; here it is a field whose default is off."""
    part = p.Clip()
    assert (part.dual, part.two_sided) == (None, None)
    assert part(f([[math.log(50)]]), f([[0.0]]), f([[-1.0]]), torch.tensor([[True]])).item() == pytest.approx(-50)


# -- KL ---------------------------------------------------------------------------------------------------------------
PI, REF = f([0.7, 0.2, 0.1]), f([0.2, 0.5, 0.3])
KL = float((PI * (PI / REF).log()).sum())


def test_rlhf_book_k3_points_the_wrong_way():
    """rlhf-book loss.py 30: expm1(log pi - log ref) - (...) has the expectation chi^2 - KL, not KL."""
    delta = (PI / REF).log()
    assert float((PI * k3(delta)).sum()) == pytest.approx(KL)
    wrong = float((PI * (torch.expm1(delta) - delta)).sum())
    assert wrong == pytest.approx(float((PI * PI / REF).sum()) - 1 - KL)
    assert wrong > 1.2 * KL


def test_rlhf_book_k1_rewards_divergence(batch_of):
    """rlhf-book loss.py 56: the flipped sign pays for leaving the reference."""
    assert float((PI * k1((PI / REF).log())).sum()) == pytest.approx(KL)
    batch = batch_of([0.0], old_logp_BT=[[-1.0]], ref_logp_BT=[[-3.0]], state=State(kl_coef=0.1))
    assert p.K1().shape_reward(batch).reward_BT.item() == pytest.approx(-0.2), (
        "more likely than under the reference: a cost"
    )


def test_rlhf_book_takes_the_mean_of_the_kl_in_the_reward(batch_of):
    """rlhf-book utils.py 180: a mean over tokens weighs the leash by 1/L; it is a sum."""
    batch = batch_of([0.0], lengths=[4], old_logp_BT=[[-1.0] * 4], ref_logp_BT=[[-2.0] * 4], state=State(kl_coef=0.1))
    same(p.TotalReturn()(p.K1().shape_reward(batch)), [[-0.4] * 4])


def test_openrlhf_clamps_k3_after_exp(batch_of):
    """OpenRLHF utils.py 90, PR 1335: forward 10, backward 0 * inf = NaN. TRL 3015: 1e26 without any clamp."""
    batch = batch_of([1.0], ref_logp_BT=[[900.0]])
    logp = f([[-1.0]]).requires_grad_()
    kappa = p.K3().penalty(batch, Scores(logp), logp, logp * 0)
    assert kappa.item() == pytest.approx(math.exp(20) - 21)
    assert torch.autograd.grad(kappa.sum(), logp)[0].item() == 0


def test_verl_k3_has_no_gradient_far_below_its_clamp(batch_of):
    """verl clamps the result at 10: the gradient vanishes once log(ref/pi) > 2.6, where the leash is needed most."""
    batch = batch_of([1.0], ref_logp_BT=[[4.0]])
    logp = f([[-1.0]]).requires_grad_()
    (grad,) = torch.autograd.grad(p.K3().penalty(batch, Scores(logp), logp, logp * 0).sum(), logp)
    assert grad.item() == pytest.approx(1 - math.exp(5))


def test_k1_in_the_loss_is_refused():
    """Several frameworks offer it: its expected gradient is zero."""
    with pytest.raises(InputError, match="no leash"):
        replace(find("grpo"), kl=p.K1(where="loss"))


def test_slime_kl_reaches_only_the_token_itself(batch_of):
    """tinker and slime put KL into the advantage without a sum: another regularizer under the same name."""
    batch = batch_of(
        [0.0], lengths=[3], old_logp_BT=[[0.0, 0.0, -1.0]], ref_logp_BT=[[0.0, 0.0, -3.0]], state=State(kl_coef=0.5)
    )
    same(p.RewardToGo()(p.K1().shape_reward(batch)), [[-1.0, -1.0, -1.0]])


def test_verl_k3_plus_raises(batch_of):
    """verl documents a mode that raises NotImplementedError; ours has the value of k3 and the gradient of k2."""
    batch = batch_of([1.0], ref_logp_BT=[[-2.0]])
    logp = f([[-1.0]]).requires_grad_()
    kappa = p.StraightThrough().penalty(batch, Scores(logp), logp, logp * 0)
    assert kappa.item() == pytest.approx(math.exp(-1))
    assert torch.autograd.grad(kappa.sum(), logp)[0].item() == pytest.approx(1.0)


# -- ratios and surrogates --------------------------------------------------------------------------------------------
def test_trl_cispo_cap_scales_every_token_down():
    """TRL grpo_trainer.py 3081: clamp(max=epsilon_high) with .2 weighs each token by .2 on policy."""
    on_policy = f([[0.0]])
    assert p.CISPO()(on_policy, f([[-1.0]]), f([[1.0]]), torch.tensor([[True]])).item() == -1.0
    with pytest.raises(InputError, match="scales every token down"):
        replace(find("cispo"), surrogate=p.CISPO(high=0.2))


def test_verl_gspo_ignores_the_aggregation(batch_of):
    """verl core_algos.py 1312 silently takes another aggregation than it was told; here each token has the told weight."""
    batch = batch_of([1.0, 0.0], lengths=[1, 3])
    for aggregate, weights in ((p.SequenceMean(), (1 / 2, 1 / 6)), (p.TokenMean(), (1 / 4, 1 / 4))):
        recipe = replace(find("gspo"), aggregate=aggregate)
        logp = torch.zeros_like(batch.reward_BT).requires_grad_()
        J = objective(recipe, batch, Scores(logp), recipe.credit(batch), count(batch, 3))
        (grad,) = torch.autograd.grad(J, logp)
        torch.testing.assert_close(grad[:, 0], recipe.credit(batch)[:, 0] * f(list(weights)))


def test_openrlhf_sequence_mask_promises_a_clamp_it_has_not(batch_of):
    """OpenRLHF loss.py 206-213."""
    batch = batch_of([1.0], old_logp_BT=[[2.0]], behavior_logp_BT=[[0.0]])
    assert p.GeometricMask(low=0.1, high=100.0)(batch, f([[0.0]]), f([[1.0]])).item() == 2.0


def test_ratio_clip_on_the_samplers_logp_mixes_drift_and_mismatch(batch_of):
    """The trust region looks at pi against pi_old; the sampler's mismatch is the correction's business."""
    batch = batch_of([1.0], old_logp_BT=[[-1.0]], behavior_logp_BT=[[-2.0]])
    recipe = replace(find("grpo"), correction=p.TokenTIS(), kl=p.NoKL())
    J = objective(recipe, batch, Scores(f([[-1.0]])), f([[1.0]]), Totals(1, 1, 1))
    assert J.item() == pytest.approx(2.0), "rho = 1 is inside the clip, the weight e is cut at 2"


def test_trl_2769_a_loss_of_zero_still_learns(batch_of):
    """TRL 2769 and 2995: on policy the value is the mean advantage, 0; the gradient is not."""
    batch = batch_of([0.0, 1.0], old_logp_BT=[[-1.0], [-1.0]])
    logp = f([[-1.0], [-1.0]]).requires_grad_()
    J = objective(find("dr_grpo"), batch, Scores(logp), find("dr_grpo").credit(batch), count(batch, 1))
    assert J.item() == 0
    assert (torch.autograd.grad(J, logp)[0] != 0).all()


def test_logp_scored_without_the_sampling_temperature():
    """rlhf-book utils.py 272, TRL PR 3029: drawn at one temperature, scored at another, E[score] is not 0."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(1, 4).expand(6, 4), torch.randn(6, 4, requires_grad=True)
    law = (hidden[0] @ weight.T / 0.7).softmax(-1).detach()

    def mean_score(temperature):
        logp, _ = token_logprob(hidden, weight, torch.arange(6), temperature=temperature)
        return torch.autograd.grad((law * logp).sum(), weight)[0].norm().item()

    assert mean_score(0.7) < 1e-5
    assert mean_score(1.0) > 0.1


def test_verl_filter_groups_is_declared_and_never_read():
    """A field that nothing reads is a silent no-op. Every field of Data is read by the collector."""
    assert {"resample", "drop_truncated", "overlong"} == set(vars(p.Data()))


def test_reinforce_pp_baseline_trains_on_groups_without_signal(batch_of):
    """The second centering: the paper's own trap, kept because it is the recipe; refused together with filtering."""
    batch = batch_of([1.0, 1.0, 0.0, 1.0], lengths=[1, 1, 3, 1], group=[0, 0, 1, 1])
    recipe = find("reinforce_pp_baseline")
    adv_BT = recipe.normalize(recipe.credit(batch), batch.mask_BT)
    assert (adv_BT[:2, 0] > 0).all(), "equal rewards, yet not zero: the mean is length-weighted"
    with pytest.raises(InputError, match="zero-variance groups"):
        replace(recipe, data=p.Data(resample=3))


def test_sync_of_names_and_values():
    """open-instruct 534, SkyRL docs: two names for one estimator drift apart. Each recipe's name finds itself."""
    assert all(find(name).name == name for name in all_recipes())
    assert find("REINFORCE++").name == "reinforce_pp"
    assert find("Dr. GRPO").name == "dr_grpo"
