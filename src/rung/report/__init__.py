"""`rung report`: one self-contained HTML file on runs, or on what `rung ladder` and `rung why` found.

browser      The browser of answers: its frame and its controls. report.js fills it, with text and never with markup.
charts       Line charts and interval plots as SVG: colours and type from the page, labels at the lines, a description in words.
collect      What a report shows, as plain data: runs and experiments are read here and nowhere else.
completions  A sample of a run's answers, with what is stored of each token, small enough to stand in one HTML file.
curves       Which of a run's metrics are drawn, in which order, and together with what.
equations    Equations of docstrings, set: the objective as MathML (browsers know it, nothing is loaded).
experiments  The sections of a report on a ladder or a `why`: what was found, each step's verdict, robustness, gradient quality.
health       The health of runs: what went wrong, in which steps, with its likely cause and what to do.
markup       HTML by construction: every text is escaped, unless it was made here.
numbers      Curves for people: a running mean with its interval, and long curves made short.
outcome      The first sections of a report on runs: the curve, three answers before and after, and runs compared.
page         From collected data to one HTML file: no server, no other file, no request to anywhere.
pairs        Held-out problems in pairs: one run before and after, and two runs side by side, with the answers that changed.
sections     The sections of a report on runs after its first: curves, the recipe, time and memory, answers, settings.
timeline     When the answers of a few steps were drawn and when they were learned from: bars side by side where both go on at once.
unipo        Recorded steps in the JSON of the UNIPO viewer: prompts, answers and what the objective says of each token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rung.advice import stands_for_a_run
from rung.errors import InputError, setting
from rung.io.files import write_atomic
from rung.io.terminal import say
from rung.settings.paths import path_of

if TYPE_CHECKING:
    from rung.settings.flags import Report

LIMIT = 5_000_000  # bytes of a report


def run_report(args: Report) -> int:
    """Write it, or the export that is asked for in its place, and say where."""
    say(str(write_report(args.paths, args.out) if args.unipo is None else _export(args.paths, args.out, args.unipo)))
    return 0


def _export(paths: Sequence[Path], out: Path | None, unipo: Path) -> Path:
    if len(paths) != 1 or out is not None:
        raise InputError(
            f"{setting('unipo')} writes the steps of one run and no report. Name one run, and leave {setting('out')} out."
        )
    stands_for_a_run(paths[0])
    from rung.report.unipo import write_unipo

    return write_unipo(paths[0], unipo)


def write_report(paths: Sequence[Path | str], out: Path | None = None) -> Path:
    """The report on these directories as one HTML file below 5 MB; returns its path.

    A file that is there is replaced only if it is an earlier report on the same directories.
    """
    homes = [path_of(path) for path in paths]
    for home in homes:
        stands_for_a_run(home)
    if out is None:
        out = homes[0] / "report.html" if len(homes) == 1 else Path("report.html")
    sources = [str(path) for path in homes]
    _refuse_target(out, sources)
    from rung.report.collect import COMPLETIONS, collect
    from rung.report.page import render

    budget = COMPLETIONS
    while True:
        page = render(collect(homes, budget), sources).encode()
        if len(page) <= LIMIT or budget < 1000:
            break
        budget //= 2
    if len(page) > LIMIT:
        raise InputError(
            f"a report on {len(homes)} directories would be {len(page) / 1e6:.1f} MB, above the limit of "
            f"{LIMIT / 1e6:.0f} MB, even without answers. Report on fewer of them at a time."
        )
    try:
        write_atomic(out, lambda file: file.write(page))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}. Give another name with {setting('out')}.") from error
    return out


def _refuse_target(out: Path, sources: Sequence[str]) -> None:
    """Refuses to replace anything but an earlier report on the same directories."""
    if out.is_dir():
        raise InputError(
            f"{out} is a directory. Give the name of a file with {setting('out')}, such as {out / 'report.html'}."
        )
    if not out.exists():
        return
    from rung.report.page import GENERATOR, source_mark

    with out.open("rb") as file:
        head = file.read(20_000).decode(errors="replace")
    ours = re.search(rf'<meta name="generator" content="{GENERATOR}"', head) is not None
    if not ours or source_mark(sources) not in head:
        what = "a report on something else" if ours else "no report of ours"
        raise InputError(f"{out} exists and is {what}; it is not overwritten. Give another name with {setting('out')}.")
