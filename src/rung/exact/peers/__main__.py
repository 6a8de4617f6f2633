"""`python -m rung.exact.peers --markdown docs/field.md`: every project that is installed here, audited and written down."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

from rung.errors import InputError
from rung.exact.peers.controls import CONTROLS, silent
from rung.exact.peers.page import audited, page
from rung.exact.peers.registry import ADAPTERS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rung.exact.peers", description=__doc__)
    parser.add_argument("projects", nargs="*", help=f"some of {', '.join(ADAPTERS)}; all without")
    parser.add_argument("--markdown", type=Path, help="the page to write")
    args = parser.parse_args()
    try:
        return run(args.projects or list(ADAPTERS), args.markdown)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(names: list[str], markdown: Path | None) -> int:
    """Status 1 where a control stays silent, or where an adapter's explanation and the numbers part."""
    if quiet := silent():
        print("the instrument does not work:", *quiet, sep="\n  ", file=sys.stderr)
        return 1
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(audited, names))
    faults = [fault for _, some in found for fault in some]
    if markdown is not None:
        markdown.write_text(page([text for text, _ in found], date.today(), len(CONTROLS)), encoding="utf-8")
    print(*faults, sep="\n", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
