"""`rung ask`: once, from a pipe or in turn; both models side by side; what a token's probability was; nothing a terminal obeys."""

import io
import json

import pytest

import rung
from rung.cli import main
from rung.evaluation import asking
from rung.evaluation.interview import Reply
from rung.rollout.question import Answer, Token


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    small = {"prompts_per_step": 8, "samples_per_prompt": 4, "eval_problems": 4, "threads": 1, "learning_rate": 0.02}
    return str(rung.train(recipe="reinforce", steps=2, out=tmp_path_factory.mktemp("asking") / "run", **small).path)


def test_the_run_and_what_it_began_with_answer_side_by_side(run, capsys, monkeypatch):
    assert main(["ask", run, "1+2=", "4*7-2="]) == 0
    wide = capsys.readouterr().out
    assert wide.index("1+2=") < wide.index("4*7-2=") and wide.count("before") == wide.count("now") == 2
    heads = [line for line in wide.splitlines() if "before" in line]
    assert all("now" in line for line in heads)
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["ask", run, "1+2="]) == 0
    narrow = capsys.readouterr().out.splitlines()
    assert "before" in narrow and "now" in narrow, "below each other where there is no room"
    assert max(map(len, narrow)) <= 40


def test_what_is_written_is_what_was_said(run, capsys):
    assert main(["ask", run, "1+2=", "--samples", "3", "--seed", "5", "--probabilities", "--json", "-"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    room = asking.Interview.of(run)
    reply = room.ask("1+2=", 3, seed=5, probabilities=True)
    assert row["question"] == "1+2=" and [a["text"] for a in row["now"]] == [a.text for a in reply.now]
    assert [a["text"] for a in row["before"]] == [a.text for a in reply.before] != [a.text for a in reply.now]
    first = row["now"][0]["tokens"]
    assert [(t["text"], t["p"]) for t in first] == [(t.text, t.p) for t in reply.now[0].tokens]


def test_another_run_takes_the_place_of_the_base(run, capsys):
    assert main(["ask", run, "1+2=", "--compare", "starter", "--json", "-"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert set(row) == {"question", "starter", run}
    assert row["starter"][0]["text"] == asking.Interview.of("starter").ask("1+2=").now[0].text
    assert main(["ask", run, "1+2=", "--compare", run]) == 2 and "itself" in capsys.readouterr().err
    assert main(["ask", "starter", "1+2="]) == 0
    assert "before" not in capsys.readouterr().out, "a model alone began with nothing"


class Typed(io.StringIO):
    def isatty(self):
        return True


def test_questions_come_from_a_pipe_or_from_the_keys(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("1+2=\n\n3+4=\n"))
    assert main(["ask", run]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith("=")] == ["1+2=", "3+4="]
    for last in ("", EOFError):
        given = iter(["5+1=", "9" * 500, last])

        def typed(_, given=given):
            line = next(given)
            if line is EOFError:
                raise EOFError
            return line

        monkeypatch.setattr("sys.stdin", Typed())
        monkeypatch.setattr("builtins.input", typed)
        assert main(["ask", run]) == 0
        said = capsys.readouterr()
        assert said.out.count("5+1=") == 1 and "leaves no room for an answer" in said.err, "it goes on behind a refusal"
    assert main(["ask", run, "9" * 500]) == 2, "one that was given is refused"


def test_an_answer_is_shown_with_its_probabilities_and_nothing_that_a_terminal_obeys(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    tokens = (Token("4", 0.98), Token(" \x1b[31m", 0.5), Token("\n", 0.004))
    evil = Answer("4 \x1b[31m\n", "length", tokens)
    asking.show(Reply("\x1b]0;title\x07?", [evil], [Answer("fine\x1b", "stop")]), ("be\x1bfore", "now"))
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert "4(0.98)" in out and "\u2423\u241b[31m(0.50)" in out and "\u240a(0.00)" in out and "[cut at the limit" in out
