import io
import math
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.control import Control
from rich.segment import ControlType, Segment

import rung
from rung.io.console import Console
from rung.io.shown import Example, Said, Shown, shorten
from rung.io.summary import summary
from rung.io.terminal import clean, figure
from rung.io.view import bare, curve, duration
from rung.statistics import Change

EVIL = "\x1b[31m \x1b]0;title\x07 \x9b2J [bold]x[/bold] \r\x00\x7f \u202e \ud800 \u2028"
BEFORE = Shown(True, 0.31, 0.27, 0.355, 500, 0, 500, 0)
AFTER = Shown(True, 0.87, 0.838, 0.897, 500, 0, 500, 100)
CHANGE = Change(0.56, 0.51, 0.61, 500)


class Stream(io.StringIO):
    """A stream in memory that says what it is."""

    def __init__(self, terminal: bool = False, encoding: str = "utf-8") -> None:
        super().__init__()
        self.terminal, self._encoding = terminal, encoding

    @property
    def encoding(self):
        return self._encoding

    def isatty(self):
        return self.terminal

    def write(self, text):
        text.encode(self._encoding)  # as a real stream: raises on what it cannot show
        return super().write(text)


def train(stream, steps=100, **header):
    with Console(stream) as console:
        console.start({"recipe": "grpo", "model": EVIL, **header}, steps)
        console.evaluated(BEFORE, Said(EVIL, EVIL, 0.0))
        for step in range(1, steps + 1):
            with console.phase("sample"):
                pass
            console.phase("update")
            console.step(
                {"step": step, "reward": math.nan if step == 3 else step / steps, "num_tokens": step * 10, "note": "x"}
            )
        console.message(EVIL)
        console.finish()
        summary(
            console,
            BEFORE,
            AFTER,
            CHANGE,
            [Example(EVIL, EVIL, EVIL, 0.0, 1.0)] * 3,
            Path("runs/x-1"),
            ["rung report runs/x-1"],
        )
    return stream.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_plain_output_has_no_control_characters(monkeypatch, encoding):
    monkeypatch.setenv("FORCE_COLOR", "1")  # set by many CI systems: still no terminal
    text = train(Stream(encoding=encoding))
    assert not [
        char for char in text if (ord(char) < 32 and char != "\n") or 127 <= ord(char) < 160 or char == "\u202e"
    ]
    assert "[bold]x[/bold]" in text
    assert "0.310" in text and "0.870" in text and "95% CI 0.838 to 0.897" in text and "runs/x-1" in text


@pytest.mark.parametrize("steps", [1, 7, 39, 40, 41, 100, 5000])
def test_plain_lines_are_few_and_hold_the_first_and_the_last_step(steps):
    lines = [line for line in train(Stream(), steps).splitlines() if line.startswith("step ")]
    assert len(lines) == steps if steps < 40 else 13 <= len(lines) <= 41
    assert " 1/" in lines[0]
    assert f"{steps}/{steps} " in lines[-1]


@pytest.mark.parametrize("height", [10, 24, 40])
@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
def test_the_live_view_fits_the_terminal(monkeypatch, width, height):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", str(height))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = Console(Stream(terminal=True))
    console.start({"recipe": "dr_grpo", "model": EVIL, "task": "chain"}, 30)
    with console.phase("eval"):
        console.evaluated(BEFORE, Said("6-4-3*8=", EVIL * 9, 0.0))
    for step in range(1, 21):
        console.phase("sample")
        row = {"reward": step / 30, "kl": 0.1, "grad_norm": 3.0, "completions/mean_length": 9, "accuracy": 0.5}
        console.step({"step": step, **row})
    console.evaluated(AFTER, Said("6-4-3*8=", "#4", 1.0))
    assert console._view is not None
    lines = console.rich.render_lines(console._view.view, pad=False)
    text = "\n".join("".join(segment.text for segment in line) for line in lines)
    assert all(sum(segment.cell_length for segment in line) <= width for line in lines)
    assert all(line == line.rstrip(" ") for line in text.splitlines()), "nothing that a terminal may wrap unseen"
    assert "20/30" in text and (len(lines) < height or (width < 80 and height < 24))
    if width >= 60:
        assert "0.667" in text and "sample" in text and "eval" in text and "[bold]x[/bold]" in text
    if width >= 60 and height >= 24:
        assert "0.310 at step 0   0.870 at step 100" in text, "each with its step"
        assert (
            "problem   6-4-3*8=" in text and "step 0    \u2717 wrong" in text and "step 100  \u2713 right  #4" in text
        )
    assert "\x1b" not in text and "\x9b" not in text
    console.close()


