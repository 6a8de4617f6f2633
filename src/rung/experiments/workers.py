"""Processes that train runs side by side and end with us, whatever ends us."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess

import torch

from rung.errors import RunFailed
from rung.tasks.sandbox.spawn import end_with

ENDING = 6.0  # seconds in which a worker may save its run
LEAVING = 60.0  # seconds that one may take to end by itself, once it has nothing left to do


@contextlib.contextmanager
def side_by_side(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each. They end with us, whatever ends us; where they are told to, they save their run first."""
    before = {*active_children()}
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin, initargs=(os.getpid(),))
    try:
        yield pool
        last = threading.Timer(LEAVING, _kill, ({*active_children()} - before,))  # one that hangs while it ends
        last.daemon = True
        last.start()
        pool.shutdown()
        last.cancel()
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        _stop({*active_children()} - before)
        if isinstance(error, BrokenProcessPool):
            raise RunFailed(
                "a process that trained a run was ended from outside, as where memory runs out. What was finished is stored; the "
                "same command goes on, with fewer --jobs if it was the memory."
            ) from error
        raise


def _begin(parent: int) -> None:
    """In a worker. Signals of the terminal reach our parent too, which tells us what to do."""
    end_with(parent)
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)


def _kill(processes: Collection[BaseProcess]) -> None:
    for process in processes:
        process.kill()


def _stop(processes: Collection[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    end = time.monotonic() + ENDING
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
