"""Attention over packed tokens: every prompt once, each answer reading its prompt's keys, no padding elsewhere.

transformers lets a model run with a registered attention function. Ours gets all tokens of a step as one row,

    [ prompt 0 | prompt 1 | ... | answer 0 | answer 1 | ... ]        [1, N]

and a `Layout` that says which keys a token may see. Embeddings, norms, projections and MLPs, the bulk of the work,
never see padding nor a prompt twice; only the attention itself is computed on padded blocks. The model's own code
does the rest, so any model whose attention goes through transformers' interface runs this way. `Decode` is the
same idea for one new token per answer with a key-value memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from rung.kernels.bfloat16 import attention
from rung.kernels.device import send

NAME = "rung_packed"


class Layout(Protocol):
    def attend(
        self, layer: int, q_HND: Tensor, k_KND: Tensor, v_KND: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Attention of one layer. q [H, N, D], k and v [K, N, D] (K key heads) -> [N, H, D]."""
        ...


def interface(
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
    odd = attention_mask is not None or unused.get("softcap") is not None or unused.get("s_aux") is not None
    if layout is None or odd:
        raise NotImplementedError("this model's attention is not a plain softmax; use its own forward")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]
    out_NHD = layout.attend(layer, query[0], key[0], value[0], scale, sliding_window)
    return out_NHD[None], None


AttentionInterface.register(NAME, interface)


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
    """Prompts and answers of a step as one row of N tokens; see the module's first lines. Made in main memory: `place`.

    Args:
        prompts: one int[Lp] per group.  answers: one int[La] per row, the tokens that are fed (the last answer token
            is predicted, not fed).  group: the prompt index of each answer.
    Attributes:
        ids, positions: int[1, N].  prompt_last: int[P], index of each prompt's last token.
        answer_start: int[B], index of each answer's first fed token.
    """

    def __init__(self, prompts: Sequence[Tensor], answers: Sequence[Tensor], group: Sequence[int]) -> None:
        lp = torch.tensor([len(x) for x in prompts])
        la = torch.tensor([len(x) for x in answers], dtype=torch.long)
        group_B = torch.as_tensor(group, dtype=torch.long)
        self.ids = torch.cat([*prompts, *answers])[None]
        base_B = lp[group_B] if len(group_B) else la
        starts = torch.cat([torch.zeros_like(lp[:1]), torch.cat([lp, la]).cumsum(0)])[:-1]
        inside = torch.arange(int(lp.sum() + la.sum())) - starts.repeat_interleave(torch.cat([lp, la]))
        offset = torch.cat([torch.zeros_like(lp), base_B]).repeat_interleave(torch.cat([lp, la]))
        self.positions = (inside + offset)[None]
        self.prompt_last = starts[: len(lp)] + lp - 1
        self.answer_start = starts[len(lp) :]
        self.keys: list[Tensor] = []  # filled per layer when `keep_keys` is set: k, v of the prompts, padded
        self.values: list[Tensor] = []
        self.keep_keys = False
        self._n_prompt = int(lp.sum())
        self._P, self._Lp, self._B, self._La = len(lp), int(lp.max()), len(la), int(la.max()) if len(la) else 0
        self._group_B = group_B
        row_n, step_n = torch.arange(len(lp)).repeat_interleave(lp), inside[: self._n_prompt]
        self._prompt_slot = row_n * self._Lp + step_n
        row_n, step_n = torch.arange(len(la)).repeat_interleave(la), inside[self._n_prompt :]
        self._answer_slot = row_n * self._La + step_n
        self.length_P = lp  # of the prompts, in main memory for good
        self._lp, self._la = lp, la
        self._masks: dict[tuple[int | None, torch.dtype, int], Tensor] = {}

    def place(self, device: torch.device, *more: Tensor) -> list[Tensor]:
        """Bring what the model reads to its device, and `more`, which is returned, in the same copy."""
        names = (
            "ids", "positions", "prompt_last", "answer_start", "_group_B", "_prompt_slot", "_answer_slot", "_lp", "_la",
        )  # fmt: skip
        there = send(device, *(getattr(self, name) for name in names), *more)
        vars(self).update(zip(names, there, strict=False))
        return there[len(names) :]

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
        out_p = attention(qp, kp, vp, mask, scale)
        out = _unpad(out_p, self._prompt_slot, q_HND.shape[0], self._Lp)
        if not self._La:
            return out
        qa, ka, va = (_pad(x[:, n:], self._answer_slot, self._B, self._La) for x in (q_HND, k_KND, v_KND))
        k_all = torch.cat([kp.index_select(0, self._group_B), ka], 2)
        v_all = torch.cat([vp.index_select(0, self._group_B), va], 2)
        mask = self._answer_mask(window, q_HND.dtype, q_HND.shape[0] // k_KND.shape[0])
        out_a = attention(fold(qa, k_KND.shape[0]), k_all, v_all, mask, scale)
        return torch.cat([out, _unpad(out_a, self._answer_slot, q_HND.shape[0], self._La)])

    def _prompt_mask(self, window: int | None, dtype: torch.dtype, repeat: int) -> Tensor:
        """Causal, 0 or -inf: [1, 1, repeat Lp, Lp]. Padding stands at the right, where no real token looks."""
        key = (window, dtype, 0)
        if key not in self._masks:
            t = torch.arange(self._Lp, device=self._lp.device)
            self._masks[key] = additive(visible(t[:, None], t[None], window), dtype)[None, None]
        return self._masks[key].repeat(1, 1, repeat, 1)

    def _answer_mask(self, window: int | None, dtype: torch.dtype, repeat: int) -> Tensor:
        """The own prompt and the own earlier tokens, 0 or -inf: [B, 1, repeat La, Lp + La]."""
        key = (window, dtype, repeat)
        if key not in self._masks:
            lp_B = self._lp[self._group_B]
            t_a, t_p = (torch.arange(n, device=lp_B.device) for n in (self._La, self._Lp))
            at_BT = lp_B[:, None] + t_a
            see_p = visible(at_BT[:, :, None], t_p[None, None], window) & (t_p < lp_B[:, None])[:, None]
            see_a = visible(t_a[:, None], t_a[None], window).expand(len(lp_B), -1, -1)
            see = torch.cat([see_p, see_a], 2) | (t_a[None] >= self._la[:, None])[:, :, None]  # padding: no NaN
            self._masks[key] = additive(see, dtype)[:, None].repeat(1, 1, repeat, 1)
        return self._masks[key]


def visible(query_at: Tensor, key_at: Tensor, window: int | None) -> Tensor:
    see = key_at <= query_at
    return see if window is None else see & (query_at - key_at < window)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)


