"""What may pass between a program and its judge: plain data of a closed set of types, as JSON lines of limited length.

The receiver builds the values anew, so that no class, operator or exception of the sender comes with them.
"""

from __future__ import annotations

import decimal
import fractions
import json
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Any

LINE = 16 << 20  # bytes; a longer value is refused
SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
SMALL = 1 << 63  # larger integers travel as hexadecimal: decimal digits would take quadratic time


def encode(value: Any, keep: Callable[[Any], int]) -> Any:
    """Tagged JSON of plain data; any other object is kept by `keep` and named by a number."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if -SMALL < number < SMALL else {"int": hex(number)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value).hex()}
    for tag, kind in SEQUENCES.items():
        if isinstance(value, kind):
            return {tag: [encode(item, keep) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key, keep), encode(item, keep)] for key, item in value.items()]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, fractions.Fraction):
        return {"fraction": [encode(part, keep) for part in (value.numerator, value.denominator)]}
    if isinstance(value, decimal.Decimal):
        return {"decimal": str(value)}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), keep)
    return {"object": keep(value)}


def decode(data: Any, find: Callable[[int], Any]) -> Any:
    """The value of `encode`'s JSON, of exactly the built-in types; `find` turns an object's number into one."""
    if data is None or type(data) in (bool, int, float, str):
        return data
    ((tag, content),) = data.items()
    if tag in SEQUENCES:
        return SEQUENCES[tag]([decode(item, find) for item in content])
    if tag == "dict":
        return {decode(key, find): decode(item, find) for key, item in content}
    if tag == "object" and type(content) is int:
        return find(content)
    makers: dict[str, Callable[[], Any]] = {
        "int": lambda: int(content, 16),
        "bytes": lambda: bytes.fromhex(content),
        "decimal": lambda: decimal.Decimal(content),
        "complex": lambda: complex(*map(float, content)),
        "range": lambda: range(*map(int, content)),
        "fraction": lambda: fractions.Fraction(*(int(decode(part, find)) for part in content)),
    }
    return makers[tag]()


class Broken(Exception):
    """The other side ended, was too slow (`late`), or said what is no message."""

    def __init__(self, why: str, late: bool = False) -> None:
        super().__init__(why)
        self.late = late


class Line:
    """One message a line over a descriptor, in both directions. `seconds`: for all replies together, None is no limit."""

    def __init__(self, descriptor: int, seconds: float | None = None) -> None:
        self.descriptor, self.left, self.buffer = descriptor, seconds, bytearray()

    def send(self, message: Any) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while data:
                self._wait(writing=True)
                data = data[os.write(self.descriptor, data[: 1 << 16]) :]
        except OSError as error:
            raise Broken(f"it ended ({error})") from error

    def receive(self) -> Any:
        while b"\n" not in self.buffer[-(1 << 16) :]:
            self._wait(writing=False)
            try:
                chunk = os.read(self.descriptor, 1 << 16)
            except OSError as error:
                raise Broken(f"it ended ({error})") from error
            if not chunk:
                raise Broken("it ended")
            self.buffer += chunk
            if len(self.buffer) > LINE:
                raise Broken("too long a value")
        line, _, rest = self.buffer.partition(b"\n")
        self.buffer = bytearray(rest)
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Broken("what it said is no message") from error

    def _wait(self, writing: bool) -> None:
        """Until the descriptor is ready; the time is the other side's."""
        if self.left is None:
            return
        began = time.monotonic()
        sides: tuple[Sequence[int], Sequence[int]] = ([], [self.descriptor]) if writing else ([self.descriptor], [])
        ready = select.select(*sides, [], max(0.0, self.left))
        self.left -= time.monotonic() - began
        if not (ready[0] or ready[1]):
            raise Broken("the program's time was up", late=True)
