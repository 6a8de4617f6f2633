"""Several processes on this machine: what each does and holds, from the rehearsal's timings (rehearsal.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rung.plan import scale
from rung.plan.estimate import ANSWER_SECONDS, Plan, own_passes, phases
from rung.plan.memory import Need, need
from rung.plan.pipeline import Stage
from rung.plan.planned import learner_bytes
from rung.plan.rehearsal import Timings
from rung.plan.spread import Forecast, corrected, shifted
from rung.recipes import Recipe
from rung.settings.cluster import Cluster

# measured on one core, benchmarks/scale.py: a call, and two learners' step of the starter beyond one's
CALL = 1e-3  # seconds from a call of an actor to its answer
CALLS = 2  # of each side in a step, one after the other
COLLECTIVE = 2.5e-3  # seconds of a gather or a scatter of FSDP2's over gloo, however small, and of the Python around it
GLOO_RATE = 1e9  # bytes/s of gloo between two processes of one machine: a guess, which only large models feel
SUM = 1e-3  # seconds of a number's sum over processes
SUMS = 10  # in a step


@dataclass(frozen=True)
class Here:
    """plan: of the same run in one process.  timings: of one process with `threads`.  cores: of all; or GPUs, if `gpus`."""

    plan: Plan
    timings: Timings
    recipe: Recipe
    cores: int
    threads: int
    gpus: bool = False

    @property
    def places(self) -> float:
        return float(self.cores)

    def drawing(self, spread: Cluster) -> tuple[Stage, ...]:
        """Whoever has the most problems is waited for; one process judges all answers."""
        p, m = self.plan, spread.samplers
        own = replace(p.work, P=math.ceil(p.work.P / m))
        drawn = [x for x in phases(p.shape, own, self.recipe, self.timings, p.rates) if x.name.startswith("sample")]
        seconds = sum(x.seconds for x in drawn) - ANSWER_SECONDS * own.P * own.G
        again = scale.going_on(own, own.P * own.G, spread.partial, spread.staleness) if spread.partial else []
        read, each = self.timings.prefill, CALL * (1 + len(again))
        return (
            Stage("draw", seconds + CALL + each, m * self.threads),
            Stage("read again", sum(read.base * n / p.work.P + read.each * n * c for n, c in again), m * self.threads),
            Stage("judge", scale.driver_seconds(p.work, p.judging)),
        )

    def learning(self, spread: Cluster) -> tuple[Stage, ...]:
        """The update on each one's rows, what FSDP2 adds to it, and the weights' way through Ray's store."""
        p, n = self.plan, spread.learners
        s, own = p.shape, replace(p.work, P=math.ceil(p.work.P / n))
        update = sum(
            x.seconds for x in phases(s, own, self.recipe, self.timings, p.rates) if not x.name.startswith("sample")
        )
        if n > 1:
            parts = scale.micro_batches(p.work, n, s.micro_tokens)
            collectives = 3 + own_passes(self.recipe, s) + ("ref_logp" in self.recipe.needs)
            moved = collectives * (s.layers + 1) * COLLECTIVE + s.parameters * (2 * s.width + 4) / GLOO_RATE
            update += parts * moved + SUMS * SUM
        weights = 4 * s.parameters * s.width / scale.COPY  # packed, into the store twice, and over a sampler's own
        written = scale.written_seconds(p.work) if p.config.save_rollouts else 0.0
        return (
            Stage("learn", update + CALL * CALLS, n * self.threads), Stage("gather weights", weights + CALL),
            Stage("write answers", written),
        )  # fmt: skip

    def learner_bytes(self, spread: Cluster) -> float:
        return self.process + learner_bytes(self.plan.shape, self.plan.work, self.recipe, spread.learners)

    def sampler_bytes(self, spread: Cluster) -> float:
        p, m = self.plan, spread.samplers
        own = replace(p.work, P=math.ceil(p.work.P / m), eval_rows=math.ceil(p.work.eval_rows / m))
        found: Need = need(p.shape, own, self.recipe, 0)
        return self.process + found.held["weights"] + sum(found.sampling.values())

    @property
    def process(self) -> float:
        """Python and its libraries; not on a GPU."""
        return float(self.plan.need.held["Python and libraries"])

    def fullest(self, spread: Cluster) -> tuple[str, float]:
        """What takes the most of the memory that there is, and how many bytes: all processes, that which was started and the
        store among them; of GPUs the fullest one, which has a process of its own, or one of each kind if there are too few."""
        if self.gpus:
            sizes = [("a learner", self.learner_bytes(spread)), ("a sampler", self.sampler_bytes(spread))]
            if spread.learners + spread.samplers > self.cores:
                return "a learner and a sampler on one GPU", sum(size for _, size in sizes)
            return max(sizes, key=lambda one: one[1])
        weights = self.plan.need.held["weights"]
        own = self.process + weights * (2 + spread.staleness)
        own += spread.learners * self.learner_bytes(spread) + spread.samplers * self.sampler_bytes(spread)
        return spread.said, own

    def behind(self, spread: Cluster) -> float:
        return scale.behind(self.plan.work, spread.staleness, spread.partial)

    def fits(self, spread: Cluster) -> bool:
        if spread.learners > 1 and self.plan.shape.at_work(self.recipe) is not self.plan.shape:
            return False  # refused (cluster/room.py)
        return self.fullest(spread)[1] <= self.plan.room.limit

    def others(self, spread: Cluster) -> Iterator[Forecast]:
        """Answers one step old; one process more or less of each kind."""
        if not spread.staleness:
            recipe, more = corrected(self.recipe, 1)
            yield Forecast(replace(self, recipe=recipe), replace(spread, staleness=1), {"cluster.staleness": 1, **more})
        for other in shifted(spread, self.cores):
            yield Forecast(self, other, {"cluster.learners": other.learners, "cluster.samplers": other.samplers})
        if self.plan.config.save_rollouts:
            config = replace(self.plan.config, save_rollouts=False)
            yield Forecast(replace(self, plan=replace(self.plan, config=config)), spread, {"save_rollouts": False})
