"""Several tasks as one, in given ratios; a curriculum changes the ratios after some steps or at some accuracy.

    chain_sum:3,gsm8k:1                 three problems of chain_sum for each one of gsm8k
    mix.toml                            the same with settings for each part, and stages

    [[part]]
    task = "chain_sum"                  what `--task` takes; paths are read from the directory of this file
    name = "easy"                       default: the task's own
    weight = 3                          default: 1
    options = {max_digits = 1}          also: path, reward, verifier, prompt_column, answer_column

    [[part]]
    task = "chain_sum"
    name = "hard"
    options = {min_digits = 2, max_digits = 2}

    [[stage]]                           optional; training goes from one to the next
    weights = {easy = 1}
    until_accuracy = 0.8                mean reward of the stage's last 200 groups; or: until_step = 50
    [[stage]]
    weights = {easy = 1, hard = 3}      the last stage has no end

Rewards are reported for each part, as PART.NAME. Evaluation problems are never repeated, and stand in the ratio of the
last stage (without stages: of the weights), for as many as the scarcest part allows.
"""

from __future__ import annotations

import math
import tomllib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from rung.errors import InputError, unknown
from rung.records import Completion, Group, Task
from rung.settings.ranges import Coefficient, Count, refuse, refuse_name, shown
from rung.tasks.environments.protocol import Environment, Splits, Stepwise
from rung.tasks.sources.rows import is_path, stem

