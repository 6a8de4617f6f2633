"""What a step's metrics say that no one should have to find in a table: one sentence each, said once a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rung.errors import InputError
from rung.records import Scored

Row = Mapping[str, float]


@dataclass(frozen=True)
class Notice:
    """A sentence and when it is due. `answers`: how many answers a step has; `weights`: parameters that are trained."""

    due: Callable[[Row, int, int], bool]
    text: Callable[[Row, int, int], str]


def _all_unscored(row: Row, answers: int, weights: int) -> bool:
    return row["rewards/unscored"] == answers


def _half_unscored(row: Row, answers: int, weights: int) -> bool:
    return answers > row["rewards/unscored"] >= answers / 2


def _tiny_gradient(row: Row, answers: int, weights: int) -> bool:
    """Adam divides by sqrt(v) + 1e-8: a gradient of that size an element takes steps shorter than the learning rate."""
    return 0 < row["grad_norm"] < 1e-8 * math.sqrt(weights) and row["advantage/abs_mean"] > 0 and "learning_rate" in row


NOTICES: tuple[Notice, ...] = (
    Notice(
        _all_unscored,
        lambda row, answers, _: (
            f"none of the {answers} answers could be scored (every reward is None or no number), so nothing was learned. "
            "If this goes on, the verifier is down: stop with Ctrl-C, mend it, and go on with --resume."
        ),
    ),
    Notice(
        _half_unscored,
        lambda row, answers, _: (
            f"{row['rewards/unscored']:.0f} of {answers} answers could not be scored (None or no number); they are left out. "
            "Look for a verifier that fails or runs out of time; `rewards/unscored` counts on."
        ),
    ),
    Notice(
        lambda row, *_: row.get("advantage/eps_dominates", 0.0) >= 0.5,
        lambda row, *_: (
            f"in {row['advantage/eps_dominates']:.0%} of the prompts whose answers earned different rewards, these differ by "
            "less than the recipe's eps, which then sets the size of the advantages. Multiply the rewards, or lower eps."
        ),
    ),
    Notice(
        lambda row, *_: row["advantage/lost"] > 0,
        lambda row, *_: (
            f"{row['advantage/lost']:.0%} of the prompts have answers of different rewards from which this recipe learns "
            "nothing: a mean reward of 0 or less has no success rate to divide by (maxrl), a greedy answer without a reward "
            "is no baseline (remax)."
        ),
    ),
    Notice(
        _tiny_gradient,
        lambda row, _, weights: (
            f"the gradient (norm {row['grad_norm']:.1g} over {weights:,} weights) is so small that Adam's 1e-8 shortens the "
            "steps. Multiply the rewards, or use a recipe that divides by their std (grpo)."
        ),
    ),
)


@dataclass
class Notices:
    """Says each notice when it is due for the first time."""

    answers: int
    weights: int
    said: set[int] = field(default_factory=set)

    def of(self, row: Row) -> list[str]:
        """The sentences that this step's row calls for and that were not said yet."""
        new = [i for i, n in enumerate(NOTICES) if i not in self.said and n.due(row, self.answers, self.weights)]
        self.said.update(new)
        return [NOTICES[i].text(row, self.answers, self.weights) for i in new]


def check_scored(rows: Sequence[Scored], step: int) -> None:
    """Refuses a run whose first answers could not be scored at all: there is nothing to learn from."""
    if any(math.isfinite(row.reward) for row in rows):
        return
    first = rows[0]
    given = ", ".join(f"{name} {value}" for name, value in first.rewards.items()) or "no reward at all"
    raise InputError(
        f"step {step}: none of the {len(rows)} answers could be scored, so there is nothing to learn from. Every reward is "
        f"None or no number; for problem {first.task.id!r} the verifier or reward function gave: {given}. Return a number "
        "for answers that can be judged (None means: leave this one out)."
    )


def remedy(row: Row) -> str:
    """What to do about a gradient that is not finite."""
    if row["advantage/abs_mean"] < 1e12:
        return "Lower the learning rate."
    return (
        f"The advantages are of size {row['advantage/abs_mean']:.1g}, too large for float32: divide the rewards, or use a "
        "recipe that divides by their std (grpo)."
    )
