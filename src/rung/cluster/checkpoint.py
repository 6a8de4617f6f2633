"""What a dealt out learner is saved as: every process writes its parts, and any number of processes reads them.

dealt.json holds the structure and the numbers, dealt/ the tensors, by torch.distributed.checkpoint in its safetensors
form. Nothing is pickled. All processes see one directory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, zeros

from rung.cluster.vector import Layout, Spread
from rung.errors import InputError
from rung.io.state import decode, encode

FORMAT, STRUCTURE, TENSORS = 1, "dealt.json", "dealt"


class _Store:
    """Tensors by name, each once, and of each how it lies in the processes, its shape and its kind of number."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.by_name: dict[str, Tensor] = {}
        self.kinds: dict[str, tuple[str, list[int], str]] = {}
        self._names: dict[int, str] = {}

    def add(self, tensor: Tensor, path: str) -> str:
        if id(tensor) not in self._names:
            name = f"{len(self.by_name)}/{path}"
            dtype, shape = str(tensor.dtype).removeprefix("torch."), list(tensor.shape)
            how = "dealt" if isinstance(tensor, DTensor) else "vector" if isinstance(tensor, Spread) else "whole"
            stored = self.layout.whole(tensor) if how == "vector" else tensor.detach()
            self.kinds[name] = (how, [len(stored)] if how == "vector" else shape, dtype)
            self.by_name[name] = stored if stored.ndim else stored.reshape(1)
            self._names[id(tensor)] = name
        return self._names[id(tensor)]


def save(directory: Path, state: Any, layout: Layout) -> None:
    """All processes call this, with their parts of the same state."""
    store = _Store(layout)
    encoded = encode(state, "", store)
    save_parts(store.by_name, storage_writer=HuggingFaceStorageWriter(str(directory / TENSORS), save_distributed=True))
    if dist.get_rank() == 0:
        document = {"format": FORMAT, "state": encoded, "tensors": store.kinds}
        (directory / STRUCTURE).write_text(json.dumps(document, allow_nan=False), "utf-8")
    dist.barrier()


def load(directory: Path, mesh: DeviceMesh, layout: Layout) -> Any:
    """The state, dealt out over the processes that there are now."""
    document = _document(directory)
    found: dict[str, Tensor] = {}
    for name, (how, shape, dtype) in document["tensors"].items():
        kind, size = getattr(torch, dtype), shape or [1]
        dealt = how == "dealt" and shape
        found[name] = (
            zeros(*size, dtype=kind, device_mesh=mesh, placements=[Shard(0)])
            if dealt
            else torch.zeros(size, dtype=kind)
        )
    load_parts(found, storage_reader=HuggingFaceStorageReader(str(directory / TENSORS)))
    rank = dist.get_rank()
    for name, (how, shape, _) in document["tensors"].items():
        if how == "vector":
            found[name] = layout.mine(found[name], rank)
        elif not shape:
            found[name] = found[name].reshape(())
    return decode(document["state"], found)


def _document(directory: Path) -> Any:
    try:
        document = json.loads((directory / STRUCTURE).read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{directory} was not saved by a learner of several processes ({error.filename} is missing). Go on with a run as it "
            "was begun, or begin one from this model."
        ) from error
    except ValueError as error:
        raise InputError(f"{directory / STRUCTURE} is damaged ({error}). Resume from an earlier checkpoint.") from error
    if document.get("format") != FORMAT:
        raise InputError(
            f"{directory / STRUCTURE} is not of format {FORMAT}: another version of rung wrote it. Use that version."
        )
    return document
