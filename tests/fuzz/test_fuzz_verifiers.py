"""Answers by the hundred to each verifier: an end within seconds, and never a point for another value than the gold's."""

import math
import re
import string
from fractions import Fraction

import pytest
from fuzzing import cases, ended, huge_texts, in_time, texts
from hypothesis import example, given
from hypothesis import strategies as st

from rung.tasks.verify.code import Code
from rung.tasks.verify.formula import Math
from rung.tasks.verify.verifiers import Choice, Exact, Numeric, by_name, fitting

WHOLE = st.integers(-999_999, 999_999)
VALUES = st.one_of(
    WHOLE.map(Fraction), st.fractions(-1000, 1000, max_denominator=40), st.decimals(-999, 999, places=2).map(Fraction)
)
FORMS = (
    "\\boxed{{{}}}",
    "#### {}",
    "<answer>{}</answer>",
    "The answer is {}.",
    "The answer is **{}**.",
    "= {}",
    "{}",
    "so\n\n{}\n",
)


def written(value: Fraction):
    """Spellings of a number, each of which means just this one."""
    whole, point = value.denominator == 1, _decimal(value)
    out = [f"{value.numerator}/{value.denominator}" if not whole else str(value.numerator)]
    if not whole:
        sign = "-" if value < 0 else ""
        out.append(f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}")
        if abs(value) > 1:
            part = abs(value) - abs(value).__floor__()
            out.append(f"{sign}{abs(value).__floor__()}\\frac{{{part.numerator}}}{{{part.denominator}}}")
    else:
        out += [f"{value.numerator:,}", f"{value.numerator}.0", f"{value.numerator}.00", f"${value.numerator}$"]
    return out + ([point] if point else [])


def _decimal(value):
    """The finite decimal, or None."""
    for places in range(1, 7):
        if (value * 10**places).denominator == 1:
            digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
            return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return None


@st.composite
def pairs(draw):
    """(a gold, an answer's text, whether both are the same number)."""
    gold = draw(VALUES)
    said = draw(
        st.one_of(
            st.just(gold),
            VALUES,
            st.sampled_from(
                [
                    -gold,
                    gold + 1,
                    gold * 10,
                    gold / 10,
                    gold * 100,
                    gold / 100,
                    gold * 1000,
                    1 / gold if gold else Fraction(1),
                    gold + Fraction(1, 100),
                ]
            ),
        )
    )
    spelled = draw(st.sampled_from(written(said)))
    return (
        draw(st.sampled_from(written(gold)[:1])),
        draw(st.sampled_from(FORMS)).format(spelled),
        gold == said,
        abs(gold - said),
    )


@pytest.mark.parametrize("verifier", [Numeric(), Math()], ids=["numeric", "math"])
@cases("numbers", 80, over=2)
@given(pair=pairs())
def test_another_number_is_never_accepted_and_the_same_one_is(verifier, pair):
    gold, text, same, apart = pair
    with in_time():
        verdict = verifier.correct([verifier.extract(text)], gold)[0]
    assert verdict == float(same) or (same and text.startswith("= ")), (gold, text, apart)


# A digit changed, put in or taken out somewhere in a right answer.
@st.composite
def slips(draw):
    value = draw(WHOLE)
    right = draw(st.sampled_from(written(Fraction(value))))
    at = draw(st.integers(0, len(right)))
    piece = draw(
        st.sampled_from([*string.digits, "-", ".", ",", "/", "e", "^", "%", " ", "k", "\u0664", "\u00b2", "_", "'"])
    )
    how = draw(st.sampled_from(["put", "set", "drop"]))
    wrong = {
        "put": right[:at] + piece + right[at:],
        "set": right[:at] + piece + right[at + 1 :],
        "drop": right[:at] + right[at + 1 :],
    }[how]
    return str(value), draw(st.sampled_from(FORMS)), wrong


