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
        self.token_B = self.out = token_B.clone()  # the last graph's output is given back before the next one is made
        here, beside = torch.cuda.current_stream(token_B.device), _beside(token_B.device)
        graph, newest = torch.cuda.CUDAGraph(), _NEWEST.get(token_B.device)
        beside.wait_stream(here)
        with torch.cuda.stream(beside), _nothing_collected():
            run(self.token_B)
            graph.capture_begin(None if newest is None else newest.pool(), capture_error_mode="relaxed")
            try:
                self.out = run(self.token_B)
            finally:
                graph.capture_end()
        here.wait_stream(beside)
        _NEWEST[token_B.device] = graph
        return graph


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
