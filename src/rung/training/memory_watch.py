"""The largest memory in use during each phase of a step, without touching what others measure of this process."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from rung.kernels.device import CPU

STATM = Path("/proc/self/statm")  # Linux; elsewhere the process's memory is not known and nothing is reported
EVERY = 0.02  # seconds between two looks


class MemoryWatch:
    """`with watch.phase("sample"): ...`, then `watch.peaks["sample"]` in GiB.

    On a CUDA device: the allocator's own peak. Elsewhere: resident memory, looked at 50 times a second, at the beginning and at
    the end. (The kernel's own peak would have to be reset, and then whoever measures the whole process would miss it.)
    """

    def __init__(self, device: torch.device = CPU) -> None:
        self.device, self.peaks = device, dict[str, float]()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            yield
            self._note(name, torch.cuda.max_memory_allocated(self.device))
        elif STATM.exists():
            looker = _Looker()
            looker.start()
            try:
                yield
            finally:
                looker.done.set()
            looker.join(1.0)
            self._note(name, max(looker.peak, resident()))
        else:
            yield

    def _note(self, name: str, size: int) -> None:
        self.peaks[name] = max(self.peaks.get(name, 0.0), size / 2**30)


class _Looker(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True, name="memory")
        self.done, self.peak = threading.Event(), resident()

    def run(self) -> None:
        while not self.done.wait(EVERY):
            self.peak = max(self.peak, resident())


def resident() -> int:
    """Bytes of this process in main memory."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
