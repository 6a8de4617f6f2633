"""Answer checking: what must never be accepted, what must be, and what "no answer" and "could not tell" mean."""

import math

import pytest

from rung.tasks.verify.verifiers import Choice, Exact, Math, Numeric, Verifier, by_name, fitting

NUMERIC = [Numeric(), Math()]
PROMPT = "State the final answer to the following arithmetic problem: 0 + 9 ="

# gold is 9 for numeric and math in every row: (what is wrong with it, completion)
NEVER_9 = [
    ("empty", ""),
    ("white space", " \n\t "),
    ("all options", "The answer is 7 or 8 or 9"),
    ("all options, comma", "7, 8, 9"),
    ("all options, lines", "7\n8\n9"),
    ("range", "1-9"),
    ("a hedge", "It is 8 or maybe 9."),
    ("either", "either 8 or the number 9"),
    ("boxed options", r"\boxed{8} or \boxed{9}"),
    ("boxed list", r"\boxed{8}\boxed{9}"),
    ("two in the box", r"\boxed{8, 9}"),
    ("or in the box", r"\boxed{8 \text{ or } 9}"),
    ("or after the box", r"\boxed{9} or 8"),
    ("or before the box", r"8 or \boxed{9}"),
    ("plus minus", r"\boxed{\pm 9}"),
    ("tagged options", "<answer>8</answer><answer>9</answer>"),
    ("nested tags", "<answer>8<answer>9</answer></answer>"),
    ("nested boxes", r"\boxed{8\boxed{9}}"),
    ("an earlier answer", r"\boxed{9} no, wait: \boxed{8}"),
    ("an earlier number", "First 9, but the result is 8."),
    ("an empty last box", r"9 \boxed{}"),
    ("an empty last tag", "9 <answer></answer>"),
    ("an empty last hash", "9\n####"),
    ("after the end", "#### 8<|im_end|>#### 9"),
    ("after the end token", "8</s> 9"),
    ("in the thinking", "<think>It is \\boxed{9}.</think>"),
    ("unfinished thinking", "<think>It is \\boxed{9}."),
    ("echo", PROMPT),
    ("echo of the end", "problem: 0 + 9 ="),
    ("the exercise", "0 + 9"),
    ("the exercise, boxed", r"\boxed{0 + 9}"),
    ("the exercise, a quotient", r"\boxed{18/2}"),
    ("the exercise, a latex quotient", r"\boxed{\frac{18}{2}}"),
    ("the exercise, a product", r"\boxed{3 \times 3}"),
    ("the exercise, a power", r"\boxed{3^2}"),
    ("a square", "x^9"),
    ("an equation", r"\boxed{8 = 9}"),
    ("a mixed number", r"\boxed{4 5}"),
    ("an operand", "9 = 18 - 9"),
    ("Arabic-Indic digits", "\u0669"),
    ("full-width digits", "\uff19"),
    ("a superscript", "9\u00b2"),
    ("mixed scripts", "\u06619"),
    ("zero-width joint", "4\u200b9"),
    ("a vulgar fraction", "9\u00bd"),
    ("the other sign", "-9"),
    ("the other sign, unicode", "\u22129"),
    ("the other sign, spaced", r"\boxed{- 9}"),
    ("the other sign, money", "-$9"),
    ("a decimal", "9.5"),
    ("a version", "9.0.1"),
    ("a list of thousands", "1,9"),
    ("a part of a word", "2x9"),
    ("inside a number", "19"),
    ("infinite", "1e309"),
    ("huge exponent", "9e999999999"),
    ("tower", "9**9**9"),
    ("tower, boxed", r"\boxed{9**9**9}"),
    ("tower in latex", r"\boxed{10^{10^{10}}}"),
    ("factorials", r"\boxed{9!!!!}"),
    ("code", "\\boxed{__import__('os').getpid()}"),
    ("not a number", r"\boxed{nan}"),
    ("infinity", r"\boxed{\infty}"),
    ("set", r"\boxed{\{8, 9\}}"),
    ("interval", r"\boxed{[8, 9]}"),
    ("inequality", r"\boxed{x \le 9}"),
    ("long", r"\boxed{" + "9" * 100_000 + "}"),
    ("many openings", "\\boxed{" * 20_000 + "9"),
]
ALWAYS_9 = [
    "9",
    "9.",
    "**9**",
    "9.0",
    "+9",
    "The answer is 9.",
    "0 + 9 = 9",
    "#### 9",
    "####9\nThat was easy.",
    r"\boxed{9}",
    r"$\boxed{9}$.",
    "<answer>9</answer>",
    "<answer> \\boxed{9} </answer>",
    r"so \(0 + 9 = 9\)",
    r"\boxed{x = 9}",
    "#### $9",
    "#### 9 apples",
    r"\boxed{9\text{ apples}}",
    "first 7, and finally 9",
    "\\boxed{8} no, \\boxed{9}",
    "<think>8</think>9",
    "9<|im_end|>8",
    "9 is it: 9",
    PROMPT + " 9",
    "\uff1d 9",
    "9!",
    r"\boxed{9.00}",
    "1. Take 0.\n2. Add: 0 + 9 = 9",
]


