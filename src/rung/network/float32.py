"""A model of low precision computing in float32 for a while, without a second copy of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LOW = (torch.bfloat16, torch.float16)


def is_low(hf: nn.Module) -> bool:
    return any(p.dtype in LOW for p in hf.parameters())


@contextmanager
def exact(hf: Any) -> Iterator[None]:
    """Float32 copies of the weights inside this block: embeddings and head all along, each layer's while it runs."""
    layers = [x for part in hf.get_decoder().children() if isinstance(part, nn.ModuleList) for x in part]
    inside = {id(x) for layer in layers for x in _floats(layer)}
    outside = _Wide(x for x in _floats(hf) if id(x) not in inside)
    handles = []
    try:
        outside.widen()
        for wide, layer in [(_Wide(_floats(layer)), layer) for layer in layers]:
            handles.append(layer.register_forward_pre_hook(wide.before))
            handles.append(layer.register_forward_hook(wide.after, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        outside.narrow()


def _floats(module: nn.Module) -> list[Tensor]:
    """Weights and buffers of low precision."""
    return [x for x in (*module.parameters(), *module.buffers()) if x.dtype in LOW]


class _Wide:
    """Some tensors, which are float32 between `widen` and `narrow` and then what they were, bit for bit."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)
        self.kept: list[Tensor] = []

    def widen(self) -> None:
        self.kept = [x.data for x in self.tensors]
        for x in self.tensors:
            x.data = x.data.float()

    def narrow(self) -> None:
        for x, data in zip(self.tensors, self.kept, strict=False):
            x.data = data
        self.kept = []

    def before(self, *ignored: Any) -> None:
        self.widen()

    def after(self, *ignored: Any) -> None:
        self.narrow()
