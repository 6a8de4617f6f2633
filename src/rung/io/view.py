"""The live view of a training run: laid out anew for the width and the height of each refresh."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import rich.console
from rich.console import ConsoleOptions, ConsoleRenderable, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.table import Table
from rich.text import Text

from rung.io.shown import Said, Shown, mark, shorten
from rung.io.terminal import figure

if TYPE_CHECKING:
    from rung.io.console import Console

PHASE_COLORS = {"sample": "cyan", "reward": "magenta", "update": "yellow", "eval": "green"}


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


def bare(line: Sequence[Segment]) -> list[Segment]:
    """Without the spaces at its end, which some terminals wrap and others do not."""
    out = list(line)
    while out and not out[-1].text.rstrip(" "):
        out.pop()
    return [*out[:-1], Segment(out[-1].text.rstrip(" "), out[-1].style)] if out else out


def number(result: Shown) -> str:
    """The evaluation's mean; a dash where nothing could be scored."""
    return figure(result.mean) if result.problems else "-"


class Screen(Live):
    """rich's Live, which also takes away what a terminal has wrapped that was made narrower since the last refresh."""

    def __init__(self, view: View) -> None:
        super().__init__(view, console=view.c.rich, refresh_per_second=4, redirect_stderr=True)
        self.view = view

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Lines of the last view that need several rows now lie above where rich begins to erase."""
        out = super().process_renderables(renderables)
        wrapped = sum(max(0, cells - 1) // self.console.width for cells in self.view.drawn)
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
        return [out[0], Control(*up * wrapped), *out[1:]] if wrapped and out else out


class View:
    """What is on the screen. drawn: the cells that each line of the last refresh has."""

    def __init__(self, console: Console) -> None:
        self.c = console
        self.drawn: list[int] = []

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, console.size.height
        parts = [self._head(width), self._progress(width), *self._numbers(width)]
        if height >= 12:
            parts += self._held_out(width, with_problem=height >= 18)
        parts += [*self._curve(width, 3 if width >= 80 and height >= 20 else 1), self._time(width)]
        lines = [bare(line) for part in parts for line in console.render_lines(part, options, pad=False)]
        self.drawn = [Segment.get_line_length(line) for line in lines]
        for line in lines:
            yield from line
            yield Segment.line()

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

    def _numbers(self, width: int) -> list[Table | Text]:
        """Of the newest step, each under its name; one after the other where there is no room for columns."""
        numbers = list(self.c.numbers())
        if not numbers:
            return []
        if width < 72:
            return [
                flow([Text.assemble((f"{short} ", "dim"), (value, "bold")) for _, short, value in numbers], width, 2)
            ]
        gap = 3 if width >= 100 else 0
        table = Table(box=None, expand=not gap, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
        for label, _, _ in numbers:
            table.add_column(label, justify="right" if gap else "left", no_wrap=True)
        table.add_row(*(Text(value, "bold") for _, _, value in numbers))
        return [table]

    def _held_out(self, width: int, *, with_problem: bool) -> list[Text]:
        """The first and the newest evaluation, and what was said then to one of its problems, each with its step."""
        shown = self.c.evaluations
        if not shown:
            return []
        binary = all(result.binary for result in shown)
        ends = [shown[0], *shown[-1:]] if len(shown) > 1 else shown
        cells = [Text(f"held-out {'accuracy' if binary else 'reward'}", "dim")]
        cells += [Text.assemble((number(result), "bold"), f" at step {result.step}") for result in ends]
        lines = [flow(cells, width)]
        said = [(step, self.c.answers[step]) for step in (result.step for result in ends) if step in self.c.answers]
        if with_problem and said:
            lines.append(self._one("problem", Text(self.c.clean(shorten(said[0][1].prompt, 4 * width))), width))
            lines += [self._one(f"step {step}", self._answer(answer, binary, width), width) for step, answer in said]
        return lines

    def _answer(self, answer: Said, binary: bool, width: int) -> Text:
        head, style = mark(answer.reward, binary, self.c.ascii_only)
        return Text.assemble((head, style), "  ", self.c.clean(shorten(answer.text, max(20, width - 36))))

    def _one(self, label: str, text: Text, width: int) -> Text:
        """A label and a text on one line, cut where the terminal ends."""
        line = Text.assemble((f"{label:10}", "dim"), text, no_wrap=True)
        line.truncate(width, overflow="ellipsis")
        return line

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
