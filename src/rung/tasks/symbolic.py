"""Equality of two mathematical answers by math-verify. Runs in a worker process only: it may hang, and may be killed.

math-verify's own time limits are switched off: they answer "not equal" when time is up, which would turn "could not
tell" into a silent zero. The pool's deadline takes their place. This file imports nothing of the package (worker.py).
"""

import logging

from math_verify import LatexExtractionConfig, parse, verify

logging.disable(logging.WARNING)  # one warning per process that the time limits are off
_LATEX = [LatexExtractionConfig(boxed_match_priority=0)]


def equal(gold: str, answer: str) -> float:
    """1 if both texts, read as the content of one LaTeX box, denote the same mathematical object; else 0."""
    golds = _read(gold)
    if not golds:
        raise ValueError(f"math-verify cannot read the gold answer {gold!r}")
    answers = _read(answer)
    return float(bool(answers) and verify(golds, answers, timeout_seconds=None))


def _read(text: str) -> list:  # type: ignore[type-arg]  # sympy objects
    return parse(f"\\boxed{{{text}}}", _LATEX, fallback_mode="no_fallback", parsing_timeout=None)


equal("\\frac{1}{2}", "0.5")  # builds math-verify's parser now, so that no answer's deadline pays for it
