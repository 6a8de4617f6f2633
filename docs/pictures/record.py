"""Record a terminal while a model learns and is asked, as an animated SVG: python docs/pictures/record.py demo.svg

Nothing is staged: a shell in a pseudo-terminal of 80 columns and 24 lines gets the commands key by key, and what it shows
is kept whenever it has changed. It plays faster than it was (--speed), and no picture stays longer than --pause seconds.
Needs `pip install pyte`, which is not among this project's requirements, and `rung` on the PATH.
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import tempfile
import time
from collections.abc import Iterator
from html import escape
from itertools import groupby

import pyte

COLUMNS, LINES = 80, 24
WIDE, TALL, MARGIN, BAR = 8.4, 18, 14, 26  # pixels: of a cell, around the screen, of the window's bar
COMMANDS = ("rung train", 'rung ask runs/dr_grpo-starter-1 "4*7-2=" --probabilities')
COLORS = {
    "default": "#d4d8df", "black": "#4b5263", "red": "#ef6b73", "green": "#8fce6a", "brown": "#e5c07b", "blue": "#61afef",
    "magenta": "#c678dd", "cyan": "#56c2d0", "white": "#d4d8df", "brightblack": "#5c6370",
}  # fmt: skip
Row = tuple[tuple[str, str, bool, bool], ...]  # cells: letter, color, bold, reversed
Frame = tuple[float, tuple[Row, ...]]  # when, and what was there


def record() -> list[Frame]:
    """Everything that the screen showed, from the first prompt to the last one."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    frames: list[Frame] = []
    with tempfile.TemporaryDirectory() as home:
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(home)
            os.environ.update(PS1="$ ", TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(LINES))
            os.execvp("bash", ["bash", "--norc", "--noprofile"])

        def watch(until: str, at_least: float) -> None:
            """Read and keep what is shown until the last line is `until`, for some seconds at least."""
            begun = time.monotonic()
            while True:
                if select.select([terminal], [], [], 0.1)[0]:
                    stream.feed(os.read(terminal, 65536))
                shown = tuple(row(screen, y) for y in range(LINES))
                if not frames or frames[-1][1] != shown:
                    frames.append((time.monotonic(), shown))
                said = [line.rstrip() for line in screen.display if line.strip()]
                if said and said[-1] == until and time.monotonic() - begun > at_least:
                    return

        watch("$", 1)
        for command in COMMANDS:
            typed = "$ "
            for key in command:
                os.write(terminal, key.encode())
                typed += key
                watch(typed.rstrip()[-COLUMNS:], 0.04)
            os.write(terminal, b"\n")
            watch("$", 2)
        os.write(terminal, b"exit\n")
        os.waitpid(pid, 0)
        os.close(terminal)
    return frames


def row(screen: pyte.Screen, y: int) -> Row:
    cells = [screen.buffer[y][x] for x in range(COLUMNS)]
    return tuple((cell.data or " ", cell.fg, cell.bold, cell.reverse) for cell in cells)


def thin(frames: list[Frame], speed: float, rate: float, pause: float) -> list[Frame]:
    """The frames with the times at which they are played: `rate` a second at most, none for longer than `pause` seconds."""
    played: list[Frame] = []
    now, last = 0.0, frames[0][0]
    for when, shown in frames:
        now += min((when - last) / speed, pause)
        last = when
        if played and now - played[-1][0] < 1 / rate:
            played[-1] = (played[-1][0], shown)
        else:
            played.append((now, shown))
    return played


def svg(frames: list[Frame], hold: float) -> str:
    """All frames beside each other on a strip that is moved by one at a time; equal lines are written once."""
    total = frames[-1][0] + hold
    names: dict[Row, str] = {}
    strip = []
    width, height = COLUMNS * WIDE + 2 * MARGIN, LINES * TALL + 2 * MARGIN + BAR
    for index, (_, shown) in enumerate(frames):
        lines = []
        for y, cells in enumerate(shown):
            if any(letter != " " for letter, *_ in cells):
                name = names.setdefault(cells, f"r{len(names)}")
                lines.append(f'<use href="#{name}" y="{y * TALL}"/>')
        strip.append(f'<g transform="translate({index * width:g} 0)">{"".join(lines)}</g>')
    keys = "".join(f"{at / total:.3%}{{transform:translateX({-i * width:g}px)}}" for i, (at, _) in enumerate(frames))
    last = -(len(frames) - 1) * width
    lines = "".join(f'<g id="{name}">{"".join(written(cells))}</g>' for cells, name in names.items())
    lights = "".join(
        f'<circle cx="{MARGIN + 4 + 18 * i}" cy="{BAR / 2 + 3}" r="5.5" fill="{color}"/>'
        for i, color in enumerate(("#ef6b73", "#e5c07b", "#8fce6a"))
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">
<title>A terminal: rung train, then rung ask</title>
<style>
text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre}}
.s{{animation:k {total:.2f}s steps(1,end) infinite}}
@keyframes k{{{keys}100%{{transform:translateX({last:g}px)}}}}
@media (prefers-reduced-motion:reduce){{.s{{animation:none;transform:translateX({last:g}px)}}}}
</style>
<defs>{lines}</defs>
<rect width="100%" height="100%" rx="8" fill="#1e2127"/>{lights}
<svg x="{MARGIN}" y="{MARGIN + BAR}" width="{COLUMNS * WIDE:g}" height="{LINES * TALL}"><g class="s">{"".join(strip)}</g></svg>
</svg>
"""


def written(cells: Row) -> Iterator[str]:
    """A line as texts of one style each, every one at its column and as wide as its cells, whatever the font."""
    x = 0
    for (color, bold, reverse), group in groupby(cells, key=lambda cell: cell[1:]):
        text = "".join(cell[0] for cell in group)
        at, inner = x + len(text) - len(text.lstrip(" ")), text.strip(" ")
        shade = COLORS.get(color, f"#{color}")
        if reverse:
            yield f'<rect x="{x * WIDE:g}" y="0" width="{len(text) * WIDE:g}" height="{TALL}" fill="{shade}"/>'
            shade = "#1e2127"
        if inner:
            heavy = ' font-weight="700"' if bold else ""
            long = f' textLength="{len(inner) * WIDE:g}"' if len(inner) > 1 else ""
            yield f'<text x="{at * WIDE:g}" y="13.5" fill="{shade}"{heavy}{long}>{escape(inner)}</text>'
        x += len(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--speed", type=float, default=2.0, help="how much faster than it was")
    parser.add_argument("--rate", type=float, default=4.0, help="pictures a second at most")
    parser.add_argument("--pause", type=float, default=1.2, help="seconds that a picture may stay")
    parser.add_argument("--hold", type=float, default=6.0, help="seconds of the last one")
    args = parser.parse_args()
    frames = thin(record(), args.speed, args.rate, args.pause)
    text = svg(frames, args.hold)
    with open(args.out, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"{args.out}: {len(frames)} pictures, {frames[-1][0] + args.hold:.0f} s, {len(text.encode()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
