"""What a field may hold: its type and its range, said once beside the field and checked whenever a record is made.

    @dataclass(frozen=True)
    class MovingAverage(Checked):
        rate: Annotated[float, between(0, 1, above=True, why="at 0 the baseline never moves")] = 0.1

The same annotation reads text from the command line (`read`) and refuses what does not fit (`check`), so that flags,
TOML and Python meet one rule and one message. NaN is refused everywhere, infinity wherever a range does not name it.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from rung.errors import InputError, setting, unknown

T = TypeVar("T")
Positional = Annotated[T, "positional"]  # of a command: a word without a flag
Hidden = Annotated[T, "hidden"]  # of a command: no word fills it

LARGEST = 1e9  # of a number with a fraction: a larger one is a slip
LONGEST_NAME = 100
LARGEST_WHOLE = 2**53  # up to here a float holds every whole number


@dataclass(frozen=True)
class Range:
    """low <= x <= high; `above`, `below` leave an end out; `or_zero`: 0 too, which is off.  why: said when it is broken."""

    low: float = -LARGEST
    high: float | None = None
    above: bool = False
    below: bool = False
    or_zero: bool = False
    why: str = ""

    def holds(self, x: float) -> bool:
        """Whether x lies inside; NaN never does."""
        if self.or_zero and x == 0:
            return True
        high = self.high if self.high is not None else LARGEST_WHOLE if isinstance(x, int) else LARGEST
        return (self.low < x if self.above else self.low <= x) and (x < high if self.below else x <= high)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'of at least'} {self.low:g}" if self.low > -LARGEST else "that is finite"
        high = f" and {'below' if self.below else 'at most'} {self.high:.16g}" if self.high is not None else ""
        high = ", infinity included" if self.high == math.inf else high
        both = low + high if not high or self.above or self.below else f"from {self.low:g} to {self.high:.16g}"
        return both + (", or 0" if self.or_zero else "") + (f" ({self.why})" if self.why else "")


def at_least(low: float, why: str = "", *, or_zero: bool = False) -> Range:
    return Range(low, or_zero=or_zero, why=why)


def above(low: float, why: str = "", *, high: float | None = None) -> Range:
    return Range(low, high, above=True, why=why)


def between(
    low: float, high: float, why: str = "", *, above: bool = False, below: bool = False, or_zero: bool = False
) -> Range:
    return Range(low, high, above, below, or_zero, why)


FINITE = Range()
Count = Annotated[int, at_least(1)]
Answers = Annotated[int, between(1, 1_000_000)]  # to one prompt
Natural = Annotated[int, at_least(0)]
Coefficient = Annotated[float, at_least(0)]
Share = Annotated[float, between(0, 1)]
Positive = Annotated[float, above(0)]
Temperature = Annotated[float, between(1e-3, 1e3, "0 is greedy", or_zero=True)]
TopP = Annotated[float, between(0, 1, "the probability that the kept tokens have together", above=True)]
LearningRate = Annotated[float, between(0, 10, "AdamW moves every weight by about this much a step")]
Seed = Annotated[int, between(0, LARGEST_WHOLE)]


class Checked:
    """A dataclass whose fields are checked against their annotations whenever one is made."""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        refuse_unfinished(kind)
        refuse_unfit(self, f"{type(self).__name__}.")


class Settings(Checked):
    """The same for settings, which messages name alone: seed is -1."""

    def __post_init__(self) -> None:
        refuse_unfit(self, "")


class Flags(Checked):
    """The same for the flags of a command, which messages name as they are given: --seed is -1, or seed is -1."""

    def __post_init__(self) -> None:
        refuse_unfit(self, "", setting)


@lru_cache(maxsize=512)
def hints(cls: Any) -> dict[str, Any]:
    """{field: its annotation with all ranges} of a dataclass; each base class in the names of its own module."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise InputError(
            f"{cls.__name__}: {error}, so its fields cannot be checked. Import what they are annotated with at the top "
            "of its module."
        ) from error


