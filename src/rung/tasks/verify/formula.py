r"""The verifier `math`: numbers exactly, lists and pairs part by part, words as words, all other formulas by math-verify.

math-verify is asked about single formulas only, and its "equal" is checked (symbolic.py). It never sees what it reads as
something else: mixed numbers, numerals with a base, times of day, pairs for lists, units.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from rung.tasks.sandbox.pool import Pool
from rung.tasks.verify.choice import option
from rung.tasks.verify.extract import last_line, last_number, placed
from rung.tasks.verify.plain import one_about, plain, undressed_text, without_emphasis, without_sizes
from rung.tasks.verify.quantity import agree, foreign_digit, quantity
from rung.tasks.verify.units import unit_of

MAX_ANSWER = 500  # characters; a longer "answer" is not one
MAX_PARTS = 12  # of a list
Engine = Callable[[str, str], float]

# What math-verify must not see. A tower of powers can only cost time; "5 = 6" would count as 6.
_TOWER = re.compile(r"(?:\^|\*\*)\s*[{(]*\s*-?[0-9.]+[)}\s]*(?:\^|\*\*)|(?:\^|\*\*)\s*[{(]*\s*-?[0-9]{5,}|!\s*!")
_SEVERAL = re.compile(r"boxed|####|answer>|\bor\b|\band\b|\\l?or\b|\\vee|\\lor|;|\\\\|\\pm|\\cup", re.IGNORECASE)
_NOT_DEFINITION = re.compile(r"^(?!\s*\\?[A-Za-z]+(?:_\{?\w+\}?|\([A-Za-z]\))?\s*=[^=]*$).*=", re.DOTALL)
_CONSTANT = re.compile(
    r"(?:[0-9.,\s+\-*/^{}()!]|\\(?:[dtc]?frac|sqrt|pi|left|right|cdot|times|ln|log|sin|cos|tan|,|;|!)(?![A-Za-z])|e|\u03c0|\u221a)+"
)
_RELATION = re.compile(
    r"[<>\u2264\u2265]|\\(?:le|ge|leq|geq|lt|gt|ne|neq|cup|cap|begin|mid|pm|mp|to|setminus|equiv)(?![A-Za-z])"
)
_MEMBER = re.compile(r"^\s*[A-Za-z]\s*\\in(?![A-Za-z])\s*")
_AND = re.compile(
    r"\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\(?:lor|vee)(?![A-Za-z])"
)
_UNIT_BEHIND = re.compile(
    r"(?:\\[,;! ~]|~|\s)*(\\(?:text|mathrm|mbox|textrm)\s*\{[^{}]*\}(?:\s*\^\s*\{?[0-9]\}?)?"
    r"(?:\s*/\s*\\(?:text|mathrm)\s*\{[^{}]*\})?"
    r"|\^\s*\{?\s*\\circ\s*\}?|\u00b0)\s*$"
)
_THOUSANDS = re.compile(r"(?<=[0-9]),[0-9]{3}(?![0-9])")
_WORDS = re.compile(r"(?=.*[^\W\d_]{3})[^\W\d_]+(?:(?:[ '.,]+|-)[^\W\d_]+)*\.?")
_ASSIGNED = re.compile(r"\s*\(*\s*(\\?[A-Za-z](?:_\{?\w+\}?)?)\s*=")
_TRIGONOMETRIC = re.compile(r"sin|cos|tan|sec|csc|cot")
_INLINE = re.compile(r"(?:\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\])[\s.]*$", re.DOTALL)
_CHAIN = re.compile(r"(?:\$|\\\)|\\\])[\s,;]*(?:(?:and|or)\s*)?$|\bor\W*$", re.IGNORECASE)


@cache
def shared_pool() -> Pool:
    """The math-verify processes of this program, started by the first answer that needs them."""
    return Pool(Path(__file__).with_name("symbolic.py"), "equal")


@dataclass(frozen=True)
class Math:
    """Equal as mathematics. Unmarked answers: the last formula, or number.

    Formulas that survive a screen go to math-verify in a killable process, once per different answer; verdicts are
    remembered, so that an answer that hangs costs its deadline once.
    """

    name: str = "math"
    pool: Pool = field(default_factory=shared_pool, repr=False, compare=False)
    _memory: dict[tuple[str, str], float] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def slow(self) -> int:
        """Answers so far that took the whole of their time."""
        return self.pool.counts["timeouts"]

    def extract(self, text: str, prompt: str = "") -> str | None:
        said, place = placed(text, prompt)
        if place is None:
            tail = without_emphasis(said[-MAX_ANSWER:]).replace("$$", "$")
            if formula := _INLINE.search(tail):
                place = _formula(tail, formula)
            elif re.search(r"\banswer\b", said.splitlines()[-1] if said else "", re.IGNORECASE):
                place = last_line(said)
            else:
                return last_number(said)
        if len(place) <= MAX_ANSWER and (found := quantity(place, letters=False)):
            return str(found)
        return tidy(place)[:MAX_ANSWER] or None

    def correct(self, answers: Sequence[str | None], gold: str) -> list[float]:
        gold = tidy(gold)
        whole = 0 < len(gold) < MAX_ANSWER  # a longer one is refused beforehand (golds.py)
        different = {answer for answer in answers if answer and whole and len(answer) < MAX_ANSWER}
        asked: dict[tuple[str, str], None] = {}

        def ask(wanted: str, said: str) -> float:
            asked[wanted, said] = None
            return 1.0

        for answer in different:
            verdict(gold, answer, ask)
        self._judge(list(asked))
        known = {answer: verdict(gold, answer, lambda *pair: self._memory[pair]) for answer in different}
        return [known.get(answer or "", 0.0) for answer in answers]

    def unreadable(self, golds: Sequence[str]) -> set[str]:
        """The golds that need math-verify and that it cannot read, so that no answer could be judged by them."""
        pairs: dict[tuple[str, str], str] = {}
        for gold in (gold for gold in golds if len(gold) < MAX_ANSWER):
            for part in _leaves(tidy(gold)):
                pairs.setdefault((part, part), gold)
        self._judge(list(pairs))
        return {gold for pair, gold in pairs.items() if math.isnan(self._memory[pair])}

    def _judge(self, pairs: Sequence[tuple[str, str]]) -> None:
        if len(self._memory) + len(pairs) > 20_000:
            self._memory.clear()
        fresh = [pair for pair in pairs if pair not in self._memory]
        self._memory.update(zip(fresh, self.pool.map(fresh), strict=True))


def _formula(tail: str, formula: re.Match[str]) -> str:
    """What the last formula of a text says; all of the last line if another one stands beside it ("$5$ or $6$")."""
    if _CHAIN.search(tail[: formula.start()]):
        return tail.splitlines()[-1]
    content = next(group for group in formula.groups() if group is not None)
    return content if quantity(content) else content.rpartition("=")[2]


def tidy(text: str) -> str:
    """One Unicode spelling, one space between words, no emphasis, dollar signs or full stop around."""
    text = without_emphasis(" ".join(unicodedata.normalize("NFC", text).split())).rstrip(".")
    return (text.strip("$") if text[:1] == text[-1:] == "$" else text).strip()


def verdict(gold: str, answer: str, engine: Engine) -> float:
    """1, 0 or NaN; `engine` says whether two formulas are equal."""
    if gold == answer:
        return 1.0
    wanted, said = quantity(gold, gold=True, letters=False), quantity(answer)
    if wanted and said:
        return float(agree(wanted, said))
    if foreign_digit(plain(answer)):
        return 0.0
    lists = _lists(gold, answer)
    if lists is not None:
        return _all_equal(lists[0], lists[1], engine) if lists[0].parts and lists[1].parts else 0.0
    if wanted:
        near = (
            wanted.half
            and not wanted.unit.meanings
            and _CONSTANT.fullmatch(_about(answer))
            and not _TOWER.search(answer)
        )
        return engine(f"{wanted.value} \u00b1 {wanted.half}", _about(answer)) if near else 0.0
    if letter := _letter(gold):
        return float(option(answer) == letter)
    if _is_words(gold):
        return float(_folded(gold) == _folded(answer))
    return _formulas(gold, _about(answer), engine)


def _formulas(gold: str, answer: str, engine: Engine) -> float:
    """Two formulas that are no numbers and no lists."""
    (wanted, unit), (said, other) = _without_unit(gold), _without_unit(answer)
    if unit and other and unit != other:
        return 0.0
    if any(sign.search(said) and not sign.search(wanted) for sign in (_TOWER, _SEVERAL)):
        return 0.0
    if said.count("=") > wanted.count("=") > 0 or (_NOT_DEFINITION.search(said) and "=" not in wanted):
        return 0.0
    if not said or any(plain(wanted).count(sign) != plain(said).count(sign) for sign in "\u00b0'"):
        return 0.0
    return 1.0 if wanted == said else engine(wanted, said)


def _about(answer: str) -> str:
    r"""4\pi of "4\pi \approx 12.57"; 12.57 of "x \approx 12.57"."""
    before, sign, after = one_about(answer).partition("\u2248")
    if not sign:
        return answer
    return after.strip() if not before.strip() or re.fullmatch(r"\s*[A-Za-z]\s*", before) else before.strip()


def _without_unit(formula: str) -> tuple[str, str]:
    r"""25\pi and "cm^2" of 25\pi\text{ cm}^2; ordinary words give ""."""
    found = _UNIT_BEHIND.search(formula)
    if found and _TRIGONOMETRIC.search(formula):  # the degrees are the function's
        found = None
    unit = unit_of(plain(found[1]).strip()) if found else None
    body = formula[: found.start()].strip() if found else formula
    return (body, unit.name) if unit is not None and body and not body.endswith(("=", "<", ">")) else (formula, "")


def _letter(gold: str) -> str | None:
    bare = undressed_text(gold)
    return option(gold) if re.fullmatch(r"\(?[A-J]\)?\.?", bare) and (bare != gold or bare[0] == "(") else None


def _is_words(gold: str) -> bool:
    bare = undressed_text(gold)
    dressed = "\\text" in gold or "\\mbox" in gold or "\\mathrm" in gold
    if dressed and re.search(r"[A-Za-z]", bare) and _without_unit(gold)[0] == gold:
        return True
    return _WORDS.fullmatch(bare) is not None and len(bare) > 3


def _folded(text: str) -> str:
    return re.sub(r"\s*([-,.()$])\s*", r"\1", undressed_text(text)).casefold().strip("(). \"'")


@dataclass(frozen=True)
class _List:
    """kind: the brackets, "" without any (a list of solutions), ":" of a ratio."""

    kind: str
    parts: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        return self.kind not in ("", "{}")


def _lists(gold: str, answer: str) -> tuple[_List, _List] | None:
    """Both as lists; None where neither is one, or where relations, unions or matrices are math-verify's business."""
    gold, answer = _MEMBER.sub("", gold), _MEMBER.sub("", answer)
    if _RELATION.search(gold) or (_RELATION.search(answer) and not _SEVERAL.search(answer)):
        return None
    found = _list(gold), _list(answer)
    if not found[0].parts and not found[1].parts:
        return None
    ratio = ":" in (found[0].kind, found[1].kind) and found[0].kind != found[1].kind
    return None if ratio and max(len(one.parts) for one in found) == 2 else found


