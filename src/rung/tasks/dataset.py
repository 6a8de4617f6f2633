"""Rows with a prompt and an answer as a task. Training and evaluation rows never share a prompt.

A directory with a train and a test file keeps that division, and training rows whose prompt is in the test file are
left out. A single file is divided by a hash of each prompt, so that duplicates stay on one side and adding rows moves
none of the others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.errors import InputError, unknown
from rung.records import Completion, Group, Prompt, Task
from rung.tasks.environment import Splits
from rung.tasks.extract import question_text, uncut
from rung.tasks.rows import SUFFIXES, Row, read
from rung.tasks.verify import Verifier, by_name, fitting

GSM8K = "Reason step by step. Then give the final answer as a number on the last line, after ####."
_GSM8K_GOLD = re.compile(r"####\s*(\S[^\n]*?)\s*\Z")


@dataclass(frozen=True)
class Rows:
    """A fixed list of problems; the reward `correct` is the verifier's verdict on the last answer."""

    name: str
    tasks: Sequence[Task]
    verifier: Verifier
    answer_column: str = "answer"

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]

    def extract(self, task: Task, completion: Completion) -> str | None:
        """The last answer of the completion as the verifier reads it; None if there is none."""
        return self.verifier.extract(uncut(completion), question_text(task.prompt))

    def score(self, group: Group) -> list[dict[str, float]]:
        answers = [self.extract(group.task, completion) for completion in group.completions]
        verdicts = self.verifier.correct(answers, str(group.task.data[self.answer_column]))
        return [{"correct": verdict} for verdict in verdicts]


def splits(
    path: Path,
    *,
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    verifier: str = "auto",
    answers: bool = True,
    options: Mapping[str, Any] | None = None,
) -> Splits:
    """The task in a JSONL, CSV or Parquet file, or in a directory with train.* and test.* files.

    answers: whether rows must have an answer (not when a reward function judges).
    options: eval_share, the share of a single file's prompts that is held back (default 1/8; 1.0 evaluates on all).
    """
    train, held_out = _divide(path, lambda row: _task(row, prompt_column, answer_column if answers else None), options)
    golds = [str(task.data[answer_column]) for task in (*train, *held_out)] if answers else []
    chosen = fitting(golds) if verifier == "auto" else by_name(verifier)
    sides = [Rows(path.stem, tasks, chosen, answer_column) for tasks in (train, held_out)]
    return Splits(path.stem, sides[0], sides[1], max_new_tokens=256)


def gsm8k(path: Path, *, verifier: str = "auto", options: Mapping[str, Any] | None = None) -> Splits:
    """GSM8K's own files: `question`, and `answer` whose final number stands after ####."""
    train, held_out = _divide(path, _gsm8k_task, options)
    chosen = by_name("math" if verifier == "auto" else verifier)
    return Splits("gsm8k", Rows("gsm8k", train, chosen), Rows("gsm8k", held_out, chosen), max_new_tokens=300)


def _task(row: Row, prompt_column: str, answer_column: str | None) -> Task:
    prompt = row.prompt(prompt_column)
    if answer_column is not None:
        row.require(answer_column, "--answer-column")
    return Task(id=row.place, prompt=prompt, data=row.values)


def _gsm8k_task(row: Row) -> Task:
    question, solution = row.require("question", "--task"), row.require("answer", "--task")
    gold = _GSM8K_GOLD.search(str(solution))
    if gold is None:
        raise InputError(f"{row.place}: the answer has no '#### NUMBER' at its end, as GSM8K's rows do.")
    data = {"question": question, "answer": gold[1].replace(",", ""), "solution": solution}
    return Task(id=row.place, prompt=[{"role": "user", "content": f"{question}\n{GSM8K}"}], data=data)


def _divide(path: Path, task: Any, options: Mapping[str, Any] | None) -> tuple[list[Task], list[Task]]:
    """Training and evaluation tasks, without a common prompt; evaluation tasks without a repeated one."""
    options = options or {}
    for option in options:
        if option != "eval_share":
            raise unknown("option of a task from files", option, ["eval_share"])
    if path.is_dir():
        train, held_out = ([task(row) for row in read(_member(path, name))] for name in ("train", "test"))
    else:
        tasks = [task(row) for row in read(path)]
        share = _share(options.get("eval_share", 1 / 8))
        held = _held_out({_hash(task.prompt) for task in tasks}, share, path)
        train = [task for task in tasks if _hash(task.prompt) not in held]
        held_out = [task for task in tasks if _hash(task.prompt) in held]
    unique = {_hash(task.prompt): task for task in reversed(held_out)}
    held_out = list(reversed(unique.values()))
    return [task for task in train if _hash(task.prompt) not in unique], held_out


def _member(directory: Path, name: str) -> Path:
    for suffix in SUFFIXES:
        if (path := directory / f"{name}{suffix}").is_file():
            return path
    kinds = ", ".join(f"{name}{suffix}" for suffix in SUFFIXES)
    raise InputError(f"the directory {directory} has no {name} file ({kinds}). Name a single file, or add it.")


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise InputError(f"eval_share={value!r}: the share of prompts held back for evaluation lies in (0, 1].")
    return float(value)


def _held_out(hashes: Iterable[int], share: float, path: Path) -> set[int]:
    """The prompts of the evaluation side: those with a hash below the share, and at least one on each side."""
    ordered = sorted(hashes)
    if share == 1.0:
        return set(ordered)
    if len(ordered) < 2:
        raise InputError(
            f"{path} holds one prompt only, so none can be held back for evaluation. "
            "Add rows, or give a directory with a train and a test file."
        )
    below = sum(value < share * 2**64 for value in ordered)
    return set(ordered[: min(max(below, 1), len(ordered) - 1)])


def _hash(prompt: Prompt) -> int:
    text = prompt if isinstance(prompt, str) else json.dumps([dict(message) for message in prompt], sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.strip().encode()).digest()[:8], "big")
