"""The engine of a run: this process, or actors of Ray with a cluster begun or joined for them.

Ray is imported nowhere unless a run asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rung.advice import need
from rung.errors import setting
from rung.training.setup import Engine, Here

if TYPE_CHECKING:
    from rung.training.config import TrainConfig


@contextmanager
def engine_of(config: TrainConfig) -> Iterator[Engine]:
    """Who learns and who draws; what was begun for it ends with the block.

    Raises:
        InputError: Ray is asked for and not installed.
    """
    if config.cluster == "local":
        yield Here()
        return
    need(setting("cluster", "ray"), "ray")
    from rung.cluster.engine import Actors

    actors = Actors()
    try:
        yield actors
    finally:
        actors.close()
