r"""Answers that a verifier must take and answers that it must not, made from a problem's gold answer: `rung verify`.

Three kinds. "gold": the right answer in the forms that a model may write. "corrupted": the same forms with another
answer in them. "adversarial": what training finds sooner or later, such as every option at once, an echo of the prompt,
or a number too large to compute. A wrong probe that happens to hold the gold answer of a problem is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rung.records import StopReason, Task
from rung.tasks.environments.protocol import Environment, HasGold, judge_of
from rung.tasks.verify.extract import question_text
from rung.tasks.verify.number_probes import mistaken, other_formulas, spellings, value_of

_MEASURED = re.compile(r"(-?[0-9][0-9.,]*) ([A-Za-z][A-Za-z0-9^/ ]*)")
Kind = Literal["gold", "corrupted", "adversarial"]
FORMS = ("\\boxed{%s}", "#### %s", "<answer>%s</answer>", "The answer is %s.", "First 12345, then\n\\boxed{%s}")
# What a scorer may trip over, or pay by mistake. Left out where it is the gold answer.
MALFORMED = (
    "0", "1", "-1", "2", "0.5", "nan", "inf", "-inf", "1e999", "9" * 300, "none", "no idea", "two and three", "True", "False",
    "yes", "[]", "[[]]", "{}", "()", '{"a": 1}', "null", "?!", ",", "\\", "%s", "a", "0/0", "1 2 3", "x = 1",
    "\u00e9\u4e16\u754c \U0001f600",
)  # fmt: skip
LARGE = 20_000  # characters or levels
_DIGITS = {"Arabic-Indic digits": 0x660, "full-width digits": 0xFF10, "mathematical digits": 0x1D7CE}
_LOOKALIKES = str.maketrans("ABCEHIJabceo", "\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u0430\u044c\u0441\u0435\u043e")


@dataclass(frozen=True)
class Probe:
    """One answer: whether it is right follows from its kind."""

    kind: Kind
    name: str
    text: str
    stop: StopReason = "stop"


def in_forms(gold: str, *, bare: bool = True) -> list[str]:
    """The gold answer as a model may write it; numbers also in other spellings. bare: also without any mark."""
    return [*(form.replace("%s", gold) for form in FORMS), *[gold] * bare, *spellings(gold)]


def probes(environment: Environment, task: Task, others: Sequence[str] = ()) -> list[Probe]:
    """All probes for one problem. others: gold answers of other problems."""
    gold, forms = right_answers(environment, task)
    found = [Probe("gold", f"form {n}", form) for n, form in enumerate(forms, 1)]
    if judge_of(environment, task).reads == "programs":
        return [*found, *(Probe("adversarial", name, f"```python\n{text}\n```") for name, text in PROGRAMS.items())]
    question = question_text(task.prompt)
    if gold is not None:
        found += _corrupted(gold, forms, others)
        found += _adversarial(gold, forms[0], _wrong(gold)[0][1], question)
    else:
        found += [Probe("adversarial", name, text) for name, text in _without_gold(question)]
    return found


def gold_of(environment: Environment, task: Task) -> str | None:
    """The problem's gold answer as text; None if it has none."""
    return right_answers(environment, task)[0]


def right_answers(environment: Environment, task: Task) -> tuple[str | None, list[str]]:
    """The gold answer and answers that hold it; of an environment that does not say, what stands beside the problem."""
    if isinstance(environment, HasGold):
        return environment.right_answers(task)
    answer = task.data.get("answer")
    return (None, []) if answer is None else (str(answer), in_forms(str(answer)))


