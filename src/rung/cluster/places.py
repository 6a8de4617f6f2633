"""Where the processes of a run stand: each on a GPU or core of its own, or a learner and a sampler on one, in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rung.cluster.connect import Capacity
from rung.settings.cluster import Cluster


@dataclass
class Places:
    """What Ray is asked to give each actor. gpus: whether the run computes on them."""

    spread: Cluster
    has: Capacity
    gpus: bool
    _group: Any = None

    def learner(self, rank: int, threads: int) -> dict[str, Any]:
        return self._options(rank, threads)

    def sampler(self, i: int, threads: int) -> dict[str, Any]:
        return self._options(self.has.gpus - 1 - i, threads)

    def alone(self, i: int) -> bool:
        """Whether no learner is on this sampler's GPU: samplers begin with the last GPU, learners with the first."""
        return self.gpus and self.has.gpus - 1 - i >= self.spread.learners

    def _options(self, gpu: int, threads: int) -> dict[str, Any]:
        alone = self.spread.learners + self.spread.samplers <= (self.has.gpus if self.gpus else self.has.cpus)
        part = 1.0 if alone else 0.5
        taken: dict[str, Any] = {"num_gpus": part, "num_cpus": 0.5} if self.gpus else {"num_cpus": part}
        if self.gpus and not alone:
            taken["scheduling_strategy"] = self._on(gpu)
        return {**taken, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads)}}}

    def _on(self, gpu: int) -> Any:
        """The GPU of this number, in a group that holds them all.

        Of two halves of whatever kind Ray would fill one GPU first, and two learners on one cannot talk by NCCL.
        """
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._group = self._group or placement_group([{"GPU": 1, "CPU": 1}] * self.has.gpus)
        return PlacementGroupSchedulingStrategy(placement_group=self._group, placement_group_bundle_index=gpu)
