"""What a training run shows: a live view on a terminal, plain lines elsewhere, a summary at the end.

Model output is untrusted: every text passes `clean`, and goes to rich as Text, which reads no markup.
"""

from __future__ import annotations

import atexit
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import IO, Any

import rich.console
from rich.console import ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rung.io.terminal import clean, figure, make_rich
from rung.io.waiting import waiting

# label, short label, metric names in order of preference, format ("": of the scale that it has)
NUMBERS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("reward", "reward", ("reward",), ""),
    ("accuracy", "acc", ("accuracy", "rewards/accuracy/mean"), ""),
    ("held-out", "eval", ("eval/accuracy", "eval/reward"), ""),
    ("length", "len", ("completions/mean_length",), ".1f"),
    ("KL", "KL", ("kl",), ".4f"),
    ("grad norm", "grad", ("grad_norm",), ".3g"),
    ("tokens/s", "tok/s", ("tokens_per_second",), ",.0f"),
)
PHASE_COLORS = {"sample": "cyan", "reward": "magenta", "update": "yellow", "eval": "green"}
PLAIN_LINES = 40


def duration(seconds: float) -> str:
    """1:05 or 2:03:07."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def curve(values: Sequence[float], width: int, height: int = 1, *, ascii_only: bool = False) -> list[str]:
    """The history as `height` rows of block characters, oldest left; a long one is averaged into `width` columns."""
    levels = " .:-=+*#" if ascii_only else " ▁▂▃▄▅▆▇█"
    values = [value for value in values if math.isfinite(value)]
    if not values or width < 1:
        return [""] * height
    n, count = len(values), min(width, len(values))
    means = [statistics.fmean(values[i * n // count : (i + 1) * n // count]) for i in range(count)]
    low, span, top = min(means), max(means) - min(means), len(levels) - 1
    heights = [1 + round((mean - low) / span * (height * top - 1)) if span > 0 else 1 for mean in means]
    return ["".join(levels[min(max(h - row * top, 0), top)] for h in heights) for row in reversed(range(height))]


def flow(cells: Sequence[Text], width: int, gap: int = 3) -> Text:
    """The cells beside each other, a new line where the next one does not fit: no cell is ever broken in two."""
    out, used = Text(no_wrap=True, overflow="ellipsis"), 0
    for cell in cells:
        if used:
            fits = used + gap + cell.cell_len <= width
            out.append(" " * gap if fits else "\n")
            used = used + gap if fits else 0
        out.append_text(cell)
        used += cell.cell_len
    return out


class _Phase:
    """Running since it was made; as a context manager it gives the clock back to the phase before it."""

    def __init__(self, console: Console, before: str | None) -> None:
        self._console, self._before = console, before

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        self._console._switch(self._before)


class Console:
    """start, then phase and step in turn, then finish. A context manager: on any exit the cursor comes back."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.rich = make_rich(stream or sys.stdout)
        self.live = self.rich.is_terminal
        self._view: Live | None = None
        self.header: dict[str, str] = {}
        self.step_now = self.total_steps = 0
        self.latest: dict[str, Any] = {}
        self.rewards: list[float] = []
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
            self._view = Live(_View(self), console=self.rich, refresh_per_second=4, redirect_stderr=True)
            atexit.register(self.close)
            self._view.start()
        else:
            self._line("   ".join(f"{key} {value}" for key, value in self.header.items()) + f"   steps {total_steps}")

    def step(self, metrics: Mapping[str, Any]) -> None:
        """One training step is done. Numbers that a step does not measure stay at their last value.

        Metrics of a step that was shown already (an evaluation, say) only bring their numbers.
        """
        new = {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float))}
        now, step, evaluated = time.monotonic(), int(metrics.get("step", self.step_now + 1)), self.seconds_in("eval")
        # time left counts the evaluations in between, but not the one before the first step
        delta = now - self._mark - (0.0 if self._deltas else evaluated - self._eval_mark)
        tokens = new.get("num_tokens", self._tokens)
        if "num_tokens" in new and self._tokens is not None and step > self.step_now:
            seconds = max(new.get("step_time", delta), 1e-9)
            new.setdefault("tokens_per_second", (new["num_tokens"] - self._tokens) / seconds)
        self._mark, self._eval_mark, self._tokens = now, evaluated, tokens
        if "eval/reward" in metrics:  # an evaluation takes the place of the one before, whatever its kind
            self.latest = {name: v for name, v in self.latest.items() if not name.startswith("eval/")}
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
            cells += [f"{short} {value}" for _, short, value in self.numbers()]
            self._line("   ".join([*cells, f"left {duration(self.left())}"]))

    def phase(self, name: str) -> _Phase:
        """The time goes to `name` from now on: until the next call, or to the end of a `with` block."""
        before = self._phase
        self._switch(name)
        return _Phase(self, before)

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
        """Label, short label and value of every number that was measured so far."""
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