@lru_cache(maxsize=512)
def refuse_unfinished(kind: Any) -> None:
    """Refuse a part of one's own that lacks a method which its base leaves to it."""
    base = kind.__bases__[0].__name__
    lacking = [f"{n}()" for n in dir(kind) if getattr(getattr(kind, n, None), "__isabstractmethod__", False)]
    if lacking:
        raise InputError(
            f"{kind.__name__} ({base}) has no {' and no '.join(lacking)}. Define {'it' if len(lacking) == 1 else 'them'} in the "
            f"class; what {base} asks for stands in its docstring."
        )


def refuse_unfit(record: Any, inside: str, named: Callable[[str], str] = str) -> None:
    """Refuse a record with a field of the wrong type or out of its range. InputError: which, its value, and why."""
    kind: Any = type(record)
    annotated = hints(kind)
    for f in fields(record):
        value = getattr(record, f.name)
        if (own := plain(value)) is not value:
            object.__setattr__(record, f.name, own)
        refuse(own, annotated[f.name], inside + named(f.name))
        if own == "" and not inside:
            raise InputError(f"{named(f.name)} is empty. Leave it out, or say which.")


def called(function: Callable[..., T], options: Mapping[str, Any], of: str) -> T:
    """function(**options) once each option has been looked at, in its name, type and range. of: whose they are."""
    known = typing.get_type_hints(function, include_extras=True)
    known.pop("return", None)
    for name, value in options.items():
        if name not in known:
            raise unknown(f"option of {of}", name, known)
        refuse(plain(value), known[name], f"{of}.{name}")
    return function(**{name: plain(value) for name, value in options.items()})


def refuse(value: Any, hint: Any, where: str) -> None:
    """InputError unless `value` is what `hint` asks for."""
    problem = problem_of(value, hint)
    if problem is not None:
        names = [n for o in options_of(hint) if typing.get_origin(o) is Literal for n in typing.get_args(o)]
        near = difflib.get_close_matches(value.lower(), names, n=1, cutoff=0.5) if isinstance(value, str) else []
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{where} is {shown(value)}; it must be {problem}.{meant}")


def refuse_name(name: Any, where: str) -> None:
    """InputError unless it can head a table, a metric and a file: printable, not blank, without slashes, not too long."""
    plainly = isinstance(name, str) and name.isprintable() and name == name.strip() and 0 < len(name) <= LONGEST_NAME
    if not plainly or name in (".", "..") or set(name) & {"/", "\\"}:
        raise InputError(
            f"{where} is {shown(name)}; a name is printable, does not begin or end with a blank, has no slash and 1 to "
            f"{LONGEST_NAME} characters."
        )


def problem_of(value: Any, hint: Any) -> str | None:
    """None if the value fits; else what it must be, in words: its range if the type is right, the type otherwise."""
    options = options_of(hint)
    if any(_is_a(value, bare(o)) and _inside(value, o) for o in options):
        return None
    right = [o for o in options if _is_a(value, bare(o))]
    if right and isinstance(value, str | Path):
        return "text that a file can hold, without a null character or half of a surrogate pair"
    said = " or ".join(_said(o) for o in right or options)
    infinite = isinstance(value, float) and value == math.inf and "finite" not in said
    return said.replace("a number", "a finite number", 1) if infinite else said


def ordered(record: Any, low: str, high: str) -> None:
    """Refuse a record whose field `low` is larger than its field `high`: nothing lies between them."""
    least, most = getattr(record, low), getattr(record, high)
    if least > most:
        name = type(record).__name__
        raise InputError(f"{name}.{low} is {least} and {name}.{high} {most}: nothing lies between. Exchange them.")


