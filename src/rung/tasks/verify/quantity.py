r"""Numbers as people and models write them, read exactly: one number with its unit, or none.

    5\frac{1}{2} = 5.5      1.5 \times 10^6 = 1500000      5 dozen = 60      $1,200.00 = 1200 dollars      -0.\overline{3} = -1/3

A value is a `Fraction`; nothing is rounded. What is left to be computed is no number: 10/2, 7 + 2, 3^2, a mixed number with
an improper fraction. Of golds alone an unreduced fraction is read too.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from rung.tasks.verify.plain import plain
from rung.tasks.verify.units import NO_UNIT, PERCENT, Unit, suffix

LONGEST = 400  # characters of a number
_GROUPS = (
    r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[1-9][0-9]{0,2}(?:_[0-9]{3})+(?![0-9_])"
    r"|[1-9][0-9]{0,2}(?:['\u2019][0-9]{3})+(?![0-9])"
)
_SPACED = r"[1-9][0-9]{0,2}(?: [0-9]{3})+(?![0-9/,]| [0-9])"
# One number: sign, thousands, decimals, a power of ten, a fraction, a mixed number. The groups are atomic, so that a
# number is taken whole or not at all: "9.10.11" and "2x3" are not numbers.
NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z)\]}.])[-+][$\u20ac\u00a3\u00a5\u20b9]?)?(?<![A-Za-z0-9_])(?<![0-9]\.)"
    rf"(?>(?>{_SPACED}|{_GROUPS}|[0-9]+ [0-9]+/[0-9]+|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
    r"(?>[eE][-+]?[0-9]+)?(?>/[0-9]+)?(?![A-Za-z_]+[0-9]|\.[0-9])"
)
_CLOCK = re.compile(r"(?<![0-9:.])([01]?[0-9]|2[0-3])(?::([0-5][0-9]))?(?:\s*([aApP])\.?\s?[mM]\b\.?)?(?![0-9:])")
_BASED = re.compile(
    r"([0-9][0-9A-Za-z]*)(?:_\{?\s*([0-9]{1,2}|two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen)\s*\}?"
    r"|\s*\(?base ([0-9]{1,2})\)?)"
)
_WORDS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
    "sixteen": 16,
}
_NAME = re.compile(r"(\\?[A-Za-z][\w{}\\() ,'|]{0,60}?)\s*(?:[=:]|\u2248)\s*")
_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([\w,]+\))?'?")
_MONEY = re.compile(r"([-+]?)\s*(?:US|[AC])?([$\u20ac\u00a3\u00a5\u20b9]|USD|EUR|GBP|Rs\.?|INR)\s*([-+]?)\s*(?=[0-9.])")
_SIMPLE = re.compile(r"-?[0-9]{1,300}(?:\.[0-9]{1,90})?")
_OPEN, _CLOSE = " $\"'`([:", " )]$\"'`,;:"


@dataclass(frozen=True)
class Quantity:
    """One number.

    name:   the variable that it is said to be the value of ("x = 5"); "" if none.
    unit:   its measure; of a numeral "base 2", of a time of day "clock", "clock m" where a.m. or p.m. was said.
    half:   half a unit in the last place of a decimal with at least three digits, 0 of all other numbers.
    """

    value: Fraction
    unit: Unit = NO_UNIT
    name: str = ""
    half: Fraction = Fraction(0)

    def __str__(self) -> str:
        """One spelling per value, for voting; `quantity` reads it back."""
        if self.unit.name.startswith("base "):
            return f"{_in_base(int(self.value), int(self.unit.name[5:]))}_{self.unit.name[5:]}"
        if self.unit.name.startswith("clock"):
            hour, minute = divmod(int(self.value), 60)
            if self.unit.name == "clock":
                return f"{hour}:{minute:02}"
            return f"{(hour - 1) % 12 + 1}:{minute:02} {'ap'[hour // 12]}m"
        text = _written(self.value)
        text = f"{text} {self.unit.name}" if self.unit.name else text
        return f"{self.name} = {text}" if self.name else text


def number(text: str, *, reduced: bool = True) -> Fraction | None:
    """The exact value of one written number; None if it is none, is out of bounds, or is a fraction left unreduced.

    "10/2" is an exercise and not its answer, so only fractions in lowest terms are numbers. Bounds (400 characters,
    powers of ten up to 308) keep "1e999999999" from filling the memory.
    """
    text = text.strip().replace("\u2212", "-")
    if len(text) > LONGEST or not NUMBER.fullmatch(text):
        return None
    bare = re.sub(r"[,_$\u20ac\u00a3\u00a5\u20b9'\u2019]", "", text)
    if "/" in bare:
        return _ratio(bare, reduced)
    mantissa, _, exponent = bare.replace(" ", "").lower().partition("e")
    if exponent and (len(exponent) > 4 or abs(int(exponent)) > 308):
        return None
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def _ratio(bare: str, reduced: bool) -> Fraction | None:
    """a/b, or a mixed number "w a/b" with a < b; in lowest terms, unless `reduced` is switched off."""
    whole, _, ratio = bare.lstrip("+-").rpartition(" ")
    above, _, below = ratio.partition("/")
    if not (above.isdigit() and below.isdigit()) or not int(below):
        return None
    value, unreduced = Fraction(int(above), int(below)), int(below) == 1 or math.gcd(int(above), int(below)) != 1
    if (unreduced and reduced) or (whole and (not whole.isdigit() or value >= 1 or unreduced)):
        return None
    value += int(whole or 0)
    return -value if bare[0] == "-" else value


def canonical(text: str) -> str | None:
    """One spelling per value: "1,200.50" is "1200.5", "1/3" stays; None if the text is no number."""
    value = number(text)
    return None if value is None else _written(value)


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value)
    decimal = Decimal(value.numerator) / Decimal(value.denominator)
    return format(decimal, "f") if Fraction(decimal) == value else str(value)


@lru_cache(maxsize=8192)
def quantity(text: str, *, gold: bool = False, letters: bool = True) -> Quantity | None:
    r"""The one number that a short text such as "$1,200", "x = 5 cm" or "5\frac{1}{2}" holds; else None.

    gold:    unreduced fractions are read too.
    letters: "5k" is 5000; switched off where k may be a variable.
    """
    if _SIMPLE.fullmatch(text):
        return Quantity(Fraction(text), half=_half(text))
    said = plain(text[:1000]).strip().rstrip(".").strip()
    name, said = _named(said)
    if name is None:
        return None
    said = said.strip(_OPEN + "\u2248").rstrip(_CLOSE) if not said.startswith(("$", "(")) else said
    said = _opened(said)
    special = _clock(said) or _based(said)
    if special is not None:
        return replace(special, name=name)
    said, money = _money(said)
    said = re.sub(r"^([-+])\s+(?=[0-9.])", r"\1", said)
    found = NUMBER.match(said)
    if (
        found is None
        or foreign_digit(said)
        or (not letters and re.match(r"[kKMB]\b", said[found.end() :]) and not money)
    ):
        return None
    value = number(found[0], reduced=not gold)
    behind = suffix(said[found.end() :].split("\u2248")[0].rstrip("$)] "))
    if value is None or behind is None:
        return None
    multiple, unit = behind
    if money is not None:
        unit = money if unit in (NO_UNIT, money) else unit
    return Quantity(value * multiple, unit, name, _half(found[0]) * multiple)


def _named(said: str) -> tuple[str | None, str]:
    """The variable before "=" and the rest; the name is None where the left side is more than a name."""
    before, sign, after = said.rpartition("=")
    if not sign:
        named = _NAME.match(said)
        if named is None or ("\u2248" not in named[0] and ":" not in named[0]):
            return "", said
        before, after = named[1], said[named.end() :]
    before = before.strip(" $(*_`\"'")
    if not before:
        return "", after
    if not _NAME.fullmatch(before + "="):
        return None, said
    return before.replace(" ", "") if _VARIABLE.fullmatch(before) and len(before) < 24 else "", after


def _opened(said: str) -> str:
    """Without the brackets, dollar signs and quotes that stand around all of it."""
    for _ in range(3):
        said = said.strip().strip("\"'`").strip()
        if said[:1] + said[-1:] in ("()", "[]", "$$", "{}") and len(said) > 2:
            said = said[1:-1]
        elif said.endswith("$"):
            said = said[:-1]
    return said.strip()


def _money(said: str) -> tuple[str, Unit | None]:
    found = _MONEY.match(said)
    if found is None:
        return said, None
    behind = suffix(found[2].rstrip("."))
    return f"{found[1] or found[3]}{said[found.end() :]}", behind[1] if behind else None


def _clock(said: str) -> Quantity | None:
    """A time of day in minutes: "10:30", "10:30 a.m.", "5 pm"."""
    found = _CLOCK.fullmatch(said)
    if found is None or not (found[2] or found[3]):
        return None
    hour, minute, half = int(found[1]), int(found[2] or 0), (found[3] or "").lower()
    if half and not 1 <= hour <= 12:
        return None
    hour = hour % 12 + 12 * (half == "p") if half else hour
    return Quantity(Fraction(60 * hour + minute), Unit("clock m" if half else "clock"))


def _based(said: str) -> Quantity | None:
    """A numeral with its base: 1010_2, 2E_{16}, 121 (base 3)."""
    found = _BASED.fullmatch(said)
    if found is None or len(found[1]) > LONGEST:
        return None
    base = _WORDS.get(found[2]) or int(found[2] or found[3])
    if not 2 <= base <= 36:
        return None
    try:
        return Quantity(Fraction(int(found[1], base)), Unit(f"base {base}"))
    except ValueError:  # a digit that the base does not have
        return None


def _in_base(value: int, base: int) -> str:
    digits = ""
    while value:
        value, digit = divmod(value, base)
        digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit] + digits
    return digits or "0"


def _half(written: str) -> Fraction:
    """Half a unit in the last place of 3.14 or 0.333; 0 of whole numbers, fractions, powers of ten and short decimals."""
    whole, point, decimals = written.lstrip("+-$").replace(",", "").partition(".")
    if not point or not decimals.isdigit() or len((whole + decimals).lstrip("0")) < 3:
        return Fraction(0)
    return Fraction(1, 2 * 10 ** len(decimals))


def agree(gold: Quantity, answer: Quantity) -> bool:
    """Whether the answer is the gold quantity.

    A unit or a variable's name counts where both sides have one; measures are converted. A gold that is a decimal with three
    digits or more may be an approximation: a fraction without a finite decimal, such as 1/3, agrees if it rounds to it.
    """
    if gold.name and answer.name and gold.name != answer.name:
        return False
    kinds = {q.unit.name.split(" ")[0] for q in (gold, answer)} & {"base", "clock"}
    if kinds:
        return _based_agree(gold, answer) if "base" in kinds else _clocks_agree(gold, answer)
    if not gold.unit.meanings or not answer.unit.meanings:
        return _percent_agree(gold, answer) if PERCENT in (gold.unit, answer.unit) else _near(gold, answer.value)
    factors = [
        wanted / said
        for wanted, wanted_kind in gold.unit.meanings
        for said, said_kind in answer.unit.meanings
        if wanted_kind == said_kind
    ]
    return any(_near(gold, answer.value / factor) for factor in factors)


def _near(gold: Quantity, value: Fraction) -> bool:
    if value == gold.value:
        return True
    return 0 < abs(value - gold.value) <= gold.half and not _finite(value)


def _finite(value: Fraction) -> bool:
    """Whether the value has a finite decimal: no other prime factors below than 2 and 5."""
    below = value.denominator
    return pow(10, below.bit_length(), below) == 0


def _percent_agree(gold: Quantity, answer: Quantity) -> bool:
    """50% is 0.5; and it is 50 where the other side left the sign out, which only numbers above 1 can have done."""
    percent, bare = (gold, answer) if gold.unit == PERCENT else (answer, gold)
    return percent.value / 100 == bare.value or (percent.value == bare.value and abs(bare.value) > 1)


def _based_agree(gold: Quantity, answer: Quantity) -> bool:
    """The same numeral; the base may be left out of the answer, and 10 is the base of a number without one."""
    if gold.unit == answer.unit:
        return gold.value == answer.value
    if answer.unit == NO_UNIT:
        return _in_base(int(gold.value), int(gold.unit.name[5:])) == str(answer.value)
    return gold.unit == NO_UNIT and answer.unit.name == "base 10" and gold.value == answer.value


def _clocks_agree(gold: Quantity, answer: Quantity) -> bool:
    """The same time; a bare "5" or "5:30" is read on the clock of 24 hours, in a gold also on that of 12."""
    if gold.unit.meanings or answer.unit.meanings:
        return False
    wanted, said = (q.value if q.unit.name else 60 * q.value for q in (gold, answer))
    return wanted == said or (
        gold.unit.name != "clock m" and answer.unit.name == "clock m" and (wanted - said) % 720 == 0
    )


def foreign_digit(text: str) -> bool:
    """Whether a digit of another script, a superscript or a vulgar fraction stands in the text."""
    return not text.isascii() and any(not c.isascii() and unicodedata.category(c)[0] == "N" for c in text)
