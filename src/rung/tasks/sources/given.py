"""What Python gives as an object where the command line gives a name: rows, data sets, functions; and what is written of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.errors import InputError
from rung.settings.ranges import plain, shown
from rung.tasks.rewards.arguments import name_of
from rung.tasks.sources import hub
from rung.tasks.sources.rows import Row

MADE = "python:"  # in front of the name of what Python gave, where a setting is written down


@dataclass(frozen=True)
class Sources:
    """Rows that are here already. held_out: None where there is one source, which is to be divided."""

    name: str
    train: list[Row]
    held_out: list[Row] | None = None


def sources(task: Any, options: dict[str, Any]) -> Sources:
    """A list of dicts, a data set of Hugging Face's, or a mapping of splits to either (a DatasetDict).

    options: of the mapping, train_split and eval_split are taken out.
    """
    if isinstance(task, Mapping):
        _refuse_columns(task)
        name = _name(next(iter(task.values()), None))
        chosen = {key: options.pop(key) for key in ("train_split", "eval_split") if key in options}
        train, held_out = hub.sides(name, dict(task), **chosen)
        rest = None if held_out is None else _rows(f"{name}[{held_out}]", task[held_out])
        return Sources(name, _rows(f"{name}[{train}]", task[train]), rest)
    name = _name(task)
    return Sources(name, _rows(name, task))


def _refuse_columns(task: Mapping[Any, Any]) -> None:
    """A dict is one of splits, and each of them has rows."""
    if task and all(
        isinstance(x, list) and x and not any(isinstance(row, Mapping) for row in x) for x in task.values()
    ):
        raise InputError(
            f"task is a dict of the columns {', '.join(map(str, task))}. A dict holds splits, each with its rows. Give the rows: "
            "task=[dict(zip(task, row)) for row in zip(*task.values())]."
        )


def _name(table: Any) -> str:
    """What the library calls the data set, else `rows`."""
    return str(getattr(getattr(table, "info", None), "dataset_name", None) or "rows")


def _rows(name: str, table: Any) -> list[Row]:
    if isinstance(table, str | bytes) or not (hasattr(table, "__len__") and _has_rows(table)):
        raise _no_rows(table)
    if hasattr(table, "columns") and hasattr(table, "to_dict"):
        raise InputError('task is a table of pandas. Give its rows: task=table.to_dict("records").')
    rows = []
    for number, values in enumerate(_one_by_one(table), start=1):
        if not isinstance(values, Mapping):
            raise InputError(
                f"task, row {number} is {shown(values)}, of type {type(values).__name__}. Each row must be a dict of columns, such "
                'as {"prompt": "1+2=", "answer": "3"}.'
            )
        if (column := next((key for key in values if not isinstance(key, str)), None)) is not None:
            raise InputError(
                f"task, row {number} has a column named {shown(column)}, of type {type(column).__name__}. Columns have names of "
                'text: "prompt", "answer", ...'
            )
        rows.append(Row(f"{name}:{number}", dict(values)))
    if not rows:
        raise InputError(f"task ({name}) holds no rows. It needs at least one problem.")
    return rows


def _has_rows(table: Any) -> bool:
    """Rows one after the other, or one by its number, as a map-style data set of PyTorch has them; no scalar of numpy."""
    return getattr(table, "shape", None) != () and (hasattr(table, "__iter__") or hasattr(table, "__getitem__"))


def _one_by_one(table: Any) -> Iterator[Any]:
    if hasattr(table, "__iter__"):
        return iter(table)
    return (table[i] for i in range(len(table)))  # PyTorch's need not raise IndexError behind their end


def _no_rows(given: Any) -> InputError:
    once = " Rows that come one by one: task=list(rows)." if hasattr(given, "__iter__") else ""
    return InputError(
        f"task is {shown(given)}, of type {type(given).__name__}. Give a name, a file, a list of dicts, a Dataset or DatasetDict "
        f"of Hugging Face's, an Environment or Splits.{once}"
    )


def weighted(reward: Any) -> list[tuple[Any, float]]:
    """Functions with weights, from one, from a list of them, or from a list of pairs; texts (FILE.py:NAME) stay texts."""
    parts = list(reward) if isinstance(reward, Sequence) and not isinstance(reward, str) else [reward]
    out = []
    for part in parts:
        function, weight = part if isinstance(part, tuple) and len(part) == 2 else (part, 1.0)
        weight = plain(weight)
        if not (callable(function) or isinstance(function, str)) or isinstance(function, type):
            raise InputError(
                f"reward holds {part!r}, which is no reward function. Give a function f(prompts, completions, **columns) -> "
                "list of numbers, several in a list, or pairs [(f, 1.0), (g, 0.5)]."
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight - weight != 0:
            raise InputError(f"reward gives {name_of(function)} the weight {weight!r}, which is no number.")
        out.append((function, float(weight)))
    if not out:
        raise InputError("reward is an empty list. Give a reward function, or leave it out.")
    return out


def told(reward: Any) -> str | None:
    """The reward as it is written down: FILE.py:NAME as it is, functions by their names."""
    if reward is None or isinstance(reward, str | Path):
        return None if reward is None else str(reward)
    names = [
        (f if isinstance(f, str) else name_of(f)) + ("" if weight == 1 else f"*{weight:g}")
        for f, weight in weighted(reward)
    ]
    return MADE + ",".join(names)


def told_task(task: Any) -> str | None:
    """The task as it is written down: names and paths as they are, objects by what they call themselves."""
    if task is None or isinstance(task, str | Path):
        return None if task is None else str(task)
    rows = isinstance(task, Mapping | list | tuple) or hasattr(task, "column_names")
    own = None if rows else getattr(task, "name", None) or type(task).__name__
    first = next(iter(task.values()), None) if isinstance(task, Mapping) else task
    return MADE + (own or _name(first))


def told_environment(environment: Any) -> str | None:
    """The environment as it is written down."""
    if environment is None or isinstance(environment, str | Path):
        return None if environment is None else str(environment)
    return MADE + str(getattr(environment, "__name__", type(environment).__name__))


def refuse_told(**values: Any) -> None:
    """Refuse what only a run that was begun in Python has written down; all of it in one message."""
    lost = {n: v.removeprefix(MADE) for n, v in values.items() if isinstance(v, str) and v.startswith(MADE)}
    if lost:
        what = " and ".join(f"the {name} {value}" for name, value in lost.items())
        it = "it" if len(lost) == 1 else "them"
        raise InputError(
            f"{what} came from Python, and no file holds {it}. Give {it} again, in Python: "
            f"{', '.join(f'{name}=...' for name in lost)}."
        )
