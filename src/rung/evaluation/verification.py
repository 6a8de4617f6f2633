"""`rung verify`: false accepts, false rejects and time of a task's verifier on gold, corrupted and adversarial answers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rung.errors import InputError
from rung.io.tables import refuse_target, show, write_json
from rung.io.terminal import say, say_notes
from rung.records import Completion, Group, Task
from rung.tasks.environments.protocol import Conversational, Counts, Environment
from rung.tasks.problems import problems_of
from rung.tasks.verify.probes import Kind, Probe, gold_of, probes

if TYPE_CHECKING:
    from rung.settings.flags import Verify

SHOWN = 10  # mistakes that are printed
COLUMNS = ("kind", "case", "answers", "accepted", "rejected", "not judged", "raised", "mistakes", "mean ms", "max ms")


@dataclass
class Case:
    """All probes of one name: verdicts, and the seconds that each took."""

    kind: Kind
    name: str
    accepted: int = 0
    rejected: int = 0
    unjudged: int = 0
    raised: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def mistakes(self) -> int:
        """False rejects of gold answers, false accepts of all others, and answers at which the verifier raised."""
        return self.raised + (self.rejected if self.kind == "gold" else self.accepted)

    def add(self, other: Case) -> None:
        """Count another case's answers to this one."""
        self.accepted += other.accepted
        self.rejected += other.rejected
        self.unjudged += other.unjudged
        self.raised += other.raised
        self.seconds += other.seconds

    def row(self) -> list[object]:
        milliseconds = [1000 * s for s in self.seconds]
        mean, most = sum(milliseconds) / max(len(milliseconds), 1), max(milliseconds, default=0.0)
        counts = [len(self.seconds), self.accepted, self.rejected, self.unjudged, self.raised, self.mistakes]
        return [self.kind, self.name, *counts, mean, most]


@dataclass(frozen=True)
class Mistake:
    """An answer that was judged wrongly, or at which the verifier raised."""

    problem: str
    probe: Probe
    gold: str | None
    raised: str = ""

    @property
    def what(self) -> str:
        return self.raised or ("false reject" if self.probe.kind == "gold" else "false accept")


@dataclass(frozen=True)
class Verification:
    """What a verifier did with its probes."""

    cases: Sequence[Case]
    mistakes: Sequence[Mistake]

    @property
    def false_accepts(self) -> int:
        return sum(case.accepted for case in self.cases if case.kind != "gold")

    @property
    def false_rejects(self) -> int:
        return sum(case.rejected for case in self.cases if case.kind == "gold")

    @property
    def raised(self) -> int:
        return sum(case.raised for case in self.cases)

    def total(self, kind: Kind) -> Case:
        """All cases of one kind as one."""
        total = Case(kind, "all")
        for case in self.cases:
            if case.kind == kind:
                total.add(case)
        return total

    @classmethod
    def joined(cls, found: Sequence[Verification]) -> Verification:
        """What several have found, with the cases of one name as one."""
        cases: dict[tuple[Kind, str], Case] = {}
        for case in (case for one in found for case in one.cases):
            cases.setdefault((case.kind, case.name), Case(case.kind, case.name)).add(case)
        return cls(_ordered(cases.values()), [mistake for one in found for mistake in one.mistakes])


def _ordered(cases: Iterable[Case]) -> list[Case]:
    order: list[Kind] = ["gold", "corrupted", "adversarial"]
    return sorted(cases, key=lambda case: order.index(case.kind))


