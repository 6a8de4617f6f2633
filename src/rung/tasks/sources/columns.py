"""Which columns of rows are the prompt, the answer and the choices, in the forms that data sets come in.

    prompt        text, or messages; `messages`, where a trailing assistant message is a worked solution; question, problem
    answer        answer; reward_model.ground_truth (verl's rows; a dot goes into a column); answerKey; solution; the solution
                  in `messages`
    choices       choices, options: a list, {"label": [...], "text": [...]}, or {"A": ..., "B": ...}; shown below the question
                  where the answer is a letter or the index of one

A cell of text that is a list or an object in JSON, or as Python prints it, is read as such: CSV has no other way.
"""

from __future__ import annotations

import ast
import json
import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Real
from typing import Any

from rung.errors import InputError, setting, unknown
from rung.records import Message, Prompt
from rung.tasks.sources.rows import Row

PROMPTS = ("prompt", "messages", "question", "problem")
ANSWERS = ("answer", "reward_model.ground_truth", "answerKey", "solution")
CHOICES = ("choices", "options")
SOLVED = "messages"  # the prompt column whose last assistant message is no part of the prompt
_MISSING = object()
DIGITS = 4300  # what Python writes of a whole number unless it is told otherwise


@dataclass(frozen=True)
class Columns:
    """The columns that a task is made of, and one line for each that was not named by the user."""

    prompt: str
    answer: str | None
    notes: tuple[str, ...] = ()

    def ask(self, row: Row) -> Prompt:
        """The row's prompt, with the choices below it where the answer is one of them."""
        prompt, _ = self.divided(row)
        lettered = self.lettered(row)
        return prompt if lettered is None or _shows(prompt, lettered.texts) else extended(prompt, lettered.shown())

    def divided(self, row: Row) -> tuple[Prompt, str | None]:
        """(the prompt, the worked solution that stood behind it)."""
        prompt = _prompt(row, self.prompt)
        if self.prompt.rpartition(".")[2] == SOLVED and not isinstance(prompt, str):
            last = max((i for i, m in enumerate(prompt) if m["role"] == "assistant"), default=0)
            if last:
                return prompt[:last], prompt[last]["content"]
        return prompt, None

    def gold(self, row: Row) -> Any:
        """The row's answer; the letter of the right choice where it has choices."""
        assert self.answer is not None
        lettered = self.lettered(row)
        if lettered is not None:
            return lettered.letter
        value = lookup(row.values, self.answer)
        if value is _MISSING and self.answer == "solution":
            value = self.divided(row)[1] or _MISSING
        if isinstance(value, dict):
            inner = f"{self.answer}.{next(iter(value), 'NAME')}"
            raise InputError(
                f"{row.place}: the answer in column {self.answer!r} is a table of {', '.join(value)}. "
                f"Name the one that holds the answer: {setting('answer_column', inner)}."
            )
        return present(row, self.answer, value, "answer_column")

    def lettered(self, row: Row) -> Lettered | None:
        """The row's choices, if its answer is a letter or an index among them."""
        value = lookup(row.values, self.answer) if self.answer is not None else None
        for name in CHOICES:
            found = Lettered.of(lookup(row.values, name), value)
            if found is not None:
                return found
        return None


@dataclass(frozen=True)
class Lettered:
    """Choices A, B, C ... of a question, and which is right."""

    texts: Sequence[str]
    right: int

    @property
    def letter(self) -> str:
        return string.ascii_uppercase[self.right]

    def shown(self) -> str:
        """One line a choice, with its letter in front where it does not stand there already."""
        named = zip(string.ascii_uppercase, self.texts, strict=False)
        return "\n".join(t if re.match(rf"\(?{a}[).:]", t) else f"{a}. {t}" for a, t in named)

    @classmethod
    def of(cls, choices: Any, answer: Any) -> Lettered | None:
        choices = decoded(choices)
        labels: Sequence[Any] = ()
        if isinstance(choices, dict) and {"text", "label"} <= set(choices):
            labels, texts = choices["label"], choices["text"]
        elif isinstance(choices, dict) and all(re.fullmatch("[A-Z]", str(k)) for k in choices):
            labels, texts = list(choices), list(choices.values())
        else:
            texts = choices
        if not isinstance(texts, list) or not 2 <= len(texts) <= 10 or isinstance(answer, bool):
            return None
        texts, word = [str(t) for t in texts], str(answer).strip()
        names = [str(x) for x in labels] or list(string.ascii_uppercase[: len(texts)])
        if word in names:
            return cls(texts, names.index(word))
        index = word.isdecimal() and not labels and word not in texts and int(word) < len(texts)
        return cls(texts, int(word)) if index else None


