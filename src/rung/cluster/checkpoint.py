"""What a dealt out learner keeps, written by every process in its parts, and read by any number of processes.

state.json holds the structure and the numbers, state/ the tensors, by torch.distributed.checkpoint in its safetensors form.
Nothing is pickled. `load_state` reads it whole, for a learner of one process; what that one has written is dealt out here.
All processes see one directory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, zeros

from rung.cluster.vector import Layout, Spread
from rung.io.state import FORMAT, decode, encode, load_state, read_document, refused

NAME = "state"


class _Store:
    """Tensors by name, each once, and of each how it lies in the processes, its shape and its kind of number."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.by_name: dict[str, Tensor] = {}
        self.shapes: dict[str, list[int]] = {}
        self.kinds: dict[str, tuple[str, str]] = {}
        self._names: dict[int, str] = {}

    def add(self, tensor: Tensor, path: str) -> str:
        if id(tensor) not in self._names:
            name = f"{len(self.by_name)}/{path}"
            how = "dealt" if isinstance(tensor, DTensor) else "vector" if isinstance(tensor, Spread) else "whole"
            stored = self.layout.whole(tensor) if how == "vector" else tensor.detach()
            self.shapes[name], self.kinds[name] = list(stored.shape), (how, str(stored.dtype).removeprefix("torch."))
            self.by_name[name] = stored if stored.ndim else stored.reshape(1)
            self._names[id(tensor)] = name
        return self._names[id(tensor)]


def save(directory: Path, state: Any, layout: Layout) -> None:
    """All processes call this, with their parts of the same state."""
    store = _Store(layout)
    encoded = encode(state, "", store)
    save_parts(store.by_name, storage_writer=HuggingFaceStorageWriter(str(directory / NAME), save_distributed=True))
    if dist.get_rank() == 0:
        document = {"format": FORMAT, "state": encoded, "tensors": store.shapes, "kinds": store.kinds}
        (directory / f"{NAME}.json").write_text(json.dumps(document, allow_nan=False), "utf-8")
    dist.barrier()


def load(directory: Path, mesh: DeviceMesh, layout: Layout) -> Any:
    """The state, dealt out over the processes that there are now.

    Raises:
        InputError: there is none, or it is damaged.
    """
    with refused(directory, NAME):
        document = read_document(directory, NAME)
        state, shapes, kinds = document["state"], document.get("tensors", {}), document.get("kinds")
    if kinds is None:  # of one process
        return deal(load_state(directory, NAME), mesh, layout)
    found: dict[str, Tensor] = {}
    for name, (how, dtype) in kinds.items():
        shape, kind = shapes[name] or [1], getattr(torch, dtype)
        if how == "dealt":
            found[name] = zeros(*shape, dtype=kind, device_mesh=mesh, placements=[Shard(0)])
        else:
            found[name] = torch.zeros(shape, dtype=kind)
    load_parts(found, storage_reader=HuggingFaceStorageReader(str(directory / NAME)))
    for name, (how, _) in kinds.items():
        if how == "vector":
            found[name] = layout.mine(found[name], dist.get_rank())
        elif not shapes[name]:
            found[name] = found[name][0]
    return decode(state, found)


def deal(state: Any, mesh: DeviceMesh, layout: Layout, *, rule: bool = False) -> Any:
    """A state that is whole in every process: tensors dealt out like weights, a rule's vectors like vectors."""
    if isinstance(state, Mapping):
        return {key: deal(x, mesh, layout, rule=rule or key == "rule") for key, x in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(deal(x, mesh, layout, rule=rule) for x in state)
    if not isinstance(state, Tensor) or not state.ndim:
        return state
    if rule:
        return layout.mine(state, dist.get_rank()) if state.shape == (sum(layout.numbers),) else state
    return distribute_tensor(state.to(mesh.device_type), mesh, [Shard(0)], src_data_rank=None)
