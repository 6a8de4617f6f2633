"""Coroutines of the user, run to their end on one event loop, so that what they have bound to it stays of use."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import Any

_loops: dict[int, asyncio.AbstractEventLoop] = {}  # by process: a forked child has no thread that runs its parent's


@dataclass
class Place:
    """Of a call among others (deadline.py): `waits` once it waits for a coroutine or has ended, and those that it began."""

    waits: threading.Event = field(default_factory=threading.Event)
    begun: list[Future[Any]] = field(default_factory=list)


place: ContextVar[Place | None] = ContextVar("place", default=None)


class Begun:
    """A coroutine that is running already; any other value is its own result. Call it for the result."""

    def __init__(self, value: Any) -> None:
        self.value, self.future = value, None
        if isinstance(value, Coroutine):
            self.future = asyncio.run_coroutine_threadsafe(_kept(value), _loop())
            if (mine := place.get()) is not None:
                mine.begun.append(self.future)

    def __call__(self) -> Any:
        if self.future is None:
            return self.value
        if (mine := place.get()) is not None:
            mine.waits.set()
        try:
            result, error = self.future.result()
        except BaseException:  # Ctrl-C while waiting: nobody wants the result any more
            self.cancel()
            raise
        if error is not None:
            raise error
        return result

    def cancel(self) -> None:
        if self.future is not None:
            self.future.cancel()


def settled(value: Any) -> Any:
    """The result of a coroutine; anything else as it is. A notebook's own event loop may run in this thread."""
    return Begun(value)()


def is_async(function: Any) -> bool:
    """Whether calling it gives a coroutine."""
    return iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)


async def _kept(value: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    try:
        return await value, None
    except (Exception, SystemExit) as error:  # noqa: BLE001  raised where it is waited for: SystemExit would end the loop
        return None, error


def _loop() -> asyncio.AbstractEventLoop:
    loop = _loops.get(os.getpid())
    if loop is None:
        loop = _loops[os.getpid()] = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="rung-async", daemon=True).start()
    return loop
