"""Held-out problems, with a confidence interval: the same problems, law and seed before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import stdev

from rung.io.held_out import NAMES
from rung.io.shown import Shown
from rung.io.terminal import figure
from rung.records import Rollout, SamplingLaw, Scored
from rung.rollout.ask import ask, encode
from rung.rollout.draws import Draws
from rung.rollout.sampler import Sampler
from rung.statistics import Change, Z, change, is_binary, over_problems, problem_means, wilson
from rung.tasks.environments.protocol import Conversational, Environment
from rung.text import Codec

USUAL = 256  # answers of an evaluation, where fewer problems are asked more than once
EVAL_SEED = 20_000_003  # evaluations draw from a seed of their own: the same one before and after


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Answers to the first `n` held-out problems, and what they show.

    too_long: problems whose prompt left no room for an answer; they are wrong where answers are right or wrong, and left
        out where rewards have another scale.
    step: of the run that it belongs to; None: of no run.
    graded: another evaluation shown beside this one has rewards other than 0 and 1, so that no answer is right or wrong.
    """

    answers: Sequence[Scored]
    n: int
    too_long: int = 0
    graded: bool = False
    step: int | None = None

    def __repr__(self) -> str:
        low, high = self.interval()
        sure = "" if math.isnan(low) else f" (95% CI {figure(low)} to {figure(high)})"
        when = "" if self.step is None else f" at step {self.step}"
        what = NAMES["accuracy" if self.binary else "reward"]
        return f"<{what} {figure(self.reward)}{sure}{when}: {len(self.answers)} answers to {self.n} problems>"

    @property
    def binary(self) -> bool:
        """Whether all rewards are 0 or 1, right or wrong: then there is an accuracy. Else there is a mean reward."""
        return not self.graded and is_binary(a.reward for a in self.answers)

    @property
    def accuracy(self) -> float:
        """Share of right answers, of those that could be scored; NaN where rewards are not right or wrong, or unknown."""
        return self.reward if self.binary else math.nan

    @property
    def reward(self) -> float:
        """Mean reward over problems, of the answers that could be scored; NaN if none could."""
        means = self.means
        return sum(means.values()) / len(means) if means else math.nan

    @cached_property
    def means(self) -> dict[str, float]:
        """{problem: mean reward of its scored answers}."""
        return problem_means((a.task.id, self.earned(a)) for a in self.answers)

    def earned(self, answer: Scored) -> float:
        """The answer's reward, NaN where there is none; where answers are right or wrong, one without room was wrong."""
        return 0.0 if unasked(answer) and self.binary else answer.reward

    @property
    def unscored(self) -> int:
        """Answers that could not be scored: neither right nor wrong, and in no mean."""
        return sum(not math.isfinite(a.reward) and not unasked(a) for a in self.answers)

    def interval(self) -> tuple[float, float]:
        """95 %. An accuracy: Wilson's for one answer per problem; for several, mean -+ 1.96 standard errors over problems'
        means. Any other mean: by bootstrap over problems, NaN where they all have the same.
        """
        values = list(self.means.values())
        if not self.binary:
            return over_problems(values)
        several = len(self.answers) > len({a.task.id for a in self.answers}) and len(values) > 1
        if several and (error := stdev(values) / math.sqrt(len(values))) > 0:
            return max(0.0, self.accuracy - Z * error), min(1.0, self.accuracy + Z * error)
        return wilson(self.accuracy, len(values)) if values else (math.nan, math.nan)

    def change(self, after: Evaluation) -> Change | None:
        """What happened between this evaluation and a later one of the same problems."""
        return change(self.means, after.means, self.binary and after.binary)

    def shown(self) -> Shown:
        low, high = self.interval()
        return Shown(self.binary, self.reward, low, high, len(self.means), self.unscored, len(self.answers), self.step)

    def metrics(self) -> dict[str, float]:
        """What a run logs. `eval/accuracy` only where all rewards of the run's evaluations were 0 or 1 so far."""
        lengths = [a.rollout.sampled for a in self.answers]
        cut = sum(a.rollout.stop == "length" for a in self.answers)
        low, high = self.interval()
        own_low, own_high = over_problems(list(self.means.values()))
        right = {"eval/accuracy": self.accuracy, "eval/accuracy_ci_low": low, "eval/accuracy_ci_high": high}
        return {
            **(right | {"eval/accuracy_n": float(len(self.means))} if self.binary and self.means else {}),
            "eval/reward": self.reward,
            "eval/reward_ci_low": own_low,
            "eval/reward_ci_high": own_high,
            "eval/reward_n": float(len(self.means)),
            "eval/mean_length": sum(lengths) / max(len(lengths), 1),
            "eval/clipped_ratio": cut / max(len(lengths), 1),
            "eval/unscored": float(self.unscored),
            **{f"eval/rewards/{name}": value for name, value in self.components().items()},
        }

    def components(self) -> dict[str, float]:
        """The mean of each reward, over the scored answers that it belongs to; nothing if there is one only, the whole.

        Of a mixture these are the accuracies (or mean rewards) of its parts.
        """
        found: dict[str, list[float]] = {}
        for a in self.answers:
            for name, value in a.rewards.items():
                found.setdefault(name, []).extend([value] if math.isfinite(value) else [])
        means = {name: sum(values) / len(values) if values else math.nan for name, values in found.items()}
        return means if len(means) > 1 else {}


def answers_per_problem(asked: int | None, problems: int, size: int) -> int:
    """What a run's evaluations take: what was asked for, else 1, or more where the task has fewer than `problems`.

    So many answers in all as usual (USUAL) are enough: a number of problems far above what there is makes no more of them.
    """
    return asked or max(1, round(min(problems, USUAL) / max(size, 1)))


def unasked(answer: Scored) -> bool:
    """No answer: the prompt left no room for one."""
    return answer.rollout.stop == "abort" and not answer.rewards


def evaluate(
    env: Environment, codec: Codec, sampler: Sampler, law: SamplingLaw, problems: int, samples: int, seed: int
) -> Evaluation:
    """`samples` answers to each of the first `problems` problems, sampled under `law` from a seed of their own.

    A problem whose prompt leaves no room for an answer is counted in `too_long`: its prompt is never cut.
    """
    tasks = [env[i] for i in range(min(problems, len(env)))]
    talks = isinstance(env, Conversational)
    fits = [talks or codec.room(task.prompt) >= law.max_new_tokens for task in tasks]
    if tasks and not any(fits):
        encode(codec, tasks[0], law.max_new_tokens)  # refuses, and says why
    asked = [task for task, fit in zip(tasks, fits, strict=True) if fit]
    groups = iter(ask(env, codec, sampler, law, asked, Draws.whole(seed, len(asked) * samples)))
    answers: list[Scored] = []
    for task, fit in zip(tasks, fits, strict=True):
        if fit:
            answers += next(groups)
        else:
            absent = Rollout(tuple(codec.encode(task.prompt)), (), (), (), "abort")
            answers += [Scored(task, absent, "", {}, math.nan)] * samples
    return Evaluation(answers, len(tasks), fits.count(False))
