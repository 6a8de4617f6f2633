"""A stand-in accelerator for tests on a machine that has none: the PyTorch device "fake".

It computes on the CPU and refuses what CUDA refuses: tensors of two devices in one operation, a CPU generator on the
device, `.numpy()`. What CUDA allows is allowed: one 0-dim CPU tensor in an elementwise operation, CPU indices into a
device tensor, copies. `waits` counts, by line, where the host would wait for a CUDA device.

Import it once, before use: it replaces `torch.tensor` and `torch.as_tensor`, which do not know a device written in Python.
Not there: generators of the device, gradients of the wrong device, streams, CUDA's rounding and its memory.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from functools import cache

import torch
from torch.utils._device import _device_constructors
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("fake", _Module())
DEVICE = torch.device("fake:0")
FLOAT64 = True  # False: a device that has none

COPY = {"_to_copy", "copy_", "_copy_from", "_copy_from_and_resize"}
INDEX = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}  # x[i] and x[i] = y
SCALAR = {
    "masked_fill",
    "masked_fill_",
    "index_fill",
    "index_fill_",
}  # not elementwise, yet their value may be on the CPU
WAIT = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
        "repeat_interleave", "equal"}  # fmt: skip  # the host needs a number or a size that the device has yet to compute
_watchers: list[tuple[str, tuple[str, ...], Counter]] = []


class FakeTensor(torch.Tensor):
    """A tensor of the device; `raw` is the CPU tensor with its numbers."""

    @staticmethod
    def __new__(cls, raw):
        return torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __init__(self, raw):
        self.raw = raw

    def __repr__(self, **unused):
        return f"{self.raw!r} on {self.device}"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, *args, **(kwargs or {}))

    def __tensor_flatten__(self):  # makes `module.to` swap a parameter's contents: tied weights stay one object
        return ["raw"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return FakeTensor(inner["raw"])

    def __deepcopy__(self, memo):
        if not self.is_leaf:
            raise RuntimeError("Only Tensors created explicitly by the user support the deepcopy protocol")
        if id(self) not in memo:
            memo[id(self)] = _rebuild(
                self.raw.detach().clone(), self.requires_grad, isinstance(self, torch.nn.Parameter)
            )
        return memo[id(self)]

    def __reduce_ex__(self, protocol):  # torch.save, and torch.load(..., weights_only=False) back onto the device
        return _rebuild, (self.raw.detach(), self.requires_grad, isinstance(self, torch.nn.Parameter))

    def tolist(self):
        _wait("tolist")
        return self.raw.tolist()

    def untyped_storage(self):  # what shares memory: safetensors and transformers ask
        return self.raw.untyped_storage()

    def data_ptr(self):
        return self.raw.data_ptr()

    def _set_data(self, new):
        if not isinstance(new, FakeTensor):
            raise NotImplementedError("the stand-in cannot take a tensor off its device by .data")
        torch.Tensor.data.__set__(self, new)
        self.raw = new.raw

    data = property(torch.Tensor.detach, _set_data)


def _rebuild(raw, requires_grad, parameter):
    return (
        torch.nn.Parameter(FakeTensor(raw), requires_grad)
        if parameter
        else FakeTensor(raw).requires_grad_(requires_grad)
    )


def _map(f, x):
    """f at every leaf of an operation's arguments or results."""
    if type(x) in (tuple, list):
        return type(x)([_map(f, y) for y in x])
    if type(x) is dict:
        return {k: _map(f, v) for k, v in x.items()}
    return tuple(_map(f, y) for y in x) if isinstance(x, tuple | list) else f(x)


def _tensors(x):
    if isinstance(x, torch.Tensor):
        return [x]
    inside = x.values() if type(x) is dict else x if isinstance(x, tuple | list) else ()
    return [t for y in inside for t in _tensors(y)]


def _raw(x):
    if isinstance(x, FakeTensor):
        return x.raw
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == "fake" else x


@cache
def _described(op):
    """An operation's name, and whether it writes into an argument."""
    return op._schema.name.removeprefix("aten::"), op._schema.is_mutable


