"""The experiments of `rung why`, as data: for each rung the setting in which its parent fails, and what to measure there.

Most start from the starter. A training arm is a recipe (with fields overridden) and settings of `rung train`; a gradient
arm is a recipe at a frozen policy; an exact arm is a recipe in small worlds of which every batch is enumerated. A ratio is
reported as a change in percent, a difference as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Arm:
    """One side of an experiment."""

    label: str
    recipe: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantity:
    """What is compared. `name`: a column of the result; `words`: what a sentence calls it."""

    name: str
    words: str
    unit: Literal["difference", "ratio"] = "difference"
    better: Literal["higher", "lower"] = "higher"


@dataclass(frozen=True)
class Experiment:
    """Parent against child in one setting, over seeds.

    claim: what an effect in the right direction would show.  stress: the setting, in words.
    settings: of `rung train` for kind "training"; for kind "gradient" those of `Frozen` (prompts, samples, process), and
        batches, warmup, task_options, after: tokens that leave_one_out trains the policy before it is frozen; for "exact"
        those of `World`.
    rates: learning rates of which each arm takes its own best, from `SWEEPS` runs each on seeds that are not compared.
    series: the metric of metrics.jsonl that the picture draws; "accuracy" is the held-out one.
    """

    recipe: str
    name: str
    kind: Literal["training", "gradient", "exact"]
    claim: str
    stress: str
    parent: Arm
    child: Arm
    measures: tuple[Quantity, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    series: str = "accuracy"
    seeds: int = 5


RATES = (1e-4, 3e-4, 1e-3)
SWEEPS = 2  # seeds of each learning rate in a sweep
ACCURACY = Quantity("accuracy", "held-out accuracy")
TRACE = Quantity("trace", "gradient variance", "ratio", "lower")
SNR = Quantity("snr", "signal to noise of the gradient", "ratio", "higher")
DIRECTION = Quantity("direction", "cosine of the mean gradient to the policy gradient")
SECONDS = Quantity("seconds_per_step", "seconds a step", "ratio", "lower")
STATE = Quantity("state_mb", "MB of weights and optimizers", "ratio", "lower")
SMALL = {"prompts_per_step": 8, "samples_per_prompt": 4, "learning_rate": 3e-4, "tokens": 45_000, "eval_every": 30}
SHIFTED = {**SMALL, "task_options": {"reward_offset": 1.0}}
FROZEN = {"prompts": 8, "samples": 8, "batches": 8, "warmup": 20}
LATER = {**FROZEN, "batches": 24, "warmup": 0, "after": 20_000}
STALE = {"prompts": 16, "samples": 8, "batches": 24, "warmup": 0, "after": 5_000, "stale": True}


def _arm(recipe: str, label: str = "", settings: Mapping[str, Any] | None = None, **overrides: Any) -> Arm:
    fields = {k.replace("__", "."): v for k, v in overrides.items()}
    return Arm(label or recipe, recipe, fields, settings or {})


def _reuse(recipe: str, claim: str, aggregate: str = "SequenceMean") -> Experiment:
    """A surrogate against GRPO's clip, all else equal, on batches that are used sixteen times."""
    passes: dict[str, Any] = {"update__epochs": 4, "update__minibatches": 4}
    mean = {"SequenceMean": "", "TokenMean": " with a token mean"}[aggregate]
    return Experiment(
        recipe, "reuse", "training", claim=claim, stress="4 passes of 4 minibatches over every batch",
        parent=_arm("grpo", f"grpo{mean}, 4 x 4", kl="NoKL", aggregate=aggregate, **passes),
        child=_arm(recipe, f"{recipe}, 4 x 4", **passes), rates=(3e-5, 1e-4, 3e-4),
        measures=(ACCURACY,), settings={**SMALL, "samples_per_prompt": 8, "tokens": 20_000},
    )  # fmt: skip


def _stale(recipe: str, claim: str, aggregate: str = "SequenceMean") -> Experiment:
    """A surrogate against GRPO's clip, all else equal, at one policy and on the answers of an earlier one."""
    mean = {"SequenceMean": "", "TokenMean": " with a token mean"}[aggregate]
    return Experiment(
        recipe, "stale", "gradient", claim=claim, stress="answers drawn by the starter, for a policy that has moved on from it",
        parent=_arm("grpo", f"grpo{mean}, without its KL", kl="NoKL", aggregate=aggregate), child=_arm(recipe),
        measures=(DIRECTION, SNR), settings=STALE,
    )  # fmt: skip