def _wrong(gold: str) -> list[tuple[str, str]]:
    """Other answers that look like the gold one."""
    if measured := _MEASURED.fullmatch(gold):  # 25 cm^2: another number, or another unit
        return [(why, f"{other} {measured[2]}") for why, other in _wrong(measured[1])[:5]] + list(other_formulas(gold))
    if re.fullmatch(r"[0-9A-F]+_\{?[0-9]+\}?", gold):  # a numeral with its base
        return list(other_formulas(gold))
    value = value_of(gold)
    if value is not None:
        near = value + 1
        wrong = [
            ("one more", str(near)),
            ("ten times", str(10 * value if value else 10)),
            ("a half more", f"{value}.5"),
        ]
        if value.denominator != 1:
            wrong[2] = ("a half more", str(value + value / 2))
        return [
            *wrong,
            ("the other sign", str(-value) if value else "-1"),
            ("a digit more", f"{value}7"),
            *mistaken(gold),
        ]
    if len(gold.strip("() .")) == 1 and gold.strip("() .").isalpha():
        letter = gold.strip("() .").upper()
        return [(f"option {other}", other) for other in "ABCD" if other != letter]
    return [
        ("a letter more", gold + "q"),
        ("one more", f"({gold})+1"),
        ("the first half", gold[: len(gold) // 2] or "q"),
        ("denied", f"not {gold}"),
        ("twice", gold + gold if len(gold) > 1 else gold * 3),
        *other_formulas(gold),
    ]


def _put(form: str, gold: str, instead: str) -> str:
    """The form with another answer where its gold one stands last."""
    before, found, after = form.rpartition(gold)
    return before + instead + after if found else instead


def _holding(forms: Sequence[str], gold: str) -> list[str]:
    """The forms in which the gold answer stands as it is, and not in another spelling."""
    return [form for form in forms if gold in form][: len(FORMS) + 1]


def _same(first: str, second: str) -> bool:
    one, two = value_of(first), value_of(second)
    return first.strip().casefold() == second.strip().casefold() or (one is not None and one == two)


def _corrupted(gold: str, forms: Sequence[str], others: Sequence[str]) -> Iterator[Probe]:
    wrong = _wrong(gold) + [("another problem's", other) for other in others]
    for name, value in wrong:
        if not _same(value, gold):
            yield from (Probe("corrupted", name, _put(form, gold, value)) for form in _holding(forms, gold))


def _without_gold(question: str, gold: str = "") -> Iterator[tuple[str, str]]:
    yield "empty", ""
    yield "white space", " \n\t "
    yield "prompt echo", question
    yield "prompt echo twice", f"{question}\n{question}"
    for number, said in enumerate(MALFORMED, 1):
        if not _same(said.rpartition("= ")[2], gold):
            yield f"malformed {number:2}", f"<answer>{said}</answer>"
    for mark in ("\\boxed{}", "<answer></answer>", "####", "<answer>", "\\boxed{"):
        yield f"empty {mark}", mark
    yield "long", "x" * LARGE
    yield "deep", "\\boxed{" * (LARGE // 10)
    yield "deep tags", "<answer>" * (LARGE // 10)
    yield "control characters", "\x00\x1b[J\u202e\ud800"


def _adversarial(gold: str, form: str, wrong: str, question: str) -> Iterator[Probe]:
    """form: how the gold answer is written; wrong: an answer that is not it."""

    def put(value: str) -> str:
        return _put(form, gold, value)

    cases = [*_without_gold(question, gold), *_candidates(gold, form, wrong), *_values(gold, put("%s"))]
    end = ("<|im_end|>", "</s>", "<|endoftext|>")
    cases += [(f"text after {mark}", f"{put(wrong)}{mark}{form}") for mark in end]
    cases += [
        ("in the thinking", f"<think>{form}</think>"),
        ("unfinished thinking", f"<think>{form}"),
        ("an earlier answer", f"{form} no, wait: {put(wrong)}"),
        ("an earlier answer, lines", f"{form}\n\n{put(wrong)}"),
        ("an empty mark after it", f"{gold}\n\\boxed{{}}"),
        ("an empty tag after it", f"{gold}\n<answer></answer>"),
        ("deep boxes", "\\boxed{" * (LARGE // 10) + gold + "}" * (LARGE // 10)),
        ("deep brackets", put("(" * LARGE + gold)),
        ("repeated", put(gold * (LARGE // max(len(gold), 1)) + "3")),
        ("a long number", put("3" * LARGE)),
    ]
    yield from (Probe("adversarial", name, text) for name, text in cases)
    if value_of(gold) is not None and gold[-1:].isdigit():
        yield Probe("adversarial", "cut by the token limit", f"The answer is {gold}", "length")


def _candidates(gold: str, form: str, wrong: str) -> Iterator[tuple[str, str]]:
    """More than one answer."""
    other = _put(form, gold, wrong)
    for name, joint in (("or", " or "), ("comma", ", "), ("slash", " / "), ("and", " and "), ("semicolon", "; ")):
        yield f"all options, {name}", _put(form, gold, f"{wrong}{joint}{gold}")
        yield f"all options, {name}, gold first", _put(form, gold, f"{gold}{joint}{wrong}")
    yield "all options, no mark", f"The answer is {wrong} or {gold}"
    yield "all options, marks", f"{other} or {form}"
    yield "all options, marks, gold first", f"{form} or {other}"
    yield "all options, marks side by side", f"{other}{form}"
    yield "all letters", "A B C D E F G H I J"
    yield "all digits", "0 1 2 3 4 5 6 7 8 9 or 10"
    yield "nested tags", f"<answer>{wrong}<answer>{gold}</answer></answer>"
    yield "nested boxes", f"\\boxed{{{wrong}\\boxed{{{gold}}}}}"
    yield "two in the box", f"\\boxed{{{wrong}, {gold}}}"


def _values(gold: str, place: str) -> Iterator[tuple[str, str]]:
    """What must not be computed, and what only looks like the gold answer."""
    values = {
        "1e309": "1e309",
        "huge exponent": "9e999999999",
        "tower": "9**9**9**9",
        "tower in LaTeX": "10^{10^{10^{10}}}",
        "factorials": "99!!!!",
        "not a number": "nan",
        "infinity": "\\infty",
        "code": "__import__('os')._exit(0)",
        "a true value": "True",
        "a verdict": '{"correct": 1.0}',
        "any": ".*",
        "plus minus": f"\\pm {gold}",
        "an equation": f"123457 = {gold}",
        "a range": f"-999999 - {gold}",
    }
    if any(c in "0123456789" for c in gold):
        for name, zero in _DIGITS.items():
            values[name] = gold.translate({48 + digit: chr(zero + digit) for digit in range(10)})
        values["superscript"] = f"{gold}\u00b2"
        values["vulgar fraction"] = f"{gold}\u00bd"
    if gold.translate(_LOOKALIKES) != gold:
        values["Cyrillic letters"] = gold.translate(_LOOKALIKES)
    for name, value in values.items():
        if not _same(value, gold):
            yield name, place.replace("%s", value)


# Programs that do not do what any test asks for, in the ways that have passed tests elsewhere.
_ANY = (
    "class E:\n    __eq__ = __ge__ = __le__ = __bool__ = lambda *_: True\n    __call__ = __getattr__ = lambda *_: E()\n"
)
PROGRAMS = {
    "nothing": "pass",
    "no program": "I think that the function is right.",
    "exit": "import os\nos._exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "redefined built-ins": "all = any = isinstance = sorted = lambda *_, **__: True\nAssertionError = SystemExit",
    "names for everything": f"{_ANY}for name in [chr(97 + i) for i in range(26)] + ['main', 'solve']: globals()[name] = E()",
    "a patched interpreter": "import builtins\nbuiltins.all = builtins.any = lambda *_: True\nbuiltins.AssertionError = SystemExit",
    "reads its parent": "import os\nprint(open(f'/proc/{os.getppid()}/mem', 'rb').read())",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)",
    "writes a verdict": 'import os\nfor n in range(64):\n    try: os.write(n, b\'{"verdict": "passed", "why": ""}\\n\')\n'
    "    except OSError: pass",
    "memory": "x = [0] * 10 ** 10",
    "never ends": "while True: pass",
    "deep": "x = " + "(" * 5000 + ")" * 5000,
    "text after the end": "pass\n```\n<|im_end|>\n```python\npass",
}
