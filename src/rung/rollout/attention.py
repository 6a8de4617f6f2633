"""Attention over packed tokens: every prompt once, each answer reading its prompt's keys, no padding elsewhere.

transformers lets a model run with a registered attention function. Ours gets all tokens of a step as one row,

    [ prompt 0 | prompt 1 | ... | answer 0 | answer 1 | ... ]        [1, N]

and a `Layout` that says which keys a token may see. Embeddings, norms, projections and MLPs, the bulk of the work,
never see padding nor a prompt twice; only the attention itself is computed on padded blocks. The model's own code
does the rest, so any model whose attention goes through transformers' interface runs this way. `Decode` is the
same idea for one new token per answer with a key-value memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from rung.rollout.matmul import onednn_products

NAME = "rung_packed"


class Layout(Protocol):
    def attend(
        self, layer: int, q_HND: Tensor, k_KND: Tensor, v_KND: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Attention of one layer. q [H, N, D], k and v [K, N, D] (K key heads) -> [N, H, D]."""
        ...


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    if layout is None or unused.get("softcap") is not None or unused.get("s_aux") is not None:
        raise NotImplementedError("this model's attention is not a plain softmax; use its own forward")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]
    out_NHD = layout.attend(layer, query[0], key[0], value[0], scale, sliding_window)
    return out_NHD[None], None


