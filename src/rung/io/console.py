"""What a training run shows: a live view on a terminal, plain lines elsewhere, a summary at the end.

Model output is untrusted: every text passes `clean`, and goes to rich as Text, which reads no markup.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import IO, Any

from rich.text import Text

from rung.io.shown import Said, Shown, mark, shorten
from rung.io.terminal import clean, figure, make_rich
from rung.io.view import Screen, View, duration, number
from rung.io.waiting import waiting

# of a step: label, short label, metric names in order of preference, format ("": of the scale that it has)
NUMBERS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("reward", "reward", ("reward",), ""),
    ("accuracy", "acc", ("accuracy", "rewards/accuracy/mean"), ""),
    ("length", "len", ("completions/mean_length",), ".1f"),
    ("KL", "KL", ("kl",), ".4f"),
    ("grad norm", "grad", ("grad_norm",), ".3g"),
    ("tokens/s", "tok/s", ("tokens_per_second",), ",.0f"),
)
PLAIN_LINES = 40


class _Clock:
    """Running since it was made; as a context manager it gives the clock back to the phase before it."""

    def __init__(self, console: Console, before: str | None) -> None:
        self._console, self._before = console, before

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        self._console._switch(self._before)


class Console:
    """start, then phase and step in turn, then finish. A context manager: on any exit the cursor comes back."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.rich = make_rich(stream or sys.stdout, display=True)
        self.live = self.rich.is_terminal
        self._view: Screen | None = None
        self._leaving: dict[int, Any] = {}  # signals that would leave the cursor hidden, and what they did before
        self.header: dict[str, str] = {}
        self.step_now = self.total_steps = 0
        self.latest: dict[str, Any] = {}
        self.rewards: list[float] = []
        self.evaluations: list[Shown] = []
        self.answers: dict[int | None, Said] = {}  # to one held-out problem, by the evaluation's step
        self.seconds: dict[str, float] = {}
        self._phase: str | None = None
        self._deltas: deque[float] = deque(maxlen=20)
        self._begun = self._mark = self._phase_begun = time.monotonic()
        self._eval_mark = 0.0
        self._tokens: float | None = 0.0  # None: unknown, after a resume

    # ---- what the loop calls

    def start(self, header: Mapping[str, str], total_steps: int, first_step: int = 0) -> None:
        """`first_step`: how many steps an earlier process has done, on a resume."""
        self.header = {self.clean(key): self.clean(str(value)) for key, value in header.items()}
        self.total_steps, self.step_now = total_steps, first_step
        self._tokens = None if first_step else 0.0
        self._begun = self._mark = self._phase_begun = time.monotonic()
        waiting.end()
        if self.live:
            self._view = Screen(View(self))
            atexit.register(self.close)
            self._catch()
            self._view.start()
        else:
            self._line("   ".join(f"{key} {value}" for key, value in self.header.items()) + f"   steps {total_steps}")

    def step(self, metrics: Mapping[str, Any]) -> None:
        """One training step is done. Numbers that a step does not measure stay at their last value."""
        new = {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float))}
        now, step, evaluated = time.monotonic(), int(metrics.get("step", self.step_now + 1)), self.seconds_in("eval")
        # time left counts the evaluations in between, but not the one before the first step
        delta = now - self._mark - (0.0 if self._deltas else evaluated - self._eval_mark)
        tokens = new.get("num_tokens", self._tokens)
        if "num_tokens" in new and self._tokens is not None and step > self.step_now:
            seconds = max(new.get("step_time", delta), 1e-9)
            new.setdefault("tokens_per_second", (new["num_tokens"] - self._tokens) / seconds)
        self._mark, self._eval_mark, self._tokens = now, evaluated, tokens
        self.latest.update(new)
        if step <= self.step_now:
            return
        self.step_now = step
        self._deltas.append(max(delta, 1e-9))
        if "reward" in new:
            self.rewards.append(new["reward"])
        every = max(1, math.ceil(self.total_steps / (PLAIN_LINES - 1)))
        if not self.live and (len(self._deltas) == 1 or step % every == 0 or step == self.total_steps):
            cells = [f"step {step:>{len(str(self.total_steps))}}/{self.total_steps}"]
            cells += [f"{short} {value}" for label, short, value in self.numbers() if label != "step"]
            self._line("   ".join([*cells, f"left {duration(self.left())}"]))

    def evaluated(self, result: Shown, said: Said | None = None) -> None:
        """The held-out problems were answered at `result.step`. said: the answer to the one whose answers are shown."""
        self.evaluations.append(result)
        if said is not None:
            self.answers[result.step] = said
        if self.live:
            return
        kind = "accuracy" if all(shown.binary for shown in self.evaluations) else "reward"
        interval = f" (95% CI {figure(result.low)} to {figure(result.high)})" if math.isfinite(result.low) else ""
        line = f"held-out at step {result.step}: {kind} {number(result)}{interval}"
        if said is not None:
            head, _ = mark(said.reward, kind == "accuracy", ascii_only=True)
            asked, answer = (self.clean(shorten(text, 60)) for text in (said.prompt, said.text))
            line += f"   asked {asked}   said {answer}   {head}"
        self._line(line)

    def phase(self, name: str) -> _Clock:
        """The time goes to `name` from now on: until the next call, or to the end of a `with` block."""
        before = self._phase
        self._switch(name)
        return _Clock(self, before)

    def message(self, text: str) -> None:
        """A line of its own, above the live view."""
        self._line(text)

    def finish(self, note: str = "finished") -> None:
        """Leaves the last view on the screen and says how far it came and what the time went to."""
        self._switch(None)
        self.close()
        parts = "".join(f", {name} {share:.0%}" for name, share in self.shares())
        took = duration(time.monotonic() - self._begun)
        self._line(f"{note}: step {self.step_now} of {self.total_steps} in {took}{parts}")

    def close(self) -> None:
        """Stops the live view and gives the cursor back; harmless when called twice."""
        if self._view is not None:
            self._view.stop()
            self._view = None
            atexit.unregister(self.close)
            for number, before in self._leaving.items():
                signal.signal(number, before)
            self._leaving = {}

    def _catch(self) -> None:
        """A process that is ended (SIGTERM) or stopped (Ctrl-Z) gives the cursor back first."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name, handler in (("SIGTERM", self._ended), ("SIGTSTP", self._stopped)):
            if (number := getattr(signal, name, None)) is not None and signal.getsignal(number) == signal.SIG_DFL:
                self._leaving[number] = signal.signal(number, handler)
        self._process = os.getpid()

    def _ended(self, number: int, frame: object) -> None:
        if os.getpid() == self._process:  # and not a worker that was forked from it
            self.close()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _stopped(self, number: int, frame: object) -> None:
        self.rich.show_cursor(True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # from here on it waits for `fg`
        if self._view is not None:
            signal.signal(number, self._stopped)
            self.rich.show_cursor(False)

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- what the view reads

    def clean(self, text: str, *, lines: bool = False) -> str:
        return clean(text, self.rich.encoding, lines=lines)

    @property
    def ascii_only(self) -> bool:
        return not self.rich.encoding.lower().startswith("utf")

    def seconds_in(self, phase: str) -> float:
        running = time.monotonic() - self._phase_begun if self._phase == phase else 0.0
        return self.seconds.get(phase, 0.0) + running

    def shares(self) -> list[tuple[str, float]]:
        """Each phase's part of the time that any phase took."""
        names = [*self.seconds, *([self._phase] if self._phase and self._phase not in self.seconds else [])]
        seconds = {name: self.seconds_in(name) for name in names}
        total = sum(seconds.values())
        return [(name, value / total) for name, value in seconds.items()] if total > 0 else []

    @property
    def running(self) -> str | None:
        return self._phase

    def elapsed(self) -> float:
        return time.monotonic() - self._begun

    def left(self) -> float:
        if not self._deltas:
            return math.nan
        ahead = statistics.fmean(tuple(self._deltas)) * (self.total_steps - self.step_now)
        return max(0.0, ahead - (time.monotonic() - self._mark))

    def numbers(self) -> Iterator[tuple[str, str, str]]:
        """Label, short label and value of the newest step's number and of all that was measured in it."""
        if any(name in self.latest for _, _, names, _ in NUMBERS for name in names):
            yield "step", "step", str(self.step_now)
        for label, short, names, form in NUMBERS:
            value = next((self.latest[name] for name in names if name in self.latest), None)
            if value is not None:
                shown = format(value, form) if form else figure(value)
                yield label, short, shown if math.isfinite(value) else "-"

    def _switch(self, name: str | None) -> None:
        now = time.monotonic()
        if self._phase is not None:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._phase_begun
        self._phase, self._phase_begun = name, now

    def _line(self, text: str) -> None:
        waiting.end()
        self.rich.print(Text(self.clean(text, lines=True)), soft_wrap=not self.live)
