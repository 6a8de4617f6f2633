"""Gradient checkpointing: a layer's activations are computed again in the backward instead of being kept.

transformers' own switch has three traps. It asks for training mode, which would turn dropout on and, in a sampler, take the
memory away; before transformers 5.23 it runs a layer's hooks again with it, and later not; and a backward runs long after the
forward's `packed_attention` block has ended. So each layer gets a forward of its own here, that runs the layer's once more in
the backward under the attention of the forward, wherever a gradient is wanted.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rung.errors import InputError, setting
from rung.network.model import Model

MEMORY = ("past_key_values", "layer_past")  # what a layer would write again when it is computed again


def enable(model: Model) -> None:
    """Turn it on. A model whose layers cannot is refused."""
    layers = [m for m in model.hf.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers or not all(_configs(layer) for layer in layers):
        raise InputError(
            f"{setting('gradient_checkpointing', True)}: {type(model.hf).__name__} has no layers that support it. Leave it out."
        )
    for layer in layers:
        layer.forward = partial(_run, layer)  # a copy of the model has its own layer in its own


def is_on(model: Model) -> bool:
    return any(getattr(m.forward, "func", None) is _run for m in model.hf.modules())


def _run(layer: torch.nn.Module, *args: Any, **more: Any) -> Any:
    forward = type(layer).forward
    if not torch.is_grad_enabled():
        return forward(layer, *args, **more)
    config = _configs(layer)[0]
    name = config._attn_implementation

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _Attention(config, name)

    more |= {key: None for key in MEMORY if key in more} | ({"use_cache": False} if "use_cache" in more else {})
    return checkpoint(partial(forward, layer, **more), *args, use_reentrant=False, context_fn=contexts)


class _Attention:
    """Run the attention `name` inside this block. Entered again for every recomputation (TRPO's products take many)."""

    def __init__(self, config: Any, name: str) -> None:
        self.config, self.name = config, name
        self.before: list[str] = []

    def __enter__(self) -> None:
        self.before.append(self.config._attn_implementation)
        self.config._attn_implementation = self.name

    def __exit__(self, *error: object) -> None:
        self.config._attn_implementation = self.before.pop()


def _configs(layer: torch.nn.Module) -> list[Any]:
    """Where the layer's attention reads which attention to run (a copy of the model has its own)."""
    return [m.config for m in layer.modules() if hasattr(getattr(m, "config", None), "_attn_implementation")]
