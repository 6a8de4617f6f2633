"""A mixture as the user writes it: tasks with weights, or a .toml file with settings for each part, and stages.

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

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from rung.errors import InputError, unknown
from rung.settings import toml
from rung.settings.paths import path_of
from rung.settings.ranges import Coefficient, Count, refuse, refuse_name, shown
from rung.tasks.environments.protocol import Splits
from rung.tasks.sources.mixture import Mixture, Stage
from rung.tasks.sources.rows import is_path, stem

_PART: Mapping[str, Any] = {
    **dict.fromkeys(("task", "name", "path", "reward", "verifier", "prompt_column", "answer_column"), str),
    "weight": Coefficient,
    "options": dict,
}
_STAGE: Mapping[str, Any] = {"weights": dict[str, float], "until_step": Count, "until_accuracy": float}


def is_mixture(name: str) -> bool:
    """Whether the name is a .toml file or a list of tasks with weights."""
    return name.endswith(".toml") or ("," in name and all(":" in part for part in name.split(",")))


def splits(
    name: str, path: Path | None, options: Mapping[str, Any], load: Callable[..., Splits], reward: str | None = None
) -> Splits:
    """The mixture `name`. load: makes a part (registry.load). path, reward: of parts that have none of their own."""
    options = dict(options)
    how = {
        name: options.pop(name) for name in ("on_error", "reward_deadline") if reward is not None and name in options
    }
    if options:
        raise InputError(f"{name} is a mixture; the option {next(iter(options))!r} belongs to a part, in a .toml file.")
    if name.endswith(".toml"):
        rows, stages = _from_toml(path_of(name))
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
        if is_mixture(task) and path_of(task).resolve() == path_of(name).resolve():
            raise InputError(f"{name}: the part {part!r} is this mixture itself. Name another task.")
        weights[part] = _weight(row.pop("weight", 1), name)
        own = row.pop("path", path if task == "gsm8k" else None)
        if reward is not None and "reward" not in row:
            row |= {"reward": reward, "options": {**how, **row.get("options", {})}}
        parts[part] = load(task, path=own, **row)
    if not any(weights.values()) and not stages:
        raise InputError(f"{name}: every part has the weight 0. Give one of them a larger one.")
    staged = [_stage(stage, parts, name, last=stage is stages[-1]) for stage in stages] or [Stage(weights)]
    train = Mixture({part: both.train for part, both in parts.items()}, staged, repeat=True)
    _refuse_aims(train, name)
    last = Stage(staged[-1].weights)
    held_out = Mixture({part: both.eval for part, both in parts.items()}, [last], repeat=False)
    notes = tuple(f"{part}: {note}" for part, both in parts.items() for note in both.notes)
    return Splits("mixture", train, held_out, max(both.max_new_tokens for both in parts.values()), notes)


def _refuse_aims(train: Mixture, where: str) -> None:
    """A stage that would end at an accuracy which no answer can earn never ends; at one that all earn it ends unlearned."""
    for number, stage in enumerate(train.stages, 1):
        if stage.until_accuracy is None:
            continue
        used = [part for part, weight in stage.weights.items() if weight]
        least, most = train.least_in(used), train.most_in(used)
        said = f"{where}: stage {number} ends with until_accuracy = {stage.until_accuracy:g}, and an answer to its parts earns"
        if most is not None and stage.until_accuracy > most:
            raise InputError(f"{said} {most:g} at most, so it would never end. Give {most:g} or less, or until_step.")
        if least is not None and stage.until_accuracy <= least:
            raise InputError(
                f"{said} {least:g} at least, so it would end whatever is learned. Give more than {least:g}, or until_step."
            )


def _short(part: str) -> dict[str, Any]:
    task, _, weight = part.strip().rpartition(":")
    return {"task": task, "weight": weight}


def _weight(value: Any, where: str) -> Fraction:
    text = str(value).lower()
    try:
        if "e" in text and not 1e-9 <= float(text) <= 1e9:  # a Fraction of 1e999999999 would fill the memory
            raise ValueError
        weight = Fraction(text)
    except (ValueError, ZeroDivisionError):
        weight = Fraction(-1)
    if weight < 0:
        raise InputError(f"{where}: the weight {value!r} is no number from 0 on. Write TASK:3,TASK:1.")
    return weight


def _from_toml(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    try:
        table = toml.loads(path.read_text(encoding="utf-8"))
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
                row[key] = str(path.parent / path_of(row[key]))
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
