"""The samplers of a run as one: a step's prompts dealt out over them, and lost work given to the next one that is free.

A row's answer is its own (rollout/draws.py), so it is the same whoever draws it, and after whatever has died meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rung.cluster.connect import deaths
from rung.cluster.weights import Shipped, pack
from rung.errors import RunFailed, setting
from rung.io.terminal import say_notes
from rung.records import Rollout, SamplingLaw
from rung.rollout.draws import Draws

TRIES = 4  # of one piece of work: what ends its process every time is given up
PATIENCE = 600.0  # seconds without any sampler before the run is given up
LOOK = 1.0  # seconds between two looks at who is there again


@dataclass(eq=False)
class Seat:
    """One sampler's place. away: what it answers once it is there again; None: it is there."""

    actor: Any
    away: Any = None


@dataclass
class Unit:
    """Whole groups that are drawn together. prompts: their places among those of the call."""

    prompts: list[int]
    tries: int = 0
    why: str = ""


@dataclass
class SamplerPool:
    """A Sampler whose answers come from actors.

    keep: versions behind the newest whose weights may still be asked for.  closed: the run has ended.
    same_numbers: the actors', if `keep` is 0: stale weights give other log-probabilities than the trainer's.
    """

    seats: list[Seat]
    same_numbers: bool
    keep: int = 0
    version: int = 0
    boxes: dict[int, list[Any]] = field(default_factory=dict)
    closed: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()  # evaluations and coming steps are sampled side by side

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Into the store of this machine, where it stays if another one is lost, and to every sampler that is there."""
        import ray

        packed = weights.packed if isinstance(weights, Shipped) else pack(weights)
        with self._lock:
            self.boxes = {v: box for v, box in self.boxes.items() if version - self.keep <= v < version}
            self.boxes[version] = [ray.put(packed)]
            self.version = version
        sent = [seat.actor.load.remote(version, self.boxes[version]) for seat in self.seats if seat.away is None]
        if not self.keep:  # whoever is gone loads them before it draws
            ray.wait(sent, num_returns=len(sent), timeout=PATIENCE)

    def sample(self, prompts: Sequence[Sequence[int]], law: SamplingLaw, draws: Draws) -> list[Rollout]:
        return self.sample_at(self.version, prompts, law, draws)

    def at(self, version: int) -> At:
        """The same samplers with the weights of this version."""
        return At(self, version)

    def sample_at(
        self, version: int, prompts: Sequence[Sequence[int]], law: SamplingLaw, draws: Draws
    ) -> list[Rollout]:
        import ray

        samples, box = draws.each(len(prompts)), self.boxes.get(version, [])
        assert version == 0 or box, f"weights of version {version} are gone"
        waiting = deque(self._units(len(prompts)))
        busy: dict[Any, tuple[Seat, Unit]] = {}
        found: dict[int, list[Rollout]] = {}
        since = time.monotonic()
        while waiting or busy:
            if self.closed:
                raise RunFailed("the run has ended before these answers were drawn.")
            taken = {id(seat) for seat, _ in busy.values()}
            for seat in self._there():
                if waiting and id(seat) not in taken:
                    unit = waiting.popleft()
                    rows = [i * samples + j for i in unit.prompts for j in range(samples)]
                    own = [prompts[i] for i in unit.prompts]
                    busy[seat.actor.generate.remote(own, law, draws.part(rows), version, box)] = seat, unit
                    since = time.monotonic()
            done = ray.wait(list(busy), num_returns=1, timeout=LOOK)[0] if busy else _pause()
            for ref in done:
                seat, unit = busy.pop(ref)
                rollouts = self._answered(ref, seat, unit)
                if rollouts is None:
                    waiting.appendleft(unit)
                else:
                    parts = range(0, len(rollouts), samples)
                    found |= {i: rollouts[k : k + samples] for i, k in zip(unit.prompts, parts, strict=True)}
            if not busy and time.monotonic() - since > PATIENCE:
                raise RunFailed(
                    f"no sampler has come back for {PATIENCE:g} s ({waiting[0].why}). Look at the cluster (`ray status`), then "
                    "go on with the run."
                )
        return [rollout for i in range(len(prompts)) for rollout in found[i]]

    def _units(self, prompts: int) -> list[Unit]:
        """One for each sampler, also if some are away, so that what is drawn together does not depend on who is there."""
        size = min(len(self.seats), prompts)
        ends = [k * prompts // size for k in range(1, size + 1)] if size else []
        return [Unit(list(range(start, end))) for start, end in zip([0, *ends], ends, strict=False)]

    def _there(self) -> list[Seat]:
        import ray

        for seat in self.seats:
            if seat.away is not None and ray.wait([seat.away], timeout=0)[0]:
                try:
                    ray.get(seat.away)
                    seat.away = None
                except deaths():
                    seat.away = seat.actor.same_numbers.remote()
        return [seat for seat in self.seats if seat.away is None]

    def _answered(self, ref: Any, seat: Seat, unit: Unit) -> list[Rollout] | None:
        """The answers; None: they died with their sampler, or with its machine.

        Raises:
            RunFailed: whoever draws them dies.
        """
        import ray
        from ray.exceptions import RayTaskError

        try:
            found: list[Rollout] = ray.get(ref)
            return found
        except RayTaskError as error:
            raise error.cause from error
        except deaths() as error:
            unit.tries, unit.why = unit.tries + 1, str(error).strip().split("\n")[0]
            if unit.tries == TRIES:
                raise RunFailed(
                    f"{TRIES} samplers have died of the same answers ({unit.why}). Usually memory ran out: draw fewer at a time "
                    f"({setting('prompts_per_step')}, {setting('samples_per_prompt')}), or give the cluster more."
                ) from error
        say_notes([f"a sampler has ended ({unit.why}); its answers are drawn again, and are the same"])
        seat.away = seat.actor.same_numbers.remote()
        return None


@dataclass(frozen=True)
class At:
    """A pool with the weights of one version."""

    pool: SamplerPool
    version: int

    @property
    def same_numbers(self) -> bool:
        return self.pool.same_numbers

    def sample(self, prompts: Sequence[Sequence[int]], law: SamplingLaw, draws: Draws) -> list[Rollout]:
        return self.pool.sample_at(self.version, prompts, law, draws)

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        raise AssertionError("its weights are those of one version")


def _pause() -> list[Any]:
    time.sleep(LOOK / 5)
    return []
