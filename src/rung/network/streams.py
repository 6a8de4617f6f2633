"""Next-token logits, one token at a time for many rows: ways to the same numbers, the fastest first.

    packed  our attention: a prompt runs once for all its answers, and rows that end leave nothing behind
    cache   the model's own forward and memory of keys and values
    state   the same with a memory of states
    even    the same with any memory, for prompts of one length together: no padding
    whole   the model's own forward over every row from its first token, for each token anew

Which one a model takes is found out when it is loaded (ways.py). `first` gives the logits behind the prompts, prompt by
prompt; `next` takes a token for each row and gives the logits behind it; `keep` goes on with some of the rows. Packed and by
its memory of keys, a model may begin behind what it has read before (`pasts`), where the probe finds that it can.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rung.kernels import continued
from rung.kernels.attention import Layout, Packed
from rung.kernels.continued import Continued, Past
from rung.kernels.decode import Decode, Still
from rung.kernels.device import send
from rung.kernels.llama_step import LlamaStep, fits
from rung.kernels.replay import Replay

if TYPE_CHECKING:
    from rung.network.model import Model

Prompts = list[tuple[int, ...]]
MEMORIES = ("past_key_values", "cache_params", "state")  # what a model calls its memory, in its outputs and arguments


class Stream(Protocol):
    read: list[int]  # tokens that run before a row's first own one: what rows share is the first's

    def first(self) -> Tensor: ...

    def next(self, token_B: Tensor) -> Tensor: ...

    def keep(self, rows: Tensor) -> None:
        """rows: their numbers, in main memory and in order."""
        ...

    def pasts(self, rows: Sequence[int], own: Sequence[int]) -> list[Past]:
        """What the model remembers of some rows: the prompt and the first `own` tokens that it was given; nothing where it
        cannot be told. Of all rows that are left it is taken out, and the stream ends."""
        ...


def begin(model: Model, prompts: Prompts, samples: int, room: int, pasts: Sequence[Past] = ()) -> Stream:
    """A stream for `samples` answers of at most `room` tokens to each prompt, by the model's way.

    pasts: of single answers, what is remembered of each prompt's first tokens, the last one not among them; () of nothing.
    """
    kinds: dict[str, type[Any]] = {"packed": PackedStream, "whole": WholeStream}
    behind = {"pasts": pasts} if model.keeps and any(past.length for past in pasts) else {}
    stream: Stream = kinds.get(model.decodes, CacheStream)(model, prompts, samples, room, **behind)
    return stream


def takes_short_steps(model: Model) -> bool:
    """Whether decoding steps run by `LlamaStep` now: an adapter may have come since the model was loaded."""
    return model.short_steps and fits(model.hf)


def taken(hf: PreTrainedModel, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the model's forward takes."""
    known = inspect.signature(hf.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in known):
        return dict(arguments)
    names = {p.name for p in known}
    return {name: value for name, value in arguments.items() if name in names}


