r"""One spelling for a formula: LaTeX, Unicode and Markdown as plain text, as far as numbers and their units go.

    5\dfrac{1}{2} -> 5 1/2     \frac{-1}2 -> -1/2      1.5 \times 10^{6} -> 1.5e6     0.1\overline{6} -> 1/6
    **73** -> 73               25\text{ cm}^2 -> 25 cm^2      12{,}345 -> 12,345      90^\circ -> 90°

What is no number or unit (roots, letters, sums) stays as it is, so that nothing is computed here. Every verifier reads
numbers through this spelling, in marks and in prose, in golds and in answers.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_SPACES = str.maketrans(
    dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f", " ")
)
_SIGNS = str.maketrans(
    {"\u2212": "-", "\u00b7": "\u00d7", "\u22c5": "\u00d7", "\u2219": "\u00d7", "\u2248": "\u2248", "\u2044": "/", "\uff1d": "=",
     "\u00ba": "\u00b0", "\u2032": "'", "\u2103": "\u00b0C", "\u2109": "\u00b0F"}
)  # fmt: skip
_RAISED = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207a", "0123456789-+")
_LOWERED = str.maketrans("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089", "0123456789")
_SUPERSCRIPT = re.compile(r"[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b\u207a]+")
_SUBSCRIPT = re.compile(r"[\u2080-\u2089]+")
_VULGAR = re.compile(r"[\u00bc-\u00be\u2150-\u215e]")

# Emphasis: both signs touch what they enclose and no word outside, so that 2**3**4 and 2 ** 3 stay powers.
_EMPHASIS = re.compile(r"(?<![\w*)\]}\\])(\*{1,3}|_{1,3}|`+)(?=[^\s*_`])([^\n]{1,400}?)(?<![\s*`\\])\1(?![\w*(\[{])")

_TEXT = re.compile(
    r"\\(?:text(?:normal|bf|it|rm|sf|tt|up)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|operatorname\*?|emph|boldsymbol|bf|rm)"
    r"\s*\{([^{}]*)\}"
)
_SIZES = re.compile(r"\\(?:left|right|bigg?[lr]?|Bigg?[lr]?|displaystyle|textstyle|limits)(?![A-Za-z])\.?")
_THIN = re.compile(r"\\[,;:> ]|\\q?quad(?![A-Za-z])|\\(?:enspace|thinspace|space)(?![A-Za-z])|(?<!\\)~")
_TIMES = re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])")
_ABOUT = re.compile(r"\\(?:approx|simeq|thickapprox|doteq)(?![A-Za-z])")
_DEGREE = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|\\textdegree(?![A-Za-z])")
_DOLLARS = re.compile(r"(?<!\\)\$(?=[^\s$])([^$\n]{1,400}?)(?<=[^\s\\])\$(?![0-9])")
_BRACED = re.compile(r"(?<![\^_A-Za-z}])\{\s*([-+]?[0-9][0-9.,]*)\s*\}")

_INTEGER = r"\s*([-+]?)\s*([0-9][0-9,]*)\s*"
_FRAC = re.compile(
    rf"\\[dtc]?frac\s*(?:\{{{_INTEGER}\}}|([0-9]))\s*(?:\{{{_INTEGER}\}}|([0-9]))(?![0-9])"
    rf"|\{{{_INTEGER}\\over{_INTEGER}\}}(?![0-9])"
)
_UNIT_FRAC = re.compile(r"\\[dtc]?frac\s*\{\s*([A-Za-z]+)\s*\}\s*\{\s*([A-Za-z]+(?:\s*\^\s*\{?[0-9]\}?)?)\s*\}")
_REPEATING = re.compile(
    r"(?<![0-9.])([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))(?![0-9])"
)
_POWER_OF_TEN = re.compile(
    r"(?<![\w.^\u00d7*/])(?:((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)\s*(?:[\u00d7*]|(?<=\s)[xX](?=\s))\s*)?"
    r"10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\s*[0-9]+)\s*\}|\(\s*([-+]?[0-9]+)\s*\)|([-+]?[0-9]+))(?![\w^!(]|\.[0-9])"
)
_HALF = re.compile(r"(?<=[0-9]) and (?:(a|one)[ -](half|third|quarter)|(three)[ -]quarters)\b", re.IGNORECASE)
_NEGATIVE = re.compile(r"\b[nN]egative (?=[0-9$.])")
_HALVES = {"half": "1/2", "third": "1/3", "quarter": "1/4"}


def plain(text: str) -> str:
    """The text in plain spelling; linear in its length."""
    if not text.isascii():
        text = _ascii(text)
    if "*" in text or "_" in text or "`" in text:
        text = without_emphasis(text)
    if "\\" in text or "$" in text or "{" in text:
        text = _latex(text)
    if "10" in text:
        text = _POWER_OF_TEN.sub(_power, text)
    if "egative " in text:
        text = _NEGATIVE.sub("-", text)
    if " and " in text:
        text = _HALF.sub(lambda found: " " + (_HALVES[found[2].lower()] if found[2] else "3/4"), text)
    return text


def undressed_text(text: str) -> str:
    r"""The text without LaTeX's text commands, dollar signs and spaces: \text{Paris} and $\textbf{(B)}\ 42$."""
    if "\\" in text or "$" in text:
        text = _without_text_commands(_DOLLARS.sub(r" \1 ", _THIN.sub(" ", text.replace("\\!", ""))))
    return " ".join(text.split())