def _list(text: str) -> _List:
    text = without_sizes(text).strip().strip("$").strip()
    if not text or (_is_words(text) and not _AND.search(text)):
        return _List("", ())
    kind = ""
    if text[:2] == "\\{" and text[-2:] == "\\}":
        kind, text = "{}", text[2:-2]
    elif text[0] in "([{" and text[-1] in ")]}" and _closes(text):
        kind, text = text[0] + text[-1], text[1:-1]
    parts = _split(text, ",;")
    if len(parts) < 2 and not kind:
        parts, kind = _split(text, ":"), ":"
    return _List(kind, tuple(parts)) if 2 <= len(parts) <= MAX_PARTS else _List("", ())


def _closes(text: str) -> bool:
    """Whether the first bracket is closed by the last sign."""
    depth = 0
    for position, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0:
            return position == len(text) - 1
    return False


def _split(text: str, signs: str) -> list[str]:
    """The parts between commas (or "and", "or") outside of all brackets; 1,000 is one part."""
    if signs != ":":
        text = _AND.sub(" , ", text)
    parts, depth, start = [], 0, 0
    for position, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        divides = depth == 0 and sign in signs and not _THOUSANDS.match(text, position) and text[position - 1] != "\\"
        if divides:
            parts.append(text[start:position].strip())
            start = position + 1
    return [part for part in (*parts, text[start:].strip()) if part.strip("\\ ")]


