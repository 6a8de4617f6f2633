"""One decoding step of a Llama-style model, on its own weights, in half of the operations that its own code takes:

    q, k, v = norm(x) [Wq Wk Wv]         one product
    x <- x + attention(rotary(q), rotary(k), v) Wo
    g, u = norm(x) [Wg Wu]               one product
    x <- x + (act(g) u) Wd

With few rows or a small model, a step's time is its number of operations. Llama, Mistral, Qwen2 and Qwen3 are built
like this. A model that is not, or that has an adapter in its layers, decodes through its own code, with the same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, rms_norm
from transformers import PreTrainedModel

from rung.kernels.decode import Decode
from rung.kernels.packed_weights import LARGE, pack, packed_linear, pays
from rung.maths.products import is_plain

KINDS = ("llama", "mistral", "qwen2", "qwen3")
GROWING = ("dynamic", "longrope")  # rotary embeddings that depend on how long the longest row is


def fits(hf: PreTrainedModel) -> bool:
    """Whether the model's trunk is built like the equations above, of plain linear layers."""
    trunk: Any = hf.get_decoder()
    known = hf.config.model_type in KINDS and type(trunk).__module__.startswith("transformers.models.")
    return known and trunk.rotary_emb.rope_type not in GROWING and all(_is_plain(layer) for layer in trunk.layers)


def _is_plain(layer: Any) -> bool:
    return all(is_plain(x) for x in (*_inner(layer.self_attn), *_gated(layer.mlp), *_outer(layer)))


def _inner(attention: Any) -> list[nn.Linear]:
    return [attention.q_proj, attention.k_proj, attention.v_proj]


def _gated(mlp: Any) -> list[nn.Linear]:
    return [mlp.gate_proj, mlp.up_proj]


def _outer(layer: Any) -> list[nn.Linear]:
    return [layer.self_attn.o_proj, layer.mlp.down_proj]


class Product:
    """[W1 x, W2 x, ...] of linear layers with one input as one product: [B, the sum of their widths].

    The weights are copied side by side where a packed copy pays anyway or they are small; otherwise each multiplies alone.
    """

    def __init__(self, layers: Sequence[nn.Linear], rows: int) -> None:
        biases = [x.bias for x in layers if x.bias is not None]
        self.layers, self.bias = layers, _together(biases) if biases else None
        self.packed: Tensor | None = None
        self.weight: Tensor | None = None
        if pays(layers[0].weight, rows):
            self.packed = pack(_together([x.weight for x in layers]), rows)
        elif sum(x.weight.numel() for x in layers) < LARGE:
            self.weight = _together([x.weight for x in layers])

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            return packed_linear(self.packed, self.bias, x)
        if self.weight is not None:
            return linear(x, self.weight, self.bias)
        return torch.cat([layer(x) for layer in self.layers], -1) if len(self.layers) > 1 else self.layers[0](x)


def _together(parts: Sequence[Tensor]) -> Tensor:
    """One below the other; a single one without a copy."""
    return torch.cat([part.detach() for part in parts]) if len(parts) > 1 else parts[0].detach()


class Layer:
    """One layer's weights as products. heads: (H query heads, K key heads, width D of each)."""

    def __init__(self, layer: Any, heads: tuple[int, int, int], window: int | None, rows: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.heads, self.window, self.scale = heads, getattr(attention, "sliding_window", window), attention.scaling
        self.before, self.after = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self.qkv, self.gate_up = Product(_inner(attention), rows), Product(_gated(mlp), rows)
        self.out, self.down = (Product([x], rows) for x in _outer(layer))
        self.act = mlp.act_fn
        H, K, _ = heads
        self.qk_norm: tuple[Tensor, float] | None = None
        if hasattr(attention, "q_norm"):  # over each head: the queries' weight H times, then the keys' K times
            norms = [attention.q_norm] * H + [attention.k_norm] * K
            self.qk_norm = torch.stack([n.weight.detach() for n in norms]), attention.q_norm.variance_epsilon

    def __call__(self, i: int, x: Tensor, cos: Tensor, sin: Tensor, memory: Decode) -> Tensor:
        """x [B, width of the model] -> the same; cos, sin [B, 1, D], sin with the sign of the rotation."""
        H, K, D = self.heads
        qkv = self.qkv(_normed(x, self.before)).view(len(x), H + 2 * K, D)
        qk, v = qkv[:, : H + K], qkv[:, H + K :]
        if self.qk_norm is not None:
            weight, eps = self.qk_norm
            qk = rms_norm(qk, (D,), eps=eps) * weight
        qk = (qk * cos).addcmul_(qk.roll(D // 2, -1), sin)
        q, k, v = (part.transpose(0, 1) for part in (qk[:, :H], qk[:, H:], v))
        x = x + self.out(memory.attend(i, q, k, v, self.scale, self.window).reshape(len(x), H * D))
        gate, up = self.gate_up(_normed(x, self.after)).chunk(2, -1)
        return x + self.down(self.act(gate) * up)


def _norm(norm: Any) -> tuple[Tensor, float]:
    return norm.weight.detach(), norm.variance_epsilon


def _normed(x: Tensor, norm: tuple[Tensor, float]) -> Tensor:
    weight, eps = norm
    return rms_norm(x, weight.shape, weight, eps)


class LlamaStep:
    """The trunk for one new token per row. Made anew for each round of sampling: the weights have moved."""

    def __init__(self, hf: PreTrainedModel, rows: int) -> None:
        self.trunk: Any = hf.get_decoder()
        c: Any = hf.config
        self.heads = c.num_attention_heads, c.num_key_value_heads, self.trunk.layers[0].self_attn.head_dim
        window = c.sliding_window if c.model_type == "mistral" else None
        self.layers = [Layer(layer, self.heads, window, rows) for layer in self.trunk.layers]

    def __call__(self, token_B: Tensor, positions: Tensor, memory: Decode) -> Tensor:
        """token int[B], positions int[1, B] -> last hidden states [B, width of the model]."""
        x = embedding(token_B, self.trunk.embed_tokens.weight)
        cos, sin = (part[0, :, None] for part in self.trunk.rotary_emb(x, positions))
        half = self.heads[2] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        for i, layer in enumerate(self.layers):
            x = layer(i, x, cos, sin, memory)
        return _normed(x, _norm(self.trunk.norm))
