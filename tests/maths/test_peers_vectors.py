"""Frozen vectors: what TRL's and verl's formulas give for four small answers, and what ours give.

Neither library is imported. Each docstring says the peer's formula (TRL 1.10, verl 0.8); the numbers beside it were
computed from that formula with plain Python floats, one token after the other. Where ours is another number on purpose,
the test asserts both and says why. The overview is docs/conformance.md.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import rung.parts as p
from rung.maths.credit import reward_to_go
from rung.maths.kl import k1
from rung.maths.objective import count, objective
from rung.records import Scores, State, Totals

LENGTHS, GROUP = [3, 1, 2, 4], [0, 0, 1, 1]
B, N, WIDTH, LIMIT = 4, 10, 5, 8  # answers, tokens, padded width, max_new_tokens
MASK = torch.arange(WIDTH) < torch.tensor(LENGTHS)[:, None]
REWARD = [1.0, 0.0, 0.5, -0.25]
ADV = [1.2, -0.8, 0.5, -1.5]
LOG_RATIO = [[0.1, -0.3, 0.5], [0.4], [-0.25, 0.05], [0.6, -0.7, 0.0, 0.3]]
OLD = [[-1.0, -0.5, -2.0], [-0.7], [-1.2, -0.3], [-0.4, -1.6, -0.9, -2.2]]
LOSS = [[1.0, 2.0, 4.0], [3.0], [-1.0, 2.0], [2.0, 0.0, 1.0, -3.0]]  # a loss per token, for the aggregations
GROUPS = torch.tensor(GROUP)
TOTAL = Totals(tokens=N, sequences=B, max_tokens=LIMIT)


def f(x):
    return torch.tensor(x, dtype=torch.float64)


def pad(rows):
    return f([row + [0.0] * (WIDTH - len(row)) for row in rows])


def on_tokens(per_answer):
    return f(per_answer)[:, None] * MASK


def same(got, want, why=None):
    """The constants have 12 decimals."""
    torch.testing.assert_close(got, want if torch.is_tensor(want) else f(want), rtol=0, atol=2e-12, msg=why)


def gain(part, log_ratio=None):
    """A surrogate on the four answers: the loss per token as TRL and verl write it (minus the gain), and log pi."""
    logp = (pad(OLD) + pad(LOG_RATIO)).requires_grad_()
    log_ratio = (logp - pad(OLD)) if log_ratio is None else log_ratio(logp, pad(OLD), MASK)
    loss = -part(log_ratio, logp, on_tokens(ADV), MASK) * MASK
    return loss, logp


# -- aggregation ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("part", "want", "why"),
    [
        (p.SequenceMean(), 1.458333333333, "TRL grpo, sapo; verl seq-mean-token-mean: (7/3 + 3 + 1/2 + 0) / 4"),
        (p.TokenMean(), 1.1, "TRL dapo, cispo; verl token-mean: 11/10 over the whole step"),
        (p.FixedBudget(), 0.34375, "TRL dr_grpo: 11 / (4 * 8), 8 = max_completion_length"),
        (p.SequenceSum(), 2.75, "verl seq-mean-token-sum: 11/4"),
    ],
)
def test_aggregation(part, want, why):
    same((part(MASK, GROUPS, TOTAL) * pad(LOSS)).sum(), want, why)


def test_trl_bnpo_and_verl_token_mean_differ_by_the_split():
    """TRL bnpo: sum(x m) / sum(m) per micro-batch, averaged: (10/4 + 1/6) / 2. Ours: 1.1 for any split."""
    halves = slice(0, 2), slice(2, 4)
    local = sum((pad(LOSS) * MASK)[h].sum() / MASK[h].sum() for h in halves) / 2
    same(local, 1.333333333333)
    same(sum((p.TokenMean()(MASK[h], GROUPS[h], TOTAL) * pad(LOSS)[h]).sum() for h in halves), 1.1)


def test_verl_sum_norm_differs_by_batch_and_width():
    """verl seq-mean-token-sum-norm: sum(x m) / padded width = 11/5, no division by B. Ours is 11 / (B M) = 11/32."""
    same((pad(LOSS) * MASK).sum() / WIDTH, 2.2)
    same((p.FixedBudget()(MASK, GROUPS, TOTAL) * pad(LOSS)).sum(), 2.2 * WIDTH / (B * LIMIT))


def test_verl_adds_epsilon_to_the_length():
    """verl seq-mean-token-mean: sum(x m) / (L + 1e-8) per answer; ours divides by max(L, 1), so 3e-9 apart."""
    verl = sum(sum(x) / (len(x) + 1e-8) for x in LOSS) / B
    gap = (p.SequenceMean()(MASK, GROUPS, TOTAL) * pad(LOSS)).sum().item() - verl
    assert gap == pytest.approx((7 / 9 + 3 / 1 + 1 / 4 + 0) / 4 * 1e-8, rel=1e-4)


# -- advantages -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("part", "want", "why"),
    [
        (
            p.GroupMean(eps=1e-4),
            [0.707006795327, -0.707006795327, 0.70697347299, -0.70697347299],
            "TRL scale_rewards=group: (R - mean) / (std + 1e-4), std over n - 1",
        ),
        (
            p.GroupMean(eps=1e-6),
            [0.707105781188, -0.707105781188, 0.707105447856, -0.707105447856],
            "verl grpo: (R - mean) / (std + 1e-6)",
        ),
        (p.GroupMean(scale="none"), [0.5, -0.5, 0.375, -0.375], "TRL scale_rewards=none, verl Dr. GRPO: R - mean"),
        (
            p.GroupMean(scale="batch"),
            [0.901812551086, -0.901812551086, 0.676359413315, -0.676359413315],
            "TRL scale_rewards=batch: the std is that of all raw rewards",
        ),
        (p.LeaveOneOut(), [1.0, -1.0, 0.75, -0.75], "TRL RLOO; verl rloo: R n/(n-1) - mean n/(n-1)"),
        (p.LengthWeighted(), [0.25, -0.75, 0.5, -0.25], "verl opo: R - sum(L R) / sum(L), 3/4 and 0"),
    ],
)
def test_advantages(batch_of, part, want, why):
    got = part(batch_of(REWARD, lengths=LENGTHS, group=GROUP))
    same(got, on_tokens(want)[:, :4], why)


def test_group_of_one_differs(batch_of):
    """verl: mean 0 and std 1, so A = .7 / (1 + 1e-6) for grpo and .7 for rloo. Ours refuses, or is 0 when told so."""
    for part in (p.GroupMean(eps=1e-6), p.LeaveOneOut()):
        with pytest.raises(ValueError, match="only one answer"):
            part(batch_of([0.7]))
        assert replace(part, on_singleton="zero")(batch_of([0.7])).item() == 0


def test_verl_remax(batch_of):
    """verl remax: return to go - R(greedy answer), .25 and -.5 here."""
    batch = batch_of(REWARD, lengths=LENGTHS, group=GROUP, greedy_B=[0.25, 0.25, -0.5, -0.5])
    same(p.Greedy()(batch), on_tokens([0.75, -0.25, 1.0, 0.25])[:, :4])


def test_verl_reinforce_pp(batch_of):
    """verl reinforce_plus_plus: whiten(return to go). Tokens: 1 x3, 0 x1, .5 x2, -.25 x4; mean .3, squares 2.85/9."""
    batch = batch_of(REWARD, lengths=LENGTHS, group=GROUP)
    std = math.sqrt((3 * 0.49 + 0.09 + 2 * 0.04 + 4 * 0.3025) / 9 + 1e-8)
    same(p.Whiten()(p.RewardToGo()(batch), batch.mask_BT), on_tokens([(x - 0.3) / std for x in REWARD])[:, :4])


def test_verl_reinforce_pp_baseline(batch_of):
    """verl reinforce_plus_plus_baseline: whiten(R - group mean); tokens .5 x3, -.5, .375 x2, -.375 x4; mean .025."""
    batch = batch_of(REWARD, lengths=LENGTHS, group=GROUP)
    std = math.sqrt(1.8375 / 9 + 1e-8)
    want = on_tokens([(x - 0.025) / std for x in (0.5, -0.5, 0.375, -0.375)])[:, :4]
    same(p.Whiten()(p.GroupMean(scale="none")(batch), batch.mask_BT), want)


def test_verl_reinforce_pp_differs_at_an_observation():
    """verl resets the return at a mask of 0: mask 1101, reward 1 at the end gives [0, 0, ., 1]; ours steps over it."""
    got = reward_to_go(f([[0.0, 0.0, 0.0, 1.0]]), torch.tensor([[True, True, False, True]]))
    same(got, [[1.0, 1.0, 0.0, 1.0]])


# -- learned value --------------------------------------------------------------------------------------------------
def test_verl_gae_returns_and_whitening(batch_of):
    """verl gae, gamma .9, lambda .8, masks 1101 and 11: values and sums are carried over the observation.

    A = delta + .72 A', delta = r + .9 V' - V:  1 - .6 = .4;  .5 + .54 - .4 + .288 = .928;  .36 - .2 + .66816 = .82816.
    Returns are A + V before whitening; whitening is (A - mean) / sqrt(var + 1e-8), var over n - 1.
    """
    batch = batch_of(
        [[0.0, 0.5, 9.0, 1.0], [0.0, -1.0, 9.0, 9.0]], mask=[[1, 1, 0, 1], [1, 1, 0, 0]],
        value_BT=[[0.2, 0.4, 7.0, 0.6], [-0.1, 0.3, 7.0, 7.0]],
    )  # fmt: skip
    credit = p.Value(p.GAE(gamma=0.9, lam=0.8))
    same(credit(batch), [[0.82816, 0.928, 0.0, 0.4], [-0.566, -1.3, 0.0, 0.0]])
    same(credit.targets(batch), [[1.02816, 1.328, 0.0, 1.0], [-0.666, -1.0, 0.0, 0.0]])
    same(
        p.Whiten()(credit(batch), batch.mask_BT),
        [[0.800681407511, 0.904482375305, 0.0, 0.355534949468], [-0.648789318258, -1.411909414025, 0.0, 0.0]],
    )


def test_value_clip():
    """verl (.5) and TRL PPO (.2): 1/2 mean over tokens of max((V - R)^2, (clip(V, V_old +- .5) - R)^2).

    V = .9 is cut at .7: .09 > .01, no gradient. V = .1 moved by -.2: .25. V = -.4 is cut at 0: .16 < .64.
    """
    value = f([[0.9, 0.1], [-0.4, 0.0]]).requires_grad_()
    weight = f([[1.0, 1.0], [1.0, 0.0]]) / 3
    loss = p.Critic(clip=0.5).loss(value, f([[0.2, 0.3], [0.5, 0.0]]), f([[1.0, 0.6], [0.4, 0.0]]), weight)
    same(loss, 0.163333333333, "(.09 + .25 + .64) / 6")
    same(torch.autograd.grad(loss, value)[0], [[0.0, -0.5 / 3], [-0.8 / 3, 0.0]])


# -- surrogates -----------------------------------------------------------------------------------------------------
TRL_CLIP = [
    [-1.326205101691, -0.888981864818, -1.536], [1.193459758113], [-0.389400391536, -0.525635548188],
    [2.733178200586, 1.2, 1.5, 2.024788211364],
]  # fmt: skip


@pytest.mark.parametrize(
    ("part", "last", "why"),
    [
        (p.Clip(0.2, 0.28), 2.733178200586, "TRL: max(-rho A, -clip(rho, .8, 1.28) A)"),
        (p.Clip(0.2, 0.28, dual=1.5), 2.25, "verl, always on: min(., -c A) for A < 0, c = 1.5 here and 3 by default"),
        (p.Clip(0.2, 0.28, two_sided=1.6), 2.4, "TRL delta: -min(rho, 1.6) A in the first branch"),
    ],
)
def test_clip(part, last, why):
    """The three differ in one token here: A = -1.5 and rho = e^.6 = 1.82."""
    loss, logp = gain(part)
    same(loss, pad([*TRL_CLIP[:3], [last, *TRL_CLIP[3][1:]]]), why)
    (grad,) = torch.autograd.grad(loss.sum(), logp)
    want = [[TRL_CLIP[0][0], TRL_CLIP[0][1], 0.0], *TRL_CLIP[1:3]]
    same(grad, pad([*want, [0.0 if part.dual or part.two_sided else last, 0.0, *TRL_CLIP[3][2:]]]), "-rho A or 0")


@pytest.mark.parametrize(
    ("part", "weight", "why"),
    [
        (
            p.CISPO(0.8, 1.2),
            [[1.105170918076, 0.8, 1.2], [1.2], [0.8, 1.051271096376], [1.2, 0.8, 1.0, 1.2]],
            "verl: sg clip(rho, 1 - .2, 1 + .2)",
        ),
        (
            p.CISPO(high=1.4),
            [
                [1.105170918076, 0.740818220682, 1.4], [1.4], [0.778800783071, 1.051271096376],
                [1.4, 0.496585303791, 1.0, 1.349858807576],
            ],
            "TRL epsilon_high 1.4: sg min(rho, 1.4), an absolute cap; the paper's 1 + eps_high with eps_high .4",
        ),
        (p.CISPO(high=0.2), [[0.2] * 3, [0.2], [0.2] * 2, [0.2] * 4], "TRL's default .2: refused in a recipe"),
    ],
)  # fmt: skip
def test_cispo_caps(part, weight, why):
    loss, logp = gain(part)
    (grad,) = torch.autograd.grad(loss.sum(), logp)
    same(grad, -pad(weight) * on_tokens(ADV), why)
    same(loss.detach(), grad * logp.detach(), "-sg[w] A log pi")


def test_sapo_gate():
    """TRL and verl: -(4/tau) sigmoid(tau (rho - 1)) A, tau 1 and 1.05; gradient -4 rho s (1 - s) A."""
    loss, logp = gain(p.SAPO())
    want = [
        [-2.526088901485, -2.090711306836, -3.152266781381], [1.908752183692], [-0.889849157442, -1.025629933929],
        [4.019051168176, 2.119124995288, 2.857142857143, 3.376108072685],
    ]  # fmt: skip
    slope = [
        [-1.322544588864, -0.874218052858, -1.784086332672], [1.117297730347], [-0.384675715545, -0.525290261606],
        [2.281168502117, 0.69517811961, 1.5, 1.957985792006],
    ]  # fmt: skip
    same(loss, pad(want))
    same(torch.autograd.grad(loss.sum(), logp)[0], pad(slope))


def test_gspo():
    """TRL importance_sampling_level=sequence, and verl's GSPO, which is GSPO-token: sg[s] exp(log pi - sg log pi).

    s = exp(mean of log-ratios) = 1.105, 1.492, .905, 1.051, clip .1 / .1: the first answer is clipped (A > 0).
    The mean over answers; both forms have the gradient -A s / (B L) on each token.
    """
    ratio = p.SequenceRatio()
    loss, logp = gain(p.Clip(0.1, 0.1), ratio)
    total = (p.SequenceMean()(MASK, GROUPS, TOTAL) * loss).sum()
    same(ratio(logp, pad(OLD), MASK)[:, 0].exp(), [1.105170918076, 1.491824697641, 0.904837418036, 1.051271096376])
    same(total, 0.249486923415)
    (grad,) = torch.autograd.grad(total, logp)
    same(grad, on_tokens([0.0, 0.298364939528, -0.056552338627, 0.098556665285]))


def test_verl_gspo_differs_beyond_a_log_ratio_of_10():
    """verl cuts the log of the sequence ratio at +10; ours cuts each log-ratio at +-20, as for every ratio."""
    logp, mask = f([[12.0, 16.0]]), torch.tensor([[True, True]])
    same(p.SequenceRatio()(logp, 0 * logp, mask), [[14.0, 14.0]])


def test_gmpo():
    """verl geo_mean: A exp(mean of the log-ratios, cut at .4 for A > 0 and at -.4 for A < 0), the mean over answers.

    Means: (.1 - .3 + .4)/3, .4, -.1, (.6 - .4 + 0 + .3)/4.
    """
    loss, _ = gain(p.GMPO())
    same(loss[:, 0] / -f(ADV), [1.068939105747, 1.491824697641, 0.904837418036, 1.133148453067])
    same((p.SequenceMean()(MASK, GROUPS, TOTAL) * loss).sum(), 0.28950920045)


def test_trl_rloo_is_a_clipped_ratio_of_answers():
    """TRL RLOO: max(-rho A, -clip(rho, .8, 1.2) A), rho = exp(sum of log-ratios) = 1.350, 1.492, .819, 1.221.

    Our parts say it with SequenceProduct, Clip and SequenceSum (each token has its own part of the answer's gradient, so
    that the value, read as a mean over tokens, is TRL's); our rung is the paper's score function, equal at rho = 1 only.
    """
    loss, logp = gain(p.Clip(0.2, 0.2), p.SequenceProduct())
    same((p.SequenceMean()(MASK, GROUPS, TOTAL) * loss).sum(), 0.294049629704)
    logp = pad(OLD).requires_grad_()
    product = p.Clip()(p.SequenceProduct()(logp, pad(OLD), MASK), logp, on_tokens(ADV), MASK)
    paper = p.ScoreFunction()(logp - pad(OLD), logp, on_tokens(ADV), MASK)
    first = torch.autograd.grad((p.SequenceSum()(MASK, GROUPS, TOTAL) * product).sum(), logp)[0]
    second = torch.autograd.grad((p.SequenceSum()(MASK, GROUPS, TOTAL) * paper).sum(), logp)[0]
    same(first, on_tokens([x / B for x in ADV]))
    same(second, first)


def test_one_loss_from_all_parts(batch_of):
    """TRL loss_type=dapo, beta .1 with k3 at delta = .5: (sum of the clipped losses + .1 * 10 * .106530659713) / 10."""
    batch = batch_of(REWARD, lengths=LENGTHS, group=GROUP, old_logp_BT=pad(OLD)[:, :4], state=State(kl_coef=0.1))
    logp = (pad(OLD) + pad(LOG_RATIO))[:, :4]
    batch = replace(batch, ref_logp_BT=logp - 0.5)
    parts = SimpleNamespace(
        ratio=p.TokenRatio(), correction=p.NoCorrection(), surrogate=p.Clip(0.2, 0.28), kl=p.K3(0.1),
        aggregate=p.TokenMean(), entropy=0.0, imitation=0.0,
    )  # fmt: skip
    J = objective(parts, batch, Scores(logp), on_tokens(ADV)[:, :4], count(batch, LIMIT))
    same(-J, sum(map(sum, TRL_CLIP)) / 10 + 0.0106530659713)


# -- KL to the reference: log pi - log pi_ref = .5, -1, 3, -4 --------------------------------------------------------
DELTA = [0.5, -1.0, 3.0, -4.0]
K3 = [0.106530659713, 0.718281828459, 2.049787068368, 49.598150033144]


def test_kl_estimators():
    """TRL: exp(-d) - 1 + d. verl: kl = d, mse = d^2/2, low_var_kl = TRL's, but cut at 10; ours is not."""
    delta, log_ratio = f([DELTA]), f([[0.1, -0.3, 0.5, 0.4]])
    scores = Scores(delta)
    same(k1(delta), [DELTA])
    same(p.K2().value(delta, log_ratio, scores), [[0.125, 0.5, 4.5, 8.0]])
    same(p.K3().value(delta, log_ratio, scores), [K3])
    same(f([K3]).clamp(-10, 10), [[*K3[:3], 10.0]], "verl: the fourth is cut, and has no gradient")
    want = [[0.117734586998, 0.532116266107, 3.379527540024, 73.991745176762]]
    same(p.RatioK3().value(delta, log_ratio, scores), want, "TRL use_bias_correction_kl: rho k3")


def test_rloo_takes_the_sum_of_the_kl(batch_of):
    """TRL RLOO: R - beta sum_t (log pi_old - log pi_ref) = 1 - .1 * 1.2, a sum and not a mean."""
    ref = [[x - d for x, d in zip(OLD[0], (0.5, 0.4, 0.3), strict=True)]]
    batch = batch_of([1.0], lengths=[3], old_logp_BT=[OLD[0]], ref_logp_BT=ref, state=State(kl_coef=0.1))
    same(p.TotalReturn()(p.K1().shape_reward(batch)), [[0.88] * 3])


def test_adaptive_beta():
    """verl AdaptiveKLController: beta (1 + clip(KL/target - 1, -.2, .2) n / horizon); .1, n = 64, horizon 10000."""
    kl = p.K1(0.05, target=0.1)
    assert kl.observe(State(kl_coef=0.05), 0.3, 64).kl_coef == pytest.approx(0.050064, rel=1e-12)
    assert kl.observe(State(kl_coef=0.05), 0.09, 64).kl_coef == pytest.approx(0.049968, rel=1e-12)


# -- sampler against trainer: log pi_old - log mu ---------------------------------------------------------------------
D = [[0.2, -0.5, 1.4], [0.3], [-0.8, 0.1], [0.9, 0.4, -0.2, 0.3]]  # sums 1.1, .3, -.7, 1.4
TOKEN = [
    [1.22140275816, 0.606530659713, 4.055199966845], [1.349858807576], [0.449328964117, 1.105170918076],
    [2.459603111157, 1.491824697641, 0.818730753078, 1.349858807576],
]  # fmt: skip
ANSWER = [3.004166023946, 1.349858807576, 0.496585303791, 4.055199966845]


@pytest.mark.parametrize(
    ("part", "want", "why"),
    [
        (p.TokenTIS(2.0), pad(TOKEN).clamp(max=2.0), "verl token, TRL token_truncate: min(e^d, C)"),
        (
            p.TokenMask(0.5, 2.0),
            pad([[*TOKEN[0][:2], 0.0], TOKEN[1], [0.0, TOKEN[2][1]], [0.0, *TOKEN[3][1:]]]),
            "TRL token_mask: e^d inside [.5, 2], else 0",
        ),
        (p.SequenceTIS(3.0), on_tokens([3.0, *ANSWER[1:3], 3.0]), "TRL sequence_truncate: min(e^sum, 3)"),
        (
            p.SequenceMask(3.0),
            on_tokens([0.0, *ANSWER[1:3], 0.0]),
            "TRL sequence_mask, its default: e^sum, or 0 above 3",
        ),
    ],
)
def test_sampler_correction(batch_of, part, want, why):
    behavior = pad(OLD)[:, :4] - pad(D)[:, :4]
    batch = batch_of(REWARD, lengths=LENGTHS, group=GROUP, old_logp_BT=pad(OLD)[:, :4], behavior_logp_BT=behavior)
    got = part(batch, pad(OLD)[:, :4], on_tokens(ADV)[:, :4]) * batch.mask_BT
    same(got, want[:, :4], why)


def test_trl_off_policy_mask(batch_of):
    """TRL off_policy_mask_threshold: an answer leaves if A < 0 and mean(log pi_old - log pi) > delta.

    Means here: -.1, -.4, .1, -.05. With delta = -.2 that is the fourth: the second drifted less, the others have A > 0.
    """
    batch = batch_of(REWARD, lengths=LENGTHS, group=GROUP, old_logp_BT=pad(OLD)[:, :4])
    logp = (pad(OLD) + pad(LOG_RATIO))[:, :4]
    got = p.StaleNegativeMask(-0.2)(batch, logp, on_tokens(ADV)[:, :4])
    same(got * batch.mask_BT, on_tokens([1.0, 1.0, 1.0, 0.0])[:, :4])


# -- rewards ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("length", "want"), [(16, 0.0), (18, -0.5), (20, -1.0)])
def test_verl_overlong_penalty(length, want):
    """verl dapo reward manager: min(-(L - (20 - 4)) / 4, 0)."""
    assert p.Overlong(buffer=0.2)(length, 20) == pytest.approx(want)
