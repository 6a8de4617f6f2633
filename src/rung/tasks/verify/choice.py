r"""The option letter of a multiple-choice answer: B, (B), B. Paris, \textbf{(B)}\ 42, **B) Paris**."""

from __future__ import annotations

import re

from rung.tasks.verify.plain import undressed_text, without_emphasis

_OPTION = re.compile(r"\(?\s*([A-Ja-j])\s*\)?(?:\s*[.):]\s*(?P<rest>.*)|(?<=\))\s*(?P<more>.*))?", re.DOTALL)
# Another option in the text behind the letter: "(C)", "or C", "C" alone. "B. Vitamin C" and "B. A cat" name no other one.
_ANOTHER = re.compile(
    r"\(\s*[A-J]\s*[).:]|(?:^|\b(?:or|and|not)\b|[,;/&|])\s*\(?[A-J]\)?\s*(?:$|[).,;:/&|]|\b(?:or|and)\b)",
    re.IGNORECASE,
)
_LEAD = re.compile(r"^.*\b(?:answer|option|choice)\b(?:\s+is\b)?\s*:?\s*", re.IGNORECASE | re.DOTALL)


def content(text: str) -> str:
    """The text after "the answer is", without LaTeX's and Markdown's emphasis."""
    bare = without_emphasis(undressed_text(text)).strip("*`\"' ").rstrip(".")
    return _LEAD.sub("", bare).strip().strip("*`\"'$").strip()


def option(text: str) -> str | None:
    """The one option letter that the text names, A to J; None if it names none, or another one too."""
    found = _OPTION.fullmatch(content(text))
    if found is None or _ANOTHER.search(found["rest"] or found["more"] or ""):
        return None
    return found[1].upper()