AttentionInterface.register(NAME, _attention)


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Run `model` with our attention inside this block; its own comes back afterwards."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def fold(q_BHTD: Tensor, key_heads: int) -> Tensor:
    """Grouped queries without repeating keys: [B, H, T, D] -> [B, K, (H/K) T, D], heads of one key side by side."""
    B, H, T, D = q_BHTD.shape
    return q_BHTD.reshape(B, key_heads, H // key_heads * T, D)


class Packed:
    """Prompts and answers of a step as one row of N tokens; see the module's first lines.

    Args:
        prompts: one int[Lp] per group.  answers: one int[La] per row, the tokens that are fed (the last answer token
            is predicted, not fed).  group: the prompt index of each answer.
    Attributes:
        ids, positions: int[1, N].  prompt_last: int[P], index of each prompt's last token.
        answer_start: int[B], index of each answer's first fed token.
    """

    def __init__(self, prompts: Sequence[Tensor], answers: Sequence[Tensor], group: Sequence[int]) -> None:
        device = prompts[0].device
        lp = torch.tensor([len(x) for x in prompts])
        la = torch.tensor([len(x) for x in answers], dtype=torch.long)
        group_B = torch.as_tensor(group, dtype=torch.long)
        self.ids = torch.cat([*prompts, *answers])[None]
        base_B = lp[group_B] if len(group_B) else la
        starts = torch.cat([torch.zeros_like(lp[:1]), torch.cat([lp, la]).cumsum(0)])[:-1]
        inside = torch.arange(int(lp.sum() + la.sum())) - starts.repeat_interleave(torch.cat([lp, la]))
        offset = torch.cat([torch.zeros_like(lp), base_B]).repeat_interleave(torch.cat([lp, la]))
        self.positions = (inside + offset)[None].to(device)
        self.prompt_last = (starts[: len(lp)] + lp - 1).to(device)
        self.answer_start = starts[len(lp) :].to(device)
        self.keys: list[Tensor] = []  # filled per layer when `keep_keys` is set: k, v of the prompts, padded
        self.values: list[Tensor] = []
        self.keep_keys = False
        self._n_prompt = int(lp.sum())
        self._P, self._Lp, self._B, self._La = len(lp), int(lp.max()), len(la), int(la.max()) if len(la) else 0
        self._group_B = group_B.to(device)
        row_n, step_n = torch.arange(len(lp)).repeat_interleave(lp), inside[: self._n_prompt]
        self._prompt_slot = (row_n * self._Lp + step_n).to(device)
        row_n, step_n = torch.arange(len(la)).repeat_interleave(la), inside[self._n_prompt :]
        self._answer_slot = (row_n * self._La + step_n).to(device)
        self._lp, self._la = lp.to(device), la.to(device)
        self._masks: dict[tuple[int | None, torch.dtype, int], Tensor] = {}

    def attend(
        self, layer: int, q_HND: Tensor, k_KND: Tensor, v_KND: Tensor, scale: float, window: int | None
    ) -> Tensor:
        n = self._n_prompt
        kp, vp = (_pad(x[:, :n], self._prompt_slot, self._P, self._Lp) for x in (k_KND, v_KND))
        if self.keep_keys:
            self.keys.append(kp)
            self.values.append(vp)
        qp = fold(_pad(q_HND[:, :n], self._prompt_slot, self._P, self._Lp), k_KND.shape[0])
        mask = self._prompt_mask(window, q_HND.dtype, q_HND.shape[0] // k_KND.shape[0])
        out_p = scaled_dot_product_attention(qp, kp, vp, attn_mask=mask, scale=scale)
        out = _unpad(out_p, self._prompt_slot, q_HND.shape[0], self._Lp)
        if not self._La:
            return out
        qa, ka, va = (_pad(x[:, n:], self._answer_slot, self._B, self._La) for x in (q_HND, k_KND, v_KND))
        k_all = torch.cat([kp.index_select(0, self._group_B), ka], 2)
        v_all = torch.cat([vp.index_select(0, self._group_B), va], 2)
        mask = self._answer_mask(window, q_HND.dtype, q_HND.shape[0] // k_KND.shape[0])
        out_a = scaled_dot_product_attention(fold(qa, k_KND.shape[0]), k_all, v_all, attn_mask=mask, scale=scale)
        return torch.cat([out, _unpad(out_a, self._answer_slot, q_HND.shape[0], self._La)])

    def _prompt_mask(self, window: int | None, dtype: torch.dtype, repeat: int) -> Tensor:
        """Causal, 0 or -inf: [1, 1, repeat Lp, Lp]. Padding stands at the right, where no real token looks."""
        key = (window, dtype, 0)
        if key not in self._masks:
            t = torch.arange(self._Lp, device=self._lp.device)
            self._masks[key] = _additive(_visible(t[:, None], t[None], window), dtype)[None, None]
        return self._masks[key].repeat(1, 1, repeat, 1)

    def _answer_mask(self, window: int | None, dtype: torch.dtype, repeat: int) -> Tensor:
        """The own prompt and the own earlier tokens, 0 or -inf: [B, 1, repeat La, Lp + La]."""
        key = (window, dtype, repeat)
        if key not in self._masks:
            lp_B = self._lp[self._group_B]
            t_a, t_p = (torch.arange(n, device=lp_B.device) for n in (self._La, self._Lp))
            at_BT = lp_B[:, None] + t_a
            see_p = _visible(at_BT[:, :, None], t_p[None, None], window) & (t_p < lp_B[:, None])[:, None]
            see_a = _visible(t_a[:, None], t_a[None], window).expand(len(lp_B), -1, -1)
            see = torch.cat([see_p, see_a], 2) | (t_a[None] >= self._la[:, None])[:, :, None]  # padding: no NaN
            self._masks[key] = _additive(see, dtype)[:, None].repeat(1, 1, repeat, 1)
        return self._masks[key]


def _visible(query_at: Tensor, key_at: Tensor, window: int | None) -> Tensor:
    see = key_at <= query_at
    return see if window is None else see & (query_at - key_at < window)


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)


class _Scatter(torch.autograd.Function):
    """Rows to distinct slots of a zero tensor. Its gradient is `_Gather`, a plain read, where PyTorch would add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot_n: Tensor, size: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(slot_n)
        return x.new_zeros(size, *x.shape[1:]).index_copy_(0, slot_n, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _Gather.apply(grad, ctx.saved_tensors[0]), None, None  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """Rows from distinct slots. Its gradient is `_Scatter`; each can be differentiated again through the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot_n: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(slot_n)
        ctx.size = x.shape[0]
        return x.index_select(0, slot_n)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _Scatter.apply(grad.contiguous(), ctx.saved_tensors[0], ctx.size), None  # type: ignore[no-untyped-call]


def _pad(x_HnD: Tensor, slot_n: Tensor, rows: int, width: int) -> Tensor:
    """Put n packed tokens into [rows, H, width, D] with zeros in between."""
    H, _, D = x_HnD.shape
    flat: Tensor = _Scatter.apply(x_HnD.transpose(0, 1).reshape(-1, H * D), slot_n, rows * width)  # type: ignore[no-untyped-call]
    return flat.view(rows, width, H, D).transpose(1, 2)


def _unpad(out_RKTD: Tensor, slot_n: Tensor, heads: int, width: int) -> Tensor:
    """Undo `fold` and `_pad`: [rows, K, (H/K) width, D] -> [n, H, D]."""
    rows, _, _, D = out_RKTD.shape
    out = out_RKTD.reshape(rows, heads, width, D).transpose(1, 2).reshape(rows * width, heads * D)
    flat: Tensor = _Gather.apply(out, slot_n)  # type: ignore[no-untyped-call]
    return flat.view(-1, heads, D)


class Decode:
    """One new token per answer with preallocated keys and values: slots [0, Lp) hold the prompt, left-padded.

    All rows write to the same slot Lp + t, so a step writes one slice. `keep` drops finished rows.
    """

    def __init__(self, prefill: Packed, repeats: int, room: int) -> None:
        lp, P, Lp = prefill._lp, prefill._P, prefill._Lp
        shift = (Lp - lp)[:, None]  # right-padded -> left-padded
        source = (torch.arange(Lp, device=lp.device)[None] - shift).clamp(min=0)
        rows = torch.arange(P, device=lp.device).repeat_interleave(repeats)
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []
        for stored, into in ((prefill.keys, self.k), (prefill.values, self.v)):
            for x in stored:
                K, D = x.shape[1], x.shape[3]
                left = x.gather(2, source[:, None, :, None].expand(-1, K, -1, D))
                memory = x.new_empty(len(rows), K, Lp + room, D)
                memory[:, :, :Lp] = left[rows]
                into.append(memory)
        self.blank_B = shift[rows, 0]
        self.length_B = lp[rows]
        self.used = Lp
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    @property
    def positions(self) -> Tensor:
        """Position of the token that is fed now: int[1, B]."""
        return (self.used - self.blank_B)[None]

    def advance(self) -> None:
        """The fed token is in the memory; the next call writes the next slot."""
        self.used += 1
        self._masks.clear()

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows, a layer at a time."""
        for memory in (self.k, self.v):
            for i, x in enumerate(memory):
                memory[i] = x[rows]
        self.blank_B, self.length_B = self.blank_B[rows], self.length_B[rows]
        self._masks.clear()

    def attend(
        self, layer: int, q_HND: Tensor, k_KND: Tensor, v_KND: Tensor, scale: float, window: int | None
    ) -> Tensor:
        H, B, D = q_HND.shape
        K, end = k_KND.shape[0], self.used + 1
        self.k[layer][:, :, self.used] = k_KND.transpose(0, 1)
        self.v[layer][:, :, self.used] = v_KND.transpose(0, 1)
        q = q_HND.transpose(0, 1).reshape(B, K, H // K, D)
        keys, values = self.k[layer][:, :, :end], self.v[layer][:, :, :end]
        with onednn_products(on=False):
            out = scaled_dot_product_attention(q, keys, values, attn_mask=self._mask(window, q.dtype), scale=scale)
        return out.reshape(B, H, D)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Blank slots at the left are hidden, and with a window the old ones: [B, 1, 1, used + 1]."""
        key = (window, dtype)
        if key not in self._masks:
            slot = torch.arange(self.used + 1, device=self.blank_B.device)[None]
            see = slot >= self.blank_B[:, None]
            if window is not None:
                see = see & (self.used - slot < window)
            self._masks[key] = _additive(see, dtype)[:, None, None]
        return self._masks[key]
