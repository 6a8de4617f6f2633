"""Rows with a prompt and an answer as a task. Training and evaluation rows never share a prompt.

A directory with a train and a test file keeps that division, and training rows whose prompt is in the test file are
left out. A single file is divided by a hash of each prompt, so that duplicates stay on one side and adding rows moves
none of the others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rung.errors import InputError, setting, unknown
from rung.records import Completion, Group, Prompt, Task
from rung.settings.ranges import refuse
from rung.tasks.environments.protocol import Judge, Splits
from rung.tasks.sources import hub
from rung.tasks.sources.columns import extended, find, lookup, require
from rung.tasks.sources.given import Sources
from rung.tasks.sources.rows import SUFFIXES, Row, read, stem
from rung.tasks.verify import golds
from rung.tasks.verify.code import Code
from rung.tasks.verify.extract import marked, question_text, uncut
from rung.tasks.verify.formula import Math
from rung.tasks.verify.probes import in_forms
from rung.tasks.verify.quantity import number
from rung.tasks.verify.verifiers import Verifier, by_name, fitting

GSM8K = "Reason step by step. Then give the final answer as a number on the last line, after ####."
PROGRAMS = ("code", "program", "solution", "canonical_solution")  # columns with a program that passes the tests
_GSM8K_GOLD = re.compile(r"####\s*(\S[^\n]*?)\s*\Z")


@dataclass(frozen=True)
class Rows:
    """A fixed list of problems; the reward `correct` is the verifier's verdict on the last answer."""

    name: str
    tasks: Sequence[Task]
    verifier: Verifier
    answer_column: str = "answer"
    least: ClassVar[float] = 0.0  # a verifier says right or wrong
    most: ClassVar[float] = 1.0

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]

    def extract(self, task: Task, completion: Completion) -> str | None:
        """The last answer of the completion as the verifier reads it; None if there is none."""
        return self.verifier.extract(uncut(completion), question_text(task.prompt))

    def score(self, group: Group) -> list[dict[str, float]]:
        answers = [self.extract(group.task, completion) for completion in group.completions]
        verdicts = self.verifier.correct(answers, self.gold(group.task))
        return [{"correct": verdict} for verdict in verdicts]

    @property
    def counters(self) -> Mapping[str, float]:
        """verifier_slow: answers so far at which a verifier with a deadline took the whole of it."""
        return {"verifier_slow": float(self.verifier.slow)} if isinstance(self.verifier, (Code, Math)) else {}

    @property
    def runs_programs(self) -> bool:
        """Whether answers are programs, and gold answers their tests."""
        return self.verifier.name == "code"

    def judge(self, task: Task) -> Judge:
        words = f"answers are judged by the verifier {self.verifier.name}"
        return Judge(words, needs_gold=not self.runs_programs, reads="programs" if self.runs_programs else "text")

    def gold(self, task: Task) -> str:
        """The right answer as the verifier reads it."""
        value = lookup(task.data, self.answer_column, None)
        if value is None:
            raise KeyError(self.answer_column)
        return _source(value) if self.runs_programs else gold_text(value)

    def right_answers(self, task: Task) -> tuple[str | None, list[str]]:
        """The gold answer, and answers that hold it as a model may write it (`rung verify`)."""
        if self.runs_programs:  # the gold column holds tests; a program stands in some other column, or nowhere
            programs = [task.data[column] for column in PROGRAMS if isinstance(task.data.get(column), str)]
            return None, [f"```python\n{program}\n```" for program in programs]
        if lookup(task.data, self.answer_column, None) is None:  # rows for a reward function need no answer
            return None, []
        gold = self.gold(task)
        return gold, in_forms(gold, bare=self.verifier.name != "math" or number(gold) is not None)


