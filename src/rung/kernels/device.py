"""The device that a model computes on: chosen here, and what goes there and back.

A step's records (`records.py`) are made in main memory and stay there: what the host knows, it need not ask the device
for. Only micro-batches go to the model, and only numbers come back. Each way is one copy, however many tensors go.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rung.errors import InputError, setting, unknown
from rung.maths.products import cpu
from rung.maths.wide import WITHOUT_FLOAT64

NAMES = ("auto", "cpu", "cuda", "mps")
CPU = torch.device("cpu")


def choose(name: str) -> torch.device:
    """`--device`: auto is the first CUDA device where there is one, else the CPU; MPS only by its name.

    Raises:
        InputError: no such device, here or anywhere.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else CPU
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unknown("device", name, NAMES, more=" A number behind it means one of several: cuda:1.") from error
    if device.type == "cpu":
        return CPU
    module: Any = getattr(torch, device.type, None)
    count = module.device_count() if module is not None and module.is_available() else 0
    if (device.index or 0) >= count:
        here = f"{count} of the kind (0 to {count - 1})" if count else "none"
        raise InputError(
            f"{setting('device', name)}: PyTorch finds {here} on this machine. Use {setting('device', 'auto')}, which "
            "takes what there is, or cpu."
        )
    return torch.device(device.type, device.index or 0)


def faster(device: torch.device) -> tuple[str, str]:
    """The precision that products on this device are faster in, and why: by what it is, not by a clock."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bfloat16", "the GPU has units for it") if able else ("float32", "the GPU has no units for bfloat16")
    if device.type == "cpu" and multiplies_bfloat16():
        return "bfloat16", "the CPU has instructions for it"
    return "float32", "this device has no bfloat16 of its own"


def emulated(device: torch.device) -> str:
    """Why products in bfloat16 are emulated on this device; empty where they are not, or nobody knows."""
    dtype, why = faster(device)
    return why if dtype == "float32" and device.type in ("cpu", "cuda") else ""


@cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX512-BF16 or AMX); without them they are emulated, slowly."""
    return any(word in cpu() for word in ("avx512_bf16", "amx_bf16"))


def fused_allowed() -> bool:
    """Whether attention may be a kernel that is differentiated once: not inside `sdpa_kernel(MATH)`, on no device."""
    return bool(torch.backends.cuda.flash_sdp_enabled())


def title(device: torch.device) -> str:
    """The device for people: a GPU with its name."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def gpu_gib(device: torch.device) -> float:
    """Memory of a CUDA device; 0 of any other."""
    return torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else 0.0


def send(device: torch.device, *things: Any) -> list[Any]:
    """The tensors, and the records with their tensors, on `device`, by one copy of all their bytes."""
    if device.type == "cpu":
        return list(things)
    tensors = [x for thing in things for x in _tensors(thing)]
    if device.type in WITHOUT_FLOAT64:
        tensors = [x.float() if x.dtype == torch.float64 else x for x in tensors]
    sent = iter(_send(device, tensors))
    return [
        next(sent) if isinstance(thing, Tensor) else replace(thing, **{k: next(sent) for k in _fields(thing)})
        for thing in things
    ]


def fetch(*tensors: Tensor) -> list[Tensor]:
    """The tensors in main memory, by one copy of all their bytes: the host waits once until the device has them."""
    if all(x.device.type == "cpu" for x in tensors):
        return list(tensors)
    order = _widest_first(tensors)
    flat = torch.cat([_bytes(tensors[i].detach()) for i in order]).cpu()
    return _cut(flat, tensors, order)


def _send(device: torch.device, tensors: list[Tensor]) -> list[Tensor]:
    order = _widest_first(tensors)
    flat = torch.cat([_bytes(tensors[i]) for i in order])
    if device.type == "cuda":  # from pinned memory the copy runs beside the host
        flat = flat.pin_memory()
    return _cut(flat.to(device, non_blocking=True), tensors, order)


def _fields(record: Any) -> list[str]:
    return [name for name, value in vars(record).items() if isinstance(value, Tensor)]


def _tensors(thing: Any) -> list[Tensor]:
    return [thing] if isinstance(thing, Tensor) else [getattr(thing, name) for name in _fields(thing)]


def _widest_first(tensors: Any) -> list[int]:
    """Numbers of 8 bytes first, those of 1 last: each begins where its size divides, without gaps."""
    return sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())


def _bytes(x: Tensor) -> Tensor:
    return x.contiguous().reshape(-1).view(torch.uint8)


def _cut(flat: Tensor, tensors: Any, order: list[int]) -> list[Tensor]:
    """The bytes as tensors of the old shapes and kinds, in the old order."""
    parts = flat.split([tensors[i].numel() * tensors[i].element_size() for i in order])
    there = {i: part.view(tensors[i].dtype).view(tensors[i].shape) for i, part in zip(order, parts, strict=True)}
    return [there[i] for i in range(len(tensors))]
