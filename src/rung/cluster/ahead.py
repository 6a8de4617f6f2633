"""The answers of coming steps, drawn while the learner is at this one: sampling and learning side by side.

The capacity rule: answers of step k are drawn by the weights of version max(k - S, first), no newer and no older ones. So at
most S + 1 steps' answers are under way, none is more than S updates behind the weights that learn from it, and the run is the
same whatever was quick or slow. first: the step that this process began with, whose weights are all that there are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from queue import SimpleQueue
from typing import Any, Self

from rung.cluster.pool import SamplerPool
from rung.records import State
from rung.rollout.collect import Collected, Collector

ENDING = 10.0  # seconds that answers under way may take to notice that nobody wants them


@dataclass(frozen=True)
class Drawn:
    """A step's answers, where the problems stood after them, and when they were drawn (seconds since the run began)."""

    collected: Collected
    position: dict[str, Any]
    start: float
    end: float


@dataclass(frozen=True)
class Order:
    """What may be drawn now. version: of the weights that are there.  steps: those that begin with them, and who waits for each."""

    version: int
    state: State
    steps: Mapping[int, Future[Drawn]]


@dataclass(kw_only=True)
class Ahead(Collector):
    """A Collector that has at most `staleness` further steps under way. steps: of the run.  begun: when it began."""

    pool: SamplerPool
    staleness: int
    steps_in_all: int
    begun: float
    _coming: dict[int, Future[Drawn]] = field(default_factory=dict, init=False)
    _position: dict[str, Any] | None = field(default=None, init=False)

    @classmethod
    def of(cls, plain: Collector, **more: Any) -> Self:
        return cls(**{f.name: getattr(plain, f.name) for f in fields(plain)}, **more)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._inner = Collector(**{f.name: getattr(self, f.name) for f in fields(Collector)})
        self._inner.walk = self.walk
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._next: int | None = None
        self.drawing = threading.Thread(target=self._draw_ahead, name="rung-ahead", daemon=True)
        self.drawing.start()

    def collect(self, step: int, state: State) -> Collected:
        """The answers of one step, and the order for those of the step that may begin now."""
        end = min(step + self.staleness + 1, self.steps_in_all)
        fresh = {k: Future[Drawn]() for k in range(step if self._next is None else self._next, end)}
        self._next = end
        self._coming |= fresh
        self._orders.put(Order(step, state, fresh))
        with self.phase("sample"):
            drawn = self._coming.pop(step).result()
        self._position = drawn.position
        behind = [step - version for row in drawn.collected.scored for version in row.rollout.drawn_by]
        told = {
            "sampling/staleness_mean": sum(behind) / max(len(behind), 1),
            "sampling/staleness_max": float(max(behind, default=0)),
            "cluster/sample_start": drawn.start,
            "cluster/sample_end": drawn.end,
        }
        return replace(drawn.collected, counters=drawn.collected.counters | told)

    def position(self) -> dict[str, Any]:
        """After the step that was handed out last: those under way are drawn again by whoever goes on."""
        return super().position() if self._position is None else self._position

    def end(self) -> None:
        """Draw no further answers; returns once nobody asks for any."""
        self.pool.closed = True
        self._orders.put(None)
        self.drawing.join(ENDING)

    def _draw_ahead(self) -> None:
        while (order := self._orders.get()) is not None:
            self._fill(order)

    def _fill(self, order: Order) -> None:
        """Draw what is ordered."""
        for step, told in order.steps.items():
            with telling(told):
                told.set_result(self._whole(step, order))

    def _whole(self, step: int, order: Order) -> Drawn:
        """All answers of a step, by one version."""
        start = time.monotonic()
        self._inner.sampler = self.pool.at(order.version)
        collected = self._inner.collect(step, order.state)
        return self._drawn(collected, self._inner.position(), start)

    def _drawn(self, collected: Collected, position: dict[str, Any], start: float) -> Drawn:
        return Drawn(collected, position, start - self.begun, time.monotonic() - self.begun)


@contextmanager
def telling(*waiting: Future[Drawn]) -> Iterator[None]:
    """An error of this block is raised where the answers are waited for."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001  raised there
        for told in waiting:
            told.set_exception(error)
