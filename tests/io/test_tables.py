import json
import math

import pytest

from rung.errors import InputError
from rung.io.tables import _words_whole, refuse_target, show

COLUMNS = ("recipe", "bias", "ok", "why")
ROWS = [("grpo", 0.123456, True, "[bold]x[/bold]\x1b[31m"), ("rloo", math.nan, False, None)]


def test_a_table_shows_every_cell_and_no_control_character(capsys):
    show("Bias \x1b[2J", COLUMNS, ROWS)
    text = capsys.readouterr().out
    assert all(part in text for part in ("Bias", "grpo", "0.1235", "yes", "[bold]x[/bold]", "-")) and "\x1b" not in text


def test_json_on_standard_output_is_all_of_it(capsys):
    show("Bias", COLUMNS, ROWS, "-")
    rows = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert rows[0] == {"recipe": "grpo", "bias": 0.123456, "ok": True, "why": "[bold]x[/bold]\x1b[31m"}
    assert rows[1]["bias"] is None


def test_json_to_a_new_file_beside_the_table(tmp_path, capsys):
    show("Bias", COLUMNS, ROWS, str(tmp_path / "a.json"))
    assert "grpo" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "a.json").read_text())) == 2


def test_nothing_is_overwritten(tmp_path, capsys):
    old = tmp_path / "a.json"
    old.write_text("precious")
    for target in (old, tmp_path / "none" / "a.json", tmp_path):
        with pytest.raises(InputError, match="--json"):
            show("Bias", COLUMNS, ROWS, str(target))
        with pytest.raises(InputError, match="--json"):
            refuse_target(str(target))
    assert old.read_text() == "precious" and capsys.readouterr().out == ""
    refuse_target("-")
    refuse_target(None)


def test_no_rows(capsys):
    show("Nothing", COLUMNS, [], "-")
    assert json.loads(capsys.readouterr().out) == []
    show("Nothing", COLUMNS, [])
    assert "recipe" in capsys.readouterr().out


def test_a_number_is_never_shown_in_two_parts(monkeypatch, capsys):
    """1.167e-1 and a 5 below it reads as a tenth."""
    monkeypatch.setenv("COLUMNS", "40")
    show("t", ("the correction of it", "relative error"), [("NoCorrection(), or what else stands there", 1.1672e-15)])
    assert "1.167e-15" in capsys.readouterr().out
    many = tuple(f"column{i}" for i in range(4))
    show("t", many, [("SequenceTIS()", 0.1805, 7.382e-16, 7.14)])
    assert "7.382e-16" in capsys.readouterr().out


def test_words_stay_whole_where_all_columns_fit_and_only_there(monkeypatch, capsys):
    columns, rows = (
        ("corrupted", "note"),
        [("1", "a long sentence that the width is too small for, so that it is folded")],
    )
    monkeypatch.setenv("COLUMNS", "40")
    show("t", columns, rows)
    assert "corrupted" in capsys.readouterr().out
    many = tuple(f"column{i}word" for i in range(9))
    show("t", many, [tuple("1" * 9)])  # nine such words do not fit: they fold, and every cell is still there
    assert capsys.readouterr().out.count("1") >= 9
    assert _words_whole(("corrupted", "n"), [("1", "a bc")], 60) == [9, 2]
    assert _words_whole(("corrupted",), [("1",)], 9) == [None]