def find(row: Row, prompt: str | None, answer: str | None, *, answers: bool) -> Columns:
    """The columns of rows like this one. None: not named by the user. answers: whether rows must have an answer."""
    notes = []
    if prompt is None:
        prompt = _first(row, PROMPTS)
        if prompt != PROMPTS[0]:
            notes.append(f"the prompt is the column {prompt!r}")
    made = Columns(prompt, answer)
    solved = made.divided(row)[1] is not None
    if solved:
        notes.append(f"the last assistant message of {prompt!r} is taken for the solution and left out of the prompt")
    if answer is None:
        known = [name for name in ANSWERS if _filled(lookup(row.values, name))]
        answer = known[0] if known else "solution" if solved else ANSWERS[0] if answers else None
        if answers and answer != ANSWERS[0]:
            notes.append(f"the answer is {answer!r}" if known else "the answer is what that solution ends with")
    made = replace(made, answer=answer)
    if (lettered := made.lettered(row)) is not None and not _shows(made.divided(row)[0], lettered.texts):
        notes.append("the choices are shown below each question; the answer is a letter")
    return replace(made, notes=tuple(notes))


def _first(row: Row, names: Sequence[str]) -> str:
    return next((name for name in names if lookup(row.values, name) is not _MISSING), names[0])


def lookup(values: Mapping[str, Any], column: str, missing: Any = _MISSING) -> Any:
    """The value of a column, or inside one: reward_model.ground_truth."""
    if column in values:
        return values[column]
    name, dot, rest = column.partition(".")
    inner = decoded(values.get(name)) if dot else None
    return lookup(inner, rest, missing) if isinstance(inner, dict) else missing


def decoded(value: Any) -> Any:
    """What a text says in JSON or as Python prints it, if it is a list or an object; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    return found if isinstance(found, list | dict) else value


def _names(values: Mapping[str, Any]) -> list[str]:
    """All columns, and what lies in those that hold objects."""
    inner = [f"{k}.{x}" for k, v in values.items() if isinstance(d := decoded(v), dict) for x in d]
    return [*values, *inner]


def _filled(value: Any) -> bool:
    return value is not _MISSING and (isinstance(value, str) or not is_empty(value))


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: None, no text, or what pandas writes there (NaN, NaT, NA)."""
    if isinstance(value, Real | Decimal):
        return bool(value != value)
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, str) and not value)


def require(row: Row, column: str, named_by: str) -> Any:
    """The value of a column that the task cannot do without."""
    return present(row, column, lookup(row.values, column), named_by)


def present(row: Row, column: str, value: Any, named_by: str) -> Any:
    """The value, or an error that says where it is missing."""
    if value is _MISSING:
        more = f" It is in {row.place}; name the right one with {setting(named_by)}."
        raise unknown("column", column, _names(row.values), more=more)
    if is_empty(value):
        raise InputError(f"{row.place}: the column {column!r} is empty. Fill it in or remove the row.")
    if isinstance(value, list | dict):
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{row.place}: the column {column!r} cannot be written as text: {error}.") from error
    if isinstance(value, int) and value.bit_length() > DIGITS * math.log2(10):
        raise InputError(
            f"{row.place}: the column {column!r} is a whole number of more than {DIGITS:,} digits, which is not written out. Give "
            "another answer, such as its remainder, or judge by a reward function."
        )
    return value


def _prompt(row: Row, column: str) -> Prompt:
    """A text, or a list of messages with role and content."""
    value = require(row, column, "prompt_column")
    read = decoded(value)
    messages = [_message(m) for m in read] if isinstance(read, list) else []
    if messages and all(m is not None for m in messages):
        return [m for m in messages if m is not None]
    if isinstance(value, str):
        return value
    raise InputError(
        f"{row.place}: the prompt in column {column!r} is neither a text nor a list of messages. "
        'Write "..." or [{"role": "user", "content": "..."}].'
    )


def _message(value: object) -> Message | None:
    """A message without empty fields, its content as one text; None if it is none."""
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return None
    content = value.get("content")
    if isinstance(content, list) and all(isinstance(x, dict) and isinstance(x.get("text"), str) for x in content):
        content = "".join(x["text"] for x in content)
    return (
        {k: v for k, v in value.items() if v is not None} | {"content": content} if isinstance(content, str) else None
    )


def extended(prompt: Prompt, text: str) -> Prompt:
    """The prompt with a text below its last message of the user, which need not be the last of all."""
    if isinstance(prompt, str):
        return f"{prompt}\n{text}"
    at = max((i for i, m in enumerate(prompt) if m["role"] == "user"), default=len(prompt) - 1)
    return [*prompt[:at], {**prompt[at], "content": f"{prompt[at]['content']}\n{text}"}, *prompt[at + 1 :]]


def _shows(prompt: Prompt, texts: Sequence[str]) -> bool:
    """Whether the prompt lists the choices itself: each one behind a letter."""
    text = prompt if isinstance(prompt, str) else "\n".join(m["content"] for m in prompt)
    return all(re.search(rf"\b[A-Z][).:]*\W{{0,3}}{re.escape(t)}", text) for t in texts)
