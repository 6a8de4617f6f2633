"""Headless Chromium, driven by its DevTools protocol through a pipe: no other package, no port, no network."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
)  # fmt: skip
# Chromium reads commands from descriptor 3 and writes answers to 4.
AT_3_AND_4 = (
    "import fcntl, os, sys\n"
    "a, b = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])\n"
    "os.dup2(a, 3), os.dup2(b, 4), os.execv(sys.argv[3], sys.argv[3:])"
)
PATIENCE = 240.0  # seconds, for machines that are busy with other things


def find() -> str | None:
    """Chromium's path; RUNG_CHROMIUM names another one."""
    return os.environ.get("RUNG_CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One browser with one page. `problems` collects what the page wrote as errors: exceptions, console, policy."""

    def __init__(self, profile: Path) -> None:
        path = find()
        assert path is not None
        to_read, ours_out = os.pipe()
        ours_in, to_write = os.pipe()
        words = [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
[sys.executable, "-c", AT_3_AND_4, str(to_read), str(to_write), *words],
            pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self.out, self.inp = os.fdopen(ours_out, "wb", buffering=0), os.fdopen(ours_in, "rb", buffering=0)
        self.buffer, self.count, self.session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Chromium:
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.out.close()  # the browser ends with its pipe
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.inp.close()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; events on the way are kept."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while (answer := self._next(until, method)).get("id") != self.count:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def _next(self, until: float, what: str) -> dict[str, Any]:
        """The next message; TimeoutError where none comes until then: a browser may hang."""
        while b"\0" not in self.buffer:
            if not select.select([self.inp], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"chromium said nothing more: {what}")
            block = self.inp.read(1 << 16)
            if not block:
                raise RuntimeError("chromium has ended")
            self.buffer += block
        line, self.buffer = self.buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method:
            self.events.append({"method": method})
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
            self.problems.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, path: Path, query: str = "") -> None:
        """Load a file anew, also where it is open with another fragment, and wait until its scripts have run."""
        for url in ("about:blank", path.resolve().as_uri() + query):
            self.events.clear()
            self.call("Page.navigate", url=url)
            until = time.monotonic() + PATIENCE
            while not any(e["method"] == "Page.loadEventFired" for e in self.events):
                self._next(until, f"{url} did not load")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        out = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in out:
            raise RuntimeError(json.dumps(out["exceptionDetails"]))
        return out["result"].get("value")

    def key(self, name: str, text: str = "") -> None:
        """One key press, as from a keyboard."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, text=text if kind == "keyDown" else "")

    def screen(self, width: int, height: int = 900, scheme: str = "light", mobile: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path, clip: tuple[float, float, float, float] | None = None) -> None:
        """A PNG of the whole page, or of (x, y, width, height) of it."""
        area: dict[str, Any] = {}
        if clip is not None:
            area = {"clip": dict(zip(("x", "y", "width", "height", "scale"), (*clip, 1), strict=True))}
        out = self.call("Page.captureScreenshot", captureBeyondViewport=True, **area)
        path.write_bytes(base64.b64decode(out["data"]))

    def pdf(self) -> bytes:
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])
