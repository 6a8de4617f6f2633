"""Next-token logits, one token at a time for many rows: ways to the same numbers, the fastest first.

    packed  our attention: a prompt runs once for all its answers, and rows that end leave nothing behind
    cache   the model's own forward and memory of keys and values
    state   the same with a memory of states
    even    the same with any memory, for prompts of one length together: no padding
    whole   the model's own forward over every row from its first token, for each token anew

Which one a model takes is found out when it is loaded (ways.py). `first` gives the logits behind the prompts, prompt by
prompt; `next` takes a token for each row and gives the logits behind it; `keep` goes on with some of the rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rung.kernels.attention import Decode, Layout, Packed
from rung.kernels.device import send
from rung.kernels.llama_step import LlamaStep, fits

if TYPE_CHECKING:
    from rung.network.model import Model

Prompts = list[tuple[int, ...]]
MEMORIES = ("past_key_values", "cache_params", "state")  # what a model calls its memory, in its outputs and arguments


class Stream(Protocol):
    def first(self) -> Tensor: ...

    def next(self, token_B: Tensor) -> Tensor: ...

    def keep(self, rows: Tensor) -> None:
        """rows: their numbers, in main memory and in order."""
        ...


def begin(model: Model, prompts: Prompts, samples: int, room: int) -> Stream:
    """A stream for `samples` answers of at most `room` tokens to each prompt, by the model's way."""
    kinds: dict[str, type[Any]] = {"packed": PackedStream, "whole": WholeStream}
    stream: Stream = kinds.get(model.decodes, CacheStream)(model, prompts, samples, room)
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
    """Prompts prefilled once, keys and values preallocated."""

    def __init__(self, model: Model, prompts: Prompts, samples: int, room: int) -> None:
        self.model, self.samples, self.room = model, samples, room
        self.prompts = prompts

    def first(self) -> Tensor:
        self.step = (
            LlamaStep(self.model.hf, len(self.prompts) * self.samples) if takes_short_steps(self.model) else None
        )
        prefill = Packed([torch.tensor(x) for x in self.prompts], [], [])
        prefill.place(self.model.device)
        prefill.keep_keys = True
        hidden = self.hidden(prefill.ids, prefill.positions, prefill)[prefill.prompt_last]
        self.memory = Decode(prefill, self.samples, self.room)
        logits_PV = self.model.logits(hidden)
        return logits_PV[:, None].expand(-1, self.samples, -1).reshape(-1, logits_PV.shape[-1])

    def next(self, token_B: Tensor) -> Tensor:
        hidden = self.hidden(token_B[None], self.memory.positions, self.memory)
        self.memory.advance()
        return self.model.logits(hidden)

    def keep(self, rows: Tensor) -> None:
        self.memory.keep(rows)

    def hidden(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """Last hidden states of packed tokens: [N, D]."""
        if self.step is not None and isinstance(layout, Decode):
            return self.step(ids[0], positions, layout)
        return self.model.hidden(ids, positions, layout)[0]


class CacheStream:
    """The model's own forward and memory. Prompts of different length are padded at their left; the mask that says so is
    told at every token to a model that remembers keys, once to one that remembers states, never where all are equal."""

    def __init__(self, model: Model, prompts: Prompts, samples: int, room: int) -> None:
        self.hf: PreTrainedModel = model.hf
        self.way = model.decodes
        rows = [x for x in prompts for _ in range(samples)]
        width = max(len(x) for x in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, x in enumerate(rows):
            ids[i, width - len(x) :] = torch.tensor(x)
            mask[i, width - len(x) :] = 1
        self.ids, self.mask = send(model.device, ids, mask)
        self.memory: dict[str, Any] = {}

    def first(self) -> Tensor:
        return self._run(self.ids, (self.mask.cumsum(1) - 1).clamp(min=0))

    def next(self, token_B: Tensor) -> Tensor:
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        return self._run(token_B[:, None], self.mask.sum(1, keepdim=True) - 1)

    def keep(self, rows: Tensor) -> None:
        (rows,) = send(self.mask.device, rows)
        self.mask = self.mask[rows]
        self.memory = {name: _select(memory, rows) for name, memory in self.memory.items()}

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
