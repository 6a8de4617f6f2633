r"""Equality of two mathematical answers by math-verify. Runs in a worker process only: it may hang, and may be killed.

math-verify's own time limits are switched off: they answer "not equal" when time is up, which would turn "could not
tell" into a silent zero. The pool's deadline takes their place. This file imports nothing of the package (sandbox/worker.py).

Its "equal" is not taken on trust. It rounds: decimals to six places, differences below 1e-15 to nothing. So decimals are
handed over as fractions, and the two formulas must also agree in the first hundred digits, at three points where they hold
variables. And it reads R as r and x' as x, so these are given names of their own where a formula holds both.
"""

import logging
import re
from fractions import Fraction
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify

logging.disable(logging.WARNING)  # one warning per process that the time limits are off
_LATEX = [LatexExtractionConfig(boxed_match_priority=0)]
_DECIMAL = re.compile(r"(?<![0-9A-Za-z_.])([0-9]*)\.([0-9]+)(?![0-9.]|\\(?:overline|bar|dot))")
_LETTER = re.compile(r"\\[A-Za-z]+(?:\{[^{}]*[A-Za-z]{2}[^{}]*\})?|([A-Za-z])(?![A-Za-z]*\})")
_POINTS = (Fraction(1237, 911), Fraction(2719, 577), Fraction(613, 1901))
_DIGITS = 100


def equal(gold: str, answer: str) -> float:
    """1 if both texts, read as the content of one LaTeX box, denote the same mathematical object; else 0.

    A gold "3.14 ± 1/200" is a decimal that may be an approximation: the answer must lie that near.
    """
    value, _, half = gold.partition(" \u00b1 ")
    gold, answer = _told_apart(value, answer)
    golds = _read(gold)
    if not golds:
        raise ValueError(f"math-verify cannot read the gold answer {gold!r}")
    answers = _read(answer)
    if half:
        return float(any(_near(one, Fraction(value), Fraction(half)) for one in answers))
    if not answers or not verify(golds, answers, timeout_seconds=None):
        return 0.0
    return float(_same_digits(golds[0], answers[0]))


def _read(text: str) -> list[Any]:  # sympy objects
    text = _DECIMAL.sub(lambda found: f"{{\\frac{{{int(found[1] + found[2])}}}{{{10 ** len(found[2])}}}}}", text)
    found: list[Any] = parse(f"\\boxed{{{text}}}", _LATEX, fallback_mode="no_fallback", parsing_timeout=None)
    return found


def _told_apart(gold: str, answer: str) -> tuple[str, str]:
    """Names of their own for capitals whose small letter occurs too, and for letters with a prime."""
    letters = {found[1] for text in (gold, answer) for found in _LETTER.finditer(text) if found[1]}
    both = {letter for letter in letters if letter.isupper() and letter.lower() in letters}

    def renamed(text: str) -> str:
        text = _LETTER.sub(lambda found: f"{found[0]}_{{9}}" if found[1] in both else found[0], text)
        return re.sub(r"([A-Za-z])'", r"\1_{8}", text)

    return renamed(gold), renamed(answer)


def _near(answer: object, value: Fraction, half: Fraction) -> bool:
    """|answer - value| <= half for a real constant."""
    if not isinstance(answer, sympy.Expr) or answer.free_symbols:
        return False
    number = sympy.N(answer.doit(), _DIGITS)
    return bool(number.is_real and number.is_finite and abs(Fraction(str(number)) - value) <= half)


def _same_digits(gold: object, answer: object) -> bool:
    """Whether two expressions agree to a hundred digits where they can be computed; True of sets, relations, matrices."""
    if not isinstance(gold, sympy.Expr) or not isinstance(answer, sympy.Expr):
        return True
    one, other = gold.doit(), answer.doit()
    if one == other:
        return True
    if one.is_Rational and other.is_Rational:
        return False
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    for shift in range(3 if symbols else 1):
        point = {
            symbol: sympy.Rational(*_POINTS[(i + shift) % 3].as_integer_ratio()) + i for i, symbol in enumerate(symbols)
        }
        values = [sympy.N(each.subs(point), 2 * _DIGITS) for each in (one, other)]
        if not all(value.is_number and value.is_finite for value in values):
            continue
        size = max(abs(value) for value in values)
        if size and abs(values[0] - values[1]) > size * sympy.Float(10) ** -_DIGITS:
            return False
    return True


equal("\\frac{1}{2}", "0.5")  # builds math-verify's parser now, so that no answer's deadline pays for it
