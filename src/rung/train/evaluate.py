"""Accuracy on held-out problems, with a confidence interval: the same problems, law and seed before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev

from rung.records import Rollout, SamplingLaw, Scored
from rung.rollout.ask import ask, encode
from rung.rollout.model import Model
from rung.rollout.sampler import Sampler
from rung.tasks.environment import Environment, talks


@dataclass(frozen=True)
class Evaluation:
    """Answers to the first `n` held-out problems, and what they show."""

    answers: Sequence[Scored]
    n: int
    too_long: int = 0  # problems whose prompt left no room for an answer; they count as wrong

    @property
    def accuracy(self) -> float:
        """Mean reward over problems and samples; an answer that could not be scored counts as 0."""
        return sum(a.reward if math.isfinite(a.reward) else 0.0 for a in self.answers) / max(len(self.answers), 1)

    def interval(self) -> tuple[float, float]:
        """95 %: Wilson's for one answer per problem; for several, mean -+ 1.96 standard errors over problems' means.

        Answers to one problem are no independent trials, so they count as one observation, their mean.
        """
        accuracy = min(max(self.accuracy, 0.0), 1.0)
        k = len(self.answers) // max(self.n, 1)
        if k > 1 and self.n > 1:
            rewards = [a.reward if math.isfinite(a.reward) else 0.0 for a in self.answers]
            error = stdev(sum(rewards[i : i + k]) / k for i in range(0, len(rewards), k)) / math.sqrt(self.n)
            if error > 0:
                return max(0.0, accuracy - 1.959964 * error), min(1.0, accuracy + 1.959964 * error)
        return wilson(accuracy, self.n)

    def summary(self) -> dict[str, float]:
        low, high = self.interval()
        return {"accuracy": self.accuracy, "ci_low": low, "ci_high": high, "n": float(self.n)}

    def metrics(self) -> dict[str, float]:
        lengths = [a.rollout.sampled for a in self.answers]
        cut = sum(a.rollout.stop == "length" for a in self.answers)
        low, high = self.interval()
        return {
            "eval/accuracy": self.accuracy,
            "eval/accuracy_ci_low": low,
            "eval/accuracy_ci_high": high,
            "eval/accuracy_n": float(self.n),
            "eval/mean_length": sum(lengths) / max(len(lengths), 1),
            "eval/clipped_ratio": cut / max(len(lengths), 1),
            "eval/unscored": float(sum(not math.isfinite(a.reward) for a in self.answers)),
            **{f"eval/rewards/{name}": value for name, value in self.components().items()},
        }

    def components(self) -> dict[str, float]:
        """The mean of each reward, over the answers that it belongs to; nothing if there is one only, the accuracy.

        Of a mixture these are the accuracies of its parts.
        """
        found: dict[str, list[float]] = {}
        for a in self.answers:
            for name, value in a.rewards.items():
                found.setdefault(name, []).append(value if math.isfinite(value) else 0.0)
        return {name: sum(values) / len(values) for name, values in found.items()} if len(found) > 1 else {}


def wilson(p: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)   (Wilson 1927): never leaves [0, 1], never empty."""
    if n == 0:
        return 0.0, 1.0
    center, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (center - spread) / (1 + z * z / n), (center + spread) / (1 + z * z / n)


def evaluate(
    env: Environment, model: Model, sampler: Sampler, law: SamplingLaw, problems: int, samples: int, seed: int
) -> Evaluation:
    """`samples` answers to each of the first `problems` problems, sampled under `law` from a seed of their own.

    A problem whose prompt leaves no room for an answer is counted in `too_long` and is wrong: never cut, never left out.
    """
    tasks = [env[i] for i in range(min(problems, len(env)))]
    fits = [talks(env) or len(model.encode(task.prompt)) + law.max_new_tokens <= model.context for task in tasks]
    if tasks and not any(fits):
        encode(model, tasks[0], law.max_new_tokens)  # refuses, and says why
    groups = iter(ask(env, model, sampler, law, [t for t, fit in zip(tasks, fits, strict=True) if fit], samples, seed))
    answers: list[Scored] = []
    for task, fit in zip(tasks, fits, strict=True):
        unasked = Scored(task, Rollout(tuple(model.encode(task.prompt)), (), (), (), "abort"), "", {}, 0.0)
        answers += next(groups) if fit else [unasked] * samples
    return Evaluation(answers, len(tasks), fits.count(False))