def _all_equal(gold: _List, answer: _List, engine: Engine) -> float:
    """Ordered where gold or answer has round or square brackets; such brackets may be left out, and not be others."""
    if len(gold.parts) != len(answer.parts) or (
        gold.kind != answer.kind and not _may_stand_for(answer.kind, gold.kind)
    ):
        return 0.0
    if gold.ordered or answer.ordered or len(_names(gold)) > 1 > len(_names(answer)):  # "2, 1" is not x = 1, y = 2
        each = [verdict(wanted, said, engine) for wanted, said in zip(gold.parts, answer.parts, strict=True)]
        return 0.0 if 0.0 in each else math.nan if any(map(math.isnan, each)) else 1.0
    table = [[verdict(wanted, said, engine) for said in answer.parts] for wanted in gold.parts]
    if _matched([[cell == 1.0 for cell in row] for row in table]):
        return 1.0
    return math.nan if _matched([[cell != 0.0 for cell in row] for row in table]) else 0.0


def _names(parts: _List) -> set[str]:
    """The variables whose values are listed: x and y of "x = 1, y = 2"."""
    return {found[1] for part in parts.parts if (found := _ASSIGNED.match(part))}


def _may_stand_for(said: str, wanted: str) -> bool:
    return {said, wanted} == {"", "{}"} or {said, wanted} == {"", "()"}


def _matched(table: Sequence[Sequence[bool]]) -> bool:
    """Whether rows and columns can be paired one to one along true cells."""
    owner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, cell in enumerate(table[row]):
            if cell and column not in seen:
                seen.add(column)
                if column not in owner or place(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(table)))


def _leaves(gold: str) -> list[str]:
    """The formulas of a gold that only math-verify can read."""
    if quantity(gold, gold=True, letters=False) or _letter(gold) or not gold:
        return []
    found = _lists(gold, gold)
    if found is not None and found[0].parts:
        return [leaf for part in found[0].parts for leaf in _leaves(part)]
    return [] if _is_words(gold) else [_without_unit(gold)[0]]
