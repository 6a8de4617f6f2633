"""What may stand behind a number: percent, degrees, money, measures with powers and slashes, words of number, other words.

"25 cm^2", "25 square centimeters" and "0.0025 m^2" are one quantity; "25 m^2" is another. Of a phrase the leading measures
count; ordinary words ("apples", "years old") say nothing. "5x" and "5 i" are no numbers with a unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product

Dimensions = tuple[tuple[str, int], ...]  # ("m", 1), ("s", -1): a speed
Meaning = tuple[Fraction, Dimensions]  # how many of the base unit, and which


@dataclass(frozen=True)
class Unit:
    """name: one spelling of it, "" where only ordinary words stand; meanings: more than one for "pounds"."""

    name: str = ""
    meanings: tuple[Meaning, ...] = ()


NO_UNIT = Unit()
PERCENT = Unit("%", ((Fraction(1, 100), ()),))

# base unit: {unit: (how many of the base, its spellings)}; a spelling in two places has two meanings
_TABLE: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "m": {
        "mm": ("1/1000", "mm millimeter millimeters millimetre millimetres"),
        "cm": ("1/100", "cm centimeter centimeters centimetre centimetres"),
        "dm": ("1/10", "dm decimeter decimeters decimetre decimetres"),
        "m": ("1", "m meter meters metre metres"),
        "km": ("1000", "km kilometer kilometers kilometre kilometres"),
        "in": ("127/5000", "in inch inches"),
        "ft": ("381/1250", "ft foot feet"),
        "yd": ("1143/1250", "yd yds yard yards"),
        "mi": ("201168/125", "mi mile miles"),
    },
    "g": {
        "mg": ("1/1000", "mg milligram milligrams"),
        "g": ("1", "g gram grams gm"),
        "kg": ("1000", "kg kgs kilogram kilograms kilo kilos"),
        "lb": ("45359237/100000", "lb lbs pound pounds"),
        "oz": ("45359237/1600000", "oz ounce ounces"),
    },
    "s": {
        "ms": ("1/1000", "ms millisecond milliseconds"),
        "s": ("1", "s sec secs second seconds"),
        "min": ("60", "min mins minute minutes"),
        "h": ("3600", "h hr hrs hour hours"),
        "day": ("86400", "day days"),
        "week": ("604800", "week weeks"),
    },
    "month": {"month": ("1", "month months"), "year": ("12", "yr yrs year years")},
    "m^3": {
        "mL": ("1/1000000", "ml milliliter milliliters millilitre millilitres"),
        "L": ("1/1000", "l liter liters litre litres"),
        "cup": ("473176473/2000000000000", "cup cups"),
        "pint": ("473176473/1000000000000", "pint pints"),
        "quart": ("473176473/500000000000", "quart quarts"),
        "gallon": ("473176473/125000000000", "gal gallon gallons"),
    },
    "m^2": {"acre": ("316160658/78125", "acre acres"), "hectare": ("10000", "ha hectare hectares")},
    "deg": {"deg": ("1", "deg \u00b0 degree degrees")},
    "degC": {"degC": ("1", "\u00b0C degC celsius \u00b0 deg degree degrees")},
    "degF": {"degF": ("1", "\u00b0F degF fahrenheit \u00b0 deg degree degrees")},
    "rad": {"rad": ("1", "rad radian radians")},
    "K": {"K": ("1", "K kelvin kelvins")},
    "dollar": {
        "dollar": ("1", "$ usd dollar dollars buck bucks"),
        "cent": ("1/100", "cent cents \u00a2"),
    },
    "euro": {"euro": ("1", "\u20ac eur euro euros"), "cent": ("1/100", "cent cents")},
    "gbp": {"gbp": ("1", "\u00a3 gbp pound pounds"), "pence": ("1/100", "pence")},
    "yen": {"yen": ("1", "\u00a5 yen jpy")},
    "rupee": {"rupee": ("1", "\u20b9 rs inr rupee rupees")},
    "N": {"N": ("1", "N newton newtons")},
    "J": {"J": ("1", "J joule joules"), "kJ": ("1000", "kJ kilojoule kilojoules")},
    "W": {"W": ("1", "W watt watts"), "kW": ("1000", "kW kilowatt kilowatts")},
    "V": {"V": ("1", "V volt volts")},
    "Hz": {"Hz": ("1", "Hz hertz")},
    "mol": {"mol": ("1", "mol mole moles")},
}
_COMPOUND = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "mpg": "mi/gallon"}
_CASED = {"K", "N", "J", "kJ", "W", "kW", "V", "Hz", "\u00b0C", "\u00b0F"}  # as lower case something else, or nothing


def _units() -> dict[str, list[tuple[str, Meaning]]]:
    found: dict[str, list[tuple[str, Meaning]]] = {}
    for base, members in _TABLE.items():
        kind, _, power = base.partition("^")
        for name, (factor, spellings) in members.items():
            for spelling in spellings.split():
                found.setdefault(spelling, []).append((name, (Fraction(factor), ((kind, int(power or 1)),))))
    return found


UNITS = _units()
# One name for spellings of the same meaning; that of "pounds", which has two, is a spelling with both.
_NAME = {tuple(meanings): spelling for spelling, meanings in reversed(UNITS.items())}
MULTIPLES: Mapping[str, int] = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "millions": 10**6, "mn": 10**6, "billion": 10**9, "billions": 10**9,
    "bn": 10**9, "trillion": 10**12, "trillions": 10**12, "dozen": 12, "dozens": 12, "lakh": 10**5, "crore": 10**7,
}  # fmt: skip
LETTERS: Mapping[str, int] = {"k": 1000, "K": 1000, "M": 10**6, "B": 10**9}  # attached to the number: 5k, $3M
# Words that make something else of the number before them.
_CHANGES = re.compile(
    r"(?:and|or|to|minus|plus|times|over|divided|by|out|not|no|in|squared|cubed|factorial|pi|half|halves|point|modulo|mod|than"
    r"|(?:thi|fou|fif|six|seven|eigh|nin|ten|twelf|hundred|thousand|million)(?:r?ds?|r?ths?))",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"\s*(\^-?[0-9]+|[/\u00d7*]|\u00b0\s?[CF](?![A-Za-z])|[\u00b0%$\u00a2\u20ac\u00a3\u00a5\u20b9]"
                    r"|[^\W\d_]+(?:['\u2019-][^\W\d_]+)*(?:[23](?![0-9]))?\.?|[,;:.!?()\"'\u2019]+)")  # fmt: skip


def word(text: str) -> list[tuple[str, Meaning]]:
    """(unit, meaning) of a spelling; empty where it is none."""
    text = text.replace(" ", "")
    return UNITS.get(text) or (UNITS.get(text.lower(), []) if text not in LETTERS and text not in _CASED else [])


@lru_cache(maxsize=4096)
def suffix(text: str) -> tuple[int, Unit] | None:
    """(multiple, unit) of what follows a number: ("million", "cm^2"); None where the number is then not what it was."""
    if text.startswith("!"):  # a factorial
        return None
    attached = re.match(r"[A-Za-z]+", text)
    multiple = 1
    if attached and attached[0] in LETTERS:
        multiple, text = LETTERS[attached[0]], text[attached.end() :]
    elif attached and attached[0] in ("st", "nd", "rd", "th"):
        text = text[attached.end() :]
    elif attached and not word(attached[0]) and attached[0].lower() not in (*MULTIPLES, *_COMPOUND, "percent", "pct"):
        return None
    tokens = _tokens(text)
    if tokens is None:
        return None
    while tokens and tokens[0].lower() in MULTIPLES:
        multiple *= MULTIPLES[tokens.pop(0).lower()]
    unit = _unit(tokens)
    return None if unit is None else (multiple, unit)


def unit_of_measure(text: str) -> str | None:
    """The leading part of a prose text that belongs to the number before it: " million", " cm^2", "%"; None if it is "5x"."""
    if (attached := re.match(r"[A-Za-z]+", text)) and suffix(attached[0]) is None:
        return None
    end = position = 0
    while token := _TOKEN.match(text, position):
        lower = token[1].rstrip(".").lower()
        power = token[1][0] == "^" and position
        known = (
            lower in MULTIPLES
            or lower in _COMPOUND
            or lower in ("percent", "%")
            or (lower != "in" and word(token[1].rstrip(".")))
        )
        if known or power or token is attached or (not position and attached):
            end = position = token.end(1)
        elif lower in ("/", "per", "square", "sq", "cubic", "squared", "cubed"):
            position = token.end(1)
            end = position if lower in ("squared", "cubed") and end else end
        else:
            break
    return text[:end].rstrip(".")


def unit_of(text: str) -> Unit | None:
    """The unit that a text without a number names; None if it cannot stand behind a number."""
    tokens = _tokens(text)
    return None if tokens is None else _unit(tokens)


def _tokens(text: str) -> list[str] | None:
    """Words, powers and slashes; None if anything else stands there."""
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            return None
        position = token.end()
        if token[1][0] not in ",;:.!?()\"'\u2019":
            tokens.append(token[1].rstrip(".") or token[1])
    for first, second in [("sq", "square"), ("cu", "cubic")]:
        tokens = [second if token.lower() == first else token for token in tokens]
    return [
        part
        for token in tokens
        for part in (_COMPOUND.get(token.lower(), token)).replace("/", " / ").split(" ")
        if part
    ]


def _unit(tokens: list[str]) -> Unit | None:
    if [token.lower() for token in tokens] in (["%"], ["percent"], ["per", "cent"], ["pct"], ["percentage"]):
        return PERCENT
    if tokens and tokens[0].lower() in ("%", "percent"):
        tokens = tokens[1:]
        return PERCENT if _admissible(tokens) else None
    found: list[tuple[list[tuple[str, Meaning]], int]] = []
    sign, power, at = 1, 1, 0
    while at < len(tokens):
        token, last = tokens[at], at + 1 == len(tokens)
        lower = token.lower()
        if token == "/" or lower == "per":
            sign = -1
        elif token in ("\u00d7", "*"):
            pass
        elif lower in ("square", "cubic"):
            power = 2 if lower == "square" else 3
        else:
            raised = token[-1:] in "23" and len(token) > 1
            meanings = word(token[:-1] if raised else token)
            if not meanings or (
                lower == "in" and not (last or tokens[at + 1][0] in "^/\u00d7*" or word(tokens[at + 1]))
            ):
                break
            if raised:
                power = int(token[-1])
            elif not last and tokens[at + 1][0] == "^":
                power, at = int(tokens[at + 1][1:]), at + 1
            elif not last and tokens[at + 1].lower() in ("squared", "cubed"):
                power, at = 2 if tokens[at + 1].lower() == "squared" else 3, at + 1
            elif not last and token == "\u00b0" and word("\u00b0" + tokens[at + 1]):
                meanings, at = word("\u00b0" + tokens[at + 1]), at + 1
            elif (
                not last
                and lower in ("degree", "degrees", "\u00b0")
                and tokens[at + 1].lower() in ("celsius", "fahrenheit")
            ):
                meanings, at = word(tokens[at + 1]), at + 1
            found.append((meanings, sign * power))
            power = 1
        at += 1
    return _combined(found) if _admissible(tokens[at:], first=at == 0) else None


def _admissible(tokens: Iterable[str], first: bool = False) -> bool:
    """Whether only ordinary words are left: no single letters, powers, or words that change the number."""
    for token in tokens:
        if (
            token[0] == "^"
            or token in ("\u00d7", "*", "=")
            or (_CHANGES.fullmatch(token) and (first or token.lower() not in ("in", "by", "to")))
        ):
            return False
        if len(token) == 1 and token.isalpha() and (first or token not in ("a", "A")) and not word(token):
            return False
        first = False
    return True


def _combined(found: list[tuple[list[tuple[str, Meaning]], int]]) -> Unit:
    """The product of unit^power, in every meaning."""
    if not found:
        return NO_UNIT
    names = [(meanings[0][0] if len(meanings) == 1 else _NAME[tuple(meanings)], power) for meanings, power in found]
    above = [f"{name}^{power}" if power != 1 else name for name, power in names]
    combined = []
    for choice in product(*([meaning for _, meaning in meanings] for meanings, _ in found)):
        factor, powers = Fraction(1), dict[str, int]()
        for (size, dimensions), (_, power) in zip(choice, found, strict=True):
            factor *= size**power
            for base, exponent in dimensions:
                powers[base] = powers.get(base, 0) + exponent * power
        combined.append((factor, tuple(sorted((base, power) for base, power in powers.items() if power))))
    return Unit(" ".join(above), tuple(combined))