def splits(
    path: Path,
    *,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    verifier: str = "auto",
    answers: bool = True,
    options: Mapping[str, Any] | None = None,
    given: Sources | None = None,
) -> Splits:
    r"""The task in a file of rows, in a directory with train.* and test.* files, or a saved dataset.

    columns: None: found as columns.py says, with a note in the Splits.
    answers: whether rows must have an answer (not when a reward function judges).
    options: eval_share, the share of a single file's prompts that is held back (default 1/8; 1.0 evaluates on all);
             instruction, a sentence below each prompt, such as "Put the final answer in \boxed{}.";
             drop_unverifiable, to leave out rows whose gold no answer can equal instead of refusing them;
             unsafe_code, to run programs with the user's own rights where the machine has no sandbox for them.
    given:   rows that are here already, instead of those in `path`, which is their name then.
    """
    options = dict(options or {})
    share, instruction = options.pop("eval_share", 1 / 8), options.pop("instruction", "")
    refuse(instruction, str, setting("task_options.instruction"))
    drop, unsafe = (bool(options.pop(name, False)) for name in ("drop_unverifiable", "unsafe_code"))
    sources = read_sources(path, options, given)
    columns = find(sources[0][0], prompt_column, answer_column, answers=answers)

    def task(row: Row) -> Task:
        prompt = _instructed(columns.ask(row), instruction)
        data = {**row.values, gold_column: columns.gold(row)} if answers else row.values
        return Task(id=row.place, prompt=prompt, data=data)

    gold_column = columns.answer or "answer"
    train, held_out = _divide(path, sources, task, share)
    said = [gold_text(task.data[gold_column]) for task in (*train, *held_out)] if answers else []
    chosen = fitting(said) if verifier == "auto" else by_name(verifier)
    chosen = replace(chosen, unsafe=unsafe) if isinstance(chosen, Code) else chosen
    name = hub.dataset_name(path) or stem(path)
    sides = [Rows(name, tasks, chosen, gold_column) for tasks in (train, held_out)]
    notes = tuple(f"{path.name}: {note}" for note in columns.notes)
    if answers:
        sides, left_out = _verifiable(sides, drop)
        notes += left_out
    return Splits(name, sides[0], sides[1], max_new_tokens=256, notes=notes)


def _verifiable(sides: Sequence[Rows], drop: bool) -> tuple[list[Rows], tuple[str, ...]]:
    """The sides, after each gold answer was held against its own verifier (golds.py), and a note on what was left out."""
    rows = [(task, side.gold(task)) for side in sides for task in side.tasks]
    out, notes = golds.readable(
        sides[0].name, [task for task, _ in rows], [gold for _, gold in rows], sides[0].verifier, drop
    )
    return [replace(side, tasks=[task for task in side.tasks if task.id not in out]) for side in sides], notes


def gold_text(value: Any) -> str:
    r"""The final answer in a gold column: what the last \boxed{} or #### of a worked solution holds, else all of it."""
    text = _source(value)
    final = marked(text) if "\\boxed" in text or "####" in text else None
    return final or text


def _source(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def _instructed(prompt: Prompt, instruction: str) -> Prompt:
    return extended(prompt, instruction) if instruction else prompt


def gsm8k(path: Path, *, verifier: str = "auto", options: Mapping[str, Any] | None = None) -> Splits:
    """GSM8K's own files: `question`, and `answer` whose final number stands after ####."""
    options = dict(options or {})
    share, drop = options.pop("eval_share", 1 / 8), bool(options.pop("drop_unverifiable", False))
    train, held_out = _divide(path, read_sources(path, options), _gsm8k_task, share)
    chosen = by_name("math" if verifier == "auto" else verifier)
    sides, notes = _verifiable([Rows("gsm8k", tasks, chosen) for tasks in (train, held_out)], drop)
    return Splits("gsm8k", sides[0], sides[1], max_new_tokens=300, notes=notes)


def _gsm8k_task(row: Row) -> Task:
    question, solution = require(row, "question", "task"), require(row, "answer", "task")
    gold = _GSM8K_GOLD.search(str(solution))
    if gold is None:
        raise InputError(f"{row.place}: the answer has no '#### NUMBER' at its end, as GSM8K's rows do.")
    data = {"question": question, "answer": gold[1].replace(",", ""), "solution": solution}
    return Task(id=row.place, prompt=[{"role": "user", "content": f"{question}\n{GSM8K}"}], data=data)


def read_sources(
    path: Path, options: dict[str, Any], given: Sources | None = None
) -> tuple[list[Row], list[Row] | None]:
    """(rows of the training side, rows of the evaluation side); None where one source is to be divided."""
    known = ["eval_share", "instruction", "drop_unverifiable", "unsafe_code", *hub.OPTIONS]
    if given is not None:
        sources = given.train, given.held_out
    elif hub.is_dataset(path):
        chosen = {name: options.pop(name) for name in hub.OPTIONS if name in options}
        sources = hub.read(path, **chosen)
    elif path.is_dir():
        sources = read(_member(path, "train")), read(_member(path, "test"))
    else:
        sources = read(path), None
    for option in options:
        if option in hub.OPTIONS:
            raise InputError(f"the option {option} is for Hugging Face datasets; {path} is none. Leave it out.")
        raise unknown("option of a task from rows", option, known)
    return sources


def _divide(
    path: Path, sources: tuple[list[Row], list[Row] | None], task: Callable[[Row], Task], share: Any
) -> tuple[list[Task], list[Task]]:
    """Training and evaluation tasks, without a common prompt; evaluation tasks without a repeated one."""
    share = _share(share)
    train = [task(row) for row in sources[0]]
    if sources[1] is not None:
        held_out = [task(row) for row in sources[1]]
    else:
        tasks = train
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
