"""The house in numbers: its rooms, what is long, what stands twice, and which files one training step runs.

    python benchmarks/house.py [--json FILE] [--recipes grpo ppo trpo]

rooms       a room is a folder of src/rung. Code: lines that hold more than a comment or a docstring.
functions   from `def` to the last line, docstring included; those inside others count, too.
twice       runs of six or more lines of code that stand in two places, to the letter but for white space. Imports and lines
            of punctuation alone are passed over. Counted are the lines that belong to any such run.
a step      the second of a training on the starter. Itself: sampling, scoring, credit, update, until its StepResult is
            made; around: the files that only then follow, in the loop. A file counts if a function of it runs in this
            process, a method that is generated for a dataclass included.

Markdown goes to standard output; ten seconds on one core. Nothing is kept.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import json
import statistics
import sys
import tempfile
import threading
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, takewhile
from pathlib import Path
from types import FrameType
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
HOUSE = SOURCE / "rung"
LONG_FILE, LONG_FUNCTION, RUN = 330, 50, 6
FAR: Sequence[set[str]] = (set(), {"maths"}, {"maths", "kernels"})  # rooms that are left out of a count
SILENT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
}  # fmt: skip
SIZE: Mapping[str, Any] = {
    "model": "starter", "steps": 3, "prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 8, "eval_every": 0,
    "threads": 1, "quiet": True,
}  # fmt: skip


# -- what stands in the files ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class File:
    """One file of the house. `name` is its path below src/rung."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> Sequence[str]:
        return self.text.splitlines()

    @cached_property
    def code(self) -> set[int]:
        """Numbers of the lines that hold more than a comment or a docstring."""
        docstrings = {
            n
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            for n in _numbers(node)
        }
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        held = (range(t.start[0], t.end[0] + 1) for t in tokens if t.type not in SILENT)
        return {n for span in held for n in span} - docstrings

    @cached_property
    def compared(self) -> Sequence[tuple[int, str]]:
        """(number, words) of each line that counts when places are compared."""
        imports = {n for x in ast.walk(self.tree) if isinstance(x, ast.Import | ast.ImportFrom) for n in _numbers(x)}
        words = ((n, " ".join(self.lines[n - 1].split())) for n in sorted(self.code - imports))
        return [(n, text) for n, text in words if any(map(str.isalnum, text))]

    def functions(self) -> Iterator[tuple[int, str]]:
        """(lines, place) of each function."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield len(_numbers(node)), f"{self.name}:{node.lineno} {node.name}"


def _numbers(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def room(name: str) -> str:
    """The folder below src/rung, however deep; "." is src/rung itself."""
    return Path(name).parent.as_posix()


def read() -> list[File]:
    return [File(p.relative_to(HOUSE).as_posix(), p.read_text(encoding="utf-8")) for p in sorted(HOUSE.rglob("*.py"))]


def rooms(files: Iterable[File]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = defaultdict(lambda: {"files": 0, "lines": 0, "code": 0})
    for file in files:
        for where in (room(file.name), "all"):
            for what, n in (("files", 1), ("lines", len(file.lines)), ("code", len(file.code))):
                found[where][what] += n
    return dict(sorted(found.items(), key=lambda item: (item[0] == "all", item[0])))


def functions(files: Iterable[File]) -> dict[str, Any]:
    found = sorted((f for file in files for f in file.functions()), reverse=True)
    sizes = [n for n, _ in found]
    long = [f"{n} {place}" for n, place in found if n > LONG_FUNCTION]
    return {"count": len(sizes), "median": statistics.median(sizes), "longest": sizes[0], "long": long}


# -- what stands twice ----------------------------------------------------------------------------------------------
Row = tuple[str, int, str]  # file, line, words


def twice(files: Iterable[File]) -> dict[str, Any]:
    """Runs that stand in two places, longest first, each as far as it goes; and how many lines belong to any."""
    rows: list[Row] = []
    for file in files:  # behind each a row that is like no other, where every run ends
        rows += [*((file.name, n, words) for n, words in file.compared), (file.name, 0, f"end of {file.name}")]
    starts: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i in range(len(rows) - RUN + 1):
        starts[tuple(words for *_, words in rows[i : i + RUN])].append(i)
    pairs, again = [], set[int]()
    for alike in starts.values():
        for a, b in combinations(alike, 2):
            n = 0 if rows[a - 1][2] == rows[b - 1][2] else _run(rows, a, b)  # 0: it began before
            if n >= RUN:
                pairs.append((n, f"{_place(rows, a, n)} ~ {_place(rows, b, n)}"))
                again |= {*range(a, a + n), *range(b, b + n)}
    found = [f"{n} {where}" for n, where in sorted(pairs, reverse=True)]
    return {"lines": len(again), "of": sum(n > 0 for _, n, _ in rows), "pairs": found}


def _run(rows: Sequence[Row], a: int, b: int) -> int:
    """Lines that the places a < b share from there on, before a's reach b."""
    return len([*takewhile(lambda n: rows[a + n][2] == rows[b + n][2], range(min(b - a, len(rows) - b)))])


