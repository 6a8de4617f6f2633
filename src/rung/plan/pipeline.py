"""When each step is drawn and learned from, by the bound on staleness: simulated, as cluster/ahead.py schedules it.

    A_k = max(A_{k-1}, U_{k-S-1}) + a      answers of step k are there: one step at a time, by weights of version k - S
    U_k = max(U_{k-1}, A_k) + b            they have been learned from

a, b: seconds of the sampling and of the learning side, each of several stages. Where all steps take the same, one takes
max(a, b, (a + b) / (S + 1)): the sum without staleness, the larger side with it. Processes that compute at the same time
share the places (cores or GPUs) that there are, so that on two cores four processes take twice as long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WARM = 12  # steps that are simulated before those that count, and as many that do
LEAST = 1e-12  # seconds


@dataclass(frozen=True)
class Stage:
    """seconds: of each of `processes` that compute side by side, where each has a place of its own."""

    name: str
    seconds: float
    processes: int = 1


@dataclass(frozen=True)
class Span:
    """Seconds since the run began. A step's answers are drawn from `drawing` to `drawn`, learned from between the others."""

    drawing: float
    drawn: float
    learning: float
    learned: float


class _Side:
    """One of the two that work at the same time. begun, ended: of the steps so far."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = [stage for stage in stages if stage.seconds > 0] or [Stage("nothing", LEAST)]
        self.begun: list[float] = []
        self.ended: list[float] = []
        self.at, self.left = 0, 0.0

    @property
    def busy(self) -> int:
        """Processes that compute now."""
        return self.stages[self.at].processes if len(self.begun) > len(self.ended) else 0

    def begin(self, now: float) -> None:
        self.begun.append(now)
        self.at, self.left = 0, self.stages[0].seconds

    def work(self, seconds: float, now: float) -> None:
        """seconds: of its stage that are done. now: when they are."""
        self.left -= seconds
        if self.left > LEAST:
            return
        self.at += 1
        if self.at == len(self.stages):
            self.at = 0
            self.ended.append(now)
        else:
            self.left = self.stages[self.at].seconds


def simulate(
    drawing: Sequence[Stage], learning: Sequence[Stage], staleness: int, steps: int, places: float = math.inf
) -> list[Span]:
    """The first `steps` steps. places: cores or GPUs that all processes share; infinity: none is waited for."""
    draw, learn = _Side(drawing), _Side(learning)
    now = 0.0
    while len(learn.ended) < steps:
        if not draw.busy and len(draw.ended) < steps and len(learn.ended) >= len(draw.ended) - staleness:
            draw.begin(now)
        if not learn.busy and len(draw.ended) > len(learn.ended):
            learn.begin(now)
        speed = min(1.0, places / max(draw.busy + learn.busy, 1))
        working = [side for side in (draw, learn) if side.busy]
        done = min(side.left for side in working)
        now += done / speed
        for side in working:
            side.work(done, now)
    return [Span(*times) for times in zip(draw.begun, draw.ended, learn.begun, learn.ended, strict=True)]


def step_seconds(
    drawing: Sequence[Stage], learning: Sequence[Stage], staleness: int, places: float = math.inf
) -> float:
    """Seconds of a step once the run goes evenly."""
    spans = simulate(
        drawing, learning, staleness, 2 * WARM + staleness + 1, places
    )  # at the end nothing is drawn any more
    return (spans[2 * WARM - 1].learned - spans[WARM - 1].learned) / WARM


def closed_form(a: float, b: float, staleness: int) -> float:
    """max(a, b, (a + b) / (S + 1)), where no place is shared."""
    return max(a, b, (a + b) / (staleness + 1))
