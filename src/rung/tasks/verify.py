"""Is an answer right? Verifiers have one shape: `extract` reads the last answer, `correct` compares it with gold.

Five of them have names: exact, numeric, choice, math, and code (in code.py).

A verdict is 1 (right), 0 (wrong, or no answer) or NaN (the verifier could not tell: its time was up). They are strict:
several candidates, an unfinished calculation or an echo of the problem is wrong, because whatever a verifier accepts by
mistake is what training will produce.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

from rung.errors import unknown
from rung.tasks.code import Code
from rung.tasks.extract import last_line, last_number, lone_number, marked, number, spoken
from rung.tasks.pool import Pool

MAX_ANSWER = 500  # characters; a longer "answer" is not one


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
        said = spoken(text, prompt)
        place = marked(said)
        return _plain(last_line(said) if place is None else place) or None

    def correct(self, answers: Sequence[str | None], gold: str) -> list[float]:
        wanted = _plain(gold)
        return [float(bool(wanted) and answer is not None and _plain(answer) == wanted) for answer in answers]


@dataclass(frozen=True)
class Numeric:
    """Equal as exact rational numbers. Unmarked answers: the last number."""

    name: str = "numeric"

    def extract(self, text: str, prompt: str = "") -> str | None:
        said = spoken(text, prompt)
        place = marked(said)
        if place is None:
            return last_number(said)
        return lone_number(place) or place[:MAX_ANSWER] or None

    def correct(self, answers: Sequence[str | None], gold: str) -> list[float]:
        wanted = number(lone_number(gold) or "")
        return [float(wanted is not None and answer is not None and number(answer) == wanted) for answer in answers]


_OPTION = re.compile(r"\(?([A-Ja-j])\)?(?:\s*[.):]\s*(?P<rest>.*))?", re.DOTALL)
_CANDIDATE = re.compile(r"(?<![A-Za-z'])[B-HJ](?![A-Za-z'])")  # not A and I, which are words too
_CHOICE_LEAD = re.compile(r"^.*\b(?:answer|option|choice)\b(?:\s+is\b)?\s*:?\s*", re.IGNORECASE | re.DOTALL)
_LETTER = re.compile(r"(?<![A-Za-z'])[A-J](?![A-Za-z'])")


@dataclass(frozen=True)
class Choice:
    """The same option letter, A to J. Unmarked answers: the last line, if it starts with a letter that stands alone."""

    name: str = "choice"

    def extract(self, text: str, prompt: str = "") -> str | None:
        said = spoken(text, prompt)
        place = marked(said)
        content = last_line(said if place is None else place)
        content = _CHOICE_LEAD.sub("", re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", content))
        option = _OPTION.fullmatch(content)
        if option and not _LETTER.search(option["rest"] or ""):
            return option[1].upper()
        return content[:MAX_ANSWER] or None if place is not None or _CANDIDATE.search(content) else None

    def correct(self, answers: Sequence[str | None], gold: str) -> list[float]:
        wanted = self.extract(gold) or ""
        return [float(len(wanted) == 1 and answer == wanted) for answer in answers]


# What math-verify must not see. A tower of powers can only cost time; "5 = 6" would count as 6; "4 5" would be read as
# the mixed number 9; "9 + 1" is the exercise and not the answer 10.
_TOWER = re.compile(r"(?:\^|\*\*)\s*[{(]*\s*-?[0-9.]+[)}\s]*(?:\^|\*\*)|(?:\^|\*\*)\s*[{(]*\s*-?[0-9]{5,}|!\s*!")
_SEVERAL = re.compile(r"boxed|####|answer>|\bor\b|\band\b|\\l?or\b|\\vee|\\lor|;|\\\\|\\pm|\\cup", re.IGNORECASE)
_NOT_DEFINITION = re.compile(r"^(?!\s*\\?[A-Za-z]+(?:_\{?\w+\}?|\([A-Za-z]\))?\s*=[^=]*$).*=", re.DOTALL)
_UNFINISHED = re.compile(
    r"[0-9)}]\s*(?:[-+*^!\u2212\u00d7\u00f7]|\\(?:times|cdot|div|pm|mod)\b|\\?\s+\(?[0-9]|\()|\\(?:sqrt|binom|log|ln)|[\[|]"
)
_QUOTIENT = re.compile(
    r"([0-9]+)\s*/\s*([0-9]+)|frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}|frac\s*([0-9])\s*([0-9])"
)
_INLINE = re.compile(r"(?:\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\])[\s.]*$", re.DOTALL)


@cache
def shared_pool() -> Pool:
    """The math-verify processes of this program, started by the first answer that needs them."""
    return Pool(Path(__file__).with_name("symbolic.py"), "equal")


@dataclass(frozen=True)
class Math:
    """Equal as mathematics, by math-verify in a killable process. Unmarked answers: the last formula, or number.

    Plain numbers are compared exactly here. Everything else that survives a screen goes to the pool, once per
    different answer; verdicts are remembered, so that an answer that hangs costs its deadline once.
    """

    name: str = "math"
    pool: Pool = field(default_factory=shared_pool, repr=False, compare=False)
    _memory: dict[tuple[str, str], float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def extract(self, text: str, prompt: str = "") -> str | None:
        said = spoken(text, prompt)
        place = marked(said)
        if place is None:
            if formula := _INLINE.search(said[-MAX_ANSWER:]):
                place = next(group for group in formula.groups() if group is not None).rpartition("=")[2]
            elif re.search(r"\banswer\b", said.splitlines()[-1] if said else "", re.IGNORECASE):
                place = last_line(said)
            else:
                return last_number(said)
        return lone_number(place) or _plain(place)[:MAX_ANSWER] or None

    def correct(self, answers: Sequence[str | None], gold: str) -> list[float]:
        gold = lone_number(gold) or _plain(gold)
        screened = {answer: self._screen(answer, gold) for answer in answers}
        self._judge([answer for answer, verdict in screened.items() if answer and verdict is None], gold)
        return [
            self._memory[gold, answer or ""] if (verdict := screened[answer]) is None else verdict for answer in answers
        ]

    def _judge(self, answers: Sequence[str], gold: str) -> None:
        if len(self._memory) + len(answers) > 20_000:
            self._memory.clear()
        fresh = [(gold, answer) for answer in answers if (gold, answer) not in self._memory]
        self._memory.update(zip(fresh, self.pool.map(fresh), strict=True))

    @staticmethod
    def _screen(answer: str | None, gold: str) -> float | None:
        """The verdict where no computer algebra is needed, else None."""
        if not answer or not gold or len(answer) >= MAX_ANSWER:
            return 0.0
        if answer == gold:
            return 1.0
        if not answer.isascii() and any(not c.isascii() and unicodedata.category(c)[0] == "N" for c in answer):
            return 0.0
        exact, wanted = number(answer), number(gold)
        both = (exact, wanted) if exact is not None and wanted is not None else None
        if both and (exact == wanted or 1 in (value.denominator for value in both)):
            return float(exact == wanted)  # else 0.333333 for 1/3: math-verify knows rounding
        if any(sign.search(answer) and not sign.search(gold) for sign in (_TOWER, _SEVERAL, _NOT_DEFINITION)):
            return 0.0
        if wanted is not None and (_UNFINISHED.search(answer) or _unreduced(answer)):
            return 0.0
        return None


def _unreduced(answer: str) -> bool:
    r"""Whether a fraction of two integers such as 10/2 or \frac{10}{2} is left for the verifier to divide."""
    for groups in _QUOTIENT.findall(answer):
        above, below = (int(digits) for digits in groups if digits)
        if below == 1 or math.gcd(above, below) != 1:
            return True
    return False


def _plain(text: str) -> str:
    """One Unicode spelling, one space between words, no dollar signs or full stop around."""
    return " ".join(unicodedata.normalize("NFC", text).split()).strip("$").rstrip(".").strip()


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
    if all(lone_number(gold) is not None for gold in golds):
        return Numeric()
    if all(re.fullmatch(r"\(?[A-J]\)?\.?", gold.strip()) for gold in golds):
        return Choice()
    return Math() if any(re.search(r"[0-9\\^=]", gold) for gold in golds) else Exact()
