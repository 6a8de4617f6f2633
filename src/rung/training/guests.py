"""Code of the user's in this process (rewards, environments): what it leaves behind is put back, or ends there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def guests() -> Iterator[None]:
    """Afterwards torch computes as before, with gradients, in the same floats and threads.

    A child that was forked inside ends here: it never goes on with what its parent does.
    """
    process = os.getpid()
    gradients, floats, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(0)
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(floats)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