def _run(op, *args, **kwargs):
    """One operation: refuse it as CUDA would, or compute with the CPU tensors and put the result on its device."""
    name, writes = _described(op)
    every = _tensors((args, kwargs))
    here = [t for t in every if isinstance(t, FakeTensor)]
    target = DEVICE if kwargs.get("device") is None else torch.device(kwargs["device"])
    if kwargs.get("generator") is not None and target.type == "fake":
        raise RuntimeError(f"{name}: Expected a 'fake' device type for generator but found a 'cpu' one")
    if 0 < len(here) < len(every) and name not in COPY:
        _refuse_mixed(op, name, args, kwargs)
    by_index = name in INDEX and any(t.dtype == torch.bool or not isinstance(t, FakeTensor) for t in _tensors(args[1]))
    if name in WAIT or by_index:
        _wait(name)
    elif name in COPY and (way := _crosses(name, args, target)):
        _wait(way)
    if name in ("copy_", "_copy_from"):  # their other side may be a plain tensor, which is to be returned itself
        to, source = (args[0], args[1]) if name == "copy_" else (args[1], args[0])
        _raw(to).copy_(_raw(source))
        return to
    known = {id(t.raw): t for t in here} if writes else {}  # an in-place operation returns its argument
    out = op(*_map(_raw, args), **_map(_raw, kwargs))
    for t in here if writes else ():
        if t.shape != t.raw.shape or t.stride() != t.raw.stride():  # an `out` that grew, squeeze_ and the like
            with torch._C._DisableTorchDispatch():
                torch.Tensor.data.__set__(t, FakeTensor(t.raw))

    def place(x):
        if not isinstance(x, torch.Tensor) or target.type != "fake":
            return x
        if x.dtype == torch.float64 and not FLOAT64:
            raise RuntimeError(f"{name}: this device has no float64")
        return known[id(x)] if id(x) in known else FakeTensor(x)

    return _map(place, out)


def _crosses(name, args, target):
    """Which way a copy goes between the devices: "upload", "read", or "" for neither."""
    if name == "_to_copy":
        from_here, to_here = isinstance(args[0], FakeTensor), target.type == "fake"
    else:  # copy_(to, source); _copy_from(source, to)
        to, source = args[:2] if name == "copy_" else args[1::-1]
        from_here, to_here = isinstance(source, FakeTensor), isinstance(to, FakeTensor)
    return "" if from_here == to_here else "read" if from_here else "upload"


def _refuse_mixed(op, name, args, kwargs):
    written = [a for a, s in zip(args, op._schema.arguments, strict=False) if s.alias_info and s.alias_info.is_write]
    free = (
        _tensors(args[1]) if name in INDEX and isinstance(args[0], FakeTensor) else []
    )  # CPU indices into the device's
    hosts = [t for t in _tensors((args, kwargs)) if not isinstance(t, FakeTensor) and not any(t is f for f in free)]
    elementwise = torch.Tag.pointwise in op.tags or name.startswith("_foreach") or name in SCALAR or name in INDEX
    scalars = [t for t in hosts if t.dim() == 0 and not any(t is w for w in _tensors(written))]
    few = len(scalars) <= 1 or name == "where"
    if len(hosts) > (len(scalars) if elementwise and few else 0):
        where = ", ".join(f"{t.device.type}{list(t.shape)}" for t in _tensors((args, kwargs)))
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got {where}")


@contextmanager
def waits(package, through=()):
    """Count where the host would wait for the device, inside: {(operation, file:line of the package): times}.

    A copy to the device counts too, as "upload": from memory that is not pinned, CUDA makes the host wait for it.
    through: files of the package whose callers are meant.
    """
    counts = Counter()
    _watchers.append((package, through, counts))
    try:
        yield counts
    finally:
        _watchers.pop()


def _wait(name):
    for package, through, counts in _watchers:
        frame = sys._getframe(2)
        while frame and (
            f"/{package}/" not in frame.f_code.co_filename or frame.f_code.co_filename.endswith(tuple(through))
        ):
            frame = frame.f_back
        at = f"{frame.f_code.co_filename.split(f'/{package}/')[-1]}:{frame.f_lineno}" if frame else "elsewhere"
        counts[name, at] += 1


_library = torch.library.Library("_", "IMPL")  # torch.empty and its like: no argument leads to the class
_library.fallback(_run, "PrivateUse1")


def _onto_device(make):
    def made(data, *args, device=None, **kwargs):
        if device is None or torch.device(device).type != "fake":
            return make(data, *args, device=device, **kwargs)
        return make(data, *args, **kwargs).to(device)

    return made


_device_constructors()  # fills its cache with PyTorch's own functions, so that `with torch.device("meta")` still sees them
torch.tensor, torch.as_tensor = _onto_device(torch.tensor), _onto_device(torch.as_tensor)
