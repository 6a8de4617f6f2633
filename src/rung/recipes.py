"""The policy-gradient ladder, from its foot. Each rung is its parent with the fields that its paper changed, and why.

    REINFORCE -> reward-to-go -> baselines -> learned value -> actor-critic -> TRPO -> PPO -> GRPO -> Dr. GRPO

A recipe is a value: one part per question. `rung explain NAME` prints the equation, `rung diff A B` the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import rung.parts as p
from rung.recipe_rules import needs_of, refuse_contradictions
from rung.records import State
from rung.settings import ranges


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """J = sum w [c S(rho, A) - beta kl + c_H H], one part per symbol; the update turns its gradient into a step."""

    name: str
    parent: str | None = None
    paper: str = ""
    why: str = ""  # the parent's problem that this rung repairs, in one sentence
    silent: tuple[str, ...] = ()  # where the paper is silent, and what we chose

    credit: p.Credit = p.TotalReturn()  # A: which token earned what
    normalize: p.AsIs | p.Whiten = p.AsIs()  # A <- normalized A
    ratio: p.Ratio = p.NoRatio()  # rho: how far the policy has moved
    correction: p.Correction = p.NoCorrection()  # c: sampler against trainer
    surrogate: p.Surrogate = p.ScoreFunction()  # S: what a moved policy may still gain
    kl: p.ReferenceKL = p.NoKL()  # the leash to the reference policy
    trust: p.NoTrust | p.OldKL = p.NoTrust()  # the leash to the old policy
    aggregate: p.Aggregate = p.SequenceSum()  # w: how tokens are averaged
    entropy: float = 0.0  # c_H
    imitation: ranges.Coefficient = 0.0  # c_+: log-likelihood of right answers
    update: p.UpdateRule = p.GradientSteps()  # how the gradient of J becomes a step
    data: p.Data = p.Data()

    def __post_init__(self) -> None:
        ranges.refuse_unfit(self, "Recipe.")
        refuse_contradictions(self)

    @cached_property
    def needs(self) -> frozenset[str]:
        """What the loop must prepare: groups, values, ref_logp, greedy, ... The loop asks this, never the name."""
        return self.objective_needs | needs_of(self.update)

    @cached_property
    def objective_needs(self) -> frozenset[str]:
        """What the parts of J read, without what only the update asks for."""
        return frozenset().union(*(needs_of(getattr(self, f.name)) for f in fields(self) if f.name != "update"))

    def initial_state(self) -> State:
        return State(kl_coef=self.kl.coef, trust_coef=self.trust.coef)


def rung(below: Recipe, name: str, paper: str, why: str, *, silent: tuple[str, ...] = (), **changes: Any) -> Recipe:
    """The next rung: `below` with the fields that `paper` changed."""
    return replace(below, name=name, parent=below.name, paper=paper, why=why, silent=silent, **changes)


# -- the main line: REINFORCE and its baselines --------------------------------------------------------------------
REINFORCE = Recipe(
    name="reinforce", paper="Williams 1992",
    why="The gradient of an expected reward, from samples alone: push up every token by what its answer earned.")  # fmt: skip
REWARD_TO_GO = rung(
    REINFORCE, "reward_to_go", "Sutton et al. 2000",
    "A token is credited with rewards that came before it, which it cannot have caused: noise.",
    credit=p.RewardToGo())  # fmt: skip
MOVING_AVERAGE = rung(
    REWARD_TO_GO, "moving_average", "Williams 1992",
    "The step depends on where the reward's zero lies: rewards of 1 and 2 push every answer up. Subtract the usual reward.",
    silent=("rate 0.1 and Adam's debiasing are ours; the batch itself never enters its own baseline",),
    credit=p.MovingAverage())  # fmt: skip
BATCH_MEAN = rung(
    REWARD_TO_GO, "batch_mean", "Greensmith et al. 2004",
    "A moving average lags behind a policy that improves; the batch itself knows today's mean reward.",
    silent=("each answer stays in the mean that is subtracted from it, which scales the gradient by 1 - 1/B",),
    credit=p.BatchMean())  # fmt: skip
LEAVE_ONE_OUT = rung(
    REINFORCE, "leave_one_out", "Kool et al. 2019",
    "One baseline for all prompts calls every easy prompt a success: compare an answer with the others to ITS prompt.",
    credit=p.LeaveOneOut())  # fmt: skip
VALUE_BASELINE = rung(
    REWARD_TO_GO, "value_baseline", "Sutton et al. 2000",
    "A constant baseline ignores how far an answer has come: learn V(s), the return expected from each state.",
    silent=("the head starts at zero, so that the first step is plain reward-to-go",),
    credit=p.Value(p.MC()))  # fmt: skip

# -- actor-critic, trust regions ------------------------------------------------------------------------------------
A2C = rung(
    VALUE_BASELINE, "a2c", "arXiv:1602.01783, arXiv:1506.02438",
    "The Monte Carlo return carries the noise of every later token: bootstrap from V, lambda trades bias for variance.",
    silent=("gamma = 1 and lambda = 0.95 for answers; entropy 0.01 from A3C",),
    credit=p.Value(p.GAE()), aggregate=p.TokenMean(), entropy=0.01)  # fmt: skip
TRPO = rung(
    A2C, "trpo", "arXiv:1502.05477",
    "A step that is small in parameters can be ruinous in policy: bound the KL to the old policy and step along F^-1 g.",
    silent=("the bound is on the mean KL per token; the sequence KL is about the mean length times larger",
            "10 iterations as in Spinning Up; max_kl 0.003 and damping 1 by our sweep (0.01 and 0.1 there)"),
    normalize=p.Whiten(), ratio=p.TokenRatio(), surrogate=p.Importance(), entropy=0.0, update=p.NaturalStep())  # fmt: skip
PPO_KL = rung(
    TRPO, "ppo_kl", "arXiv:1707.06347 eq. 8",
    "Second-order steps are dear and use a batch once: put the KL into the objective, adapt its weight, use Adam.",
    silent=("1 epoch of 4 minibatches, language-model practice; the paper uses 3 to 15 epochs",),
    trust=p.OldKL(coef=1.0, target=0.01), update=p.GradientSteps(minibatches=4))  # fmt: skip
PPO = rung(
    TRPO, "ppo", "arXiv:1707.06347",
    "A hard KL bound costs a linear solve and a line search per batch: clip the ratio, which stops paying for a step too far.",
    silent=("1 epoch of 4 minibatches, language-model practice; the paper uses 3 to 15 epochs",
            "KL to the reference in the reward (RLHF practice), coefficient 0.01",
            "advantages whitened over the batch and gamma 1, language-model practice"),
    surrogate=p.Clip(), kl=p.K1(0.01), credit=p.Value(p.GAE(), critic=p.Critic(clip=0.2)),
    update=p.GradientSteps(minibatches=4))  # fmt: skip
VAPO = rung(
    PPO, "vapo", "arXiv:2504.05118",
    "A fresh critic and a fixed lambda lose the end reward of long answers: warm the critic up, train it on full returns, "
    "stretch lambda with the length.",
    silent=("warm-up of 5 steps here, 50 in the paper", "lambda below 0 (answers under 20 tokens) is cut at 0"),
    credit=p.Value(p.LengthAdaptiveGAE(), target=p.MC(), critic=p.Critic(warmup=5)),
    normalize=p.AsIs(), surrogate=p.Clip(high=0.28), kl=p.NoKL(), imitation=0.1)  # fmt: skip

# -- critic-free: the group is the critic ---------------------------------------------------------------------------
GRPO = rung(
    PPO, "grpo", "arXiv:2402.03300",
    "The critic is a second model to train and hold in memory: the other answers to the same prompt tell what to expect.",
    silent=("Bessel's correction, eps 1e-4 and clip 0.2",),
    credit=p.GroupMean(), normalize=p.AsIs(), kl=p.K3(0.04), aggregate=p.SequenceMean(), update=p.GradientSteps())  # fmt: skip
GRPO_PROCESS = rung(
    GRPO, "grpo_process", "arXiv:2402.03300 sec. 4.1.3",
    "One reward for a whole answer cannot tell its good steps from its bad ones: normalize and sum the rewards of its steps.",
    silent=("a task without step rewards has one step per answer, which is GRPO",),
    credit=p.StepMean())  # fmt: skip
DR_GRPO = rung(
    GRPO, "dr_grpo", "arXiv:2503.20783",
    "GRPO's 1/length spares long wrong answers and its 1/std favors prompts that are nearly solved or nearly hopeless: drop both.",
    credit=p.GroupMean(scale="none"), kl=p.NoKL(), aggregate=p.FixedBudget())  # fmt: skip
DAPO = rung(
    GRPO, "dapo", "arXiv:2503.14476",
    "Entropy collapses, groups without a difference waste samples, long answers count too little per token.",
    silent=("one update per batch here, 16 minibatches in the paper", "resampling is capped at 3 rounds",
            "eq. 8 averages over the tokens of each prompt's own answers, its implementations over the batch's, as here"),
    surrogate=p.Clip(high=0.28), kl=p.NoKL(), aggregate=p.TokenMean(),
    data=p.Data(resample=3, overlong=p.Overlong()))  # fmt: skip
LITE_PPO = rung(
    GRPO, "lite_ppo", "arXiv:2508.08221",
    "The std of a small group is noise that blows up near-solved prompts: divide by the std of the whole batch.",
    credit=p.GroupMean(scale="batch"), kl=p.NoKL(), aggregate=p.TokenMean())  # fmt: skip
GSPO = rung(
    GRPO, "gspo", "arXiv:2507.18071",
    "The reward is for the answer, yet token ratios clip single tokens by noise: one ratio per answer, the geometric mean.",
    silent=("the sequence ratio moves little, so the clip range is 3e-4 and 4e-4",),
    ratio=p.SequenceRatio(), surrogate=p.Clip(3e-4, 4e-4), kl=p.NoKL(), update=p.GradientSteps(minibatches=4))  # fmt: skip
CISPO = rung(
    GRPO, "cispo", "arXiv:2506.13585",
    "Clipping silences the rare tokens that change most, often where reasoning turns: cap the weight, keep every token's gradient.",
    silent=("the paper does not disclose its cap; 5 is ScaleRL's (arXiv:2510.13786)",),
    surrogate=p.CISPO(), kl=p.NoKL(), aggregate=p.TokenMean())  # fmt: skip
GMPO = rung(
    GRPO, "gmpo", "arXiv:2507.20673",
    "An arithmetic mean of ratios follows its outliers: take the geometric mean, which allows a wider clip.",
    surrogate=p.GMPO(), kl=p.NoKL())  # fmt: skip
SAPO = rung(
    GRPO, "sapo", "arXiv:2511.20347",
    "A hard clip switches a token's gradient off at an edge: let it fade, sooner for bad tokens than for good ones.",
    surrogate=p.SAPO(), kl=p.NoKL())  # fmt: skip

# -- relatives that stay with REINFORCE -----------------------------------------------------------------------------
RLOO = rung(
    LEAVE_ONE_OUT, "rloo", "arXiv:2402.14740",
    "Nothing holds the policy near a good reference: put the KL of the whole answer into its reward.",
    silent=("beta 0.03, the paper's value for TL;DR",),
    kl=p.K1(0.03))  # fmt: skip
REMAX = rung(
    REINFORCE, "remax", "arXiv:2310.10505",
    "A baseline should know the prompt without several samples or a critic: the reward of its greedy answer.",
    silent=("beta 0.03, as for RLOO",),
    credit=p.Greedy(), kl=p.K1(0.03))  # fmt: skip
OPO = rung(
    REINFORCE, "opo", "arXiv:2505.23585",
    "The mean is not the baseline of least variance: if the squared score grows with length, the length-weighted mean is.",
    silent=("token mean, as in its public implementation",),
    credit=p.LengthWeighted(), aggregate=p.TokenMean())  # fmt: skip
REINFORCE_PP = rung(
    PPO, "reinforce_pp", "arXiv:2501.03262",
    "PPO's critic is dear and GRPO needs several answers per prompt: whiten the return over the whole batch instead.",
    silent=("tokens are averaged over the batch, as in its implementations",),
    credit=p.RewardToGo(), kl=p.K1(0.001), update=p.GradientSteps())  # fmt: skip
REINFORCE_PP_BASELINE = rung(
    REINFORCE_PP, "reinforce_pp_baseline", "arXiv:2501.03262",
    "One mean for the batch ignores the prompt's difficulty: subtract the group's mean before whitening.",
    silent=("the second centering moves zero-variance groups away from zero, so they are trained on as well",),
    credit=p.GroupMean(scale="none"), kl=p.K2(0.001))  # fmt: skip

RUNGS = (
    REINFORCE, REWARD_TO_GO, MOVING_AVERAGE, BATCH_MEAN, LEAVE_ONE_OUT, VALUE_BASELINE, A2C, TRPO, PPO_KL, PPO, VAPO,
    GRPO, GRPO_PROCESS, DR_GRPO, DAPO, LITE_PPO, GSPO, CISPO, GMPO, SAPO, RLOO, REMAX, OPO, REINFORCE_PP,
    REINFORCE_PP_BASELINE,
)  # fmt: skip
LADDER: Mapping[str, Recipe] = {r.name: r for r in RUNGS}
