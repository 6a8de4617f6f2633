"""Gradient checkpointing: a layer's activations are computed again in the backward instead of being kept.

Two traps of transformers' own switch are avoided here. It asks for training mode, which would turn dropout on; only the
layers' own flag is set. And a backward runs long after the forward's `packed_attention` block has ended; the
attention of the forward is put back while a layer is computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rung.errors import InputError, setting
from rung.network.model import Model


def enable(model: Model) -> None:
    """Turn it on. A model whose layers cannot, or whose output would change, is refused."""
    layers = [m for m in model.hf.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers or not all(_configs(layer) for layer in layers):
        raise InputError(
            f"{setting('gradient_checkpointing', True)}: {type(model.hf).__name__} has no layers that support it. Leave it out."
        )
    before = _probe(model)
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(_run, layer)  # a copy of the model has its own layer in its own
        layer.register_forward_pre_hook(_only_with_gradient)
    if not torch.equal(before, _probe(model)):
        raise InputError(
            f"{setting('gradient_checkpointing', True)} changes what {type(model.hf).__name__} computes (dropout in its "
            "layers). Leave it out."
        )


def is_on(model: Model) -> bool:
    return any(m.gradient_checkpointing for m in model.hf.modules() if isinstance(m, GradientCheckpointingLayer))


def _only_with_gradient(layer: torch.nn.Module, args: object) -> None:
    """Of the layer itself, not of what is in it: dropout stays off, and a sampler's cache is not taken away."""
    layer.training = torch.is_grad_enabled()


def _run(layer: torch.nn.Module, forward: Callable[..., Any], *args: Any) -> Any:
    config = _configs(layer)[0]
    name = config._attn_implementation

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _Attention(config, name)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts)


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


def _probe(model: Model) -> Tensor:
    """Logits of a short row, with gradients on: where a layer would behave differently, they would differ."""
    ids = torch.arange(1, 9, device=model.device)[None] % model.hf.config.get_text_config().vocab_size
    with torch.enable_grad():
        logits: Tensor = model.hf(input_ids=ids, use_cache=False).logits
    return logits.detach()
