"""The table of answers (answers.tsv): no wrong one is accepted, and each right one that is refused is listed with its reason."""

from pathlib import Path

import pytest

from rung.tasks.verify import units
from rung.tasks.verify.quantity import quantity
from rung.tasks.verify.verifiers import by_name

ROWS = [
    line.split("\t")
    for line in Path(__file__).with_name("answers.tsv").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize("name", ["exact", "numeric", "choice", "math"])
def test_every_answer_of_the_table_is_judged_as_it_stands_there(name: str) -> None:
    verifier, mistakes = by_name(name), []
    for kind, gold, text, truth, why in ROWS:
        if kind == name or (kind == "both" and name in ("numeric", "math")):
            answer = verifier.extract(text.replace("⏎", "\n"))
            (value,) = verifier.correct([answer], gold)
            if value != float(truth == "right"):
                mistakes.append((gold, text, truth, why, answer, value))
    assert not mistakes, "\n".join(map(str, mistakes))


def test_the_table_is_large_and_says_why() -> None:
    assert len(ROWS) > 250 and all(len(row) == 5 and row[4] for row in ROWS)
    assert {row[3] for row in ROWS} == {"right", "wrong", "missed"}
    assert len({tuple(row[:3]) for row in ROWS}) == len(ROWS)
    assert sum(row[3] == "missed" for row in ROWS) < len(ROWS) / 20


@pytest.mark.parametrize("name", sorted({name for members in units._TABLE.values() for name in members}))
def test_every_unit_is_read_back_from_its_own_name(name: str) -> None:
    for text in (f"3 {name}", f"3 {name}^2", f"3 {name}/mol"):
        found = quantity(text)
        assert found is not None and found.unit.meanings
        assert quantity(str(found)) == found
