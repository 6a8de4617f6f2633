r"""How a right number may be written, and what only looks like it: for `rung verify`.

The value of a gold answer is read here by three plain patterns and never by the verifiers' own reader, so that a mistake
of theirs cannot hide itself: 5\frac{1}{2} must be answered by 5.5 and 11/2, and not by 25.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

_PLAIN = re.compile(r"-?[0-9]{1,30}(?:,[0-9]{3})*(?:\.[0-9]{1,20})?(?:[eE][-+]?[0-9]{1,2})?")
_RATIO = re.compile(r"(-?)([0-9]{1,9})/([0-9]{1,9})|(-?)\\[dt]?frac\{(-?[0-9]{1,9})\}\{([0-9]{1,9})\}")
_MIXED = re.compile(r"(-?)([0-9]{1,9})(?:\s*\\[dt]?frac\{([0-9]{1,9})\}\{([0-9]{1,9})\}| ([0-9]{1,9})/([0-9]{1,9}))")
LARGE = 10_000  # from here on a power of ten is a usual form


def value_of(gold: str) -> Fraction | None:
    """The value of a number, a fraction or a mixed number in its plainest spelling; None of everything else."""
    gold = gold.strip().strip("$").rstrip(".").strip()
    if _PLAIN.fullmatch(gold):
        return Fraction(gold.replace(",", ""))
    if found := _RATIO.fullmatch(gold):
        sign = -1 if (found[1] or found[4]) == "-" else 1
        above, below = int(found[2] or found[5]), int(found[3] or found[6])
        return sign * Fraction(above, below) if below else None
    if found := _MIXED.fullmatch(gold):
        above, below = int(found[3] or found[5]), int(found[4] or found[6])
        if not 0 < above < below:
            return None
        return (int(found[2]) + Fraction(above, below)) * (-1 if found[1] else 1)
    return None


def spellings(gold: str) -> Iterator[str]:
    """Answers that hold the gold number, in the ways that models write numbers."""
    value = value_of(gold)
    if value is None:
        return
    short = _short(value)
    yield f"The number that we look for is **{short}**."
    yield f"**Answer: {short}**"
    yield f"The answer is ${short}$."
    if value < 0:
        yield f"\\boxed{{\u2212{short[1:]}}}"
    if value.denominator == 1 and abs(value) >= 1000:
        yield f"\\boxed{{{int(value):,}}}"
        yield f"\\boxed{{{int(value):,}}}".replace(",", "{,}")
        yield f"It comes to {int(value):,} in all."
    if value.denominator == 1 and abs(value) >= LARGE:
        yield from _powers(value)
    if value.denominator != 1:
        yield from _fractions(value)


def _short(value: Fraction) -> str:
    return _decimal(value) or str(value)


def _decimal(value: Fraction) -> str | None:
    """The finite decimal of up to 12 places; None if there is none."""
    for places in range(13):
        if (value * 10**places).denominator == 1:
            digits = str(abs(int(value * 10**places))).rjust(places + 1, "0")
            body = f"{digits[:-places]}.{digits[-places:]}" if places else digits
            return f"-{body}" if value < 0 else body
    return None


def _fractions(value: Fraction) -> Iterator[str]:
    sign, above, below = "-" if value < 0 else "", abs(value.numerator), value.denominator
    yield f"\\boxed{{{sign}{above}/{below}}}"
    for command in ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac"):
        yield f"\\boxed{{{sign}{command}{{{above}}}{{{below}}}}}"
    yield f"\\boxed{{\\left({sign}\\frac{{{above}}}{{{below}}}\\right)}}"
    yield f"\\boxed{{\\frac{{{sign}{above}}}{{{below}}}}}"
    yield f"The answer is ${sign}\\frac{{{above}}}{{{below}}}$."
    if above < 10 and below < 10:
        yield f"\\boxed{{{sign}\\frac{above}{below}}}"
    if above > below:
        whole, rest = divmod(above, below)
        yield f"\\boxed{{{sign}{whole}\\frac{{{rest}}}{{{below}}}}}"
        yield f"\\boxed{{{sign}{whole} {rest}/{below}}}"


def _powers(value: Fraction) -> Iterator[str]:
    digits = str(abs(int(value)))
    mantissa = f"{digits[0]}.{digits[1:].rstrip('0')}".rstrip(".")
    sign = "-" if value < 0 else ""
    yield f"\\boxed{{{sign}{mantissa} \\times 10^{{{len(digits) - 1}}}}}"
    yield f"\\boxed{{{sign}{mantissa}e{len(digits) - 1}}}"


def mistaken(gold: str) -> Iterator[tuple[str, str]]:
    """(why, another number, or none) that careless reading takes for the gold one."""
    value = value_of(gold)
    if value is None:
        return
    short = _short(value)
    for why, text in (
        ("in millions", f"{short} million"),
        ("in dozens", f"{short} dozen"),
        ("in thousands", f"{short}k"),
        ("times x", f"{short}x"),
        ("times i", f"{short}i"),
        ("times pi", f"{short}\\pi"),
        ("times a root", f"{short}\\sqrt{{2}}"),
        ("a power of ten", f"{short} \\times 10^{{3}}"),
        ("a power", f"2^{{{short}}}"),
        ("a fraction of it", f"\\frac{{{short}}}{{3}}"),
        ("under it", f"\\frac{{1}}{{{short}}}"),
    ):
        if (value or why in ("a power", "under it")) and not (abs(value) == 1 and why == "under it"):
            yield why, text
    if value > 0 and value.denominator == 1:
        yield "a mixed number", f"{short}\\frac{{1}}{{2}}"
        yield "bold, a power", f"2**{short}"
    if value.denominator != 1 and abs(value) > 1:
        whole, rest = divmod(abs(value.numerator), value.denominator)
        joined = Fraction(int(f"{whole}{rest}"), value.denominator) * (-1 if value < 0 else 1)
        if joined != value:
            yield "digits joined", str(joined)
        yield "a product", str(Fraction(whole * rest, value.denominator) * (-1 if value < 0 else 1))


# What makes another answer of a formula: (why, pattern, the text instead).
_OTHER = (
    ("another exponent", r"\^\{?([0-9]+)", lambda m: m[0][: -len(m[1])] + str(int(m[1]) + 1)),
    ("another base", r"(?<=[0-9])_\{?([0-9]{1,2})\}?$", lambda m: f"_{{{int(m[1]) + 1}}}"),
    ("the other half of the day", r"\b([ap])(?=\.?\s?m\b)", lambda m: "p" if m[1] == "a" else "a"),
    ("another unit", r"\b(cm|km)\b", lambda m: "m"),
    ("swapped", r"\(\s*([^(),]+?)\s*,\s*([^(),]+?)\s*\)$", lambda m: f"({m[2]}, {m[1]})" if m[1] != m[2] else m[0]),
    ("turned round", r"^([a-z])\s*=\s*([02-9])([a-z])$", lambda m: f"{m[3]} = {m[2]}{m[1]}"),
    ("another variable", r"^([a-z])(?=\s*=)", lambda m: "w" if m[1] != "w" else "v"),
    ("the last digit", r"([0-9])(?=[^0-9]*$)", lambda m: str((int(m[1]) + 1) % 10)),
)


def other_formulas(gold: str) -> Iterator[tuple[str, str]]:
    """(why, a formula that is not the gold one), by one small change each."""
    for why, pattern, instead in _OTHER:
        changed = re.sub(pattern, instead, gold, count=1)
        if changed != gold:
            yield why, changed