def verification(environment: Environment, problems: int) -> Verification:
    """Probes the verifier with the first `problems` problems.

    An answer is accepted if its reward is at least the best that a gold answer of that problem got, or 1 where the
    problem has no gold answer: reward functions have scales of their own.
    """
    tasks = [environment[i] for i in range(min(problems, len(environment)))]
    golds = [gold_of(environment, task) for task in tasks]
    cases: dict[tuple[Kind, str], Case] = {}
    mistakes: list[Mistake] = []
    for i, task in enumerate(tasks):
        others = [gold for gold in golds[max(i - 2, 0) : i + 3] if gold is not None and gold != golds[i]][:2]
        bar = 1.0
        for probe in probes(environment, task, others):  # gold probes come first
            began = time.perf_counter()
            rewards, error = _score(environment, task, probe)
            case = cases.setdefault((probe.kind, probe.name), Case(probe.kind, probe.name))
            case.seconds.append(time.perf_counter() - began)
            if error:
                case.raised += 1
                mistakes.append(Mistake(task.id, probe, golds[i], error))
                continue
            finite = [reward for reward in rewards.values() if math.isfinite(reward)]
            total = sum(finite)
            if probe.kind == "gold" and finite and (bar == 1.0 or total > bar) and total > 0:
                bar = total
            if not finite:
                case.unjudged += 1
                continue
            taken = total >= bar - 1e-9
            case.accepted += taken
            case.rejected += not taken
            if taken == (probe.kind != "gold"):
                mistakes.append(Mistake(task.id, probe, golds[i]))
    return Verification(_ordered(cases.values()), mistakes)


def _score(environment: Environment, task: Task, probe: Probe) -> tuple[dict[str, float], str]:
    """The probe's rewards, and what was raised instead of them: in training that would end the run."""
    try:
        (rewards,) = environment.score(Group(task, [Completion(probe.text, probe.stop)]))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a finding, and reported as one
        return {}, f"raised {type(error).__name__}"
    return rewards, ""


def _narrow(rows: Sequence[Sequence[object]]) -> tuple[tuple[str, ...], list[list[object]]]:
    """The table for a terminal of 80 columns: without what never was the case, the sum of the counts, and one time."""
    rare = [i for i, name in enumerate(COLUMNS) if name in ("not judged", "raised") and not any(row[i] for row in rows)]
    kept = [i for i, name in enumerate(COLUMNS) if i not in rare and name not in ("answers", "max ms")]
    cells = [[round(x, 3) if isinstance(x, float) else x for x in row] for row in rows]
    return tuple(COLUMNS[i] for i in kept), [[row[i] for i in kept] for row in cells]


def run_verify(args: Verify) -> int:
    """Print the table; exit status 1 if a wrong answer was accepted, or if the verifier raised at one."""
    refuse_target(args.json)
    if args.task is None and args.environment is None:
        raise InputError("nothing says whose verifier is meant. Give a task's name or a file with --task.")
    splits = problems_of(args)
    if isinstance(splits.train, Conversational):
        raise InputError(f"{splits.name} judges conversations, and the answers that are tried here are single texts.")
    say_notes(splits.notes)
    sides = {"training": splits.train, "held-out": splits.eval}
    result = Verification.joined([verification(side, args.problems) for side in sides.values()])
    totals = [result.total(kind) for kind in ("gold", "corrupted", "adversarial")]
    every = args.all or args.json is not None
    cases = [case for case in result.cases if every or case.mistakes or case.unjudged]
    rows = [case.row() for case in (*cases, *totals)]
    looked = " and ".join(f"{min(args.problems, len(side))} {name}" for name, side in sides.items())
    if args.json is not None:
        write_json(COLUMNS, rows, args.json)
    if args.json != "-":
        show(f"verifier of {splits.name}, on {looked} problems", *_narrow(rows))
    if args.json != "-":
        for mistake in result.mistakes[:SHOWN]:
            text = ascii(mistake.probe.text[-60:])
            say(f"{mistake.what}: {mistake.problem}, {mistake.probe.name}: ...{text}, gold {mistake.gold!a}")
        if len(result.mistakes) > SHOWN:
            print(f"... and {len(result.mistakes) - SHOWN} more; --json FILE has all counts")
        if not totals[0].seconds:
            print("no gold answers to try: false rejects are unknown")
        counted = [side.counters for side in sides.values() if isinstance(side, Counts)]
        if raised := sum(one.get("scorer_raised", 0.0) for one in counted):
            print(f"the data set's own scorer raised at {raised:g} answers, which count as wrong")
        what = f"{result.false_accepts} false accepts, {result.false_rejects} false rejects"
        print(f"{what}, raised at {result.raised} answers" if result.raised else what)
    return 1 if result.false_accepts or result.raised else 0
