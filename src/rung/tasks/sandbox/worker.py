"""A worker process: reads one JSON list of arguments a line, calls one function, writes one JSON reply a line.

Started by `pool.py` as a plain script and not as a module of the package, because importing the package, or the
user's main program as multiprocessing would do, could load torch into every worker.
"""

import contextlib
import importlib.util
import json
import os
import signal
import sys
import threading
import time


def main(path: str, name: str, deadline: float, memory: int, parent: int) -> None:
    _end_with(parent)
    # The terminal sends Ctrl-C to us too; our parent decides when we end, by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a verifier prints must not be taken for a reply
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        spec = importlib.util.spec_from_file_location("rung_worker_function", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function = getattr(module, name)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent reports it
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), file=replies, flush=True)
        return
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in requests:
        _alarm(2 * deadline + 1)
        try:
            reply: dict[str, object] = {"value": float(function(*json.loads(line)))}
        except Exception as error:  # noqa: BLE001 - MemoryError too: the answer could not be judged
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        _alarm(0)
        print(json.dumps(reply), file=replies, flush=True)


def _end_with(parent: int) -> None:
    """Linux kills us when our parent ends; elsewhere a thread looks every second."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if sys.platform != "linux":
        threading.Thread(target=watch, daemon=True).start()
    elif os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def _alarm(seconds: float) -> None:
    """The last resort if the parent is gone and cannot kill us: the default action of SIGALRM ends the process."""
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
