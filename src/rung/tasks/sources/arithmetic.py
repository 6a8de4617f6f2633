"""Chained arithmetic modulo 10, left to right: prompt `4*7*2-4*2+2=`, full trace `8>6>2>4>6#6`, reward on the 6 alone.

A problem of n operations needs n intermediate results, so writing them down pays although the reward reads only the
digit after '#'. Training and evaluation problems are disjoint by construction: a hash of the problem's own text says
on which side it lies, whatever the seed or size, and every draw is repeated until it falls on the right side.

Two options spoil the training rewards on purpose, to see which recipe minds (`rung why`); evaluation keeps the truth:
reward_offset moves the reward's zero, unlearnable is a share of problems whose "right" digit is drawn by lot.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container
from itertools import count
from typing import Annotated, Literal, get_args

from rung.errors import InputError, unknown
from rung.records import Completion, Group, Task
from rung.settings.ranges import between
from rung.tasks.environments.protocol import Splits

NAME = "chained_arithmetic"
OPERATIONS = "+-*"
MIN_OPERATIONS, MAX_OPERATIONS = 2, 6
MAX_NEW_TOKENS = 16  # a full trace of 6 operations takes 13 characters and the end token
MAX_EVAL_SIZE = 4000  # about 1,100 problems of two operations lie on the evaluation side; a fifth of the split is drawn

SplitName = Literal["train", "eval"]
_PROBLEM = re.compile(r"[0-9](?:[+*-][0-9])+=")
_ANSWER = re.compile(r"(?!<think>)[^#]*#([0-9])")  # [0-9], since \d also matches digits that are not ours


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def side(prompt: str) -> SplitName:
    """The split that a problem belongs to, from its text alone: one problem in eight is for evaluation."""
    return "eval" if _hash(prompt) % 8 == 0 else "train"


def apply(operation: str, left: int, right: int) -> int:
    """(left operation right) mod 10, for the operations + - *."""
    if operation == "+":
        return (left + right) % 10
    if operation == "-":
        return (left - right) % 10
    if operation == "*":
        return left * right % 10
    raise unknown("operation", operation, OPERATIONS)


def values(prompt: str) -> list[int]:
    """The result after each operation, left to right; the last one is the answer."""
    if not _PROBLEM.fullmatch(prompt):
        raise InputError(
            f"{prompt!r} is no chained-arithmetic problem: digits joined by + - *, ended by '=', as in 4*7-2="
        )
    result, out = int(prompt[0]), []
    for operation, digit in zip(prompt[1:-1:2], prompt[2::2], strict=True):
        result = apply(operation, result, int(digit))
        out.append(result)
    return out


class ChainedArithmetic:
    """Problems 0..size-1 of a split, item i drawn from sha256(split, seed, i); reward `correct` is 1 or 0.

    Item i has 2 + i mod 5 operations, so any run of five neighbours holds each length once. Evaluation problems are
    unique; training problems may repeat (short ones must: there are only 9,000 with two operations).
    offset: added to every reward, as a reward of its own.
    unlearnable: a problem of this share is judged by a digit drawn from its text's hash: right by luck one time in ten.
    """

    name = NAME

    def __init__(
        self, split: SplitName, seed: int = 0, size: int = 500, offset: float = 0.0, unlearnable: float = 0.0
    ) -> None:
        if split not in get_args(SplitName):
            raise unknown("split", str(split), get_args(SplitName))
        if size < 1:
            raise InputError(f"size={size}: a split needs at least one problem")
        if split == "eval" and size > MAX_EVAL_SIZE:
            raise InputError(
                f"size={size}: evaluation problems are unique and the short ones would run out; "
                f"ask for at most {MAX_EVAL_SIZE}"
            )
        if not 0 <= unlearnable <= 1:
            raise InputError(f"unlearnable={unlearnable}: it is a share of the problems, from 0 to 1")
        self.split, self.seed, self.size, self.offset, self.unlearnable = split, seed, size, offset, unlearnable
        self._unique = self._unique_prompts() if split == "eval" else ()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < self.size:
            raise IndexError(f"problem {index} of a split of {self.size}")
        prompt = self._unique[index] if self._unique else self._draw(index)
        results = values(prompt)
        data = {"answer": str(results[-1]), "operations": len(results)}
        lot = _hash(f"unlearnable/{prompt}")
        if lot % 1000 < 1000 * self.unlearnable:
            data["answer"] = str(lot // 1000 % 10)
        return Task(id=f"{self.split}-{self.seed}-{index}", prompt=prompt, data=data)

    def extract(self, task: Task, completion: Completion) -> str | None:
        """The one digit after the only '#', at the very end of an answer that the model ended itself; else None."""
        if completion.stop != "stop":
            return None
        match = _ANSWER.fullmatch(completion.text)
        return match.group(1) if match else None

    @property
    def least(self) -> float:
        return self.offset

    @property
    def most(self) -> float:
        return 1.0 + self.offset

    def score(self, group: Group) -> list[dict[str, float]]:
        """correct = 1 if the extracted digit is the answer, else 0; the trace before it is never looked at."""
        task, more = group.task, {"offset": self.offset} if self.offset else {}
        return [{"correct": float(self.extract(task, c) == task.data["answer"]), **more} for c in group.completions]

    def right_answers(self, task: Task) -> tuple[str, list[str]]:
        """The gold answer, and answers that hold it: the full trace, and the digit alone (`rung verify`)."""
        results = values(str(task.prompt))
        return str(results[-1]), [f"#{results[-1]}", ">".join(map(str, results)) + f"#{results[-1]}"]

    def steps(self, task: Task, completion: Completion) -> list[tuple[int, float]]:
        """For process rewards: (characters up to the end of a step, 1.0 if its value is right), for each `value>`."""
        right = values(str(task.prompt))
        found = [(m.end(), m.group(1)) for m in re.finditer(r"(\d*)>", completion.text.split("#")[0])]
        return [(end, float(i < len(right) and text == str(right[i]))) for i, (end, text) in enumerate(found)]

    def _draw(self, index: int, taken: Container[str] = ()) -> str:
        """The first prompt of item `index` that lies on our side and is not taken."""
        span = MAX_OPERATIONS - MIN_OPERATIONS + 1
        for attempt in count():
            number, prompt = _hash(f"{NAME}/{self.split}/{self.seed}/{index}/{attempt}"), ""
            for _ in range(MIN_OPERATIONS + index % span):
                number, digit = divmod(number, 10)
                number, operation = divmod(number, len(OPERATIONS))
                prompt += f"{digit}{OPERATIONS[operation]}"
            prompt += f"{number % 10}="
            if side(prompt) == self.split and prompt not in taken:
                return prompt
        raise AssertionError("count() does not end")

    def _unique_prompts(self) -> tuple[str, ...]:
        taken: dict[str, None] = {}  # keeps the order in which they were drawn
        for index in range(self.size):
            taken[self._draw(index, taken)] = None
        return tuple(taken)


def splits(
    seed: int = 0,
    train_size: Annotated[int, between(1, 10_000_000)] = 65_536,
    eval_size: Annotated[int, between(1, MAX_EVAL_SIZE, "they are unique, and the short ones run out")] = 500,
    reward_offset: float = 0.0,
    unlearnable: Annotated[float, between(0, 1, "a share of the problems")] = 0.0,
) -> Splits:
    """The task as `rung train --task chained_arithmetic` uses it."""
    train = ChainedArithmetic("train", seed, train_size, reward_offset, unlearnable)
    held_out = ChainedArithmetic("eval", seed, eval_size)
    return Splits(name=NAME, train=train, eval=held_out, max_new_tokens=MAX_NEW_TOKENS)