SLOTS = 100  # of a curriculum's cycle, so that ratios are kept to one percent in every stage
WINDOW = 200  # groups over which the accuracy of a stage is taken
_PART: Mapping[str, Any] = {
    **dict.fromkeys(("task", "name", "path", "reward", "verifier", "prompt_column", "answer_column"), str),
    "weight": Coefficient,
    "options": dict,
}
_STAGE: Mapping[str, Any] = {"weights": dict[str, float], "until_step": Count, "until_accuracy": float}


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
        part, _, own = task.id.partition("/")
        return self.parts[part], replace(task, id=own)

    def extract(self, task: Task, completion: Completion) -> str | None:
        environment, own = self.inner(task)
        extract = getattr(environment, "extract", None)
        return extract(own, completion) if extract else None

    @property
    def scorer_raised(self) -> int:
        """Answers at which a scorer of some part raised."""
        return sum(getattr(part, "scorer_raised", 0) for part in self.parts.values())

    def right_answers(self, task: Task) -> tuple[str | None, list[str]]:
        environment, own = self.inner(task)
        right = getattr(environment, "right_answers", None)
        found: tuple[str | None, list[str]] = right(own) if right else (None, [])
        return found

    def steps(self, task: Task, completion: Completion) -> list[tuple[int, float]]:
        environment, own = self.inner(task)
        return environment.steps(own, completion) if isinstance(environment, Stepwise) else []

    def score(self, group: Group) -> list[dict[str, float]]:
        environment, own = self.inner(group.task)
        rewards = environment.score(Group(own, group.completions))
        part = group.task.id.partition("/")[0]
        return [{f"{part}.{name}": value for name, value in rewards_.items()} for rewards_ in rewards]

    def observe(self, groups: Sequence[Sequence[float]]) -> None:
        """What training answers earned, group by group: the stage's window. What could not be scored (NaN) says nothing."""
        for rewards in groups:
            known = [reward for reward in rewards if math.isfinite(reward)]
            if known:
                self._seen.append(sum(known) / len(known))

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
        for part in self.parts.values():
            getattr(part, "begin_step", lambda step: None)(step)
        return {"task/stage": float(self.stage)} if len(self.stages) > 1 else {}

    def state_dict(self) -> dict[str, Any]:
        """Where the curriculum stands, for checkpoints."""
        return {"stage": self.stage, "seen": list(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stage = min(int(state["stage"]), len(self.stages) - 1)
        self._seen = deque(map(float, state["seen"]), maxlen=WINDOW)


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


# -- from text to a mixture --------------------------------------------------------------------------------------------
def is_mixture(name: str) -> bool:
    """Whether the name is a .toml file or a list of tasks with weights."""
    return name.endswith(".toml") or ("," in name and all(":" in part for part in name.split(",")))


def splits(
    name: str, path: Path | None, options: Mapping[str, Any], load: Callable[..., Splits], reward: str | None = None
) -> Splits:
    """The mixture `name`. load: makes a part (registry.load). path, reward: of parts that have none of their own."""
    options = dict(options)
    skip = {"on_error": options.pop("on_error")} if reward is not None and "on_error" in options else {}
    if options:
        raise InputError(f"{name} is a mixture; the option {next(iter(options))!r} belongs to a part, in a .toml file.")
    if name.endswith(".toml"):
        rows, stages = _from_toml(Path(name))
    else:
        rows, stages = [_short(part) for part in name.split(",")], []
    parts: dict[str, Splits] = {}
    weights: dict[str, Fraction] = {}
    for row in rows:
        task = row.pop("task")
        part = row.pop("name", None) or stem(Path(task))
        if part in parts or "/" in part:
            raise InputError(
                f"{name}: two parts, or a part with a slash, are named {part!r}. Give each a `name` of its own."
            )
        refuse_name(part, f"{name}: the name of a part")
        if is_mixture(task) and Path(task).resolve() == Path(name).resolve():
            raise InputError(f"{name}: the part {part!r} is this mixture itself. Name another task.")
        weights[part] = _weight(row.pop("weight", 1), name)
        own = row.pop("path", path if task == "gsm8k" else None)
        if reward is not None and "reward" not in row:
            row |= {"reward": reward, "options": {**skip, **row.get("options", {})}}
        parts[part] = load(task, path=own, **row)
    if not any(weights.values()) and not stages:
        raise InputError(f"{name}: every part has the weight 0. Give one of them a larger one.")
    staged = [_stage(stage, parts, name, last=stage is stages[-1]) for stage in stages] or [Stage(weights)]
    train = Mixture({part: both.train for part, both in parts.items()}, staged, repeat=True)
    last = Stage(staged[-1].weights)
    held_out = Mixture({part: both.eval for part, both in parts.items()}, [last], repeat=False)
    notes = tuple(f"{part}: {note}" for part, both in parts.items() for note in both.notes)
    return Splits("mixture", train, held_out, max(both.max_new_tokens for both in parts.values()), notes)


def _short(part: str) -> dict[str, Any]:
    task, _, weight = part.strip().rpartition(":")
    return {"task": task, "weight": weight}


def _weight(value: Any, where: str) -> Fraction:
    try:
        weight = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        weight = Fraction(-1)
    if weight < 0:
        raise InputError(f"{where}: the weight {value!r} is no number from 0 on. Write TASK:3,TASK:1.")
    return weight


def _from_toml(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the mixture {path} cannot be read: {error.strerror}. Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"the mixture {path} is not valid TOML: {error}") from error
    for key in table:
        if key not in ("part", "stage"):
            raise unknown(f"table in {path}", key, ["part", "stage"])
    parts, stages = table.get("part", []), table.get("stage", [])
    for kind, rows, known in (("part", parts, _PART), ("stage", stages, _STAGE)):
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{path}: {kind} is {shown(rows)}; it must be a list of tables. Write [[{kind}]].")
        for number, row in enumerate(rows, 1):
            for key, value in row.items():
                if key not in known:
                    raise unknown(f"setting of {kind} {number} in {path}", key, known)
                refuse(value, known[key], f"{path}: {key} of {kind} {number}")
    for number, row in enumerate(parts, 1):
        if not isinstance(row.get("task"), str):
            raise InputError(f'{path}: part {number} names no task. Add task = "NAME".')
        for key in ("task", "path", "reward"):
            if key in row and (key != "task" or is_path(row["task"]) or (path.parent / row["task"]).is_dir()):
                row[key] = str(path.parent / row[key])
        if "path" in row:
            row["path"] = Path(row["path"])
    if not parts:
        raise InputError(f"the mixture {path} has no parts. Add [[part]] tables with a task each.")
    return parts, stages


def _stage(row: Mapping[str, Any], parts: Mapping[str, Splits], where: str, last: bool) -> Stage:
    weights = {part: _weight(value, where) for part, value in dict(row.get("weights", {})).items()}
    for part in weights:
        if part not in parts:
            raise unknown(f"part in a stage of {where}", part, parts)
    if not any(weights.values()):
        raise InputError(f"{where}: a stage gives weight to no part. Write weights = {{{next(iter(parts))} = 1}}.")
    ends = [key for key in ("until_step", "until_accuracy") if key in row]
    if bool(ends) == last:
        kind = "the last stage has an end" if last else "a stage that is not the last has no end"
        raise InputError(f"{where}: {kind}. Every stage but the last needs until_step or until_accuracy.")
    return Stage(weights, row.get("until_step"), row.get("until_accuracy"))