class _Scatter(torch.autograd.Function):
    """Rows to distinct slots of a zero tensor. Its gradient is `_Gather`, a plain read, where PyTorch would add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot_n: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(slot_n)
        return x.new_zeros(size, *x.shape[1:]).index_copy_(0, slot_n, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(grad, ctx.saved_tensors[0]), None, None  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """Rows from distinct slots. Its gradient is `_Scatter`; each can be differentiated again through the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot_n: Tensor) -> Tensor:
        ctx.save_for_backward(slot_n)
        ctx.size = x.shape[0]
        return x.index_select(0, slot_n)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Scatter.apply(grad.contiguous(), ctx.saved_tensors[0], ctx.size), None  # type: ignore[no-untyped-call]


def scatter(x_n: Tensor, slot_n: Tensor, shape: Sequence[int]) -> Tensor:
    """Numbers to distinct slots of a zero tensor of this shape, counted row by row."""
    flat: Tensor = _Scatter.apply(x_n, slot_n, math.prod(shape))  # type: ignore[no-untyped-call]
    return flat.view(*shape)


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
    """One new token per answer: all answers to a prompt read its keys once, and each has room for its own.

    A prompt's keys [P, K, Lp, D] are those of its prefill. The queries of its S answers lie side by side on a grid of
    P x S slots, so that one product serves them all; rows of a prompt with fewer answers left stay empty. All
    answers are equally old, so their own keys [B, K, room, D] grow by one slice a step and need no mask. Which rows are
    left is known in main memory.
    """

    def __init__(self, prefill: Packed, repeats: int, room: int) -> None:
        self.kp, self.vp = prefill.keys, prefill.values
        P = len(prefill.length_P)
        self.length_P = prefill.length_P  # in main memory, as group_B
        self.group_B = torch.arange(P).repeat_interleave(repeats)
        # keys and values may differ in width
        self.k, self.v = (
            [x.new_empty(P * repeats, x.shape[1], room, x.shape[3]) for x in m] for m in (self.kp, self.vp)
        )
        self.used = 0
        self._masks: dict[int | None, Tensor | None] = {}
        self._place()

    def _place(self) -> None:
        """Give each row its slot on the grid."""
        count_P = torch.bincount(self.group_B, minlength=len(self.length_P))
        first_P = count_P.cumsum(0) - count_P
        rank_B = torch.arange(len(self.group_B)) - first_P[self.group_B]
        self._S = int(count_P.max())
        self._full = len(self.group_B) == len(count_P) * self._S
        slot_B, start_B = self.group_B * self._S + rank_B, self.length_P[self.group_B]
        self._lp, self._slot_B, self._start_B = send(self.kp[0].device, self.length_P, slot_B, start_B)

    @property
    def positions(self) -> Tensor:
        """Position of the token that is fed now: int[1, B]."""
        now_B: Tensor = self._start_B + self.used
        return now_B[None]

    def advance(self) -> None:
        """The fed token is in the memory; the next call writes the next slot."""
        self.used += 1
        if any(window is not None for window in self._masks):
            self._masks.clear()

    def keep(self, rows: Tensor) -> None:
        """Drop the other rows (`rows` in main memory), a layer at a time, and prompts that have none left."""
        left, self.group_B = self.group_B[rows].unique(return_inverse=True)  # sorted, as the rows are
        rows, here = send(self.kp[0].device, rows, left)
        for memory in (self.k, self.v):
            for i, x in enumerate(memory):
                memory[i] = x[rows]
        if len(left) < len(self.length_P):
            self.length_P = self.length_P[left]
            for memory in (self.kp, self.vp):
                for i, x in enumerate(memory):
                    memory[i] = x[here]
            self._masks.clear()
        self._place()

    def attend(
        self, layer: int, q_HND: Tensor, k_KND: Tensor, v_KND: Tensor, scale: float, window: int | None
    ) -> Tensor:
        (H, B, D), (K, end) = q_HND.shape, (k_KND.shape[0], self.used + 1)
        self.k[layer][:, :, self.used] = k_KND.transpose(0, 1)
        self.v[layer][:, :, self.used] = v_KND.transpose(0, 1)
        start = 0 if window is None else max(0, end - window)
        own_k, own_v = (x[layer][:, :, start:end] for x in (self.k, self.v))
        q = (q_HND * scale).transpose(0, 1).reshape(B, K, H // K, D)
        to_prompt = self._to_grid(q) @ self.kp[layer].transpose(-1, -2)
        if (mask := self._mask(window, q.dtype)) is not None:
            to_prompt += mask
        # a CPU's product copies a bfloat16 k^T on its right first; on its left not, and the numbers are the same
        own = (own_k @ q.mT).mT if q.is_cpu and q.dtype == torch.bfloat16 else q @ own_k.mT
        score = torch.cat([self._from_grid(to_prompt), own], -1)
        p = score.softmax(-1, dtype=torch.float32).to(q.dtype)
        Lp = to_prompt.shape[-1]
        from_prompt = self._to_grid(p[..., :Lp]) @ self.vp[layer]
        return (self._from_grid(from_prompt) + p[..., Lp:] @ own_v).reshape(B, H, -1)

    def _to_grid(self, x_BKRn: Tensor) -> Tensor:
        """Rows [B, K, R, n] -> [P, K, S R, n], the answers to a prompt side by side."""
        _, K, R, n = x_BKRn.shape
        P, S = len(self.length_P), self._S
        if not self._full:
            x_BKRn = x_BKRn.new_zeros(P * S, K, R, n).index_copy_(0, self._slot_B, x_BKRn)
        return x_BKRn.reshape(P, S, K, R, n).transpose(1, 2).reshape(P, K, S * R, n)

    def _from_grid(self, x_PKQn: Tensor) -> Tensor:
        """Undo `_to_grid`."""
        P, K, Q, n = x_PKQn.shape
        rows = x_PKQn.view(P, K, self._S, Q // self._S, n).transpose(1, 2).reshape(P * self._S, K, Q // self._S, n)
        return rows if self._full else rows[self._slot_B]

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """0 or -inf on a prompt's keys: [P, 1, 1, Lp]. Padding at the right is hidden, and with a window what is too old;
        None if nothing is."""
        if window not in self._masks:
            width, lengths = self.kp[0].shape[2], self.length_P
            at = torch.arange(width, device=self._lp.device)[None]
            see = at < self._lp[:, None]
            if window is not None:
                see = see & (self._lp[:, None] + self.used - at < window)
            every = int(lengths.min()) == width and (window is None or int(lengths.max()) + self.used < window)
            self._masks[window] = None if every else additive(see, dtype)[:, None, None]
        return self._masks[window]