def _place(rows: Sequence[Row], a: int, n: int) -> str:
    return f"{rows[a][0]}:{rows[a][1]}-{rows[a + n - 1][1]}"


# -- what a step runs -----------------------------------------------------------------------------------------------
@dataclass
class SecondStep:
    """Listens to a training, and keeps the files whose functions run in its second step: all, and until its StepResult."""

    all: set[str] = field(default_factory=set)
    itself: set[str] = field(default_factory=set)

    def on_step(self, record: Any) -> bool:
        watch = self._note if record.step == 1 else None
        threading.setprofile(watch)
        sys.setprofile(watch)
        return bool(record.step < 2)

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED:  # a function, no module's or class's body
            self.all.add(frame.f_globals.get("__file__") or "")
            if code.co_name == "__init__" and type(frame.f_locals.get("self")).__name__ == "StepResult":
                self.itself = self.itself or {*self.all}


def step(recipe: str) -> dict[str, dict[str, list[str]]]:
    """The files of one step by room: of the step itself, and of what the loop does around it."""
    import rung  # of this checkout: see main

    assert Path(rung.__file__).is_relative_to(HOUSE), f"{rung.__file__} is another checkout's"
    second = SecondStep()
    with tempfile.TemporaryDirectory() as home:
        rung.train(recipe, callbacks=[second], out=Path(home) / "run", **SIZE)
    assert second.itself, "the step made no StepResult, so nothing says where it ends"
    return {"itself": _by_room(second.itself), "around": _by_room(second.all - second.itself)}


def _by_room(paths: Iterable[str]) -> dict[str, list[str]]:
    inside = (p for path in paths if path and (p := Path(path).resolve()).is_relative_to(HOUSE))
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(p.relative_to(HOUSE).as_posix() for p in inside):
        found[room(name)].append(Path(name).name)
    return dict(sorted(found.items()))


def counted(rooms: Mapping[str, Sequence[str]]) -> str:
    outside = [sum(len(names) for where, names in rooms.items() if where.split("/")[0] not in far) for far in FAR]
    return "{} files, {} outside maths/, {} outside maths/ and kernels/".format(*outside)


# -- how it is shown ------------------------------------------------------------------------------------------------
def measured(recipes: Sequence[str]) -> dict[str, Any]:
    files = read()
    return {
        "rooms": rooms(files),
        "long files": [f"{len(f.lines)} {f.name}" for f in files if len(f.lines) > LONG_FILE],
        "functions": functions(files),
        "twice": twice(files),
        "steps": {recipe: step(recipe) for recipe in recipes},
    }


def shown(house: Mapping[str, Any]) -> Iterator[str]:
    yield "| room | files | lines | code |\n|---|---|---|---|"
    yield from (f"| {where} | {n['files']} | {n['lines']} | {n['code']} |" for where, n in house["rooms"].items())
    yield from _listed(f"files of more than {LONG_FILE} lines: {len(house['long files'])}", house["long files"])
    f, again = house["functions"], house["twice"]
    yield f"\n{f['count']} functions: median {f['median']:g} lines, longest {f['longest']}"
    yield from _listed(f"functions of more than {LONG_FUNCTION} lines: {len(f['long'])}", f["long"])
    yield from _listed(f"lines that stand twice: {again['lines']} of {again['of']}", again["pairs"])
    for recipe, parts in house["steps"].items():
        for part, found in parts.items():
            rows = [f"{where}: {', '.join(names)}" for where, names in found.items()]
            yield from _listed(f"a step of {recipe}, {part}: {counted(found)}", rows)


def _listed(title: str, rows: Iterable[str]) -> Iterator[str]:
    yield f"\n{title}"
    yield from (f"- {row}" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all of it there, too")
    parser.add_argument("--recipes", nargs="*", default=["grpo", "ppo", "trpo"], help="whose steps are looked at")
    args = parser.parse_args()
    sys.path.insert(0, str(SOURCE))
    house = measured(args.recipes)
    print("\n".join(shown(house)))
    if args.json:
        args.json.write_text(json.dumps(house, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
