"""A model of low precision computing in float32 for a while: layer by layer, or all of it on weights that are trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rung.maths.products import through_onednn

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


class Masters:
    """Float32 weights of which a low model holds the rounding, for an update rule that moves the weights by itself.

    Its steps, and the differences that it judges them by, are finer than the rounding. Inside `at_work` the whole model is
    float32: what is trained are these weights, the rest copies of its own. Outside it samples and scores as it is.
    """

    def __init__(self, hf: nn.Module) -> None:
        self.hf = hf
        self.parameters = [p for p in hf.parameters() if p.requires_grad and p.dtype in LOW]
        self.weights = [p.detach().float() for p in self.parameters]
        trained = set(map(id, self.parameters))
        self._rest = _Wide(x for x in _floats(hf) if id(x) not in trained)

    @torch.no_grad()
    def load(self, saved: list[Tensor] | None) -> None:
        """What a checkpoint kept of them; an older one has none, and they are the model's own weights again."""
        for weight, kept in zip(self.weights, saved or self.parameters, strict=True):
            weight.copy_(kept)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        rounded = [p.data for p in self.parameters]
        try:
            self._rest.widen()
            _put(self.parameters, self.weights)
            through_onednn(self.hf)  # as a model that is loaded in float32 multiplies
            yield
        finally:
            _put(self.parameters, rounded)
            self._rest.narrow()
            for x, weight in zip(rounded, self.weights, strict=True):
                x.copy_(weight)


def _put(parameters: Sequence[Tensor], data: Sequence[Tensor]) -> None:
    """Give parameters other numbers; a gradient at hand goes along, as one of the same precision."""
    for p, x in zip(parameters, data, strict=True):
        grad, p.grad = p.grad, None
        p.data = x
        p.grad = None if grad is None else grad.to(x.dtype)


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
