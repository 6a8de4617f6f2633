"""The lock of a directory that one process writes, and the mark by which that process knows it again."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

from rung.errors import InputError, setting

try:
    import fcntl
except ImportError:  # Windows: no lock, everything else works
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()  # descriptors of the locks that this process holds


def _forget_in_child() -> None:
    """A forked child shares the lock; if it outlived us, the run could not be resumed."""
    for fd in _held:
        os.close(fd)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


class Lock:
    """On the file .lock in `root`. shown: the directory as people know it.

    Raises: InputError: another process holds it, or the directory cannot be written.
    """

    def __init__(self, root: Path, shown: Path) -> None:
        self.file = root / ".lock"
        try:
            self._fd = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(
                f"cannot write in {shown}: {error.strerror}. Start another run with {setting('out')}."
            ) from error
        _held.add(self._fd)
        try:
            if fcntl is not None:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._fd, 200, 0).decode(errors="replace").strip() or "another process"
            self.release()
            raise InputError(
                f"the run {shown} is being written by {owner}. Two writers would mix their results: "
                f"wait until it ends, stop it, or give another directory with {setting('out')}."
            ) from error
        except OSError:
            pass  # a file system that knows no locks (some network mounts): the run is worth more than its lock
        with contextlib.suppress(OSError):  # a full disk: only the name of the owner is lost
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"process {os.getpid()} on {platform.node()}\n".encode())

    def here(self) -> bool:
        """Whether the directory is still the one that was locked: nobody has moved, deleted or replaced it."""
        try:
            return self._fd in _held and os.path.samestat(os.fstat(self._fd), self.file.stat())
        except OSError:
            return False

    def release(self) -> None:
        if self._fd in _held:  # not so in a forked child
            _held.discard(self._fd)
            with contextlib.suppress(OSError):  # file systems without locks
                if fcntl is not None:  # at once, even if a child has not let go of its copy yet
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
