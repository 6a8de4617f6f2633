"""What a GPU is told token after token, told once: a decoding step as a CUDA graph.

A step of a small model is several hundred kernels of microseconds, and telling the GPU of them takes the host longer than they
run. A graph is all of them in one call, with the same shapes and addresses each time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

_UNTRIED = set[torch.device]()  # where a model is met for the first time
_NEWEST: dict[torch.device, torch.cuda.CUDAGraph] = {}  # its memory is the next one's: all graphs share what one needs


class Replay:
    """run(token_B) by a CUDA graph. What `run` reads lies on the device and stays where it is as long as `alike` is the same;
    run twice on the same it does the same. It gives one tensor, which holds until the next call."""

    def __init__(self) -> None:
        self.alike: Hashable = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, run: Callable[[Tensor], Tensor], token_B: Tensor, alike: Hashable) -> Tensor:
        if self.graph is None or alike != self.alike:
            self.graph, self.alike = self._captured(run, token_B), alike
        self.token_B.copy_(token_B)
        self.graph.replay()
        return self.out

    def _captured(self, run: Callable[[Tensor], Tensor], token_B: Tensor) -> torch.cuda.CUDAGraph:
        """Told once for what PyTorch makes at a first time (workspaces, kernels), and once into the graph."""
        device = token_B.device
        self.token_B = self.out = token_B.clone()
        here, beside = torch.cuda.current_stream(device), _beside(device)
        beside.wait_stream(here)
        try:
            with torch.cuda.stream(beside), _nothing_collected():
                run(self.token_B)
                if device in _UNTRIED:
                    with _waits_refused():
                        run(self.token_B)
                try:
                    graph, self.out = _capture(run, self.token_B, _NEWEST.get(device))
                except torch.OutOfMemoryError:  # inside a capture PyTorch does not give back what it keeps for later
                    torch.cuda.empty_cache()
                    graph, self.out = _capture(run, self.token_B, _NEWEST.get(device))
        finally:
            here.wait_stream(beside)
        _NEWEST[device] = graph
        return graph


def _capture(
    run: Callable[[Tensor], Tensor], token_B: Tensor, newest: torch.cuda.CUDAGraph | None
) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(None if newest is None else newest.pool(), capture_error_mode="relaxed")
    try:
        out = run(token_B)
    finally:
        graph.capture_end()
    return graph, out


@contextmanager
def untried(device: torch.device) -> Iterator[None]:
    """For a model that is met for the first time: a step that waits for the device is an error here. In a capture it would be
    one that PyTorch does not recover from. What its graphs took is given back."""
    _UNTRIED.add(device)
    try:
        yield
    finally:
        _UNTRIED.discard(device)
        _NEWEST.pop(device, None)


@contextmanager
def _waits_refused() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@cache
def _beside(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """What Python would give back in between, an old graph say, would be a call that a capture does not stand."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
