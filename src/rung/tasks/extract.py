r"""The last answer in a completion, or None. Only the last one counts, and nothing after the end of the answer.

An answer stands in a place: the last \boxed{..}, `#### ..` or <answer>..</answer>; without any of these, each verifier
says where it looks (the last number, the last line). Two different answers in one place are kept together as one
unreadable text ("5 or 6"), so that they are counted as an answer and judged wrong. Text is only ever read with regular
expressions that cannot backtrack far; nothing is evaluated.
"""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal
from fractions import Fraction

from rung.records import Completion, Prompt

_END = re.compile(r"<\|(?:im_end|im_start|endoftext|eot_id|end|end_of_text)\|>|</s>|<eos>|<end_of_turn>")
_MARK = re.compile(r"\\(?:boxed|fbox)\s*\{|####|<answer>", re.IGNORECASE)
_CLOSE = re.compile(r"</answer>", re.IGNORECASE)
_BRACE = re.compile(r"[{}]")
_LEAD = re.compile(r"^.*\banswer\b(?:\s+is\b\s*:?|\s*[:=])\s*", re.IGNORECASE | re.DOTALL)
_JOINT = re.compile(r"[\s,;.|/&()\[\]$]*(?:\b(?:or|and)\b[\s,;.|/&()\[\]$]*)?", re.IGNORECASE)
_OR = re.compile(r"[^.!?\n]{0,40}\bor\b[^.!?\n]{0,40}", re.IGNORECASE)
_OR_BEFORE = re.compile(r"\bor\W*$", re.IGNORECASE)
_OR_AFTER = re.compile(r"\W*\bor\b", re.IGNORECASE)

# One number: sign, thousands separators, decimals, a power of ten, or a fraction. The groups are atomic, so that a
# number is taken whole or not at all: "9.10.11" and "2x3" are not numbers.
NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z)\]}.])[-+\u2212]\$?)?(?<![A-Za-z0-9_])(?<![0-9]\.)"
    r"(?>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
    r"(?>[eE][-+]?[0-9]+)?(?>/[0-9]+)?(?![A-Za-z_]+[0-9]|\.[0-9])"
)
# "7 + 2 =", "x^2" and "\frac{1}{2}" end in a number that is a part of something, not an answer.
_PART_BEFORE = re.compile(r"(?:(?<!\*)[*/^\u00d7\u00f7{]|[\w)}\]]\s*\*\*|[\w)}\]][ \t]*[-+\u2212][ \t]+"
                          r"|[0-9)}\]][ \t]*[-+\u2212])[ \t]*$")  # fmt: skip
_PART_AFTER = re.compile(r"\s*=|[ \t]*(?:\*(?!\*)|\*\*\s*[\w(\\]|[+/^\u00d7\u00f7}])")
_LONE_BEFORE = re.compile(r"(?:[A-Za-z]\s*=)?[\s$\u20ac\u00a3\u00a5(\"'`\[:]*")
_LONE_AFTER = re.compile(r"[^\d!+*/^=\\<>~|&\u2212]*")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}")
_DRESS = re.compile(r"\\text\s*\{([^{}]*)\}")
_NOISE = re.compile(r"\\[,;!:()\[\] ]|\\(?=[$%])|\^\s*\{?\\circ\}?")


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
    numbers = list(NUMBER.finditer(text))
    if not numbers:
        return None
    last = numbers[-1]
    if _foreign_digit(text[max(0, last.start() - 1) :]):
        return None
    if _PART_BEFORE.search(text[max(0, last.start() - 40) : last.start()]) or _PART_AFTER.match(text, last.end()):
        return None
    value = canonical(last.group())
    for earlier, later in zip(numbers[-2:-50:-1], numbers[:-50:-1], strict=False):
        between = text[earlier.end() : later.start()]
        if not (_JOINT.fullmatch(between) or _OR.fullmatch(between)):
            break
        if canonical(earlier.group()) != value or value is None:
            return text[earlier.start() : last.end()]
    return value if value is not None else last.group()


def lone_number(content: str) -> str | None:
    r"""The one number that a short text such as "$1,200 dollars", "x = 5" or "\frac{1}{2}" holds; else None."""
    plain = _FRACTION.sub(r"\1/\2", _NOISE.sub("", _DRESS.sub(r" \1", undressed(content[:1000])).replace("{,}", ",")))
    plain = plain.strip().strip("$").strip()
    numbers = list(NUMBER.finditer(plain))
    if len(numbers) != 1 or _foreign_digit(plain):
        return None
    before, after = plain[: numbers[0].start()], plain[numbers[0].end() :]
    if not _LONE_BEFORE.fullmatch(before) or not _LONE_AFTER.fullmatch(after):
        return None
    return None if re.search(r"\b(?:or|and)\b| - ", after, re.IGNORECASE) else canonical(numbers[0].group())


def _foreign_digit(text: str) -> bool:
    """Whether a digit of another script, a superscript or a vulgar fraction stands in the text."""
    return not text.isascii() and any(not c.isascii() and unicodedata.category(c)[0] == "N" for c in text)


def number(text: str) -> Fraction | None:
    """The exact value of one written number; None if it is none, is out of bounds, or is a fraction left unreduced.

    "10/2" is an exercise and not its answer, so only fractions in lowest terms are numbers. Bounds (400 characters,
    powers of ten up to 308) keep "1e999999999" from filling the memory.
    """
    text = text.strip()
    if len(text) > 400 or not NUMBER.fullmatch(text):
        return None
    plain = text.replace(",", "").replace("$", "").replace("\u2212", "-")
    mantissa, _, exponent = plain.lower().partition("e")
    if "/" in plain:
        if exponent or "." in plain:
            return None
        above, below = (int(part) for part in plain.split("/"))
        return Fraction(above, below) if below > 1 and math.gcd(above, below) == 1 else None
    if exponent and (len(exponent) > 4 or abs(int(exponent)) > 308):
        return None
    return Fraction(plain) if mantissa else None


def canonical(text: str) -> str | None:
    """One spelling per value, for voting: "1,200.50" is "1200.5", "1/3" stays; None if the text is no number."""
    value = number(text)
    if value is None or value.denominator == 1:
        return None if value is None else str(value)
    decimal = Decimal(value.numerator) / Decimal(value.denominator)
    return format(decimal, "f") if Fraction(decimal) == value else str(value)