@pytest.mark.parametrize("verifier", NUMERIC, ids=lambda verifier: verifier.name)
@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in NEVER_9])
def test_never_accepted(verifier: Verifier, text: str) -> None:
    verdict = verifier.correct([verifier.extract(text, PROMPT)], "9")[0]
    assert verdict == 0.0


@pytest.mark.parametrize("verifier", NUMERIC, ids=lambda verifier: verifier.name)
@pytest.mark.parametrize("text", ALWAYS_9)
def test_accepted(verifier: Verifier, text: str) -> None:
    assert verifier.correct([verifier.extract(text, PROMPT)], "9") == [1.0]


@pytest.mark.parametrize(
    ("gold", "text", "verdict"),
    [
        ("1,200", "#### $1200.00", 1.0),
        ("$1,200", "It costs 1,200 dollars.", 1.0),
        ("1200", "It costs 1,2000 dollars.", 0.0),
        ("-3", "The result is -3", 1.0),
        ("-3", "5 -3", 0.0),
        ("0.5", r"\boxed{\frac{1}{2}}", 1.0),
        ("0.5", "1/2", 1.0),
        ("100000", "1e5", 1.0),
        ("inf", "inf", 0.0),
        ("nan", "nan", 0.0),
        ("", "", 0.0),
    ],
)
def test_numeric_values(gold: str, text: str, verdict: float) -> None:
    assert Numeric().correct([Numeric().extract(text)], gold) == [verdict]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("B", 1.0),
        ("(B)", 1.0),
        ("The answer is B.", 1.0),
        ("Answer: (B)", 1.0),
        (r"\boxed{B}", 1.0),
        ("<answer>b</answer>", 1.0),
        ("A is wrong.\nThe answer is B", 1.0),
        (r"\boxed{\text{B}}", 1.0),
        ("B. Paris", 1.0),
        ("**B**", 1.0),
        ("option B", 1.0),
        ("A or B", 0.0),
        ("A or B or C", 0.0),
        ("The answer is A, B, C or D", 0.0),
        ("A B C D", 0.0),
        ("ABCD", 0.0),
        (r"\boxed{A}\boxed{B}", 0.0),
        ("", 0.0),
        ("B\nA", 0.0),
        ("not B", 0.0),
        ("B. or C", 0.0),
        (r"\boxed{A, B}", 0.0),
        ("Because", 0.0),
        ("\u0412", 0.0),
        ("#### A\n#### B", 0.0),
    ],
)
def test_choice(text: str, verdict: float) -> None:
    assert Choice().correct([Choice().extract(text)], "B") == [verdict]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Paris", 1.0),
        ("The answer is Paris.", 1.0),
        ("I think so.\n**Paris**", 1.0),
        (r"\boxed{Paris}", 1.0),
        ("<answer>Paris</answer>", 1.0),
        ("Paris or London", 0.0),
        ("", 0.0),
        ("Par", 0.0),
        ("Paris, London", 0.0),
        ("paris", 0.0),
        ("<answer>Paris</answer> or <answer>Rome</answer>", 0.0),
    ],
)
def test_exact(text: str, verdict: float) -> None:
    assert Exact().correct([Exact().extract(text)], "Paris") == [verdict]


@pytest.mark.parametrize("verifier", [Exact(), Numeric(), Choice(), Math()], ids=lambda verifier: verifier.name)
def test_an_empty_gold_accepts_nothing(verifier: Verifier) -> None:
    assert verifier.correct(["", None, "9", "A"], "") == [0.0] * 4


def test_no_answer_is_not_a_wrong_answer() -> None:
    assert Numeric().extract("I do not know.") is None
    assert Numeric().extract("8 or 9") is not None
    assert Numeric().extract("1,200.50") == Numeric().extract("so: 1200.5") == "1200.5"  # one spelling, for voting
    assert Choice().extract("I do not know.") is None
    assert Math().extract("I do not know.") is None


def test_math_verify_judges_what_is_not_a_number() -> None:
    judge = Math()
    texts = [
        r"\boxed{\frac{\sqrt{2}}{2}}",
        r"$\frac{1}{\sqrt 2}$",
        r"\boxed{\sqrt 2}",
        r"\boxed{x = \frac{1}{\sqrt{2}}}",
        "?",
    ]
    verdicts = judge.correct([judge.extract(text) for text in texts], r"\frac{\sqrt{2}}{2}")
    assert verdicts == [1.0, 1.0, 0.0, 1.0, 0.0]
    assert judge.correct(["0.333333", "0.3", "1/3"], "1/3") == [0.0, 0.0, 1.0]  # the gold is exact
    assert judge.correct(["x^2+1", "1+x^2", "x^2", "x^2+1 or x^2"], "x^2 + 1") == [1.0, 1.0, 0.0, 0.0]
    assert math.isnan(judge.correct(["x"], r"\frac{")[0])  # a gold answer that cannot be read is nobody's mistake


def test_auto_and_unknown_verifiers() -> None:
    assert isinstance(fitting(["1", "$1,200", "3/4"]), Numeric)
    assert isinstance(fitting(["A", "(B)"]), Choice)
    assert isinstance(fitting(["1", r"\sqrt{2}"]), Math)
    assert isinstance(fitting(["Paris"]), Exact)
    with pytest.raises(ValueError, match="Did you mean 'numeric'"):
        by_name("numerical")
