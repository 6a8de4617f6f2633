"""A nested structure as two files: tensors in state.safetensors, everything else in state.json. Nothing is pickled.

Where several processes have written it, each its parts (rung.cluster), the tensors are the files of a folder, state/.

Dicts (any scalar keys, in order), lists, tuples, numbers, strings, None, tensors, numpy arrays. What JSON has no
word for is an object with one "$" key: {"$tensor": name}, {"$tuple": [...]}, {"$dict": [[key, value], ...]}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rung.errors import InputError

FORMAT = 1


class Store(Protocol):
    def add(self, tensor: Tensor, path: str) -> str:
        """Keep a tensor that is met at this path of a structure. Returns its name."""


class _Tensors:
    """Tensors by name. The same tensor met twice is stored once, and is one tensor again after loading."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}
        self._seen: dict[tuple[Any, ...], str] = {}
        self._storages: set[int] = set()
        self._alive: list[Tensor] = []  # keeps addresses from being used again while we compare them

    def add(self, tensor: Tensor, path: str) -> str:
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise TypeError(f"state[{path}]: only dense tensors can be saved, not {tensor.layout} on {tensor.device}")
        tensor = tensor.detach()
        storage = tensor.untyped_storage().data_ptr()
        key = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and key in self._seen:
            return self._seen[key]
        name, n = path or "tensor", 1
        while name in self.by_name or name == "__metadata__":  # the paths of {0: x} and {"0": x} are equal
            name, n = f"{path}~{n}", n + 1
        stored = tensor.cpu().contiguous().resolve_conj().resolve_neg()
        # a view into a tensor that is stored already gets its own bytes: safetensors refuses overlaps
        self.by_name[name] = stored.clone() if storage in self._storages else stored
        self._seen[key] = name
        self._storages.add(storage)
        self._alive.append(tensor)
        return name


def encode(value: Any, path: str, tensors: Store) -> Any:
    """What JSON can hold of a nested structure; its tensors go into the store, under the names that it gives them."""
    if isinstance(value, Tensor):
        return {"$tensor": tensors.add(value, path)}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"state[{path}]: a numpy array of {value.dtype} cannot be saved")
        native = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")  # a copy: torch wants it writable
        return {"$numpy": tensors.add(torch.from_numpy(native), path)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(float(value))}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value

    def child(key: Any, item: Any) -> Any:
        return encode(item, f"{path}/{key}" if path else str(key), tensors)

    if isinstance(value, (list, tuple)):
        items = [child(index, item) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        wrong = [key for key in value if not (key is None or isinstance(key, (str, int, float, bool)))]
        if wrong:
            raise TypeError(f"state[{path}]: keys must be scalars, not {type(wrong[0]).__name__}")
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: child(key, item) for key, item in value.items()}
        return {"$dict": [[encode(key, path, tensors), child(key, item)] for key, item in value.items()]}
    raise TypeError(f"state[{path}]: {type(value).__name__} cannot be saved without pickling; save its fields instead")


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `encode`."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match list(value.items()):
        case [("$tensor", name)]:
            return tensors[name]
        case [("$numpy", name)]:
            return tensors[name].numpy()
        case [("$float", text)]:
            return float(text)
        case [("$tuple", items)]:
            return tuple(decode(item, tensors) for item in items)
        case [("$dict", pairs)]:
            return {decode(key, tensors): decode(item, tensors) for key, item in pairs}
    return {key: decode(item, tensors) for key, item in value.items()}


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors of a nested structure, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(item)


def save_state(directory: Path, state: Any, name: str = "state") -> None:
    """Writes NAME.safetensors and NAME.json. Raises TypeError, naming the place, for what only pickle could save."""
    tensors = _Tensors()
    encoded = encode(state, "", tensors)
    try:
        save_file(tensors.by_name, directory / f"{name}.safetensors")
    except KeyError as error:
        raise TypeError(f"safetensors cannot store the dtype {error}") from error
    (directory / f"{name}.json").write_text(json.dumps({"format": FORMAT, "state": encoded}, allow_nan=False), "utf-8")


def together(folder: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Tensors of which several processes have written parts, as torch.distributed.checkpoint does."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as parts:
            begins = json.loads(parts.metadata()["DCP_SHARDING_INFO"])
            for name in parts.keys():  # noqa: SIM118  no dict
                part = parts.get_tensor(name)
                whole = found.setdefault(name, torch.zeros([*shapes[name]] or [1], dtype=part.dtype))
                begin = begins[name]["saved_offsets"]
                whole[tuple(slice(b, b + n) for b, n in zip(begin, part.shape, strict=True))] = part
    return {name: found[name].reshape(*shape) if shape else found[name][0] for name, shape in shapes.items()}


def load_state(directory: Path, name: str = "state") -> Any:
    """The structure that `save_state` wrote, or several processes together; tensors on the CPU."""
    with refused(directory, name):
        document, parts = read_document(directory, name), directory / name
        tensors = together(parts, document["tensors"]) if parts.is_dir() else load_file(f"{parts}.safetensors")
        return decode(document["state"], tensors)


def read_document(directory: Path, name: str) -> dict[str, Any]:
    """NAME.json."""
    document = json.loads((directory / f"{name}.json").read_text("utf-8"))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(
            f"{directory}/{name}.json is not of format {FORMAT}: another version of rung wrote it. Use that version."
        )
    return document


@contextmanager
def refused(directory: Path, name: str) -> Iterator[None]:
    """What fails in reading a state inside this block, as one message to the user."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        missing = Path(error.filename or f"{name}.safetensors").name
        raise InputError(
            f"{directory} holds no training state ({missing} is missing). "
            "Resume from a directory checkpoints/step_... that contains COMPLETE."
        ) from error
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, SafetensorError) as error:
        raise InputError(
            f"the training state in {directory} is damaged ({type(error).__name__}: {error}). "
            "Resume from an earlier checkpoint."
        ) from error
