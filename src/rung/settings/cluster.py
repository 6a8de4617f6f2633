"""Where a run is computed: in this process, or by actors of Ray. Nothing here needs torch or Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from rung.errors import InputError, setting
from rung.settings.ranges import Count, Natural, between, called

PIECES = 2  # the least staleness with which answers are drawn in pieces
Processes = Annotated[int, between(1, 4096)]


@dataclass(frozen=True)
class Cluster:
    """What `--cluster.NAME VALUE` sets."""

    learners: Processes = 1
    """processes that learn, which share the model between them"""
    samplers: Processes = 1
    """processes that draw answers, each with the whole model"""
    staleness: Natural = 0
    """steps that answers may be behind the weights; 0: none, as in one process; 1: sampling and learning overlap"""
    partial: Count | None = None
    """tokens that one version draws of an answer before the next one goes on with it; none: all of it. Needs a staleness of 2"""

    def threads(self, cores: int) -> int:
        """Of each process: those that work at the same time share a machine's cores."""
        at_once = self.learners + self.samplers if self.staleness else max(self.learners, self.samplers)
        return max(1, cores // at_once)

    @property
    def said(self) -> str:
        """For people."""
        return f"{counted(self.learners, 'learner')}, {counted(self.samplers, 'sampler')}"


def counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def spread(cluster: str, options: Mapping[str, Any]) -> Cluster:
    """The options of a cluster, each looked at in its name, type and range.

    Raises:
        InputError: there is no such option, or no cluster that it could be of.
    """
    found = called(Cluster, options, "cluster")
    if cluster == "local" and options:
        name = next(iter(options))
        raise InputError(
            f"{setting(f'cluster.{name}', options[name])} is of several processes, and the run is computed in one "
            f"({setting('cluster', cluster)}). Give {setting('cluster', 'ray')}, or leave it out."
        )
    return found