def _zero(recipe: str, parent: str) -> Experiment:
    return Experiment(
        recipe, "zero", "training",
        claim="subtracting a baseline makes the reward's zero harmless",
        stress="rewards of 1 and 2 in place of 0 and 1",
        parent=_arm(parent), child=_arm(recipe), measures=(ACCURACY,), settings=SHIFTED,
    )  # fmt: skip


def _critic(name: str, alpha: float, stress: str) -> Experiment:
    """VAPO against PPO, with credit that reaches `alpha` times the length of an answer."""
    return Experiment(
        "vapo", name, "training",
        claim="a warmed critic, credit over the whole answer, a wider clip and imitation reach more together", stress=stress,
        parent=_arm("ppo"), child=_arm("vapo", f"vapo, alpha {alpha:g}", credit__estimator__alpha=alpha),
        measures=(ACCURACY,), rates=RATES,
        settings={**SMALL, "samples_per_prompt": 8, "tokens": 20_000, "eval_every": 10},
    )  # fmt: skip


def _plain_mean() -> Arm:
    return _arm("opo", "opo with a plain mean", credit={"part": "GroupMean", "scale": "none"})


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "reward_to_go", "past_rewards", "gradient",
        claim="crediting a token only with what came after it takes noise out of the gradient",
        stress="a reward for each reasoning step",
        parent=_arm("reinforce"), child=_arm("reward_to_go"), measures=(TRACE,), settings={**FROZEN, "process": True},
    ),
    _zero("moving_average", "reward_to_go"),
    _zero("batch_mean", "reward_to_go"),
    _zero("leave_one_out", "reward_to_go"),  # reinforce with one reward at the end is the same estimator: runs are shared
    Experiment(
        "value_baseline", "state", "gradient",
        claim="a baseline that knows how far the answer has come takes more noise out than a constant one",
        stress="a reward for each reasoning step",
        parent=_arm("moving_average"), child=_arm("value_baseline"), measures=(TRACE,),
        settings={**FROZEN, "process": True, "warmup": 100},
    ),
    Experiment(
        "a2c", "bootstrap", "gradient",
        claim="bootstrapping from V (GAE) takes out the noise of later tokens",
        stress="a reward for each reasoning step; entropy and aggregation as in the parent",
        parent=_arm("value_baseline"), child=_arm("a2c", entropy=0.0, aggregate="SequenceSum"), measures=(TRACE,),
        settings={**FROZEN, "process": True, "warmup": 100},
    ),
    Experiment(
        "trpo", "step_size", "training",
        claim="a step bounded in KL survives where a step bounded in parameters does not",
        stress="a learning rate ten times too large",
        parent=_arm("a2c"), child=_arm("trpo"), measures=(ACCURACY,),
        settings={**SMALL, "samples_per_prompt": 8, "learning_rate": 3e-3, "tokens": 20_000, "eval_every": 10},
    ),
    Experiment(
        "ppo", "cost", "training",
        claim="a clipped ratio costs a fraction of TRPO's linear solve and line search",
        stress="equal tokens, a tuned learning rate",
        parent=_arm("trpo"), child=_arm("ppo"), measures=(SECONDS, ACCURACY),
        settings={**SMALL, "samples_per_prompt": 8, "learning_rate": 4e-4, "tokens": 20_000, "eval_every": 10},
    ),
    Experiment(
        "ppo", "kl_stop", "training",
        claim="the clip alone does not bound how far the policy moves; stopping at a KL does",
        stress="8 passes over every batch",
        parent=_arm("ppo", "ppo, 8 passes", update__epochs=8, update__minibatches=1),
        child=_arm("ppo", "ppo, 8 passes, KL stop", update__epochs=8, update__minibatches=1, update__target_kl=0.01),
        measures=(ACCURACY,), settings={**SMALL, "tokens": 20_000},
    ),
    Experiment(
        "ppo", "reuse", "training",
        claim="clipping makes a batch safe to use several times",
        stress="8 passes of 4 minibatches over every batch",
        parent=_arm("ppo", "ppo without a clip", update__epochs=8, update__minibatches=4, surrogate="Importance"),
        child=_arm("ppo", "ppo", update__epochs=8, update__minibatches=4),
        measures=(ACCURACY,), settings={**SMALL, "prompts_per_step": 16, "samples_per_prompt": 8, "learning_rate": 2e-4},
    ),
    Experiment(
        "grpo", "critic_free", "training",
        claim="the other answers to a prompt replace the critic: less memory and time",
        stress="equal tokens, a tuned learning rate",
        parent=_arm("ppo"), child=_arm("grpo"), measures=(STATE, SECONDS, ACCURACY),
        settings={**SMALL, "samples_per_prompt": 8, "learning_rate": 4e-4},
    ),
    Experiment(
        "dr_grpo", "bias", "gradient",
        claim="without the divisions by length and by std the mean gradient points where the expected reward grows",
        stress="problems of very different difficulty and answers of different length, as the starter has them",
        parent=_arm("grpo", "grpo without its KL", kl="NoKL"), child=_arm("dr_grpo"),
        measures=(DIRECTION,),
        settings={**FROZEN, "prompts": 16, "batches": 24, "warmup": 0},
    ),
    Experiment(
        "dr_grpo", "length", "exact",
        claim="dividing by an answer's length spares long wrong answers: without it wrong answers grow less",
        stress="small worlds of random rewards and policies, every batch enumerated",
        parent=_arm("grpo", "grpo without its KL", kl="NoKL"), child=_arm("dr_grpo"),
        measures=(Quantity("wrong_drift", "tokens that wrong answers grow on a step of length 1", better="lower"),),
        settings={"vocabulary": 3, "horizon": 5, "samples": 2, "reward": "binary"}, seeds=60,
    ),
    Experiment(
        "dapo", "signal", "training",
        claim="drawing other prompts in place of zero-variance groups wastes no step",
        stress="groups of 4 answers, most of them all right or all wrong",
        parent=_arm("grpo"), child=_arm("dapo"),
        measures=(Quantity("no_signal", "zero-variance groups", "difference", "lower"), ACCURACY,
                  Quantity("entropy", "entropy")),
        settings=SMALL, series="frac_reward_zero_std",
    ),
    Experiment(
        "rloo", "leash", "training",
        claim="a KL in the reward keeps the policy near its start when the reward teaches nothing",
        stress="no problem can be learned: answers are right only by luck, one time in ten",
        parent=_arm("leave_one_out"), child=_arm("rloo"),
        measures=(Quantity("kl", "KL to the start, nats a token", "difference", "lower"), ACCURACY),
        settings={**SMALL, "task_options": {"unlearnable": 1.0}},
    ),
    Experiment(
        "reinforce_pp", "one_answer", "training",
        claim="whitening over the batch replaces the critic where every prompt has a single answer",
        stress="one answer to each prompt",
        parent=_arm("ppo"), child=_arm("reinforce_pp"), measures=(STATE, SECONDS, ACCURACY),
        settings={**SMALL, "prompts_per_step": 32, "samples_per_prompt": 1},
    ),
    _reuse("gspo", "one ratio per answer is steadier than a ratio per token"),
    _reuse("cispo", "capping the weight keeps tokens that a clip would silence", "TokenMean"),
    _stale("cispo", "with the tokens that a clip would silence the mean gradient keeps its direction", "TokenMean"),
    _reuse("gmpo", "a geometric mean of ratios does not follow its outliers"),
    _stale("gmpo", "with a geometric mean of ratios and a wider clip the mean gradient keeps its direction"),
    _reuse("sapo", "a gradient that fades is steadier than one that is switched off at an edge"),
    _stale("sapo", "with tokens that fade in place of a clip the mean gradient keeps its direction"),
    replace(_zero("remax", "reinforce"), rates=RATES),
    Experiment(
        "remax", "variance", "gradient",
        claim="the reward of the greedy answer takes noise out of the gradient",
        stress="two answers to each prompt and a policy that is mostly right",
        parent=_arm("reinforce"), child=_arm("remax"), measures=(TRACE,), settings={**LATER, "prompts": 32, "samples": 2},
    ),
    Experiment(
        "ppo_kl", "cost", "training",
        claim="a price on the KL costs a fraction of TRPO's linear solve and line search",
        stress="equal tokens",
        parent=_arm("trpo"), child=_arm("ppo_kl"), measures=(SECONDS, ACCURACY), rates=RATES,
        settings={**SMALL, "samples_per_prompt": 8, "learning_rate": 4e-4, "tokens": 20_000, "eval_every": 10},
    ),
    _critic("critic", 0.05, "answers of ten tokens, where credit by one temporal difference is all that its formula leaves"),
    _critic("long", 25.0, "lambda at ten tokens as the paper has it at five thousand"),
    Experiment(
        "grpo_process", "steps", "training",
        claim="rewards for steps tell good steps from bad ones within an answer",
        stress="a task that judges each reasoning step, few tokens",
        parent=_arm("grpo", "grpo without its KL", kl="NoKL"),
        child=_arm("grpo_process", "grpo_process without its KL", kl="NoKL"), rates=RATES,
        measures=(ACCURACY,), settings={**SMALL, "samples_per_prompt": 8, "tokens": 20_000, "eval_every": 10},
    ),
    Experiment(
        "grpo_process", "credit", "gradient",
        claim="crediting a token with the steps that follow it makes the gradient clearer than their sum for all tokens",
        stress="the same rewards for both, one for each reasoning step",
        parent=_arm("grpo"), child=_arm("grpo_process"), measures=(SNR,),
        settings={**FROZEN, "prompts": 16, "batches": 24, "warmup": 0, "process": True},
    ),
    Experiment(
        "lite_ppo", "direction", "exact",
        claim="the std of a small group bends the mean gradient, that of the whole batch bends it less",
        stress="small worlds of two prompts of different difficulty, every batch enumerated",
        parent=_arm("grpo", "grpo with a token mean, without its KL", kl="NoKL", aggregate="TokenMean"),
        child=_arm("lite_ppo"), measures=(DIRECTION,),
        settings={"vocabulary": 2, "horizon": 2, "prompts": 2, "samples": 8, "reward": "binary"}, seeds=30,  # none at 2 and 3
    ),
    Experiment(
        "maxrl", "likelihood", "exact",
        claim="dividing by the success rate climbs the log-likelihood of right answers faster",
        stress="small worlds of two prompts of different difficulty, every batch enumerated",
        parent=_arm("grpo", "grpo without its KL", kl="NoKL", aggregate="SequenceSum"), child=_arm("maxrl"),
        measures=(Quantity("likelihood", "mean log success rate gained on a step of length 1"),),
        settings={"vocabulary": 3, "horizon": 2, "prompts": 2, "samples": 4, "reward": "binary"}, seeds=30,
    ),
    Experiment(
        "opo", "length", "gradient",
        claim="a baseline that weighs rewards by length takes more noise out than none",
        stress="a policy that is right four times in ten, answers of different length",
        parent=_arm("reinforce", "reinforce with a token mean", aggregate="TokenMean"), child=_arm("opo"),
        measures=(SNR,), settings={**LATER, "prompts": 16, "after": 5_000},
    ),
    Experiment(
        "opo", "mean", "gradient",
        claim="a baseline that weighs rewards by length takes more noise out than the plain mean",
        stress="a policy that is right four times in ten, answers of different length",
        parent=_plain_mean(), child=_arm("opo"), measures=(SNR,), settings={**LATER, "prompts": 16, "after": 5_000},
    ),
    Experiment(
        "opo", "worlds", "exact",
        claim="a baseline that weighs rewards by length takes more noise out than the plain mean",
        stress="small worlds of random rewards and policies, every batch enumerated",
        parent=_plain_mean(), child=_arm("opo"), measures=(SNR,),
        settings={"vocabulary": 3, "horizon": 4, "samples": 3, "reward": "binary"}, seeds=60,
    ),
    Experiment(
        "reinforce_pp_baseline", "difficulty", "gradient",
        claim="subtracting the group's mean takes the prompt's difficulty out of the noise",
        stress="problems of very different difficulty, most answers right",
        parent=_arm("reinforce_pp"), child=_arm("reinforce_pp_baseline"),
        measures=(SNR,), settings=LATER,
    ),
    Experiment(
        "reinforce_pp_baseline", "worlds", "exact",
        claim="subtracting the group's mean takes the prompt's difficulty out of the noise",
        stress="small worlds of two prompts of different difficulty, every batch enumerated",
        parent=_arm("reinforce_pp", "reinforce_pp without its KL", kl="NoKL"),
        child=_arm("reinforce_pp_baseline", "reinforce_pp_baseline without its KL", kl="NoKL"), measures=(SNR,),
        settings={"vocabulary": 2, "horizon": 2, "prompts": 2, "samples": 4, "reward": "binary"}, seeds=30,
    ),
    Experiment(
        "kimi", "reuse", "training",
        claim="fitting the distance to the optimum takes more than one step from a batch",
        stress="few tokens, equal for both", rates=RATES,
        parent=_arm("leave_one_out"), child=_arm("kimi", "kimi, 4 steps a batch", update__minibatches=4),
        measures=(ACCURACY,), settings={**SMALL, "samples_per_prompt": 8, "tokens": 10_000, "eval_every": 5},
    ),
)  # fmt: skip

NONE: Mapping[str, str] = {  # recipes that have no experiment, and why
    "reinforce": "It is the foot of the ladder: there is no parent whose failure it repairs.",
}