class _View:
    """The live view, laid out anew for the width of each refresh."""

    def __init__(self, console: Console) -> None:
        self.c = console

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        tall = 3 if width >= 80 and console.size.height >= 16 else 1
        yield self._head(width)
        yield self._progress(width)
        yield from self._numbers(width)
        yield from self._curve(width, tall)
        yield self._time(width)

    def _head(self, width: int) -> Text:
        cells = [Text.assemble((f"{key} ", "dim"), (value, "bold")) for key, value in self.c.header.items()]
        return flow([Text("rung", "bold cyan"), *cells], width)

    def _bar(self, width: int, parts: Sequence[tuple[float, str]]) -> Text:
        """Colored pieces, one a part, in proportion; what is left stays dim."""
        full, empty = ("#", "-") if self.c.ascii_only else ("━", "─")
        out, begin, at = Text(), 0, 0.0
        for share, color in parts:
            at += share
            end = min(width, round(at * width))
            out.append(full * (end - begin), color)
            begin = end
        return out.append(empty * (width - begin), "bright_black")

    def _progress(self, width: int) -> Text:
        c = self.c
        left = c.left()
        tail = f" {c.step_now}/{c.total_steps}  {duration(c.elapsed())} gone"
        tail += "" if math.isnan(left) else f", {duration(left)} left"
        done = min(1.0, c.step_now / max(1, c.total_steps))
        bar = self._bar(max(4, width - len(tail)), [(done, "green")])
        return bar.append(tail, "bold")

    def _numbers(self, width: int) -> list[Table]:
        numbers = list(self.c.numbers())
        if not numbers:
            return []
        gap = 3 if width >= 100 else 0
        table = Table(box=None, expand=not gap, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
        for label, short, _ in numbers:
            table.add_column(label if width >= 80 else short, justify="right" if gap else "left", no_wrap=True)
        table.add_row(*(Text(value, "bold") for _, _, value in numbers))
        return [table]

    def _curve(self, width: int, height: int) -> list[Text]:
        values = [value for value in self.c.rewards if math.isfinite(value)]
        if len(values) < 2:
            return []
        low, high = f"{min(values):.3g}", f"{max(values):.3g}"
        scale = f"  {low} to {high}"
        rows = curve(values, width - 8 - len(scale), height, ascii_only=self.c.ascii_only)
        rows[:-1] = [f"{'':8}{row}" for row in rows[:-1]]
        last = Text.assemble(("reward  ", "dim"), (rows[-1], "cyan"), (scale, "dim"))
        return [*(Text(row, "cyan") for row in rows[:-1]), last]

    def _time(self, width: int) -> Text:
        c = self.c
        spare = ("blue", "red", "white")
        colors = {name: PHASE_COLORS.get(name, spare[i % 3]) for i, (name, _) in enumerate(c.shares())}
        cells = []
        for name, share in c.shares():
            style = f"bold {colors[name]} reverse" if name == c.running else f"bold {colors[name]}"
            cells.append(Text.assemble((self.c.clean(name), style), f" {share:.0%}"))
        bar = self._bar(max(10, min(width - 8, 100)), [(share, colors[name]) for name, share in c.shares()])
        return Text("time    ", "dim").append_text(bar).append("\n").append_text(flow([Text(" " * 5), *cells], width))
