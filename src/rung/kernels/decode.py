"""One new token per answer with a memory of keys and values: all answers to a prompt read its keys once.

`Decode` grows by a slice a token. `Still` does the same on tensors whose shapes and addresses stay, so that a GPU can repeat
what it was told once (`replay.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rung.kernels.attention import Packed, additive, visible
from rung.kernels.device import send

LEAST = 64  # slots of a row's own that are looked at


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

    @property
    def _at(self) -> int | Tensor:
        """How many tokens of its own each row has in front of the one that is fed."""
        return self.used

    @property
    def _most(self) -> int:
        """`_at` at its largest, as long as nothing is made anew."""
        return self.used

    def _place(self) -> None:
        """Give each row its slot on the grid."""
        count_P = torch.bincount(self.group_B, minlength=len(self.length_P))
        first_P = count_P.cumsum(0) - count_P
        rank_B = torch.arange(len(self.group_B)) - first_P[self.group_B]
        self._S = int(count_P.max())
        self._full = len(self.group_B) == len(count_P) * self._S
        slot_B, start_B = self.group_B * self._S + rank_B, self.length_P[self.group_B]
        self._lp, self._slot_B, self._start_B = send(self.kp[0].device, self.length_P, slot_B, start_B)

    def begin(self) -> Tensor:
        """Before the layers run for a token of each row: its position, int[1, B]."""
        if any(window is not None for window in self._masks):
            self._masks.clear()
        now_B: Tensor = self._start_B + self._at
        return now_B[None]

    def advance(self) -> None:
        """The fed token is in the memory; the next one goes into the next slot."""
        self.used += 1

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
        (H, B, D), K = q_HND.shape, k_KND.shape[0]
        own_k, own_v, own_mask = self._own(layer, k_KND.transpose(0, 1), v_KND.transpose(0, 1), window)
        q = (q_HND * scale).transpose(0, 1).reshape(B, K, H // K, D)
        to_prompt = self._to_grid(q) @ self.kp[layer].transpose(-1, -2)
        if (mask := self._mask(window, q.dtype)) is not None:
            to_prompt += mask
        # a CPU's product copies a bfloat16 k^T on its right first; on its left not, and the numbers are the same
        own = (own_k @ q.mT).mT if q.is_cpu and q.dtype == torch.bfloat16 else q @ own_k.mT
        if own_mask is not None:
            own = own.masked_fill(own_mask, -torch.inf)
        score = torch.cat([self._from_grid(to_prompt), own], -1)
        p = score.softmax(-1, dtype=torch.float32).to(q.dtype)
        Lp = to_prompt.shape[-1]
        from_prompt = self._to_grid(p[..., :Lp]) @ self.vp[layer]
        return (self._from_grid(from_prompt) + p[..., Lp:] @ own_v).reshape(B, H, -1)

    def _own(
        self, layer: int, k_BKD: Tensor, v_BKD: Tensor, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Each row's own keys and values, the new ones with them, and which of them it does not see; None: all are seen."""
        for memory, new in ((self.k, k_BKD), (self.v, v_BKD)):
            memory[layer][:, :, self.used] = new
        end = self.used + 1
        start = 0 if window is None else max(0, end - window)
        return self.k[layer][:, :, start:end], self.v[layer][:, :, start:end], None

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
                see = see & (self._lp[:, None] + self._at - at < window)
            every = int(lengths.min()) == width and (window is None or int(lengths.max()) + self._most < window)
            self._masks[window] = None if every else additive(see, dtype)[:, None, None]
        return self._masks[window]


class Still(Decode):
    """`Decode` where all that changes from token to token is numbers on the device: its age, and by it what is hidden.

    A row looks at `width` slots of its own, the used ones and some that are not and hold zeros; it doubles when it is full.
    """

    def __init__(self, prefill: Packed, repeats: int, room: int) -> None:
        super().__init__(prefill, repeats, room)
        self.room, self.width = room, min(LEAST, room)
        for x in (*self.k, *self.v):
            x.zero_()  # a slot that is hidden counts 0 times what is in it
        self.age = torch.zeros(1, dtype=torch.long, device=self._lp.device)
        self._hidden: dict[int | None, Tensor] = {}
        self._cut = 0

    @property
    def alike(self) -> tuple[int, int]:
        """As long as it is the same, a token's tensors have the same shapes and places."""
        return self._cut, self.width

    def keep(self, rows: Tensor) -> None:
        self._cut += 1
        super().keep(rows)

    @property
    def _at(self) -> Tensor:
        return self.age

    @property
    def _most(self) -> int:
        return self.width

    def begin(self) -> Tensor:
        self._masks.clear()
        self._hidden.clear()
        return super().begin()

    def advance(self) -> None:
        super().advance()
        self.age += 1
        if self.used == self.width:
            self.width = min(2 * self.width, self.room)

    def _own(
        self, layer: int, k_BKD: Tensor, v_BKD: Tensor, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        for memory, new in ((self.k, k_BKD), (self.v, v_BKD)):
            memory[layer].index_copy_(2, self.age, new[:, :, None])
        if window not in self._hidden:
            slot = torch.arange(self.width, device=self.age.device)
            self._hidden[window] = ~visible(self.age, slot, window)
        return self.k[layer][:, :, : self.width], self.v[layer][:, :, : self.width], self._hidden[window]
