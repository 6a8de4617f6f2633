"""The learner as the loop sees it, while other processes learn: whatever dies among them is made good without a trace.

Learning draws nothing that its arguments do not say. So a group that has lost a process is built anew from the newest
checkpoint and takes the steps since then again, on the same answers, which are kept until a checkpoint holds them: the
same bytes as if nothing had happened. No process of a group is mended alone: the others wait for it in the middle of a sum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.cluster.connect import deaths
from rung.cluster.weights import Shipped
from rung.errors import RunFailed, setting
from rung.io.checkpoints import Checkpoints
from rung.io.terminal import say_notes
from rung.maths.assess import Assessed
from rung.records import Batch, State, StepResult
from rung.rollout.collect import Collected
from rung.rollout.phases import Phase, untold

TRIES = 3  # of one call: what ends a process every time is given up
PATIENCE = 600.0  # seconds in which a new group must be there
SETTLE = 20.0  # seconds after a failure in which the others' ends say which process was the first


class Lost(Exception):
    """A process of the group has ended."""


@dataclass
class RemoteLearner:
    """A Learner whose steps other processes take.

    build: makes a group of new actors.  state, version: as of Learner.  begun: when the run began, for a timeline, or None.
    """

    build: Callable[[], list[Any]]
    state: State
    begun: float | None = None
    version: int = 0
    actors: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.phase: Phase = untold
        self._since: dict[int, Batch] = {}  # by the version before it: the steps that no checkpoint holds
        self._kept: Path | None = None  # a checkpoint that the run went on from
        self._home: Path | None = None  # where checkpoints are written
        self._busy, self._broken = False, True
        self._shipped: Shipped | None = None
        self._bytes = int(self._ask("size"))

    # -- the step -----------------------------------------------------------------------------------------------------
    def step(self, collected: Collected) -> StepResult:
        """The whole of it is one phase, which no signal breaks off: what others do cannot be taken back from here."""
        self._forget()
        start = time.monotonic()
        with self.phase("update"):
            self._busy = True
            self._since[self.version] = collected.batch
            result, self.state, self.version = self._ask("step", collected.batch)
            self._busy = False
        if self.begun is not None:
            span = {"start": start - self.begun, "end": time.monotonic() - self.begun}
            result.metrics.update({f"cluster/update_{name}": at for name, at in span.items()})
        found: StepResult = result
        return found

    def assess(self, collected: Collected) -> Assessed:
        with self.phase("logprob"):
            assessed: Assessed = self._ask("assess", collected.batch)
        return assessed

    # -- what others get of it ----------------------------------------------------------------------------------------
    def weights(self) -> Shipped:
        if self._shipped is None or self._shipped.version != self.version:
            self._shipped = Shipped(self._ask("weights"), self.version)
        return self._shipped

    def save(self, directory: Path) -> None:
        self._ask("save", directory.resolve())
        self._home = directory.resolve().parent

    def restore(self, directory: Path) -> None:
        self._kept, self._since, self._shipped = directory.resolve(), {}, None
        self.state, self.version = self._ask("restore", self._kept)

    def size(self) -> int:
        return self._bytes

    def marks(self) -> Hashable:
        return self.version, self._busy

    # -- the group ----------------------------------------------------------------------------------------------------
    def _ask(self, what: str, *arguments: Any) -> Any:
        """The first process's answer to what all of them are asked; a group that dies of it is made anew."""
        for left in range(TRIES - 1, -1, -1):
            try:
                if self._broken:
                    self._again()
                return self._call(what, *arguments)
            except Lost as error:
                self._broken = True
                if not left:
                    raise RunFailed(
                        f"{TRIES} groups of learners have died of step {self.version + 1} ({error}). Usually memory ran out: lower "
                        f"{setting('activation_gib')}, or give the cluster more. The run goes on from its newest checkpoint."
                    ) from error
                say_notes(
                    [
                        f"a learner has ended ({error}); all are made anew and take the steps since the newest checkpoint again"
                    ]
                )
        raise AssertionError("the last try returns or raises")

    def _again(self) -> None:
        """A new group, as the lost one was before the call that it died of."""
        self._begin()
        newest, done = self._newest(), 0
        if newest is not None:
            _, done = self._call("restore", newest)
        for version in range(done, self.version):
            if version not in self._since:
                raise RunFailed(
                    f"the learners are lost, and the checkpoint that held step {version + 1} is damaged. Resume the run: it goes "
                    "on from the newest sound one."
                )
            self._call("step", self._since[version])
        self._broken = False

    def _begin(self) -> None:
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.actors = self.build()
        try:
            where = ray.get(self.actors[0].address.remote(), timeout=PATIENCE)
        except ray.exceptions.GetTimeoutError as error:
            raise RunFailed(
                f"no learner has begun for {PATIENCE:g} s ({error}). Look at the cluster (`ray status`): it has no room for one; "
                "then go on with the run."
            ) from error
        except deaths() as error:
            raise Lost(str(error).strip().split("\n")[0]) from error
        self._call("begin", where)

    def _call(self, what: str, *arguments: Any) -> Any:
        """Raises Lost where a process has ended; any other error is its own."""
        import ray
        from ray.exceptions import RayTaskError

        shared = [ray.put(x) if isinstance(x, Batch) else x for x in arguments]
        asked = [getattr(actor, what).remote(*shared) for actor in self.actors]
        left, failed, end = list(asked), list[Exception](), None
        while left and (end is None or time.monotonic() < end):
            done, left = ray.wait(left, num_returns=1, timeout=1.0)
            for ref in done:
                try:
                    ray.get(ref)
                except deaths() as error:
                    raise Lost(str(error).strip().split("\n")[0]) from error
                except RayTaskError as error:  # its own, or that of one whose peer is gone
                    failed.append(error.cause)
                    end = end or time.monotonic() + SETTLE * (len(self.actors) > 1)
        if failed:
            raise failed[0]
        return ray.get(asked[0])

    # -- the steps since the newest checkpoint ------------------------------------------------------------------------
    def _newest(self) -> Path | None:
        written = Checkpoints(self._home).sound(training=True) if self._home is not None else None
        return written or self._kept

    def _forget(self) -> None:
        """Steps that a complete checkpoint holds."""
        newest = Checkpoints(self._home).complete()[:1] if self._home is not None else []
        if newest:
            done = int(newest[0].name.removeprefix("step_"))
            self._since = {version: batch for version, batch in self._since.items() if version >= done}
