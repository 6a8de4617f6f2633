"""How a fuzzed case must end: in a result or in one InputError, within seconds of the processor's time.

`make test` runs 1,000 cases in all; RUNG_FUZZ_CASES=10000, as in `make faults`, ten times as many of each kind. The
cases are the same every time (derandomize), and those of the small number are among those of the large one.
"""

import json
import math
import os
import signal
import sys
from contextlib import contextmanager
from time import process_time

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from rung.errors import InputError

CASES = int(os.environ.get("RUNG_FUZZ_CASES", "1000"))
SECONDS = 5.0  # of the processor's time, which a slow machine does not change much
LONGEST = 10_000  # characters of a message
SHARES: dict[str, int] = {}  # kind -> cases of a thousand


def cases(kind: str, of_a_thousand: int, over: int = 1) -> settings:
    """The decorator of a kind's test, whose cases are divided over so many parametrized ones."""
    SHARES[kind] = of_a_thousand
    return settings(
        max_examples=max(1, of_a_thousand * CASES // (1000 * over)),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


class Hang(BaseException):
    """The case used up its time: no handler of Exception is meant."""


@contextmanager
def in_time(seconds=SECONDS):
    """Inside, more of the processor's time than this ends the case."""

    def late(number, frame):
        raise Hang(f"more than {seconds} s of the processor's time")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    begun = process_time()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert process_time() - begun < seconds + 1, "in one call that no signal can end"


def ended(call, seconds=SECONDS):
    """(what the call returned, None), or (None, the message with which it refused)."""
    with in_time(seconds):
        try:
            return call(), None
        except InputError as error:
            said = str(error)
    assert said.strip() and len(said) < LONGEST, f"a message of {len(said)} characters"
    return None, said


# -- what is nasty -----------------------------------------------------------------------------------------------------
DEEP = 100_000
BIG = 10_000_000
LETTERS = (
    "\0",
    "\x1b[2J",
    "\x1b]52;c;aGk=\x07",
    "\x07",
    "\r",
    "\r\n",
    "\ufeff",
    "\u202e",
    "\u200b",
    "\u2028",
    "\ud800",
    "\udfff",
    "\udcff",
    "\u0660",
    "\u0967",
    "\uff11",
    "\u00b2",
    "\u00bd",
    "\u2155",
    "\u2212",
    "\u00a0",
    "e\u0301",
    "\u1e9b\u0323",
    "\U0001f600",
    "\U0010ffff",
    "\u0130",
    "\u00df",
    "</script>",
    "<!--",
    "{{",
    "{%",
    "}}",
    "%s",
    "{0}",
    "$",
    "\\",
    "'",
    '"',
    "../",
    "/",
    "~",
    "*",
    "?",
    "[",
    "(",
    ":",
    "=",
    ",",
    ";",
    "#",
    "-",
    "--",
    "nan",
    "inf",
    "none",
    "true",
    "1e999",
    "9" * 400,
)
texts = st.one_of(
    st.text(max_size=12),
    st.lists(st.sampled_from(LETTERS) | st.text(max_size=3), max_size=5).map("".join),
    st.sampled_from(
        ["", " ", "\n", "0", "-0", "-0.0", "1", "1_000", "0x10", "1e308", "NaN", "Infinity", "-inf", "null", "[]", "{}"]
    ),
)
huge_texts = st.sampled_from(
    ["9" * 6000, "-" + "9" * 6000, "[" * DEEP, '{"a":' * DEEP, "(" * DEEP, "a" * BIG, "\\frac{" * 30_000]
)
numbers = st.one_of(
    st.integers(-10, 10),
    st.sampled_from([2**31, 2**53, 2**53 + 1, 2**63, -(2**63) - 1]),
    st.sampled_from([400, 4299, 4300, 6000]).map(lambda digits: 10**digits),
    st.sampled_from([400, 6000]).map(lambda digits: -(10**digits)),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf]),
    st.floats(),
)
plain = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)


def dumps(value) -> str:
    """JSON of anything: whole numbers of any length, and half characters as escapes."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value)
    finally:
        sys.set_int_max_str_digits(limit)


def mutated(data: bytes):
    """The bytes with up to three changes: some flipped, inserted, taken out, doubled, or the rest cut off."""
    places = st.integers(0, max(len(data) - 1, 0))
    change = st.one_of(
        st.tuples(st.just("set"), places, st.binary(min_size=1, max_size=3)),
        st.tuples(st.just("insert"), places, st.sampled_from([x.encode("utf-8", "surrogatepass") for x in LETTERS])),
        st.tuples(st.just("drop"), places, st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("double"), places, st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("cut"), places, st.just(b"")),
    )

    def changed(changes):
        out = data
        for how, at, piece in changes:
            size = len(piece)
            out = {
                "set": out[:at] + piece + out[at + size :],
                "insert": out[:at] + piece + out[at:],
                "drop": out[:at] + out[at + size :],
                "double": out[: at + size] + out[at:],
                "cut": out[:at],
            }[how]
        return out

    return st.lists(change, min_size=1, max_size=3).map(changed)


def replaced(tree, new):
    """A strategy: the tree of JSON with one of its members, however deep, replaced, renamed or taken out."""
    paths = list(_paths(tree))

    def change(drawn):
        path, how, value = drawn
        return _changed(tree, path, how, value)

    return st.tuples(st.sampled_from(paths), st.sampled_from(["put", "put", "put", "drop", "rename"]), new).map(change)


def _paths(tree, at=()):
    if at:
        yield at
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree[:3]) if isinstance(tree, list) else ()
    for key, value in inner:
        yield from _paths(value, (*at, key))


def _changed(tree, path, how, value):
    key, *rest = path
    out = dict(tree) if isinstance(tree, dict) else list(tree)
    if rest:
        out[key] = _changed(tree[key], rest, how, value)
    elif how == "put" or isinstance(out, list):
        out[key] = value
    else:
        old = out.pop(key)
        if how == "rename":
            out[value if isinstance(value, str) else "x"] = old
    return out


assert sys.get_int_max_str_digits() == 4300, "as users have it"