def meant(text):
    """What a written number means to Fraction; None where it is none for it."""
    bare = text.strip().strip("$")
    bare = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", bare)
    try:
        return Fraction(bare) if bare.isascii() and "_" not in bare and not bare.startswith("+") else None
    except (ValueError, ZeroDivisionError):
        return None


@pytest.mark.parametrize("verifier", [Numeric(), Math(), Exact()], ids=["numeric", "math", "exact"])
@cases("slips", 90, over=3)
@given(slip=slips())
def test_a_slip_that_changes_the_value_is_never_accepted(verifier, slip):
    gold, form, wrong = slip
    value = meant(wrong)
    with in_time():
        verdict = verifier.correct([verifier.extract(form.format(wrong))], gold)[0]
    if value is not None and value != int(gold):
        assert verdict == 0.0, (gold, form.format(wrong))


@cases("choices", 20)
@given(
    gold=st.sampled_from("ABCDEFGHIJ"),
    said=st.sampled_from("ABCDEFGHIJ"),
    form=st.sampled_from((*FORMS, "({})", "\\boxed{{({})}}")),
    more=texts,
)
def test_another_letter_is_never_accepted(gold, said, form, more):
    with in_time():
        verifier = Choice()
        plainly = verifier.correct([verifier.extract(form.format(said))], gold)[0]
        noisy = verifier.correct([verifier.extract(f"{more} {form.format(said)}")], gold)[0]
    assert plainly == float(gold == said) or (gold == said and form in ("= {}", "#### ({})"))
    assert not (noisy and gold != said), (more, form, said)


NASTY = st.one_of(
    texts,
    huge_texts,
    st.lists(texts, min_size=1, max_size=4).map(" ".join),
    st.builds(lambda form, text: form.format(text), st.sampled_from(FORMS), texts | huge_texts),
    st.builds(
        lambda piece, n: piece * n,
        st.sampled_from(["\\boxed{", "1 or ", "**", "^", "1,", "((", "- ", "\\frac1", "<answer>", "$1$ ", "1_", "= "]),
        st.sampled_from([3, 300, 30_000]),
    ),
)
GOLDS = ("42", "1/3", "B", "Paris", "x^2+1", "(1, 2)", "5 cm", "10:30", "1010_2", "\\frac{\\pi}{2}", "")


@cases("answers", 70)
@given(
    text=NASTY, gold=st.sampled_from(GOLDS), name=st.sampled_from(["exact", "numeric", "choice", "math"]), prompt=texts
)
@example("9" * 6000, "9" * 5999 + "8", "numeric", "")
@example("\\boxed{" + "9" * 6000 + "}", "9" * 5999 + "8", "math", "")
@example("\ud800", "42", "math", "")
def test_whatever_is_answered_is_judged_in_time(text, gold, name, prompt):
    verifier = by_name(name)
    with in_time():
        answer = verifier.extract(text, prompt)
        verdict = verifier.correct([answer, None], gold)
    assert len(verdict) == 2 and verdict[1] == 0.0 and (verdict[0] in (0.0, 1.0) or math.isnan(verdict[0]))
    assert answer is None or isinstance(answer, str)


@cases("golds", 20)
@given(golds=st.lists(texts | huge_texts, min_size=1, max_size=3))
def test_whatever_is_gold_gets_a_verifier_that_judges_it(golds):
    with in_time():
        verifier = fitting(golds)
        for gold in golds:
            assert all(
                v in (0.0, 1.0) or math.isnan(v) for v in verifier.correct([verifier.extract(gold), "7", None], gold)
            )


@cases("programs", 20)
@given(
    text=NASTY | st.builds("```python\n{}\n```".format, texts | huge_texts),
    gold=texts | st.sampled_from(["assert f(1) == 2", "[" * 100_000, "[]", "[1]"]),
)
def test_whatever_is_a_program_is_read_in_time(text, gold):
    """Read, and its tests looked at; what runs is tests/tasks/test_sandbox.py's."""
    verifier = Code()
    ended(lambda: (verifier.extract(text), verifier.refusal(gold)))
