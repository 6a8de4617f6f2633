"""A run's parts in other processes: what there must be room for, the actors, and the loop's learner, sampler and collector."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from rung.cluster import connect
from rung.cluster.actors import LearnerActor, SamplerActor
from rung.cluster.ahead import Ahead
from rung.cluster.connect import Capacity
from rung.cluster.order import Order, ordered
from rung.cluster.pieces import Pieces
from rung.cluster.places import Places
from rung.cluster.pool import SamplerPool, Seat
from rung.cluster.remote import RemoteLearner
from rung.cluster.room import (
    Demand,
    refuse_masters,
    refuse_model,
    refuse_pieces,
    refuse_staleness,
    refuse_too_many,
    refuse_too_much,
)
from rung.errors import InputError, RunFailed, setting
from rung.network.model import Model
from rung.recipes import Recipe
from rung.rollout.collect import Collector
from rung.rollout.sampler import Sampler
from rung.settings.cluster import Cluster
from rung.tasks.environments.protocol import Splits
from rung.training.config import TrainConfig
from rung.training.learner import Learner

LEAST_STORE = 200 * 2**20  # bytes of an object store
START = 1800.0  # seconds in which a sampler must have loaded its model


@dataclass
class Actors:
    """An Engine whose learners and samplers are actors of Ray."""

    spread: Cluster = field(default_factory=Cluster)
    pool: SamplerPool | None = None
    learner: RemoteLearner | None = None
    begun: float = field(default_factory=time.monotonic)
    _ahead: Ahead | None = None
    _has: Capacity | None = None
    _steps: int = 0

    def refuse(self, config: TrainConfig, recipe: Recipe, where: str | Model, splits: Splits) -> None:
        """Everything that can be refused, cheapest first; then the cluster is there."""
        if isinstance(where, Model):
            raise InputError(
                "the model is an object of this process, and a cluster's processes load their own. Save it (save_pretrained) in a "
                "directory that all machines see, and give that."
            )
        spread = self.spread = config.spread()
        refuse_staleness(recipe, spread)
        refuse_pieces(recipe, spread, splits.train)
        refuse_masters(config, recipe, spread)
        refuse_model(config, where, joined=connect.asked())
        here = connect.capacity_here() if not connect.asked() else None
        if here is not None:
            refuse_too_many(spread, here, config.device)
        demand = Demand.of(config, recipe, where, splits)
        if here is not None:
            refuse_too_much(config, demand, here)
        self._has = connect.join(max(LEAST_STORE, int((spread.staleness + 4) * demand.weights)))
        if here is None:
            refuse_too_many(spread, self._has, config.device)
            refuse_too_much(config, demand, self._has)

    def parts(
        self, config: TrainConfig, recipe: Recipe, where: str | Model, model: Model, longest: int
    ) -> tuple[Learner, Sampler]:
        assert self._has is not None and isinstance(where, str)
        order = ordered(config, recipe, where, longest, self._threads(config))
        places = Places(self.spread, self._has, bool(self._has.gpus) and config.device != "cpu")
        seats = [Seat(actor) for actor in self._samplers(order, places)]
        self.learner = RemoteLearner(
            lambda: self._learners(order, places), recipe.initial_state(), self.begun if self.spread.staleness else None
        )
        same = _agreed([seat.actor for seat in seats])
        self._steps = config.steps or 0
        self.pool = SamplerPool(seats, same and not self.spread.staleness, self.spread.staleness)
        return self.learner, self.pool

    def collecting(self, collector: Collector) -> Collector:
        if not self.spread.staleness:
            return collector
        assert self.pool is not None
        asked = {
            "pool": self.pool,
            "staleness": self.spread.staleness,
            "steps_in_all": self._steps,
            "begun": self.begun,
        }
        piece = self.spread.partial or collector.law.max_new_tokens
        in_pieces = piece < collector.law.max_new_tokens
        self._ahead = Pieces.of(collector, piece=piece, **asked) if in_pieces else Ahead.of(collector, **asked)
        return self._ahead

    def close(self) -> None:
        """Nobody may ask Ray for anything any more: it would begin a cluster for that."""
        if self._ahead is not None:
            self._ahead.end()
        if self._has is not None:
            connect.leave()

    # -- actors -------------------------------------------------------------------------------------------------------
    def _threads(self, config: TrainConfig) -> int:
        """Of each process: those that work at the same time share a machine's cores."""
        assert self._has is not None
        return config.threads or self.spread.threads(self._has.cpus)

    def _samplers(self, order: Order, places: Places) -> list[Any]:
        import ray

        kind, lives = ray.remote(SamplerActor), {"max_restarts": -1, "max_task_retries": 0}
        return [
            kind.options(**lives, **places.sampler(i, order.threads)).remote(order, places.alone(i))
            for i in range(self.spread.samplers)
        ]

    def _learners(self, order: Order, places: Places) -> list[Any]:
        import ray

        size = self.spread.learners
        kind = ray.remote(LearnerActor)
        return [
            kind.options(max_restarts=0, **places.learner(rank, order.threads)).remote(order, rank, size)
            for rank in range(size)
        ]


def _agreed(actors: list[Any]) -> bool:
    """Whether the samplers have the trainer's numbers, once all are ready."""
    import ray

    try:
        return all(ray.get([actor.same_numbers.remote() for actor in actors], timeout=START))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.GetTimeoutError as error:
        raise RunFailed(
            f"the samplers have not begun within {START:g} s ({error}). Look at the cluster (`ray status`): others may use it, or "
            "memory ran out."
        ) from error
    except connect.deaths() as error:
        raise RunFailed(
            f"a sampler ended before it had begun ({str(error).strip().splitlines()[0]}). Usually memory ran out: take fewer "
            f"processes ({setting('cluster.samplers')}, {setting('cluster.learners')}), or give the cluster more."
        ) from error
