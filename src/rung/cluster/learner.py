"""The learner of several processes: `LocalLearner`, its weights dealt out over all of them.

All processes build it alike and call the same methods with the same arguments, the whole step's answers among them, in
the same order; each returns the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor
from torch.distributed.tensor import DTensor

from rung.cluster.group import Group, local
from rung.training.learner import LocalLearner
from rung.training.ranks import totals


@dataclass
class DistributedLearner(LocalLearner):
    """model: the whole one, which all processes have loaded alike; it is dealt out in place, and is the learner's alone then."""

    ranks: Group = field(default_factory=Group)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight whole, in all processes, brought together one by one."""
        for name, x in self.model.hf.state_dict().items():
            yield name, x.full_tensor() if isinstance(x, DTensor) else x

    def _some_weights(self) -> list[Tensor]:
        """Those of a thousand of every parameter that lie here."""
        flat = [(local(p.detach()).reshape(-1), p.numel()) for p in self.parameters]
        return [x[:: max(1, n // 1000)].clone() for x, n in flat]

    def _changed(self, before: list[Tensor]) -> float:
        pairs = list(zip(before, self._some_weights(), strict=True))
        mine = sum(float((a != b).sum()) for a, b in pairs), sum(len(a) for a, _ in pairs)
        changed, looked_at = totals(self.ranks, *mine)
        return changed / looked_at
