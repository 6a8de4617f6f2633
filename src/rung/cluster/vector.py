"""A vector of all trained parameters, of which every process holds the part that belongs to its parts of the weights.

The mathematics of an update rule (conjugate gradients, line searches, momentum) reads like that of one process: what
works element by element works on the parts, and what makes a number of a vector makes it over all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Spread(Tensor):
    """This process's part."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, more = getattr(func, "__name__", "").strip("_"), dict(kwargs or {})
        usual = all(value in (None, False, "fro", 2) for value in more.values())  # of `norm`
        if name in NUMBERS and len(args) == NUMBERS[name][0] and usual:
            return NUMBERS[name][1](*map(part, args))
        out = super().__torch_function__(func, types, args, more)  # type: ignore[no-untyped-call]
        shapes = [
            part(x).shape
            for arg in args
            for x in (arg if isinstance(arg, list | tuple) else [arg])
            if isinstance(x, Spread)
        ]
        if isinstance(out, Tensor) and name not in ("get", "as_subclass") and out.shape not in shapes:
            raise NotImplementedError(
                f"{name} of a vector that lies in several processes: element by element there is everything, and over all of it "
                f"{', '.join(sorted(NUMBERS))}."
            )
        return out


def part(x: Any) -> Any:
    """The numbers that lie here, as an ordinary tensor."""
    return x.as_subclass(Tensor) if isinstance(x, Spread) else x


def _over_all(x: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
    dist.all_reduce(x, op)
    return x


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return _over_all(torch.dot(x, y).double()).to(x.dtype)


def _norm(x: Tensor) -> Tensor:
    return _over_all(x.norm().double().square()).sqrt().to(x.dtype)


def _sum(x: Tensor) -> Tensor:
    return _over_all(x.double().sum()).to(x.dtype)


def _max(x: Tensor) -> Tensor:
    low = x.new_full((1,), -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min)
    return _over_all(torch.cat([x, low]).max(), dist.ReduceOp.MAX)


def _all(x: Tensor) -> Tensor:
    return _over_all(x.all().int(), dist.ReduceOp.MIN).bool()


def _any(x: Tensor) -> Tensor:
    return _over_all(x.any().int(), dist.ReduceOp.MAX).bool()


# name of what makes a number of vectors -> how many, and how over all processes
NUMBERS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "matmul": (2, _dot),
    "dot": (2, _dot),
    "norm": (1, _norm),
    "sum": (1, _sum),
    "max": (1, _max),
    "all": (1, _all),
    "any": (1, _any),
}


class Layout:
    """How the parts of dealt out parameters lie in the processes' vectors, and in the whole one, parameter by parameter.

    FSDP deals a parameter out by its rows: as many to each process, the last ones get fewer, or none.
    """

    def __init__(self, parameters: Sequence[Tensor], size: int) -> None:
        self.numbers = [p.numel() for p in parameters]
        self.bounds: list[list[int]] = []  # of each parameter: where the processes' parts begin, and the end
        for p in parameters:
            rows, each = p.shape[0], p.numel() // max(p.shape[0], 1)
            step = -(-rows // size)
            self.bounds.append([min(rank * step, rows) * each for rank in range(size + 1)])

    def whole(self, x: Tensor) -> Tensor:
        """The whole vector, in every process, of the part that lies in each."""
        widths = [sum(b[rank + 1] - b[rank] for b in self.bounds) for rank in range(len(self.bounds[0]) - 1)]
        padded = torch.nn.functional.pad(part(x), (0, max(widths) - len(x)))
        found = [torch.empty_like(padded) for _ in widths]
        dist.all_gather(found, padded)
        cut = [
            iter(f.split([b[r + 1] - b[r] for b in self.bounds] + [max(widths) - widths[r]]))
            for r, f in enumerate(found)
        ]
        return torch.cat([next(of_rank) for _ in self.bounds for of_rank in cut])

    def mine(self, whole: Tensor, rank: int) -> Spread:
        """This process's part of a whole vector."""
        pieces = whole.split(self.numbers)
        return torch.cat([x[b[rank] : b[rank + 1]] for x, b in zip(pieces, self.bounds, strict=True)]).as_subclass(
            Spread
        )
