"""A gold that no answer can equal is found before the run: refused with its row and reason, or left out and counted."""

import json
from pathlib import Path

import pytest

from rung.errors import InputError
from rung.records import Task
from rung.tasks.registry import load
from rung.tasks.verify.golds import hopeless
from rung.tasks.verify.verifiers import by_name

SOLUTION = "We compute. " * 60 + "So it is 7."


def rows(path: Path, *golds: str) -> Path:
    path.write_text("\n".join(json.dumps({"prompt": f"Question {i}?", "answer": g}) for i, g in enumerate(golds)))
    return path


def test_hopeless_golds_are_refused_with_their_rows(tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", SOLUTION, " ", r"\frac{1", "5", "6")
    with pytest.raises(InputError) as error:
        load(str(path))
    message = str(error.value)
    for part in ("3 of 5 gold answers", "rows.jsonl:1", "731 characters", "rows.jsonl:2 (it is blank)", "rows.jsonl:3",
                 "cannot be read as a formula", "drop_unverifiable"):  # fmt: skip
        assert part in message


def test_they_can_be_left_out_with_a_note(tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.jsonl", SOLUTION, " ", r"\frac{1", "5", "6")
    splits = load(str(path), options={"drop_unverifiable": True, "eval_share": 1.0})
    assert [splits.eval[i].data["answer"] for i in range(len(splits.eval))] == ["5", "6"]
    assert any("3 of 5 gold answers" in note and "left out" in note for note in splits.notes)
    every = rows(tmp_path / "every.jsonl", " ", "  ")
    with pytest.raises(InputError, match="2 of 2"):
        load(str(every), options={"drop_unverifiable": True})


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "numeric",
            ["5", "2/4", "1.5 \\times 10^6", "1 million", "$5", "10:30 a.m.", "1010_2"],
            ["five", "x", "", "5x", "1e999"],
        ),
        ("choice", ["A", "(B)", r"\text{(C)}"], ["K", "AB", "", "Paris"]),
        ("math", ["5", r"\frac{1}{2}", "x^2", "(1,2)", r"\text{Evelyn}", "y=2x", "[1,2)"], [r"\frac{1", "", "x" * 600]),
        ("exact", ["Paris", "New York", "a-b_c", "__init__", "x" * 600], ["", " "]),
    ],
)
def test_each_verifier_takes_its_own_golds(name: str, good: list[str], bad: list[str]) -> None:
    golds = [*good, *bad]
    found = hopeless([Task(str(i), "?") for i in range(len(golds))], golds, by_name(name))
    assert [golds[int(one.task.id)] for one in found] == bad


def test_gsm8k_rows_are_held_against_their_verifier_too(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    items = [{"question": f"q{i}?", "answer": f"So.\n#### {gold}"} for i, gold in enumerate(("7", r"\frac{1"))]
    path.write_text("\n".join(map(json.dumps, items)))
    with pytest.raises(InputError, match="1 of 2 gold answers"):
        load("gsm8k", path=path)
