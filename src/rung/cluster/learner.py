"""The learner of several processes: `LocalLearner`, its weights dealt out over all of them.

All processes build it alike and call the same methods with the same arguments, the whole step's answers among them, in
the same order; each returns the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import Tensor
from torch.distributed.tensor import DTensor

from rung.cluster import checkpoint
from rung.cluster.group import Group, local, whole
from rung.cluster.vector import Layout
from rung.cluster.work import DealtWork, hollow
from rung.maths.assess import Assessed
from rung.network import adapter
from rung.network.model import Model
from rung.training.learner import LocalLearner
from rung.training.ranks import totals
from rung.training.work import Work


@dataclass
class DistributedLearner(LocalLearner):
    """model: the whole one, which all processes have loaded alike; it is dealt out in place, and is the learner's alone then."""

    ranks: Group = field(default_factory=Group)
    works: ClassVar[type[Work]] = DealtWork

    def __post_init__(self) -> None:
        self.plain = type(self.model.hf)
        self.shell: Model | None = hollow(self.model) if self.recipe.update.cost().products else None
        super().__post_init__()
        self.layout = Layout(self.parameters, self.ranks.size)

    def _masters(self) -> None:
        """None: weights of low precision that need some are refused (room.py)."""
        assert super()._masters() is None

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
        """The policy as a Hugging Face model by the first process, and the rest of what going on needs, each its parts."""
        first = self.ranks.rank == 0
        weights = {name: x.detach().cpu() for name, x in self.weights() if first}
        if first:
            self.model.hf.save_pretrained(directory, state_dict=weights)
        checkpoint.save(directory, {"learner": self._state()}, self.layout)

    def restore(self, directory: Path) -> None:
        """What a learner of any number of processes has saved, one among them.

        Raises:
            InputError: there is none, or it is damaged, or the weights are an adapter's and the model has none.
        """
        hf = self.model.hf
        if adapter.has_adapter(hf):
            saved = adapter.stored(hf, directory)
        else:
            adapter.refuse_adapter(directory)
            saved = dict(self.plain.from_pretrained(directory, dtype=hf.dtype).state_dict())
        own, mesh = hf.state_dict(), self.ranks.mesh
        dealt = {
            k: checkpoint.deal(x, mesh, self.layout) if isinstance(own[k], DTensor) else x for k, x in saved.items()
        }
        adapter.load_trained(hf, dealt)
        self._load(checkpoint.load(directory, self.ranks.mesh, self.layout)["learner"])

    def _saved(self) -> Iterator[Tensor]:
        yield from map(local, super()._saved())

    def size(self) -> int:
        """Bytes that all processes write together."""
        mine = super().size() - self._unmet()
        return self._unmet() + int(totals(self.ranks, mine)[0])
