"""Coroutines of the user, run to their end on one event loop, so that what they have bound to it stays of use."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any

_loops: dict[int, asyncio.AbstractEventLoop] = {}  # by process: a forked child has no thread that runs its parent's


def settled(value: Any) -> Any:
    """The result of a coroutine; anything else as it is. A notebook's own event loop may run in this thread."""
    if not isinstance(value, Coroutine):
        return value
    future = asyncio.run_coroutine_threadsafe(_kept(value), _loop())
    try:
        result, error = future.result()
    except BaseException:  # Ctrl-C while waiting: nobody wants the result any more
        future.cancel()
        raise
    if error is not None:
        raise error
    return result


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
