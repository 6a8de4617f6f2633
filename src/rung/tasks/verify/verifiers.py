"""Is an answer right? Verifiers have one shape: `extract` reads the last answer, `correct` compares it with gold.

Five of them have names: exact, numeric, choice, math, and code (in code.py).

A verdict is 1 (right), 0 (wrong, or no answer) or NaN (the verifier could not tell: its time was up). They are strict:
several candidates, an unfinished calculation or an echo of the problem is wrong, because whatever a verifier accepts by
mistake is what training will produce.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rung.errors import unknown
from rung.tasks.verify.choice import content, option
from rung.tasks.verify.code import Code
from rung.tasks.verify.extract import last_line, last_number, placed
from rung.tasks.verify.formula import MAX_ANSWER, Math, tidy
from rung.tasks.verify.plain import undressed_text, without_emphasis
from rung.tasks.verify.quantity import Quantity, agree, quantity


class Verifier(Protocol):
    """Reads the last answer of a completion and judges it against gold."""

    @property
    def name(self) -> str: ...

    def extract(self, text: str, prompt: str = "") -> str | None:
        """The last answer, in a canonical spelling where there is one; None if the text holds no answer."""
        ...

    def correct(self, answers: Sequence[str | None], gold: str) -> list[float]:
        """1, 0 or NaN for each extracted answer; None is 0."""
        ...


@dataclass(frozen=True)
class Exact:
    """Equal as text, apart from white space and Unicode spelling. Unmarked answers: the last line."""

    name: str = "exact"

    def extract(self, text: str, prompt: str = "") -> str | None:
        said, place = placed(text, prompt)
        return _spaced(last_line(said) if place is None else place) or None

    def correct(self, answers: Sequence[str | None], gold: str) -> list[float]:
        wanted = {_spaced(gold), undressed_text(_spaced(gold))} - {""}
        return [float(bool(answer) and bool(wanted & _readings(_spaced(answer or "")))) for answer in answers]


@dataclass(frozen=True)
class Numeric:
    """Equal as exact rational numbers, with their units where both have one (quantity.py). Unmarked: the last number."""

    name: str = "numeric"

    def extract(self, text: str, prompt: str = "") -> str | None:
        said, place = placed(text, prompt)
        if place is None:
            return last_number(said)
        found = quantity(place) if len(place) <= MAX_ANSWER else None
        return str(found) if found else tidy(place)[:MAX_ANSWER] or None

    def correct(self, answers: Sequence[str | None], gold: str) -> list[float]:
        wanted = quantity(gold, gold=True)
        known = {answer: bool(answer) and self._right(wanted, tidy(gold), answer or "") for answer in {*answers}}
        return [float(known[answer]) for answer in answers]

    @staticmethod
    def _right(wanted: Quantity | None, gold: str, answer: str) -> bool:
        if wanted is None or len(answer) > MAX_ANSWER:
            return False
        said = quantity(answer)
        return answer == gold if said is None else agree(wanted, said)


def _spaced(text: str) -> str:
    """One Unicode spelling, one space between words, no dollar signs or full stop around."""
    return " ".join(unicodedata.normalize("NFC", text).split()).strip("$").rstrip(".").strip()


def _readings(answer: str) -> set[str]:
    r"""The answer as it is, without LaTeX's text commands, and without Markdown's emphasis: \text{Paris}, **Paris**."""
    bare = undressed_text(answer)
    return {answer, bare, without_emphasis(bare).rstrip(".").strip()}


_CANDIDATE = re.compile(r"(?<![A-Za-z'])[B-HJ](?![A-Za-z'])")  # not A and I, which are words too


@dataclass(frozen=True)
class Choice:
    """The same option letter, A to J. Unmarked answers: the last line, if it starts with a letter that stands alone."""

    name: str = "choice"

    def extract(self, text: str, prompt: str = "") -> str | None:
        said, place = placed(text, prompt)
        text = last_line(said if place is None else place)
        if letter := option(text):
            return letter
        return content(text)[:MAX_ANSWER] or None if place is not None or _CANDIDATE.search(text) else None

    def correct(self, answers: Sequence[str | None], gold: str) -> list[float]:
        wanted = self.extract(gold) or ""
        return [float(len(wanted) == 1 and answer == wanted) for answer in answers]


_VERIFIERS: dict[str, Callable[[], Verifier]] = {
    "exact": Exact,
    "numeric": Numeric,
    "choice": Choice,
    "math": Math,
    "code": Code,
}


def by_name(name: str) -> Verifier:
    """The verifier of that name."""
    if name not in _VERIFIERS:
        raise unknown("verifier", name, [*_VERIFIERS, "auto"])
    return _VERIFIERS[name]()


def fitting(golds: Iterable[str]) -> Verifier:
    """The verifier for `auto`: numbers, option letters, anything with digits or LaTeX, else plain text.

    Never `code`: a model's programs run only where the user says so.
    """
    golds = list(golds)
    if all(quantity(gold, gold=True) is not None for gold in golds):
        return Numeric()
    if all(re.fullmatch(r"\(?[A-J]\)?\.?", gold.strip()) for gold in golds):
        return Choice()
    return Math() if any(re.search(r"[0-9\\^=]", gold) for gold in golds) else Exact()
