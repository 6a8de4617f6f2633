"""The report in a real browser: no error on its console, filters and order work, model output stays text.

Headless Chromium is driven by its DevTools protocol through a pipe: no other package, no port, no network.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from rung.report import write_report

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


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find() is None, reason="no chromium here: apt-get install chromium, or set RUNG_CHROMIUM to one"
    ),
]


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
        while time.monotonic() < until:
            answer = self._next()
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
        raise TimeoutError(method)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
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

    def open(self, path: Path) -> None:
        """Load a file and wait until its scripts have run."""
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        until = time.monotonic() + PATIENCE
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            assert time.monotonic() < until, "the page did not load"
            self._next()

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


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def page(browser, report_run, tmp_path):
    browser.open(write_report([report_run], tmp_path / "a.html"))
    browser.problems.clear()
    yield browser
    assert not browser.problems


def choose(page: Chromium, key: str, value: str) -> None:
    page.run(
        f"(() => {{ const f = document.getElementById('f-{key}'); f.value = {json.dumps(value)};"
        "f.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def shown(page: Chromium) -> list[str]:
    return page.run("[...document.querySelectorAll('#answer-list .row')].map(r => r.textContent)")


def status(page: Chromium) -> str:
    return page.run("document.getElementById('answer-count').textContent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_loads_without_an_error_or_a_request(browser, report_run, other_run, ladder_dir, tmp_path, width, scheme):
    file = write_report([report_run, other_run, ladder_dir], tmp_path / "a.html")
    browser.problems.clear()
    browser.requests.clear()
    browser.screen(width, scheme=scheme, mobile=width < 500)
    browser.open(file)
    assert browser.run("document.title").startswith("A ladder <script>")
    assert browser.problems == [] and browser.requests == [file.resolve().as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    ink, paper = browser.run("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    light, dark = (
        sum(map(int, color[4:-1].split(","))) for color in ((ink, paper) if scheme == "dark" else (paper, ink))
    )
    assert light > 690 and dark < 90
    browser.screen(1280)


def test_filters(page):
    assert status(page) == "208 answers, 104 right" and len(shown(page)) == 200
    choose(page, "kind", "1")
    assert status(page) == "16 answers, 8 right"
    choose(page, "right", "0")
    assert status(page) == "8 answers, 0 right" and all(row.startswith("✗") for row in shown(page))
    choose(page, "kind", "0")
    choose(page, "step", "7")
    assert status(page) == "4 answers, 0 right" and all("step 7" in row for row in shown(page))
    choose(page, "right", "")
    choose(page, "text", "</SCRIPT><script>")
    assert 0 < len(shown(page)) < 8 and all("</script>" in row for row in shown(page))
    choose(page, "text", "nobody said this")
    assert shown(page) == [] and status(page) == "No answer fits these choices."


def test_order(page):
    choose(page, "kind", "0")
    choose(page, "sort", "new")
    assert "step 24" in shown(page)[0]
    choose(page, "sort", "r-")
    assert shown(page)[0].startswith("✗") and shown(page)[-1].startswith("✓")
    choose(page, "sort", "r")
    assert shown(page)[0].startswith("✓") and shown(page)[-1].startswith("✗")


def test_what_a_model_wrote_stays_text(page):
    choose(page, "kind", "1")
    before = page.run("document.querySelectorAll('script').length")
    for index, row in enumerate(shown(page)):
        page.run(f"document.querySelectorAll('#answer-list .row')[{index}].click()")
        text = page.run("document.querySelector('#answer .tokens').textContent")
        assert text and text[:20].strip()[:5] in row
    page.run("document.querySelectorAll('#answer-list .row')[0].click()")
    assert "<script>document.title='owned'</script>" in page.run(
        "document.querySelector('#answer .prompt').textContent"
    )
    assert page.run("document.querySelectorAll('script').length") == before
    assert page.run("document.querySelectorAll('#answers img, #answers script').length") == 0
    assert "owned" not in page.run("document.title")


def test_tokens_carry_their_numbers_and_colours(page):
    choose(page, "kind", "0")
    choose(page, "right", "1")
    colours = "[...document.querySelectorAll('#answer .tok')].map(t => t.style.background)"
    assert all("--plus" in c for c in page.run(colours))
    choose(page, "right", "0")
    assert all("--minus" in c for c in page.run(colours))
    choose(page, "color", "ra")
    assert page.run("document.querySelectorAll('#answer .tok.clip').length") >= 3
    title = page.run("document.querySelectorAll('#answer .tok')[1].title")
    assert title.split("\n") == ["advantage -0.5", "log p -0.1", "ratio 1.1", "clipped: ratio too low"]
    choose(page, "color", "")
    assert not any(page.run(colours))


def test_keyboard(page):
    chosen = "document.querySelector('#answer-list [aria-selected=true]').id"
    page.run("document.getElementById('answer-list').focus()")
    for key, row in (("ArrowDown", "row1"), ("j", "row2"), ("k", "row1"), ("End", "row207"), ("Home", "row0")):
        page.key(key)
        assert page.run(chosen) == row
    assert page.run("document.getElementById('answer-list').getAttribute('aria-activedescendant')") == "row0"
    page.key("/", "/")
    assert page.run("document.activeElement.id") == "f-text" and page.run("document.activeElement.value") == ""
    page.key("Escape")
    assert page.run("document.activeElement.id") == "answer-list"


def test_a_chart_is_read_with_the_arrow_keys(page):
    page.run("document.querySelector('#chart1').focus()")
    page.key("End")
    assert page.run("document.querySelector('.tip').textContent") == "step 240.75  0.65 to 0.85"
    page.key("ArrowLeft")
    assert page.run("document.querySelector('.tip').textContent").startswith("step 00.25")
    page.key("Escape")
    assert page.run("document.querySelectorAll('.tip, .hair').length") == 0


def test_it_prints(page):
    assert page.pdf().startswith(b"%PDF-")
