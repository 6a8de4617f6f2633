"""Several environments as one, in given ratios; a curriculum changes the ratios after some steps or at some accuracy."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

from rung.errors import InputError
from rung.records import Completion, Group, Task
from rung.tasks.environments.protocol import (
    Conversational,
    Counts,
    Environment,
    Extracts,
    Judge,
    Observes,
    Session,
    Staged,
    Stateful,
    Stepwise,
    Waits,
    judge_of,
    least_of,
    most_of,
)
from rung.tasks.verify.probes import right_answers

SLOTS = 100  # of a curriculum's cycle, so that ratios are kept to one percent in every stage
WINDOW = 200  # groups over which the accuracy of a stage is taken


@dataclass(frozen=True)
class Stage:
    """The ratio of the parts, until a training step is reached, or an accuracy; None: for ever."""

    weights: Mapping[str, Fraction]
    until_step: int | None = None
    until_accuracy: float | None = None


@dataclass(frozen=True)
class _Cycle:
    """One turn through the parts: slot -> (part, how many of that part came before in this turn)."""

    slots: Sequence[tuple[str, int]]
    counts: Mapping[str, int]


class Mixture:
    """An environment made of environments. Item i belongs to the part that slot i of an endless cycle names.

    repeat: small parts begin again until the largest was seen once (training); without it no problem comes twice.

    It holds conversations, and finds final answers, if all parts do: half of the answers without one would be no failure of
    theirs. It knows steps if some part does: an answer to a part that does not is one step. The rest it can always do.
    """

    name = "mixture"

    def __init__(self, parts: Mapping[str, Environment], stages: Sequence[Stage], repeat: bool) -> None:
        self.parts, self.stages, self.repeat = dict(parts), list(stages), repeat
        self.stage, self._seen = 0, deque[float](maxlen=WINDOW)
        self._cycles = [_cycle(stage.weights, fixed=len(self.stages) > 1) for stage in self.stages]
        if not len(self):
            sizes = ", ".join(f"{name} {len(part)}" for name, part in self.parts.items())
            raise InputError(
                f"the mixture's parts are too small for one round of their ratio: {sizes}. Change the weights."
            )
        found = [[isinstance(part, x) for part in self.parts.values()] for x in (Conversational, Extracts, Stepwise)]
        if all(found[0]):
            self.session = self._session
        elif any(found[0]):
            talks = ", ".join(name for name, talk in zip(self.parts, found[0], strict=True) if talk)
            raise InputError(
                f"of the mixture's parts {', '.join(self.parts)} only {talks} is held in conversations. All parts of a mixture are "
                "answered alike; train on each kind in a run of its own."
            )
        if all(found[1]):
            self.extract = self._extract
        if any(found[2]):
            self.steps = self._steps

    @cached_property
    def _length(self) -> int:
        turns = []
        for cycle in self._cycles:
            sizes = [(len(self.parts[part]), count) for part, count in cycle.counts.items()]
            if self.repeat:
                turns.append(
                    max(-(-size // count) for size, count in sizes) * len(cycle.slots) * all(s for s, _ in sizes)
                )
            else:
                turns.append(min(size // count for size, count in sizes) * len(cycle.slots))
        return max(turns) if self.repeat and all(turns) else min(turns)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(f"problem {index} of a mixture of {len(self)}")
        cycle = self._cycles[self.stage]
        turn, slot = divmod(index, len(cycle.slots))
        part, before = cycle.slots[slot]
        environment = self.parts[part]
        task = environment[(turn * cycle.counts[part] + before) % len(environment)]
        return replace(task, id=f"{part}/{task.id}")

    def inner(self, task: Task) -> tuple[Environment, Task]:
        """The part that a task belongs to, and the task as that part knows it."""
        name = self.part(task)
        return self.parts[name], replace(task, id=task.id[len(name) + 1 :])

    def part(self, task: Task) -> str:
        """The name of the part that a task belongs to."""
        return task.id.partition("/")[0]

    def _session(self, task: Task) -> Session:
        environment, own = self.inner(task)
        assert isinstance(environment, Conversational)
        return environment.session(own)

    def _extract(self, task: Task, completion: Completion) -> str | None:
        environment, own = self.inner(task)
        assert isinstance(environment, Extracts)
        return environment.extract(own, completion)

    def _steps(self, task: Task, completion: Completion) -> list[tuple[int, float]]:
        environment, own = self.inner(task)
        return environment.steps(own, completion) if isinstance(environment, Stepwise) else []

    @property
    def waits(self) -> bool | Literal["in order"]:
        """Whether all parts wait for others: a part that does not may not bear to be asked from several threads."""
        each = [part.waits if isinstance(part, Waits) else False for part in self.parts.values()]
        return all(each) and ("in order" if all(x == "in order" for x in each) else True)

    @property
    def counters(self) -> Mapping[str, float]:
        """What the parts have counted, together."""
        total: Counter[str] = Counter()
        for part in self.parts.values():
            total.update(part.counters if isinstance(part, Counts) else {})
        return dict(total)

    @property
    def most(self) -> float | None:
        return self.most_in(self.parts)

    @property
    def least(self) -> float | None:
        return self.least_in(self.parts)

    def most_in(self, names: Iterable[str]) -> float | None:
        """The most that an answer to any of these parts can earn; None: not known of one of them."""
        each = [most_of(self.parts[name]) for name in names]
        return None if None in each else max(x for x in each if x is not None)

    def least_in(self, names: Iterable[str]) -> float | None:
        """The least, likewise."""
        each = [least_of(self.parts[name]) for name in names]
        return None if None in each else min(x for x in each if x is not None)

    def right_answers(self, task: Task) -> tuple[str | None, list[str]]:
        return right_answers(*self.inner(task))

    def judge(self, task: Task) -> Judge:
        return judge_of(*self.inner(task))

    def score(self, group: Group) -> list[dict[str, float]]:
        environment, own = self.inner(group.task)
        rewards = environment.score(Group(own, group.completions))
        part = self.part(group.task)
        return [{f"{part}.{name}": value for name, value in rewards_.items()} for rewards_ in rewards]

    def observe(self, tasks: Sequence[Task], rewards: Sequence[Sequence[float]]) -> None:
        """The stage's window, and each part's own. What could not be scored (NaN) says nothing."""
        for group in rewards:
            known = [reward for reward in group if math.isfinite(reward)]
            if known:
                self._seen.append(sum(known) / len(known))
        for name, part in self.parts.items():
            if isinstance(part, Observes):
                own = [
                    (self.inner(t)[1], group) for t, group in zip(tasks, rewards, strict=True) if self.part(t) == name
                ]
                part.observe([task for task, _ in own], [group for _, group in own])

    def begin_step(self, step: int) -> dict[str, float]:
        """Go to the next stage if this one's end is reached; what the step should report. step: from 0."""
        while True:
            now = self.stages[self.stage]
            late = now.until_step is not None and step >= now.until_step
            full = len(self._seen) == WINDOW
            good = now.until_accuracy is not None and full and sum(self._seen) / WINDOW >= now.until_accuracy
            if not (late or good) or self.stage + 1 == len(self.stages):
                break
            self.stage += 1
            self._seen.clear()
        report = {"task/stage": float(self.stage)} if len(self.stages) > 1 else {}
        for name, part in self.parts.items():
            told = part.begin_step(step) if isinstance(part, Staged) else {}
            report |= {key.replace("/", f"/{name}.", 1): value for key, value in told.items()}
        return report

    def state_dict(self) -> dict[str, Any]:
        """Where the curriculum stands, and those of parts that have one, for checkpoints."""
        inner = {name: part.state_dict() for name, part in self.parts.items() if isinstance(part, Stateful)}
        return {"stage": self.stage, "seen": list(self._seen), **({"parts": inner} if inner else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stage = min(int(state["stage"]), len(self.stages) - 1)
        self._seen = deque(map(float, state["seen"]), maxlen=WINDOW)
        for name, inner in state.get("parts", {}).items():
            part = self.parts[name]
            assert isinstance(part, Stateful), f"{name} had a state when it was saved"
            part.load_state_dict(inner)


def _cycle(weights: Mapping[str, Fraction], fixed: bool) -> _Cycle:
    """Slots in proportion to the weights, evenly spread. fixed: SLOTS of them; else the smallest whole numbers."""
    total = sum(weights.values())
    shares = {part: weight / total for part, weight in weights.items() if weight > 0}
    size = math.lcm(*(share.denominator for share in shares.values()))
    size = SLOTS if fixed or size > 1000 else size
    counts = {part: int(share * size) for part, share in shares.items()}
    for part in sorted(shares, key=lambda p: counts[p] - shares[p] * size)[: size - sum(counts.values())]:
        counts[part] += 1
    counts = {part: max(count, 1) for part, count in counts.items()}
    placed = sorted((Fraction(2 * n + 1, 2 * count), part, n) for part, count in counts.items() for n in range(count))
    return _Cycle([(part, n) for _, part, n in placed], counts)
