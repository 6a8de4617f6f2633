"""Answers kept on disk, some at a time, until a checkpoint holds the step that they belong to.

A run that was ended in the middle of a step's answers asks for the same ones again, and draws only those that are not there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rung.errors import InputError, setting
from rung.io.files import write_atomic
from rung.io.run_dir import RunDir
from rung.records import Rollout, SamplingLaw
from rung.rollout.draws import Draws
from rung.rollout.sampler import Sampler, keeping
from rung.training.setup import Setup

NAME = re.compile(r"(\d{6,})-[0-9a-f]{64}\.json")


@dataclass
class Drawn:
    """`sampler`, asked for at most `at_once` answers at a time, each lot of which is a file in `home`.

    Which weights have drawn is known by their version: the same run, gone on with, has the same.
    """

    sampler: Sampler
    home: Path
    at_once: int
    version: int = 0

    @property
    def same_numbers(self) -> bool:
        return self.sampler.same_numbers

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.version = version
        self.sampler.load(weights, version)

    @contextmanager
    def keeping(self) -> Iterator[Drawn]:
        """Between the turns of conversations, if `sampler` can."""
        with keeping(self.sampler) as sampler:
            yield replace(self, sampler=sampler)

    def sample(self, prompts: Sequence[Sequence[int]], law: SamplingLaw, draws: Draws) -> list[Rollout]:
        samples = draws.each(len(prompts))
        n, found = max(1, self.at_once // max(samples, 1)), list[Rollout]()
        for i in range(0, len(prompts), n):
            lot = prompts[i : i + n]
            found += self._lot([tuple(p) for p in lot], law, draws.part(range(i * samples, (i + len(lot)) * samples)))
        return found

    def _lot(self, prompts: list[tuple[int, ...]], law: SamplingLaw, draws: Draws) -> list[Rollout]:
        asked = repr((prompts, law, draws.seed, list(draws.rows), draws.of))
        path = self.home / f"{self.version:06d}-{hashlib.sha256(asked.encode()).hexdigest()}.json"
        try:
            return [_rollout(row) for row in json.loads(path.read_bytes())]
        except (FileNotFoundError, ValueError, TypeError, KeyError):  # none yet; a damaged one is drawn again
            drawn = self.sampler.sample(prompts, law, draws)
        self.home.mkdir(exist_ok=True)
        write_atomic(path, lambda file: file.write(json.dumps([asdict(r) for r in drawn]).encode()))
        return drawn

    def forget(self, version: int) -> None:
        """Those of weights before this version: a checkpoint holds what was learned from them."""
        for path in self.home.glob("*.json"):
            if (name := NAME.fullmatch(path.name)) and int(name[1]) < version:
                path.unlink(missing_ok=True)


def keep(setup: Setup, run: RunDir) -> None:
    """From now on the run's answers are kept, where its settings say so."""
    config = setup.config
    if config.keep_rollouts and config.cluster != "local":
        raise InputError(
            f"{setting('keep_rollouts', config.keep_rollouts)} with {setting('cluster', config.cluster)}: answers are kept where "
            "one process samples them. Leave one of the two out."
        )
    if config.keep_rollouts:
        setup.sampler = setup.collector.sampler = Drawn(setup.sampler, run.root / "kept", config.keep_rollouts)


def forget(setup: Setup, version: int) -> None:
    """Nobody will ask for answers of weights before this version again."""
    if isinstance(setup.sampler, Drawn):
        setup.sampler.forget(version)


def _rollout(row: dict[str, Any]) -> Rollout:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Rollout(**fields)
