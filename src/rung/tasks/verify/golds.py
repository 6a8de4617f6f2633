r"""Gold answers that no answer can equal: they are found before the run and never taken in silence.

A gold is held against its own verifier: written into \boxed{}, into <answer> or bare, it must be accepted. Formulas must
also be readable for math-verify, or every answer but the same text would be unscored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rung.errors import InputError, setting
from rung.records import Task
from rung.tasks.verify.code import Code
from rung.tasks.verify.formula import MAX_ANSWER, Math
from rung.tasks.verify.verifiers import Verifier

LEFT_OUT = "They are left out."  # the end of a note that says which
ASKED = 2000  # formulas that math-verify is asked about; of more than that, as many evenly spaced ones
SHOWN = 5


@dataclass(frozen=True)
class Hopeless:
    """A row whose gold no answer can equal, and why."""

    task: Task
    why: str


def hopeless(tasks: Sequence[Task], golds: Sequence[str], verifier: Verifier) -> list[Hopeless]:
    """The tasks whose golds the verifier does not accept from itself, or that are tests which cannot judge a program."""
    if isinstance(verifier, Code):
        verifier.jails()  # a machine without a sandbox is refused now
        refused = {gold: verifier.refusal(gold) for gold in dict.fromkeys(golds)}
        return [Hopeless(task, why) for task, gold in zip(tasks, golds, strict=True) if (why := refused[gold])]
    unreadable = _unreadable(golds, verifier)
    found = []
    for task, gold in zip(tasks, golds, strict=True):
        if gold in unreadable or not _accepted(gold, verifier):
            found.append(Hopeless(task, _why(gold, verifier)))
    return found


def readable(
    name: str, tasks: Sequence[Task], golds: Sequence[str], verifier: Verifier, drop: bool
) -> tuple[set[str], tuple[str, ...]]:
    """The ids of rows to leave out and a note on them: none, unless `drop`. Hopeless golds are refused otherwise."""
    found = hopeless(tasks, golds, verifier)
    if not found:
        return set(), ()
    rows = "; ".join(f"{one.task.id} ({one.why})" for one in found[:SHOWN])
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    what = (
        f"{name}: {len(found)} of {len(tasks)} gold answers can be equalled by no answer, as the verifier {verifier.name!r} "
        f"reads them: {rows}{more}."
    )
    if not drop or len(found) == len(tasks):
        raise InputError(
            f"{what} Mend these rows, choose another verifier with {setting('verifier')}, or leave such rows out "
            f"with {setting('task_options.drop_unverifiable', True)}."
        )
    return {one.task.id for one in found}, (f"{what} {LEFT_OUT}",)


def _accepted(gold: str, verifier: Verifier) -> bool:
    forms = (f"\\boxed{{{gold}}}", f"<answer>{gold}</answer>", gold)
    return any(verifier.correct([verifier.extract(form)], gold) == [1.0] for form in forms)


def _unreadable(golds: Sequence[str], verifier: Verifier) -> set[str]:
    if not isinstance(verifier, Math):
        return set()
    different = list(dict.fromkeys(golds))
    step = max(1, -(-len(different) // ASKED))
    return verifier.unreadable(different[::step])


def _why(gold: str, verifier: Verifier) -> str:
    shown = repr(gold if len(gold) <= 40 else f"{gold[:37]}...")
    if not gold.strip():
        return "it is blank"
    if len(gold) >= MAX_ANSWER:
        return f"{shown} has {len(gold)} characters and neither \\boxed{{}} nor ####"
    reads = {
        "numeric": "is no number",
        "choice": "is no option letter from A to J",
        "math": "cannot be read as a formula",
    }
    return f"{shown} {reads.get(verifier.name, 'is not accepted as its own answer')}"
