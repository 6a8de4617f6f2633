"""The tests' side: runs the tests over plain data, in a process that never holds the program.

A test calls the program's functions and classes through `Remote` objects, which ask the other process. A call hands
over copies; only a call that stands alone as a statement (`f(x)`, `y = f(x)`) may change its arguments (tests.py says
where), so that no assertion compares the program with what the program made of it.
"""

from __future__ import annotations

import builtins
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any, NoReturn

from . import tests
from .wire import Broken, Line, decode, encode


class Asker:
    """Asks the program.

    finish:   takes the verdict on a program that broke off, and ends this process at once.
    tell:     told when it changes whether the tests run `alone`: begun, and without a value from the program yet.
    """

    def __init__(self, line: Line, finish: Callable[[str, str], NoReturn], tell: Callable[[bool], None]) -> None:
        self.line, self.finish, self.tell, self.alone = line, finish, tell, False

    def say(self, alone: bool) -> None:
        if alone != self.alone:
            self.alone = alone
            self.tell(alone)

    def broken(self, error: Broken) -> NoReturn:
        self.finish("slow" if error.late else "failed", str(error))

    def reply(self) -> dict[str, Any]:
        try:
            reply = self.line.receive()
        except Broken as error:
            self.broken(error)
        return reply if isinstance(reply, dict) else {}

    def ask(self, what: str, number: int | None, args: Sequence[Any], named: dict[str, Any] | None = None) -> Any:
        message = [what, number, *self._coded(args, named or {})]
        try:
            self.line.send(message)
        except Broken as error:
            self.broken(error)
        reply = self.reply()
        self.say(False)
        if "raised" in reply:
            raise self.error(reply["raised"])
        try:
            value = decode(reply["value"], self.remote)
            after = [decode(item, self.remote) for item in reply.get("args", [])]
        except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError, AttributeError):
            self.finish("failed", "the program broke the protocol")
        if what == "change":
            _change(args, after)
        return value

    def _coded(self, args: Sequence[Any], named: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        def known(value: Any) -> int:
            if isinstance(value, Remote):
                return value._number
            self.finish("unsure", f"a test hands the program {type(value).__name__}, which is no plain data")

        return [encode(item, known) for item in args], {key: encode(item, known) for key, item in named.items()}

    def error(self, said: Any) -> BaseException:
        """The nearest built-in exception of the program's. One that steers iteration is a failure and no exception."""
        try:
            kinds, text = list(map(str, said[0])), str(said[1])
        except (TypeError, IndexError, KeyError):
            self.finish("failed", "the program broke the protocol")
        if {"StopIteration", "StopAsyncIteration", "GeneratorExit"} & {*kinds}:
            self.finish("failed", f"the program raised {kinds[0]} out of a call")
        for name in kinds:
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                try:
                    return kind(text)
                except TypeError:  # UnicodeDecodeError wants more than a text
                    break
        return RuntimeError(f"{kinds[:1]}: {text}")

    def remote(self, number: int) -> Remote:
        return Remote(self, number)


def _change(args: Sequence[Any], after: Sequence[Any]) -> None:
    """The tests' own lists, sets and dicts become what the call made of its copies."""
    for before, now in zip(args, after, strict=False):
        if isinstance(before, list) and type(now) is list:
            before[:] = now
        elif isinstance(before, (dict, set)) and type(now) in (dict, set) and isinstance(before, type(now)):
            before.clear()
            before.update(now)


class Remote:
    """Something that lives in the program's process. It equals nothing, and is neither true nor false."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, asker: Asker, number: int) -> None:
        self._asker, self._number = asker, number

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._asker.ask("call", self._number, args, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._asker.ask("get", self._number, [name])

    def __iter__(self) -> Iterator[Any]:
        iterator = self._asker.ask("iter", self._number, [])
        if not isinstance(iterator, Remote):
            return iter(iterator)
        return iterator._items()

    def _items(self) -> Iterator[Any]:
        most, more = 1, True
        while more:
            items, more = self._take(most)
            yield from items
            most = min(2 * most, 1024)

    def _take(self, most: int) -> tuple[list[Any], bool]:
        said = self._asker.ask("take", self._number, [most])
        if type(said) is tuple and len(said) == 2 and type(said[0]) is list and len(said[0]) <= most:
            return said[0], said[1] == "more" and bool(said[0])
        self._asker.finish("failed", "the program broke the protocol")

    def __next__(self) -> Any:
        items, _ = self._take(1)
        if not items:
            raise StopIteration
        return items[0]

    def __len__(self) -> int:
        return int(self._asker.ask("len", self._number, []))

    def __getitem__(self, key: Any) -> Any:
        return self._asker.ask("item", self._number, [key])

    def __str__(self) -> str:
        return str(self._asker.ask("str", self._number, []))

    def __repr__(self) -> str:
        return str(self._asker.ask("repr", self._number, []))

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Remote) and self._asker.ask("isinstance", self._number, [instance]) is True

    def __bool__(self) -> bool:
        raise TypeError("an object of the program is neither true nor false")

    def __eq__(self, other: object) -> bool:
        raise TypeError("an object of the program can be compared with nothing; compare plain data")


def judge(asker: Asker, sources: Sequence[str]) -> NoReturn:
    """Runs the tests, one after the other, in one namespace."""
    try:
        _judge(asker, sources)
    except BaseException as error:  # noqa: BLE001 - a test may raise anything, SystemExit too
        asker.finish("failed", f"{type(error).__name__}: {error}")
    asker.finish("passed", f"{len(sources)} tests")


def _judge(asker: Asker, sources: Sequence[str]) -> None:
    first = asker.reply()
    if "raised" in first:
        raise asker.error(first["raised"])
    marks = [0]
    names = _names(asker, sources, marks)
    for number, source in enumerate(sources, 1):
        code, marked, called = tests.prepared(source, f"<test {number}>")
        before = marks[0]
        _run(code, called, names)
        if marked and marks[0] == before:
            asker.finish("failed", f"test {number}: no assertion was reached")


def _run(code: CodeType, called: Sequence[str], names: dict[str, Any]) -> None:
    exec(code, names)
    for name in called:
        names[name]()


def _names(asker: Asker, sources: Sequence[str], marks: list[int]) -> dict[str, Any]:
    """What the tests see: helper modules, and of the program only what they name and do not have themselves."""
    names: dict[str, Any] = {name: importlib.import_module(name) for name in tests.HELPERS}
    names |= {tests.CHANGE: _changing, tests.MARK: _marking(marks), tests.NEXT: _next, tests.ZIP: _zip}
    names["__name__"] = "__tests__"
    for name in tests.asked_of_program(sources):
        found = asker.ask("name", None, [name])
        if type(found) is tuple and len(found) == 2 and found[0] is True:
            names[name] = found[1]
    asker.say(all(isinstance(names.get(name), (Remote, type(None))) for name in tests.asked_of_program(sources)))
    return names


def _changing(function: Any, *args: Any, **named: Any) -> Any:
    """A call that stands alone: what it does to its arguments is seen."""
    if isinstance(function, Remote):
        return function._asker.ask("change", function._number, args, named)
    return function(*args, **named)


_END = object()


def _next(iterator: Any) -> Any:
    found = next(iterator, _END)
    if found is _END:
        raise AssertionError("next() was at its end")
    return found


def _zip(known: Sequence[bool], *values: Any) -> Iterator[tuple[Any, ...]]:
    """zip, in which what the program gave (not `known`) may not end before what it is held against."""
    iterators = list(map(iter, values))
    while True:
        items: list[Any] = [None] * len(iterators)
        for at in sorted(range(len(iterators)), key=lambda at: not known[at]):
            items[at] = next(iterators[at], _END)
            if items[at] is _END and known[at]:
                return
            if items[at] is _END:
                raise AssertionError("zip() was given too few items by the program")
        yield tuple(items)


def _marking(marks: list[int]) -> Callable[[], None]:
    def mark() -> None:
        marks[0] += 1

    return mark


def main(line: Line, parent: Line) -> NoReturn:
    """Takes the tests from `parent` and gives it the verdict."""

    def finish(verdict: str, why: str) -> NoReturn:
        parent.send({"verdict": verdict, "why": why[:300]})
        os._exit(0)

    judge(Asker(line, finish, lambda alone: parent.send({"alone": alone})), parent.receive())
