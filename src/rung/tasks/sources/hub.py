"""Rows of Hugging Face datasets: `hf:NAME`, from the hub or its cache, or a directory made by `save_to_disk`.

The rows are read as they are, in their order; no code that comes with a dataset is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rung.advice import need
from rung.errors import InputError, setting, unknown
from rung.tasks.sources.rows import Row

PREFIX = "hf:"
OPTIONS = ("config", "train_split", "eval_split")  # settings of a task that is a Hugging Face dataset
_TRAIN, _EVAL = ("train",), ("test", "validation", "valid", "dev")


def dataset_name(path: Path) -> str | None:
    """The hub name in `hf:NAME`; None for an ordinary path."""
    text = path.as_posix()
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) else None


def is_dataset(path: Path) -> bool:
    """Whether the path is `hf:NAME`, or a directory that `save_to_disk` made."""
    return dataset_name(path) is not None or any(
        (path / file).is_file() for file in ("dataset_dict.json", "state.json")
    )


def read(
    path: Path, config: str | None = None, train_split: str | None = None, eval_split: str | None = None
) -> tuple[list[Row], list[Row] | None]:
    """Training rows and evaluation rows; None where the dataset has one split only, which is to be divided.

    Without names the splits are train, and the first of test, validation, valid and dev.
    """
    name = dataset_name(path) or path.name
    found = _load(path, name, config)
    train, held_out = sides(name, found, train_split, eval_split)
    return _rows(name, train, found[train]), None if held_out is None else _rows(name, held_out, found[held_out])


def sides(
    name: str, found: dict[str, Any], train_split: str | None = None, eval_split: str | None = None
) -> tuple[str, str | None]:
    """The splits to train and to evaluate on; None where there is one only."""
    if not found:
        raise InputError(f"{name} has no splits. A task needs at least one.")
    train = _choose(name, found, train_split, _TRAIN, "train_split")
    held_out = _choose(name, found, eval_split, _EVAL, "eval_split")
    if train is None:  # such as MATH-500, which is a test split and nothing else
        train, held_out = held_out or next(iter(found)), None
    return train, None if train == held_out else held_out


def _load(path: Path, name: str, config: str | None) -> dict[str, Any]:
    need(f"the dataset {name}", "datasets")
    import datasets

    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name, config) if dataset_name(path) else datasets.load_from_disk(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        if (advice := _advice(error)) is None:
            raise
        raise InputError(f"the dataset {name} cannot be loaded: {' '.join(str(error).split())} {advice}") from error
    return dict(found) if isinstance(found, dict) else {"train": found}


def _advice(error: Exception) -> str | None:
    """What to do about what `datasets` says of the name, the configuration or the kind of a dataset; None for anything else."""
    said = str(error)
    if isinstance(error, FileNotFoundError | ConnectionError):
        return "Check its name; without network it must be in the cache or saved on disk."
    if "Config name is missing" in said or "BuilderConfig" in said:
        return f"Choose a configuration with {setting('task_options.config')}."
    return "Save it on disk where they are (save_to_disk)." if "scripts are no longer supported" in said else None


def _choose(name: str, found: dict[str, Any], wanted: str | None, usual: tuple[str, ...], option: str) -> str | None:
    if wanted is None:
        return next((split for split in usual if split in found), None)
    if wanted not in found:
        raise unknown(f"split of {name}", wanted, found, more=f" Choose with {setting('task_options.' + option)}.")
    return wanted


def _rows(name: str, split: str, table: Any) -> list[Row]:
    rows = [Row(f"{name}[{split}]:{number}", dict(values)) for number, values in enumerate(table, start=1)]
    if not rows:
        raise InputError(f"the split {split} of {name} holds no rows. A task needs at least one problem.")
    return rows
