r"""The last answer in a completion, or None. Only the last one counts, and nothing after the end of the answer.

An answer stands in a place: the last \boxed{..}, `#### ..` or <answer>..</answer>; without any of these, each verifier
says where it looks (the last number, the last line). Two different answers in one place are kept together as one
unreadable text ("5 or 6"), so that they are counted as an answer and judged wrong. Text is only ever read with regular
expressions that cannot backtrack far; nothing is evaluated.
"""

from __future__ import annotations

import re
import unicodedata

from rung.records import Completion, Prompt
from rung.tasks.verify.plain import plain
from rung.tasks.verify.quantity import NUMBER, Quantity, foreign_digit, quantity
from rung.tasks.verify.units import unit_of_measure

_END = re.compile(r"<\|(?:im_end|im_start|endoftext|eot_id|end|end_of_text)\|>|</s>|<eos>|<end_of_turn>")
_MARK = re.compile(r"\\(?:boxed|fbox)\s*\{|####|<answer>", re.IGNORECASE)
_CLOSE = re.compile(r"</answer>", re.IGNORECASE)
_BRACE = re.compile(r"[{}]")
_LEAD = re.compile(r"^.*\banswer\b(?:\s+is\b\s*:?|\s*[:=])\s*", re.IGNORECASE | re.DOTALL)
_JOINT = re.compile(r"[\s,;.|/&()\[\]$]*(?:\b(?:or|and)\b[\s,;.|/&()\[\]$]*)?", re.IGNORECASE)
_OR = re.compile(r"[^.!?\n]{0,40}\bor\b[^.!?\n]{0,40}", re.IGNORECASE)
_OR_BEFORE = re.compile(r"\bor\W*$", re.IGNORECASE)
_OR_AFTER = re.compile(r"\W*\bor\b", re.IGNORECASE)

# "7 + 2 =", "x^2", "sqrt(9)" and "2\pi" hold numbers that are a part of something, not an answer.
_PART_BEFORE = re.compile(r"(?:(?<!\*)[*/^\u00d7\u00f7{\u221a]|[\w)}\]]\s*\*\*|[\w)}\]][ \t]*[-+][ \t]+|[\w)}\]]\("
                          r"|[0-9)}\]][ \t]*[-+])[ \t]*$|[)\]}]$|\b(?:minus|plus|times|divided by|out of|over)\s+$")  # fmt: skip
_PART_AFTER = re.compile(
    r"\s*=|[ \t]*(?:\*(?!\*)|\*\*\s*[\w(\\]|[+/^\u00d7\u00f7}\u221a\u03c0]"
    r"|\\(?:pi|sqrt|[dtc]?frac|d?binom|log|ln|sin|cos|tan|div|mod|pm)\b"
    r"|(?:squared|cubed|factorial|pi|(?:thi|fou|fif|six|seven|eigh|nin|ten|hundred|thousand|million)(?:rds?|r?ths?))\b)|\\[a-zA-Z]"
)
_CLOCK = (
    r"(?<![0-9:.])(?:[01]?[0-9]|2[0-3]):[0-5][0-9](?:\s*[aApP]\.?\s?[mM]\b)?(?![0-9:])"
    r"|(?<![\w.:,/$])(?:1[0-2]|[1-9])\s*(?:[ap]m|[AP]M|[ap]\.\s?m)\b"
)
_BASED = r"(?<![A-Za-z0-9_.])[0-9][0-9A-Za-z]*_(?:\{[0-9]{1,2}\}|[0-9]{1,2})(?![0-9_])"
_PROSE = re.compile(rf"{_CLOCK}|{_BASED}|{NUMBER.pattern}")
_TAIL = 240  # characters at the end of a text in which the last number is looked for first


def question_text(prompt: Prompt) -> str:
    """The text that a completion might echo: a plain prompt, or the last message of a conversation."""
    if isinstance(prompt, str):
        return prompt
    return prompt[-1]["content"] if prompt else ""


def uncut(completion: Completion) -> str:
    """The text, without a number at its end that the token limit may have cut: "18" may be the head of "180"."""
    return completion.text if completion.stop == "stop" else re.sub(r"[-+0-9.,/]+$", "", completion.text)


def spoken(text: str, prompt: str = "") -> str:
    """What is said as the answer: before the end marker, after the thinking, without invisible signs or an echo."""
    text = _END.split(text, maxsplit=1)[0]
    text = text.rpartition("</think>")[2].partition("<think>")[0]
    if not text.isascii():  # a zero-width sign between two digits would split a number
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    question = prompt.strip()
    if len(question) >= 8:  # shorter ones could be part of an honest answer
        text = text.replace(question, "\n")
    return text.strip()


def placed(text: str, prompt: str) -> tuple[str, str | None]:
    """(what was said, and the content of its last mark, if there is one): what every extraction begins with."""
    said = spoken(text, prompt)
    return said, marked(said)


