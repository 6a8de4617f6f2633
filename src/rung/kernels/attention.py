"""Attention over packed tokens: what texts share once, each text behind what it goes on from, no padding elsewhere.

transformers lets a model run with a registered attention function. Ours gets all tokens of a step as one row,

    [ head of all prompts | prompt 0 | prompt 1 | ... | answer 0 | answer 1 | ... ]        [1, N]

and a `Layout` that says which keys a token may see. Embeddings, norms, projections and MLPs, the bulk of the work,
never see padding, nor a prompt twice, nor a system prompt or examples that all prompts begin with; only the attention
itself is computed on padded blocks. The model's own code does the rest, so any model whose attention goes through
transformers' interface runs this way. `decode.py` is the same idea for one new token per answer with a key-value memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from rung.kernels.bfloat16 import attention
from rung.kernels.device import send
from rung.kernels.varlen import Rows, runs, takes

NAME = "rung_packed"
HEAD = 16  # tokens; fewer that all prompts begin with do not pay for an attention of their own


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


@dataclass
class Level:
    """Texts that go on behind those of the level above: each row sees the keys of its parent there, and its own.

    Attributes:
        width: of a padded row.  slot_n: where each token stands on the padded rows, counted through.
        before_R: tokens in front of each row.  parent_R: its row in the level above.  even: all begin at one position.
    """

    width: int
    slot_n: Tensor
    before_R: Tensor
    parent_R: Tensor
    even: bool
    masks: dict[tuple[int | None, torch.dtype, int], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Sequence[Tensor], before_R: Tensor, parent_R: Tensor) -> Level:
        length_R = _lengths(texts)
        width = int(length_R.max())
        slot_n = runs(torch.arange(len(texts)) * width, length_R)
        return cls(width, slot_n, before_R, parent_R, len(before_R.unique()) == 1)

    def mask(self, window: int | None, dtype: torch.dtype, repeat: int, known: int) -> Tensor:
        """0 or -inf on `known` keys of the parent, with its padding, and the own: [R, 1, repeat width, known + width].

        The own padding stands at the right, where no real token looks. Even rows share one mask.
        """
        key = (window, dtype, repeat)
        if key not in self.masks:
            before_R = self.before_R[:1] if self.even else self.before_R
            t, s = (torch.arange(n, device=before_R.device) for n in (self.width, known))
            at_RT = before_R[:, None] + t
            see_known = visible(at_RT[:, :, None], s, window) & (s < before_R[:, None])[:, None]
            see_own = visible(t[:, None], t, window).expand(len(before_R), -1, -1)
            see = torch.cat([see_known, see_own], 2)
            self.masks[key] = additive(see, dtype)[:, None].repeat(1, 1, repeat, 1)
        return self.masks[key]


class Packed:
    """A step's texts as one row of N tokens; see the module's first lines. Made in main memory: `place`.

    Args:
        prompts: one int[Lp] per group.  answers: one int[La] per row, the tokens that are fed (the last answer token
            is predicted, not fed).  group: the prompt index of each answer.
        head: how many first tokens of all prompts run once for all; None: those that they share.
    Attributes:
        ids, positions: int[1, N].  prompt_last: int[P], index of each prompt's last token.
        answer_start: int[B], index of each answer's first fed token.
        length_P, read_P: tokens of each prompt, and those that run for it; in main memory for good.
        keys, values: of the prompts by layer, [P, K, Lp, D], where `keep_keys` is set.
    """

    def __init__(
        self, prompts: Sequence[Tensor], answers: Sequence[Tensor], group: Sequence[int], head: int | None = None
    ) -> None:
        head = common_head(prompts) if head is None else head
        lp, group_B = _lengths(prompts), torch.as_tensor(group, dtype=torch.long)
        first, own = torch.zeros_like(lp[:1]), [x[head:] for x in prompts]
        self._prompts = Level.of(own, torch.full_like(lp, head), torch.zeros_like(lp))
        self._levels = [self._prompts]
        if head:
            self._levels.insert(0, Level.of([prompts[0][:head]], first, first))
        if any(map(len, answers)):
            self._levels.append(Level.of(answers, lp[group_B], group_B))
        texts = [prompts[0][:head], *own, *answers]
        length = _lengths(texts)
        before = torch.cat([first, torch.full_like(lp, head), lp[group_B]])
        end = length.cumsum(0)
        self._texts = length, torch.cat([first - 1, torch.zeros_like(lp), 1 + group_B])  # of `Rows`
        self._head = head
        self.rows: Rows | None = None
        self.ids = torch.cat(texts)[None]
        self.positions = runs(before, length)[None]
        self.prompt_last = end[1 : len(lp) + 1] - 1
        self.answer_start = (end - length)[len(lp) + 1 :]
        self.length_P, self.read_P = lp, lp - head
        self.read_P[0] += head
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.keep_keys = False

    def place(self, device: torch.device, *more: Tensor) -> list[Tensor]:
        """Bring what the model reads to its device, and `more`, which is returned, in the same copy."""
        names: list[tuple[object, str]] = [(self, x) for x in ("ids", "positions", "prompt_last", "answer_start")]
        names += [(level, x) for level in self._levels for x in ("slot_n", "before_R", "parent_R")]
        if device.type == "cuda":
            self.seen_by_rows()
            names += [(self.rows, x) for x in ("query_end", "key_end", "key_n")]
            names += [(self, x) for x in ("_known_n", "_known_slot_n")]
        there = send(device, *(getattr(of, name) for of, name in names), *more)
        for (of, name), x in zip(names, there, strict=False):
            setattr(of, name, x)
        return there[len(names) :]

    def seen_by_rows(self) -> None:
        """What each text sees and what is known of each prompt, for one kernel (varlen.py) in place of padded blocks."""
        length, parent, P = *self._texts, len(self.length_P)
        self.rows = Rows.of(length, parent)
        self._known_n = Rows.of(length[: P + 1], parent[: P + 1]).key_n[self._head :]
        known_P = self._head + length[1 : P + 1]
        self._known_slot_n = runs(torch.arange(P) * known_P.max(), known_P)

    def _known(self, x_KND: Tensor) -> Tensor:
        """Keys or values of each prompt from its first token on: [P, K, Lp, D]."""
        P, width = len(self.length_P), int(self.length_P.max())
        return _pad(x_KND.index_select(1, self._known_n), self._known_slot_n, P, width).contiguous()

    def attend(
        self, layer: int, q_HND: Tensor, k_KND: Tensor, v_KND: Tensor, scale: float, window: int | None
    ) -> Tensor:
        H, K = len(q_HND), len(k_KND)
        if self.rows is not None and takes(q_HND, k_KND, v_KND):
            if self.keep_keys:
                self.keys.append(self._known(k_KND))
                self.values.append(self._known(v_KND))
            return self.rows.attend(q_HND, k_KND, v_KND, scale, window)
        out, start = [], 0
        known_k, known_v = (x.new_empty(1, K, 0, x.shape[-1]) for x in (k_KND, v_KND))
        for level in self._levels:
            here = slice(start, start + len(level.slot_n))
            q, k, v = (_pad(x[:, here], level.slot_n, len(level.before_R), level.width) for x in (q_HND, k_KND, v_KND))
            mask = level.mask(window, q.dtype, H // K, known_k.shape[2])
            if start:
                k = torch.cat([known_k.index_select(0, level.parent_R), k], 2)
                v = torch.cat([known_v.index_select(0, level.parent_R), v], 2)
            out.append(_unpad(attention(fold(q, K), k, v, mask, scale), level.slot_n, H, level.width))
            known_k, known_v, start = k, v, here.stop
            if self.keep_keys and level is self._prompts:
                self.keys.append(k.contiguous())
                self.values.append(v.contiguous())
        return torch.cat(out)


def common_head(prompts: Sequence[Tensor]) -> int:
    """First tokens that all prompts share, less than any has; 0 where they are too few to gain by."""
    least = min(map(len, prompts)) - 1
    if len(prompts) < 2 or least < HEAD:
        return 0
    same = (torch.stack([x[:least] for x in prompts]) == prompts[0][:least]).all(0)
    head = int(same.cumprod(0).sum())
    return head if head >= HEAD else 0


def _lengths(texts: Sequence[Tensor]) -> Tensor:
    return torch.tensor([len(x) for x in texts], dtype=torch.long)


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