class PackedStream:
    """Prompts prefilled once, keys and values preallocated. On a GPU a graph repeats the steps."""

    def __init__(self, model: Model, prompts: Prompts, samples: int, room: int, pasts: Sequence[Past] = ()) -> None:
        self.model, self.samples, self.room = model, samples, room
        known = [past.length for past in pasts] or [0] * len(prompts)
        fed = [torch.tensor(x[n:]) for x, n in zip(prompts, known, strict=True)]
        self.prefill = Continued(fed, pasts) if pasts else Packed(fed, [], [])
        self.read = [n for own in self.prefill.read_P.tolist() for n in (own, *[0] * (samples - 1))]

    def first(self) -> Tensor:
        self.step = LlamaStep(self.model.hf, len(self.read)) if takes_short_steps(self.model) else None
        prefill = self.prefill
        prefill.place(self.model.device)
        prefill.keep_keys = True
        hidden = self.hidden(prefill.ids, prefill.positions, prefill)[prefill.prompt_last]
        self.replay = Replay()
        self.memory = (Still if self.model.replays else Decode)(prefill, self.samples, self.room)
        logits_PV = self.model.logits(hidden)
        return logits_PV[:, None].expand(-1, self.samples, -1).reshape(-1, logits_PV.shape[-1])

    def next(self, token_B: Tensor) -> Tensor:
        still = self.memory if isinstance(self.memory, Still) else None
        logits = self.replay(self._next, token_B, still.alike) if still is not None else self._next(token_B)
        self.memory.advance()
        return logits

    def _next(self, token_B: Tensor) -> Tensor:
        return self.model.logits(self.hidden(token_B[None], self.memory.begin(), self.memory))

    def keep(self, rows: Tensor) -> None:
        self.memory.keep(rows)

    def pasts(self, rows: Sequence[int], own: Sequence[int]) -> list[Past]:
        return continued.pasts(self.memory, rows, own)

    def hidden(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """Last hidden states of packed tokens: [N, D]."""
        if self.step is not None and isinstance(layout, Decode):
            return self.step(ids[0], positions, layout)
        return self.model.hidden(ids, positions, layout)[0]


class CacheStream:
    """The model's own forward and memory. Prompts of different length are padded at their left; the mask that says so is
    told at every token to a model that remembers keys, once to one that remembers states, never where all are equal. Behind
    what it remembers, every row reads as many tokens as the one with the most new ones, so that padding stays at the left."""

    def __init__(self, model: Model, prompts: Prompts, samples: int, room: int, pasts: Sequence[Past] = ()) -> None:
        self.hf: PreTrainedModel = model.hf
        self.way = model.decodes
        rows = [x for x in prompts for _ in range(samples)]
        known = [past.length for past in pasts] or [0] * len(rows)
        new = max(len(x) - n for x, n in zip(rows, known, strict=True))
        behind = max(max(0, len(x) - new) for x in rows) if pasts else 0
        ids = torch.zeros(len(rows), new, dtype=torch.long)
        mask = torch.zeros(len(rows), behind + new, dtype=torch.long)
        for i, x in enumerate(rows):
            mine = x[-new:]
            ids[i, new - len(mine) :] = torch.tensor(mine)
            mask[i, behind + new - len(x) :] = 1
        self.read = [min(len(x), new) for x in rows]
        self.ids, self.mask = send(model.device, ids, mask)
        self.width = behind + new
        self.memory: dict[str, Any] = {}
        if behind:
            kept = [max(0, len(x) - new) for x in rows]
            self.memory["past_key_values"] = _remembered(self.hf, pasts, kept, behind)

    def first(self) -> Tensor:
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        return self._run(self.ids, positions[:, -self.ids.shape[1] :])

    def next(self, token_B: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        return self._run(token_B[:, None], self.mask.sum(1, keepdim=True) - 1)

    def keep(self, rows: Tensor) -> None:
        (rows,) = send(self.mask.device, rows)
        self.mask = self.mask[rows]
        self.memory = {name: _select(memory, rows) for name, memory in self.memory.items()}

    def pasts(self, rows: Sequence[int], own: Sequence[int]) -> list[Past]:
        memory: Any = self.memory.get("past_key_values")
        if type(memory) is not DynamicCache or any(type(x) is not DynamicLayer for x in memory.layers):
            return [Past() for _ in rows]
        out = []
        for b, n in zip(rows, own, strict=True):
            start = int((self.mask[b] == 0).sum())
            end = self.width + n
            both = [(x.keys[b, :, start:end].clone(), x.values[b, :, start:end].clone()) for x in memory.layers]
            out.append(Past(end - start, dict(enumerate(both))))
        return out

    def _run(self, ids: Tensor, positions: Tensor) -> Tensor:
        told = {"position_ids": positions, "use_cache": True, "logits_to_keep": 1}
        if self.way == "cache" or (self.way == "state" and not self.memory):
            told["attention_mask"] = self.mask
        out = self.hf(input_ids=ids, **taken(self.hf, told), **self.memory)
        given = {name: x for name in MEMORIES if (x := getattr(out, name, None)) is not None}
        if not given and not self.memory:  # it may fill one that it is handed and not give it back
            if "past_key_values" not in inspect.signature(self.hf.forward).parameters:
                raise NotImplementedError("it keeps no memory of what it has read")
            self.memory = {"past_key_values": DynamicCache(config=self.hf.config)}
            out = self.hf(input_ids=ids, **taken(self.hf, told), **self.memory)
        self.memory = given or self.memory
        logits: Tensor = out.logits[:, -1].float()
        return logits


def _remembered(hf: PreTrainedModel, pasts: Sequence[Past], kept: Sequence[int], width: int) -> DynamicCache:
    """The first `kept` tokens of each row as the model remembers them, `width` columns with padding at their left."""
    memory = DynamicCache(config=hf.config)
    for layer in max(pasts, key=lambda past: past.length).layers:
        whole = []
        for part in (0, 1):
            rows = [past.layers[layer][part][:, :n] if n else None for past, n in zip(pasts, kept, strict=True)]
            one = next(x for x in rows if x is not None)
            out = one.new_zeros(len(rows), one.shape[0], width, one.shape[2])
            for into, x in zip(out, rows, strict=True):
                if x is not None:
                    into[:, width - x.shape[1] :] = x
            whole.append(out)
        memory.update(*whole, layer)
    return memory


def _select(memory: Any, rows: Tensor) -> Any:
    """A model's memory of some of the rows: what beam search asks of it."""
    if hasattr(memory, "reorder_cache"):
        memory.reorder_cache(rows)
        return memory
    if isinstance(memory, list | tuple):
        return type(memory)(_select(x, rows) for x in memory)
    if isinstance(memory, Tensor):
        return memory.index_select(0, rows)
    raise NotImplementedError(f"rows of a {type(memory).__name__} cannot be taken out")


class WholeStream:
    """Every row from its first token, for each token anew: slow, and right wherever the model's forward is."""

    def __init__(self, model: Model, prompts: Prompts, samples: int, room: int) -> None:
        self.hf: PreTrainedModel = model.hf
        rows = [torch.tensor(x) for x in prompts for _ in range(samples)]
        self.read = [len(x) for x in rows]
        self.width = max(len(x) for x in rows)
        ids = torch.zeros(len(rows), self.width + room, dtype=torch.long)
        for i, x in enumerate(rows):
            ids[i, : len(x)] = x
        self.ids, self.length_B = send(model.device, ids, torch.tensor([len(x) for x in rows]))

    def first(self) -> Tensor:
        at = torch.arange(self.width, device=self.ids.device)[None]
        told = {"attention_mask": (at < self.length_B[:, None]).long(), "use_cache": False}
        logits = self.hf(input_ids=self.ids[:, : self.width], **taken(self.hf, told)).logits
        last: Tensor = logits[torch.arange(len(self.ids), device=at.device), self.length_B - 1].float()
        return last

    def next(self, token_B: Tensor) -> Tensor:
        self.ids.scatter_(1, self.length_B[:, None], token_B[:, None])
        self.length_B, self.width = self.length_B + 1, self.width + 1
        return self.first()

    def keep(self, rows: Tensor) -> None:
        (rows,) = send(self.ids.device, rows)
        self.ids, self.length_B = self.ids[rows], self.length_B[rows]

    def pasts(self, rows: Sequence[int], own: Sequence[int]) -> list[Past]:
        return [Past() for _ in rows]