def marked(text: str) -> str | None:
    r"""Content of the last \boxed{}, #### or <answer>; "a or b" where the last two stand together; None without any.

    A mark that is left open reaches to the end of the text. Marks inside a mark belong to the outer one.
    """
    marks: list[tuple[int, int, str]] = []
    position = 0
    while opening := _MARK.search(text, position):
        inside, position = _content(text, opening)
        marks.append((opening.start(), position, _unwrap(inside.strip())))
    if not marks:
        return None
    start, end, last = marks[-1]
    if len(marks) > 1:
        _, previous_end, previous = marks[-2]
        if previous != last and _JOINT.fullmatch(text[previous_end:start]):
            return f"{previous} or {last}"
    if _OR_BEFORE.search(text[max(0, start - 40) : start]) or _OR_AFTER.match(text[end : end + 40]):
        return text[max(0, start - 40) : end + 40].strip()
    return last


def _content(text: str, opening: re.Match[str]) -> tuple[str, int]:
    """What the mark holds, and the position after it."""
    begin = opening.end()
    if opening.group() == "####":
        end = text.find("\n", begin)
        return (text[begin:], len(text)) if end < 0 else (text[begin:end], end)
    if opening.group().lower() == "<answer>":
        close = _CLOSE.search(text, begin)
        return (text[begin:], len(text)) if close is None else (text[begin : close.start()], close.end())
    depth = 1
    for brace in _BRACE.finditer(text, begin):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[begin : brace.start()], brace.end()
    return text[begin:], len(text)


def _unwrap(content: str) -> str:
    r"""<answer>\boxed{5}</answer> holds 5: a mark that is all of its outer mark's content is opened, a few times."""
    for _ in range(3):
        opening = _MARK.match(content)
        if opening is None:
            break
        inside, end = _content(content, opening)
        if end < len(content):
            break
        content = inside.strip()
    return content


def last_line(text: str) -> str:
    """The last line that is not empty, after "the answer is", without quotes, stars and a full stop around it."""
    lines = [line for line in text.splitlines() if line.strip()]
    return undressed(lines[-1]) if lines else ""


def undressed(content: str) -> str:
    """The content after "answer is", without white space, quotes, stars and a full stop around it."""
    return _LEAD.sub("", content[-2000:]).strip().strip("*_`\"'").rstrip(".").strip().strip("*_`\"'").strip()


def last_number(text: str) -> str | None:
    """The last number of a text, in canonical form; None where it is only a part of a formula or not readable.

    Numbers that stand together ("9 or 10", "9, 10") are several candidates: their common text is returned.
    """
    if len(text) > 2 * _TAIL:  # what stands far before the last number has no say
        cut = text.find(" ", len(text) - _TAIL)
        short = plain(text[cut:]) if cut > 0 else ""
        numbers = list(_PROSE.finditer(short))
        if numbers and numbers[-1].start() > 60:
            return _last(short, numbers)
    text = plain(text)
    return _last(text, list(_PROSE.finditer(text)))


def _last(text: str, numbers: list[re.Match[str]]) -> str | None:
    if not numbers:
        return None
    while len(numbers) > 1 and text[numbers[-1].start() - 1] == "^":  # the power of a unit: 25 cm^2
        owner = numbers[-2]
        if owner.end() + len(unit_of_measure(text[owner.end() : owner.end() + 60]) or "") < numbers[-1].end():
            break
        numbers = numbers[:-1]
    last = numbers[-1]
    value = _in_prose(text, last)
    for earlier, later in zip(numbers[-2:-50:-1], numbers[:-50:-1], strict=False):
        between = text[earlier.end() : later.start()]
        if not (_JOINT.fullmatch(between) or _OR.fullmatch(between)):
            break
        if value is None or _in_prose(text, earlier, part=False) != value:
            return text[earlier.start() : last.end()] if not _is_part(text, last) else None
    if value is None:
        return None if _is_part(text, last) else last.group()
    return str(value)


def _is_part(text: str, found: re.Match[str]) -> bool:
    before = text[max(0, found.start() - 40) : found.start()]
    return bool(
        _PART_BEFORE.search(before)
        or _PART_AFTER.match(text, found.end())
        or foreign_digit(text[max(0, found.start() - 1) :])
        or unit_of_measure(text[found.end() : found.end() + 60]) is None
    )


def _in_prose(text: str, found: re.Match[str], part: bool = True) -> Quantity | None:
    """The number with the multiple and the unit that stand right behind it; None if it is a part of something."""
    if part and _is_part(text, found):
        return None
    behind = unit_of_measure(text[found.end() : found.end() + 60]) or ""
    before = text[found.start() - 1 : found.start()] if found.start() else ""
    return quantity((before if before in "$\u20ac\u00a3\u00a5\u20b9" else "") + found[0] + behind)
