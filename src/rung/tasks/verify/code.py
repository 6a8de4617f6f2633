"""Does a program pass its unit tests? The verifier `code`: the last fenced block, run in a sandbox (sandbox/jail.py).

The program and its tests never share an interpreter: the tests hold plain data of known types, made anew from what the
program sent, and nothing of the program's classes, operators or exceptions. A program that leaves its limits is wrong.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import threading
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rung.tasks.sandbox import jail, tests
from rung.tasks.verify.extract import spoken

MAX_PROGRAM = 50_000  # characters
GRACE = 10.0  # seconds beyond the program's own, for the tests' own work
_BLOCK = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[ \t]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_BARE = re.compile(r"^(?:def|class|import|from|@)\b", re.MULTILINE)
_EITHER = re.compile(r"\W*(?:or|alternatively)?\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Code:
    """Passes all unit tests. Gold is Python source of tests (`assert f(2) == 4`), or a JSON list of such sources.

    seconds: for the program, from its start to its last reply. A program that needs longer is wrong (0): to end is part
             of its task. Tests that hang by themselves are nobody's mistake (NaN), and cost their time once.
    memory:  bytes of address space.  size: programs at a time; None means one per processor.
    unsafe:  without a sandbox where the machine has none, instead of refusing.
    counts:  programs, slow (too long, counted as wrong), timeouts (tests that hung), errors (could not be judged).
    """

    name: str = "code"
    seconds: float = 5.0
    memory: int = 1 << 30
    size: int | None = None
    unsafe: bool = False
    counts: Counter[str] = field(default_factory=Counter, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)
    _hanging: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def extract(self, text: str, prompt: str = "") -> str | None:
        """The last fenced block, or the whole text if it looks like a program; two blocks joined by "or" are none."""
        said = spoken(text, prompt)
        blocks = list(_BLOCK.finditer(said[-4 * MAX_PROGRAM :]))
        if not blocks:
            return said if _BARE.search(said) else None
        last = blocks[-1]
        if len(blocks) > 1:
            between = last.string[blocks[-2].end() : last.start()]
            if _EITHER.fullmatch(between) and blocks[-2][2].strip() != last[2].strip():
                return f"{blocks[-2][2]}\nor\n{last[2]}"  # kept together, as no program
        return last[2] if last[2].strip() else None

    def correct(self, answers: Sequence[str | None], gold: str) -> list[float]:
        sources = _tests(gold)
        programs = sorted({a for a in answers if a and len(a) <= MAX_PROGRAM}) if sources else []
        if not programs:
            return [0.0 for _ in answers]
        if self.refusal(gold):
            self.counts["errors"] += len(programs)
            return [math.nan if answer in programs else 0.0 for answer in answers]
        jails = self.jails()
        threads = ThreadPoolExecutor(self.size or os.cpu_count() or 1)
        try:
            found = threads.map(lambda program: self._run(jails, program, gold, sources), programs)
            verdicts = dict(zip(programs, found, strict=True))
        except BaseException:  # Ctrl-C, or a sandbox that no longer starts: nobody waits for the others
            jails.close()
            raise
        finally:
            threads.shutdown(cancel_futures=True)
        return [verdicts.get(answer or "", 0.0) for answer in answers]

    @property
    def slow(self) -> int:
        """Programs so far that took the whole of their time, or whose tests did."""
        return self.counts["slow"] + self.counts["timeouts"]

    def jails(self) -> jail.Jails:
        """Where programs run. Refuses a machine that has no sandbox; warns once of what it does not limit."""
        for missing in jail.chosen(self.unsafe)[1]:
            warnings.warn(f"the verifier 'code': {missing}.", stacklevel=2)
        return jail.jails(self.unsafe, self.memory)

    def refusal(self, gold: str) -> str | None:
        """Why these tests cannot judge a program, or None."""
        return tests.refusal(_tests(gold))

    def _run(self, jails: jail.Jails, program: str, gold: str, sources: Sequence[str]) -> float:
        if gold in self._hanging:
            verdict = "timeouts"
        else:
            said = jails.judge(program, sources, self.seconds, GRACE)
            verdict = said["verdict"]
            if verdict == "timeouts" and said["alone"]:
                self._hanging.add(gold)
        with self._lock:
            self.counts["programs"] += 1
            self.counts[{"unsure": "errors"}.get(verdict, verdict)] += 1
        return math.nan if verdict in ("unsure", "timeouts") else float(verdict == "passed")


def _tests(gold: str) -> list[str]:
    """Sources of tests; none if there is nothing to check."""
    if gold.lstrip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(gold)
            return [str(test) for test in found if str(test).strip()]
    return [gold] if gold.strip() else []
