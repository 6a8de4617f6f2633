"""Wrong answers that reasoning-gym's own scorers pay in full (version 0.1.25), and what must hold besides their verdict.

`rung verify --task NAME` found them; docs/tasks.md lists them. A guard refuses and never pays.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from rung.tasks.verify.quantity import number

_OPERATIONS: Mapping[type[ast.AST], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def refused(name: str, answer: str, data: Mapping[str, Any]) -> bool:
    """Whether the answer is wrong, whatever the dataset's scorer says to it."""
    return name in GUARDS and not GUARDS[name][1](answer.strip(), data)


def _same_word(answer: str, data: Mapping[str, Any]) -> bool:
    return answer.casefold() == str(data["answer"]).casefold()


def _no_nan(answer: str, data: Mapping[str, Any]) -> bool:
    return "nan" not in answer.casefold()


def _near(answer: str, data: Mapping[str, Any]) -> bool:
    """The scorer's own tolerance, 1e-4; what agrees in its first digits only is left to partial credit."""
    said, gold = number(answer), number(str(data["answer"]), reduced=False)
    return said is not None and gold is not None and abs(said - gold) <= Fraction(1, 10_000)


def _makes_24(answer: str, data: Mapping[str, Any]) -> bool:
    """The problem's own four numbers, each once, and 24 exactly."""
    numbers = data["metadata"].get("numbers") or re.findall(
        r"[0-9]+", data["question"].partition(" 24 using ")[2].partition(".")[0]
    )
    if sorted(map(int, re.findall(r"[0-9]+", answer))) != sorted(map(int, numbers)):
        return False
    try:
        return _value(ast.parse(answer, mode="eval").body) == 24
    except (SyntaxError, ZeroDivisionError, RecursionError):
        return False


def _value(node: ast.AST) -> Fraction | None:
    """The exact value of + - * / and brackets; None of anything else."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _value(node.left), _value(node.right)
        return None if left is None or right is None else _OPERATIONS[type(node.op)](left, right)
    return None


def _same_number(answer: str, data: Mapping[str, Any]) -> bool:
    return number(answer) == number(str(data["answer"]), reduced=False)


def _one_fraction(answer: str, data: Mapping[str, Any]) -> bool:
    return len(re.findall(r"[0-9]+", answer)) == 2


def _as_many_words(answer: str, data: Mapping[str, Any]) -> bool:
    return len(answer.split()) == len(str(data["answer"]).split())


def _each_once(answer: str, data: Mapping[str, Any]) -> bool:
    """As many statements as the gold answer has, and nothing denied."""
    counts = [len(re.findall(r"\bis an?\b", text)) for text in (answer, str(data["answer"]))]
    return counts[0] == counts[1] and not re.search(r"\b(?:not|or|n't)\b", answer)


def _only(pattern: str) -> Callable[[str, Mapping[str, Any]], bool]:
    """Nothing stands in the answer but what the pattern allows."""
    return lambda answer, data: re.fullmatch(pattern, answer) is not None


# dataset: (what its scorer pays in full, what must hold instead)
GUARDS: Mapping[str, tuple[str, Callable[[str, Mapping[str, Any]], bool]]] = {
    "coin_flip": ("the first digits of the probability, such as 0", _near),
    "complex_arithmetic": ("nan", _no_nan),
    "fraction_simplification": ("the first of several fractions", _one_fraction),
    "game_of_life_halting": ("any text", _same_word),
    "gsm_symbolic": ("the number with the other sign", _same_number),
    "kakurasu": ("text around the grid", _only(r"[01\s]+")),
    "knights_knaves": ("several statements on one person, and denied ones", _each_once),
    "letter_jumble": ("more words behind the right ones", _as_many_words),
    "puzzle24": ("24 from other numbers than the problem's, and 24.9", _makes_24),
    "quantum_lock": ("text around the buttons", _only(r"[A-Z\s\u2192>,-]+")),
    "sokoban": ("text around the moves", _only(r"[UDLR\s]+")),
    "survo": ("text around the matrix", _only(r"[-0-9\s]+")),
}
