"""`rung verify`: no built-in verifier accepts a wrong answer or refuses a right one; a bad one is caught."""

import json
from pathlib import Path

import pytest

from rung.cli import main
from rung.evaluation.verification import verification
from rung.tasks.registry import load
from rung.tasks.verify.probes import PROGRAMS, probes

GOLDS = {
    "numeric": ["9", "1,200", "-3", "0.5", "1/3", "0", "5\\frac{1}{2}", "1500000", "25 cm^2", "1010_2"],
    "choice": ["A", "(B)", "I", "J"],
    "exact": ["Paris", "New York", "a-b_c"],
    "math": [r"\frac{1}{2}", "9", "x^2+1", "y=2x", "(1,2)", r"\frac{1}{2^{99}}"],
}


def rows(path: Path, golds: list[str], **columns: list[str]) -> Path:
    lines = []
    for i, gold in enumerate(golds):
        more = {name: values[i] for name, values in columns.items()}
        lines.append(json.dumps({"prompt": f"Question number {i}: what is it, then?", "answer": gold} | more))
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("name", GOLDS)
def test_no_false_accept_and_no_false_reject(name: str, tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", GOLDS[name])
    environment = load(str(path), verifier=name, options={"eval_share": 1.0}).eval
    result = verification(environment, 10)
    assert [(m.probe.kind, m.probe.name, m.gold) for m in result.mistakes] == []
    assert result.total("gold").accepted == len(result.total("gold").seconds) >= 5 * len(GOLDS[name])
    assert result.total("adversarial").rejected > 40 * len(GOLDS[name])


def test_code(tmp_path: Path) -> None:
    path = rows(
        tmp_path / "rows.jsonl", ["assert f(2) == 4", "assert f('a') == 'aa'"], code=["def f(x): return 2 * x"] * 2
    )
    result = verification(load(str(path), verifier="code", options={"eval_share": 1.0}).eval, 1)
    assert not result.mistakes
    assert result.total("gold").accepted == 1
    assert result.total("adversarial").rejected == len(PROGRAMS)


@pytest.mark.parametrize("task", ["chained_arithmetic", "chain_sum"])
def test_built_in_tasks(task: str) -> None:
    if task == "chain_sum":
        pytest.importorskip("reasoning_gym")
    result = verification(load(task).eval, 3)
    assert [(m.probe.kind, m.probe.name, m.gold) for m in result.mistakes] == []
    assert result.total("gold").accepted >= 6


def test_gsm8k(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    items = [{"question": f"Ann buys {i} pens. How many?", "answer": f"She buys {i}.\n#### {i}"} for i in (7, 1234)]
    path.write_text("\n".join(map(json.dumps, items)))
    result = verification(load("gsm8k", path=path, options={"eval_share": 1.0}).eval, 2)
    assert [(m.probe.kind, m.probe.name, m.gold) for m in result.mistakes] == []


def test_a_careless_reward_function_is_caught(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, rewards = rows(tmp_path / "rows.jsonl", ["9", "12"]), tmp_path / "rewards.py"
    rewards.write_text(
        "def inside(completions, answer, **_): return [float(a in c) for a, c in zip(answer, completions)]"
    )
    words = ["verify", "--task", str(path), "--reward", f"{rewards}:inside", "--problems", "2"]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "false accept" in out and "0 false rejects" in out
    assert main([*words, "--json", "-"]) == 1
    table = {row["case"]: row for row in json.loads(capsys.readouterr().out)}
    assert table["all options, or"]["mistakes"] > 0 and table["empty"]["mistakes"] == 0


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["verify", "--task", "chained_arithmetic", "--problems", "2", "--all"]) == 0
    out = capsys.readouterr().out
    assert "prompt echo" in out and "0 false accepts, 0 false rejects" in out
    assert main(["verify", "--task", "chained_arithmetic", "--problems", "0"]) == 2


def test_probes_of_one_problem_have_names_of_their_own_and_leave_the_gold_answer_out() -> None:
    environment = load("chained_arithmetic").eval
    found = probes(environment, environment[0], ["3"])
    adversarial = [p for p in found if p.kind == "adversarial"]
    assert len({p.name for p in adversarial}) == len(adversarial) > 50
    gold = {p.text for p in found if p.kind == "gold"}
    assert not gold & {p.text for p in found if p.kind != "gold" and p.stop == "stop"}


CARELESS = r'''
import re
from fractions import Fraction

def value(text):
    """The last number, fractions without braces, whatever stands behind it: as careless readers do."""
    text = re.sub(r"\\d?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text)
    found = re.findall(r"(?<![\w*])-?\d+(?:/\d+|\.\d+)?", text)
    return Fraction(found[-1]) if found and not found[-1].endswith("/0") else None

def careless(completions, answer, **_):
    return [float(value(c) is not None and value(c) == value(a)) for c, a in zip(completions, answer)]

def fragile(completions, answer, **_):
    return [float(int(c.split("{")[1].split("}")[0]) == int(a)) for c, a in zip(completions, answer)]
'''


def test_the_probes_find_what_careless_readers_of_numbers_do(tmp_path: Path) -> None:
    path, rewards = rows(tmp_path / "rows.jsonl", ["5\\frac{1}{2}", "73", "1500000"]), tmp_path / "rewards.py"
    rewards.write_text(CARELESS)
    environment = load(str(path), reward=f"{rewards}:careless", options={"eval_share": 1.0}).eval
    mistakes = verification(environment, 3).mistakes
    accepted = {m.probe.name for m in mistakes if m.what == "false accept"}
    assert {
        "digits joined",
        "in millions",
        "in dozens",
        "in thousands",
        "times x",
        "times i",
    } <= accepted
    rejected = {m.probe.text for m in mistakes if m.what == "false reject"}
    assert "\\boxed{5.5}" in rejected or "\\boxed{11/2}" in rejected  # the mixed number read as 51/2
    assert "The number that we look for is **73**." in rejected  # bold
    assert "\\boxed{1.5 \\times 10^{6}}" in rejected


def test_a_reward_that_raises_is_a_finding_and_not_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, rewards = rows(tmp_path / "rows.jsonl", ["9", "12"]), tmp_path / "rewards.py"
    rewards.write_text(CARELESS)
    assert main(["verify", "--task", str(path), "--reward", f"{rewards}:fragile", "--problems", "1"]) == 1
    out = capsys.readouterr().out
    assert "raised InputError" in out and "raised at" in out


@pytest.mark.parametrize("bad", ["train", "eval"])
def test_both_sides_are_judged(bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A verifier that pays anything on one side only is found on either."""
    rewards = tmp_path / "rewards.py"
    rewards.write_text(
        "def pay(completions, answer, side, **_):\n"
        f"    return [float(s == {bad!r} or c.strip() == a) for c, a, s in zip(completions, answer, side)]\n"
    )
    (tmp_path / "data").mkdir()
    rows(tmp_path / "data" / "test.jsonl", ["9", "12"], side=["eval"] * 2)
    rows(tmp_path / "data" / "train.jsonl", ["9", "12", "5", "7"], side=["train"] * 4)  # the first two are left out
    words = ["verify", "--task", str(tmp_path / "data"), "--reward", f"{rewards}:pay", "--problems", "1"]
    assert main(words) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "on 1 training and 1 held-out problems" in out and "false accept" in out


def test_the_table_breaks_no_word_at_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["verify", "--task", "chained_arithmetic", "--problems", "2", "--all"]) == 0
    out = capsys.readouterr().out
    assert {"kind", "case", "accepted", "rejected", "mistakes", "corrupted", "adversarial"} <= set(out.split())