def test_what_a_narrower_terminal_has_wrapped_is_taken_away_too(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    console = Console(Stream(terminal=True))
    console.start({"recipe": "grpo"}, 3)
    screen = console._view
    assert screen is not None
    screen.view.drawn = [80, 30, 81, 0, 160]
    for width, wrapped in ((80, 2), (40, 1 + 2 + 3), (160, 0)):
        console.rich.width = width
        controls = [c for c in screen.process_renderables([])[1:] if isinstance(c, Control)]
        codes = [code for control in controls for code in control.segment.control]
        assert codes == [(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * wrapped, width
    console.close()
    assert bare([Segment("a "), Segment("b  "), Segment("   ")]) == [Segment("a "), Segment("b")] and bare([]) == []


def test_plain_output_says_every_evaluation_with_its_step():
    stream = Stream()
    console = Console(stream)
    console.start({}, 20)
    console.evaluated(BEFORE, Said("1+2=", "#" * 200 + "4", 0.0))
    console.step({"step": 1, "reward": 0.25})
    console.evaluated(Shown(False, 1.5, math.nan, math.nan, 8, 0, 8, 10), Said("1+2=", "a\nb", math.nan))
    console.evaluated(Shown(True, math.nan, math.nan, math.nan, 0, 8, 8, 20))
    first, step, second, third = stream.getvalue().splitlines()[1:]
    assert first.startswith("held-out at step 0: accuracy 0.310 (95% CI 0.270 to 0.355)   asked 1+2=   said #")
    assert first.endswith("#4   wrong") and len(first) < 180
    assert "0.31" not in step and "reward 0.250" in step, "no number of another step beside a step's"
    assert second == "held-out at step 10: reward 1.500   asked 1+2=   said a\u240ab   not scored"
    assert third == "held-out at step 20: reward -"


def test_phases_nest_and_add_up():
    console = Console(Stream())
    console.phase("update")
    with console.phase("eval"):
        assert console.running == "eval"
    assert console.running == "update"
    console.finish()
    assert set(console.seconds) == {"update", "eval"} and sum(share for _, share in console.shares()) == pytest.approx(
        1
    )


def test_a_resume_shows_sensible_numbers():
    stream = Stream()
    console = Console(stream)
    console.start({}, 100, first_step=90)
    console.step({"step": 91, "num_tokens": 10**9})
    assert "tok/s" not in stream.getvalue() and "91/100" in stream.getvalue()
    assert len(console._deltas) == 1


PROGRAM = """
import sys, time
from rung.io.console import Console
console = Console()
console.start({"recipe": "grpo"}, 10)
console.step({"step": 1, "reward": 0.5})
if sys.argv[1] == "raise":
    raise KeyboardInterrupt
if sys.argv[1] == "exit":
    sys.exit(3)
if sys.argv[1] in ("SIGTERM", "SIGTSTP"):
    import os, signal
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    console.message("went on")
console.finish("stopped")
"""


@pytest.mark.parametrize("end", ["raise", "exit", "finish", "SIGTERM"])
def test_the_cursor_comes_back_however_the_program_ends(end):
    mine, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(Path(rung.__file__).parents[1]), "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, end], stdout=theirs, stderr=subprocess.DEVNULL, env=env)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(mine, 65536):
            seen += chunk
    except OSError:  # the other side was closed
        pass
    status = process.wait()
    os.close(mine)
    assert b"\x1b[?25l" in seen and seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")
    assert status == (-signal.SIGTERM if end == "SIGTERM" else {"raise": 1, "exit": 3}.get(end, 0)) or end == "raise"


def test_the_cursor_is_there_while_the_program_is_stopped():
    mine, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(Path(rung.__file__).parents[1]), "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "SIGTSTP"], stdout=theirs, stderr=subprocess.DEVNULL, env=env,
        process_group=0,
    )  # fmt: skip
    os.close(theirs)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    seen = os.read(mine, 65536)
    while select.select([mine], [], [], 2.0)[0]:
        seen += os.read(mine, 65536)
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l") >= 0
    process.send_signal(signal.SIGCONT)
    try:
        while chunk := os.read(mine, 65536):
            seen += chunk
    except OSError:  # the other side was closed
        pass
    os.close(mine)
    assert process.wait() == 0 and b"went on" in seen and seen.count(b"\x1b[?25l") == 2


def test_a_reader_that_goes_away_does_not_end_the_run():
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as pipe:
        console = Console(pipe)
        console.start({}, 2)
        console.step({"step": 1})
        console.finish()
        summary(console, None, None, None, [], Path("runs/x-1"), [])


def said(before, after, change=None, examples=()):
    stream = Stream()
    summary(Console(stream), before, after, change, examples, Path("runs/x"), [])
    return " ".join(stream.getvalue().split())


def test_the_summary_does_not_claim_what_the_interval_does_not_allow():
    text = said(BEFORE, AFTER, CHANGE)
    assert "held-out accuracy before, step 0 0.310" in text and "after, step 100 0.870" in text
    assert "change +0.560 (95% CI +0.510 to +0.610) over the same 500 problems: better" in text
    assert "WORSE" in said(AFTER, BEFORE, Change(-0.56, -0.61, -0.51, 500))
    assert "the interval holds 0, so this alone does not show a change" in said(
        BEFORE, BEFORE, Change(0.02, -0.01, 0.05, 9)
    )
    assert "not evaluated" in said(BEFORE, None)


def test_a_reward_on_its_own_scale_is_neither_an_accuracy_nor_right_or_wrong():
    before, after = Shown(False, -0.5, -1.25, 0.25, 256, 0, 256), Shown(False, 12.0, 11.5, 12.5, 250, 6, 256)
    examples = [Example("p", "a", "b", -2.0, 12.0), Example("p", "a", "b", math.nan, 1e-7)]
    text = said(before, after, Change(12.5, 12.0, 13.0, 250), examples)
    assert "held-out mean reward" in text and "accuracy" not in text and "right" not in text and "wrong" not in text
    assert "-0.500 95% CI -1.250 to 0.250 n = 256" in text
    assert "12.000 95% CI 11.500 to 12.500 n = 250, 6 of 256 answers not scored" in text
    assert "+12.500 (95% CI +12.000 to +13.000) over the same 250 problems: better" in text
    assert "reward -2.000" in text and "reward 12.000" in text and "not scored" in text and "reward 1e-07" in text
    mixed = said(Shown(True, 0.0, 0.0, 0.01, 256, 0, 256), after, None)
    assert "held-out mean reward" in mixed and "accuracy" not in mixed, "one kind for both"


def test_without_any_score_there_is_no_number():
    nothing = Shown(True, math.nan, math.nan, math.nan, 0, 8, 8)
    text = said(nothing, nothing)
    assert text.count("none of the 8 answers could be scored, so there is no number") == 2 and "nan" not in text


def test_small_functions():
    assert clean("a\tb\nc") == "a    b\u240ac" and clean("12 ü 漢", lines=True) == "12 ü 漢"
    assert clean("ü", "ascii") == "?"
    assert [figure(x) for x in (0, 0.5, -4, 1e-7, 1e8 + 1.25, 1e39)] == [
        "0.000", "0.500", "-4.000", "1e-07", "100000001.2", "1e+39",
    ]  # fmt: skip
    assert duration(65) == "1:05" and duration(7384) == "2:03:04" and duration(-1) == "0:00"
    assert curve([0, 1], 10) == ["▁█"] and curve([5, 5, math.nan], 10) == ["▁▁"] and curve([], 10) == [""]
    assert curve(range(1000), 8) == ["▁▂▃▄▅▆▇█"] and curve(range(1000), 7, ascii_only=True) == [".:-=+*#"]
    assert [len(row) for row in curve(range(50), 20, 3)] == [20, 20, 20]
    long = "start " + "x" * 1000 + " end 42"
    assert shorten(long).startswith("start") and shorten(long).endswith("end 42") and len(shorten(long)) < 300


def test_python_m_rung_is_rung():
    done = subprocess.run([sys.executable, "-m", "rung", "trian"], capture_output=True, text=True)
    assert done.returncode == 2 and "Did you mean 'train'" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_standard_output_costs_the_display_and_a_result_says_so(capsys):
    with Path("/dev/full").open("w") as stream:
        console = Console(stream)
        console.start({"recipe": "grpo"}, 3)
        console.step({"step": 1, "reward": 0.5})
        console.finish()
        assert "standard output is lost (No space left on device); the run goes on" in capsys.readouterr().err
    code = "import sys; from rung.cli import main; sys.exit(main(['recipes', '--json', '-']))"
    env = {**os.environ, "PYTHONPATH": str(Path(rung.__file__).parents[1])}
    with Path("/dev/full").open("w") as stream:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=stream, stderr=subprocess.PIPE, text=True, env=env, check=False
        )
    assert done.returncode == 1 and "Traceback" not in done.stderr and "No space left on device" in done.stderr
