"""Weights on their way between processes: names and plain arrays, which Ray's store holds once a machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

READ_ONLY = "The given NumPy array is not writable"


@dataclass(frozen=True)
class Packed:
    """One weight as bytes, which another process of the machine reads where they lie."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray[Any, Any]

    def tensor(self) -> Tensor:
        """The weight, not to be written to: it may be shared with others."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", READ_ONLY)
            flat = torch.from_numpy(self.data)
        return flat.view(getattr(torch, self.dtype)).view(self.shape)


def pack(weights: Iterable[tuple[str, Tensor]]) -> list[Packed]:
    """In main memory; a weight that is there already is not copied."""
    out = []
    for name, weight in weights:
        own = weight.detach().cpu().contiguous()
        data = own.reshape(-1).view(torch.uint8).numpy()
        out.append(Packed(name, str(own.dtype).removeprefix("torch."), tuple(own.shape), data))
    return out


def repeated(hf: nn.Module) -> frozenset[str]:
    """Names of a state dict that stand for a weight which has another name before: tied ones travel once."""
    seen, out = set[int](), set[str]()
    for name, weight in hf.state_dict().items():
        (out if weight.data_ptr() in seen else set()).add(name)
        seen.add(weight.data_ptr())
    return frozenset(out)


@dataclass(frozen=True)
class Shipped:
    """A learner's weights of one version as they came from its process; iterated, they are names and tensors."""

    packed: list[Packed]
    version: int

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return ((w.name, w.tensor()) for w in self.packed)


@torch.no_grad()
def put(packed: Iterable[Packed], into: dict[str, Tensor]) -> None:
    """Write the weights over those of a state dict."""
    for w in packed:
        into[w.name].copy_(w.tensor())