# -- from other libraries' numbers ---------------------------------------------------------------------------------
def plain(value: Any) -> Any:
    """A scalar of numpy's or torch's as Python's own where that holds it exactly, also inside tables; else as it is."""
    if type(value) is dict:
        return {key: plain(x) for key, x in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if getattr(value, "shape", None) != () or not callable(getattr(value, "item", None)):
        return value
    own = value.item()
    if type(own) in (str, int, float, bool):
        return own
    try:  # numpy's long double has no item of Python's
        return float(own) if float(own) == own else value
    except (TypeError, ValueError):
        return value


# -- from text -----------------------------------------------------------------------------------------------------
def read(value: Any, hint: Any) -> Any:
    """Text as what the annotation asks for: "0.28" as 0.28, "true" as True, "none" as None; 1 as 1.0. Else as it is."""
    value, kinds = plain(value), [bare(option) for option in options_of(hint)]
    whole = isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds
    if not (whole or isinstance(value, str)):
        return value
    for kind in (type(None), bool, int, float):
        if kind in kinds:
            try:
                return float(value) if whole else _READERS[kind](value)
            except (ValueError, KeyError, OverflowError):
                continue
    return value


_READERS: dict[Any, Any] = {
    type(None): lambda text: {"none": None}[text.lower()],
    bool: lambda text: {"true": True, "false": False}[text.lower()],
    int: int,
    float: float,
}


# -- annotations ---------------------------------------------------------------------------------------------------
def options_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union, also of one inside Annotated; a single type alone."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(o for member in typing.get_args(hint) for o in options_of(member))
    if origin is Annotated and typing.get_origin(bare(hint)) in (typing.Union, types.UnionType):
        return options_of(bare(hint))
    return (hint,)


def is_positional(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated and "positional" in typing.get_args(hint)


def is_hidden(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated and "hidden" in typing.get_args(hint)


def bare(hint: Any) -> Any:
    """The annotation without what stands beside it in Annotated."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _is_a(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind is bool or isinstance(value, bool):
        return kind in (bool, object) and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float)
    origin = typing.get_origin(kind)
    if origin is Literal:
        return any(type(value) is type(x) and value == x for x in typing.get_args(kind))
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        return isinstance(value, tuple) and all(_is_a(x, inner) for x in value)
    kind = origin or kind
    return isinstance(value, kind) if isinstance(kind, type) and not getattr(kind, "_is_protocol", False) else True


def _inside(value: Any, hint: Any) -> bool:
    if isinstance(value, str | Path):
        return "\0" not in str(value) and not any("\ud800" <= c <= "\udfff" for c in str(value))
    if not isinstance(value, int | float) or isinstance(value, bool):
        return True
    ranges = [r for r in typing.get_args(hint)[1:] if isinstance(r, Range)] if bare(hint) is not hint else []
    return all(r.holds(value) for r in ranges or [FINITE])


def _said(hint: Any) -> str:
    ranges = [str(r) for r in typing.get_args(hint)[1:] if isinstance(r, Range)] if bare(hint) is not hint else []
    kind = bare(hint)
    if kind is type(None):
        return "none"
    if typing.get_origin(kind) is Literal:
        names = list(map(str, typing.get_args(kind)))
        return "one of " + ", ".join(names) if len(names) > 1 else names[0]
    kind = typing.get_origin(kind) or kind
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        dict: "a table",
        Path: "a path",
    }
    name = words.get(kind) or str(getattr(kind, "__name__", kind))
    if isinstance(kind, type) and issubclass(kind, Checked):
        return ": ".join([name, *filter(None, [", ".join(sorted(k.__name__ for k in _below(kind)))])])
    limits = ranges or ([str(FINITE)] if kind is float else [])
    return " ".join([name, *limits])


def _below(kind: type) -> Iterator[type]:
    """The parts that are made of this kind: its subclasses, those without any of their own."""
    below: list[type] = kind.__subclasses__()
    for part in below:
        yield from _below(part) if part.__subclasses__() else (part,)


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  a whole number of thousands of digits, alone or inside; or what anybody's __repr__ raises
        if isinstance(value, int):
            return f"a whole number of {math.floor(math.log10(abs(value))) + 1} digits"
        return f"a {type(value).__name__} that cannot be written out"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