def without_emphasis(text: str) -> str:
    """The text without Markdown's bold, italics and code."""
    for _ in range(2):  # `**73**` and ***73*** are nested
        text = _EMPHASIS.sub(r"\2", text)
    return text


def without_sizes(text: str) -> str:
    r"""The text without what LaTeX says of sizes and of how far apart things stand: \left( as (."""
    return _SIZES.sub("", text.replace("\\!", ""))


def one_about(text: str) -> str:
    r"""\approx, \simeq and their like as the one sign."""
    return _ABOUT.sub("\u2248", text)


def _without_text_commands(text: str) -> str:
    for _ in range(3):
        text = _TEXT.sub(r" \1 ", text)
    return text


def _ascii(text: str) -> str:
    text = text.translate(_SPACES).translate(_SIGNS)
    text = _SUPERSCRIPT.sub(lambda found: "^" + found[0].translate(_RAISED), text)
    text = _SUBSCRIPT.sub(lambda found: "_" + found[0].translate(_LOWERED), text)
    return _VULGAR.sub(_vulgar, text)


def _vulgar(found: re.Match[str]) -> str:
    before = found.string[found.start() - 1 : found.start()]
    return " " * before.isdigit() + unicodedata.normalize("NFKC", found[0]).replace("\u2044", "/")


def _latex(text: str) -> str:
    text = without_sizes(text).replace("{,}", ",").replace("\\%", "%").replace("$$", "$")
    text = _DOLLARS.sub(r" \1 ", text)
    if "\\" not in text and "{" not in text:
        return text
    text = _without_text_commands(_THIN.sub(" ", text.replace("\\$", "$")).replace("\\(", " ").replace("\\)", " "))
    text = re.sub(r"\s+\^", "^", text.replace("\\[", " ").replace("\\]", " "))
    text = _DEGREE.sub("\u00b0", one_about(_TIMES.sub("\u00d7", text)))
    text = _REPEATING.sub(_repeating, _BRACED.sub(r"\1", _UNIT_FRAC.sub(r" \1/\2", _FRAC.sub(_fraction, text))))
    return re.sub(r"\^\s*\{\s*([-+]?[0-9]+)\s*\}", r"^\1", text)


def _fraction(found: re.Match[str]) -> str:
    r"""\frac{a}{b} as a/b, with a space before it in a mixed number; as it is where a sign stands inside one."""
    groups = found.groups("")
    if groups[7]:
        sign, above, below_sign, below = groups[6], groups[7], groups[8], groups[9]
    else:
        sign, above, below_sign, below = groups[0], groups[1] or groups[2], groups[3], groups[4] or groups[5]
    before = found.string[: found.start()].rstrip()[-1:]
    minus = (sign == "-") != (below_sign == "-")
    if minus and (before.isalnum() or before in ("-", "+", ")", "}")) and before:
        return found[0]
    gap = " " * (before.isdigit() and not found.string[found.start() - 1].isspace())
    return f"{gap}{'-' * minus}{above.replace(',', '')}/{below.replace(',', '')}"


def _repeating(found: re.Match[str]) -> str:
    """0.1(6) as 1/6: (16 - 1) / 90."""
    whole, fixed, period = found[1] or "0", found[2], found[3] or found[4]
    if len(whole + fixed + period) > 40:
        return found[0]
    value = Fraction(int(whole + fixed + period) - int(whole + fixed), (10 ** len(period) - 1) * 10 ** len(fixed))
    return str(value)


def _power(found: re.Match[str]) -> str:
    exponent = (found[2] or found[3] or found[4]).replace(" ", "")
    return f"{found[1] or '1'}e{exponent}"
