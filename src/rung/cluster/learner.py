"""The learner of several processes: `LocalLearner`, its weights dealt out over all of them.

All processes build it alike and call the same methods with the same arguments, the whole step's answers among them, in
the same order; each returns the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from rung.cluster import checkpoint
from rung.cluster.group import Group, local, whole
from rung.cluster.vector import Layout
from rung.cluster.work import DealtWork, hollow
from rung.network.adapter import load_trained, trained_weights
from rung.network.model import Model
from rung.records import Assessed
from rung.training.learner import LocalLearner
from rung.training.ranks import totals
from rung.training.work import Work


@dataclass
class DistributedLearner(LocalLearner):
    """model: the whole one, which all processes have loaded alike; it is dealt out in place, and is the learner's alone then."""

    ranks: Group = field(default_factory=Group)
    works: ClassVar[type[Work]] = DealtWork

    def __post_init__(self) -> None:
        self.shell: Model | None = hollow(self.model) if self.recipe.update.cost().products else None
        super().__post_init__()
        self.layout = Layout(self.parameters, self.ranks.size)

    def work(self, assessed: Assessed) -> Work:
        work = super().work(assessed)
        assert isinstance(work, DealtWork)
        work.shell = self.shell
        return work

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight whole, in all processes, brought together one by one."""
        for name, x in self.model.hf.state_dict().items():
            yield name, whole(x)

    def _some_weights(self) -> list[Tensor]:
        """Those of a thousand of every parameter that lie here."""
        flat = [(local(p.detach()).reshape(-1), p.numel()) for p in self.parameters]
        return [x[:: max(1, n // 1000)].clone() for x, n in flat]

    def _changed(self, before: list[Tensor]) -> float:
        pairs = list(zip(before, self._some_weights(), strict=True))
        mine = sum(float((a != b).sum()) for a, b in pairs), sum(len(a) for a, _ in pairs)
        changed, looked_at = totals(self.ranks, *mine)
        return changed / looked_at

    # -- what is saved ----------------------------------------------------------------------------------------------
    def save(self, directory: Path) -> None:
        """The policy as a Hugging Face model, and everything that going on needs, each process its parts."""
        first = self.ranks.rank == 0
        weights = {name: x.detach().cpu() for name, x in self.weights() if first}
        if first:
            self.model.hf.save_pretrained(directory, state_dict=weights)
        checkpoint.save(directory, self._state(), self.layout)

    def restore(self, directory: Path) -> None:
        """What `save` wrote, by as many processes as it may have been.

        Raises:
            InputError: a learner of one process wrote it, or it is damaged.
        """
        self._load(checkpoint.load(directory, self.ranks.mesh, self.layout))

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "policy": trained_weights(self.model.hf)}

    def _load(self, saved: dict[str, Any]) -> None:
        load_trained(self.model.hf, saved["policy"])
        super()._load(saved)

    def _saved(self) -> Iterator[Tensor]:
        yield from map(local, super()._saved())

    def size(self) -> int:
        """Bytes that all processes write together, the policy twice: in parts, and as a model."""
        model: int = sum(x.numel() * x.element_size() for x in self.model.hf.state_dict().values())
        mine = super().size() - self._unmet()
        return model + self._unmet() + int(totals(self.ranks, mine)[0])
