"""Rows that go on: the keys of their first tokens are known, and only the new tokens run through the model.

    query at position i of a row sees the keys j <= i of the row: known ones, and new ones beside them

It is a prefill like `Packed` of the rows' new tokens, each row for itself, and `Decode` goes on behind it. What a row has
behind it can be taken out of a `Decode` again, so that a conversation reads each of its tokens once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rung.kernels.attention import Packed, additive, fold, visible
from rung.kernels.decode import Decode


@dataclass
class Past:
    """What a model remembers of a row's first `length` tokens: keys and values by layer, [K, length or more, D] each.

    A layer is taken out when it is used, so that no two copies of all of them are held.
    """

    length: int = 0
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Continued(Packed):
    """`fed`: the new tokens of each row, int[n] with n > 0. `pasts`: what is known of it before them."""

    def __init__(self, fed: Sequence[Tensor], pasts: Sequence[Past]) -> None:
        super().__init__(fed, [], [], head=0)
        self.pasts = pasts
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}
        known_R, new_R = torch.tensor([past.length for past in pasts]), self.length_P
        row_n = torch.arange(len(fed)).repeat_interleave(new_R)
        at_n = self.positions[0] + known_R[row_n]
        self._index = [row_n, self.positions[0], at_n, known_R, new_R]
        self.positions = at_n[None]
        self.length_P = known_R + new_R
        self._width, self._new = int(self.length_P.max()), int(new_R.max())

    def place(self, device: torch.device, *more: Tensor) -> list[Tensor]:
        there = super().place(device, *self._index, *more)
        self._index = there[:5]
        return there[5:]

    def attend(
        self, layer: int, q_HND: Tensor, k_KND: Tensor, v_KND: Tensor, scale: float, window: int | None
    ) -> Tensor:
        (H, _, D), K, R = q_HND.shape, k_KND.shape[0], len(self.pasts)
        row_n, in_n = self._index[:2]
        known = [past.layers.pop(layer) if past.length else None for past in self.pasts]
        keys = self._grown([None if kv is None else kv[0] for kv in known], k_KND)
        values = self._grown([None if kv is None else kv[1] for kv in known], v_KND)
        self.keys.append(keys)
        self.values.append(values)
        q = q_HND.new_zeros(R, H, self._new, D)
        q[row_n, :, in_n] = q_HND.transpose(0, 1)
        mask = self._mask(window, q.dtype).repeat(1, 1, H // K, 1)
        out = scaled_dot_product_attention(fold(q, K), keys, values, attn_mask=mask, scale=scale)
        out_nHD: Tensor = out.reshape(R, H, self._new, -1)[row_n, :, in_n]
        return out_nHD

    def _grown(self, known: Sequence[Tensor | None], new_KND: Tensor) -> Tensor:
        """What is known of each row with the new behind it: [R, K, width, D]."""
        K, _, D = new_KND.shape
        whole = new_KND.new_zeros(len(known), K, self._width, D)
        for row, past, old in zip(whole, self.pasts, known, strict=True):
            if old is not None:
                row[:, : past.length] = old[:, : past.length]
        row_n, _, at_n = self._index[:3]
        whole[row_n, :, at_n] = new_KND.transpose(0, 1)
        return whole

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """0 or -inf: [R, 1, new, width]. Padding among the queries sees everything, so that it is no NaN."""
        key = (window, dtype)
        if key not in self._masks:
            _, _, at_n, known_R, new_R = self._index
            t, s = (torch.arange(n, device=at_n.device) for n in (self._new, self._width))
            at_RT = known_R[:, None] + t
            see = visible(at_RT[:, :, None], s[None, None], window) | (t >= new_R[:, None])[:, :, None]
            self._masks[key] = additive(see, dtype)[:, None]
        return self._masks[key]


def pasts(memory: Decode, rows: Sequence[int], own: Sequence[int]) -> list[Past]:
    """What some rows have behind them: the prompt and the first `own` of the tokens that were fed. Of all rows that are left,
    it is taken out, layer by layer."""
    out = [Past(int(memory.length_P[memory.group_B[b]]) + n) for b, n in zip(rows, own, strict=True)]
    last = len(rows) == len(memory.group_B)
    for layer in range(len(memory.kp)):
        parts = [(x[layer], y[layer]) for x, y in ((memory.kp, memory.k), (memory.vp, memory.v))]
        for past, b, n in zip(out, rows, own, strict=True):
            p = int(memory.group_B[b])
            k, v = (torch.cat([x[p, :, : past.length - n], y[b, :, :n]], 1) for x, y in parts)
            past.layers[layer] = k, v
        if last:
            for x in (memory.kp, memory.k, memory.vp, memory.v):
                x[layer] = x[layer].new_empty(0)
    return out
