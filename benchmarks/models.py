"""Writes the table of docs/models.md: every kind of model against its own plain forward and backward.

python benchmarks/models.py                # prints it
python benchmarks/models.py --write docs/models.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from rung.evaluation.conformance import conformance, table
from rung.evaluation.model_kinds import KINDS

BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = table([conformance(kind) for kind in KINDS])
    print(text)
    if args.write is not None:
        page = args.write.read_text(encoding="utf-8")
        start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        args.write.write_text(page[:start] + "\n" + text + "\n" + page[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
