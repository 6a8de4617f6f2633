"""Command lines by the hundred: each ends in settings that were looked at, or in one message."""

import io
import re
from contextlib import redirect_stderr, redirect_stdout

import pytest
from fuzzing import DEEP, cases, ended, in_time, texts
from hypothesis import given
from hypothesis import strategies as st

from rung.cli import main
from rung.errors import typed
from rung.shell.arguments import record, settings
from rung.shell.commands import COMMANDS
from rung.shell.words import slots
from rung.training.config import TrainConfig

OWN = sorted({slot.flag for slot in slots(TrainConfig) if not slot.positional})
PARTS = [
    "--recipe.kl.coef",
    "--recipe.surrogate.high",
    "--recipe.credit",
    "--recipe.entropy",
    "--recipe.",
    "--recipe..",
    "--recipe.kl.part",
    "--recipe.a.b.c.d",
]
OPTIONS = [
    "--task-options.seed",
    "--task-options.train_size",
    "--task-options.x",
    "--template-options.enable_thinking",
    "--task-options.",
]
VALUES = st.one_of(
    texts,
    st.sampled_from(
        [
            "1",
            "0",
            "-1",
            "1.5",
            "nan",
            "inf",
            "1e999",
            "9" * 400,
            "9" * 6000,
            "-" + "9" * 6000,
            "true",
            "none",
            "null",
            "[1]",
            '{"a": 1}',
            "[" * DEEP,
            '{"a":' * 20_000,
            "x" * 100_000,
            "1,2",
            "starter",
            "grpo",
            "cpu",
            "K3",
            "chained_arithmetic",
            "\u0663",
            "1_0",
            " 1",
            "+1",
        ]
    ),
)


@st.composite
def lines(draw, known):
    words = []
    for _ in range(draw(st.integers(0, 4))):
        name = draw(
            st.sampled_from(
                [*known, *known, *PARTS, *OPTIONS, "--nope", "--", "-", "-x", "--no-keep-best", "--=", "---"]
            )
            | texts
        )
        value, joined = draw(VALUES), draw(st.sampled_from(["two", "two", "one", "none"]))
        words += [name, value] if joined == "two" else [f"{name}={value}"] if joined == "one" else [name]
    return words


@cases("flags: train", 50)
@given(words=lines(OWN))
def test_flags_of_a_run(words, monkeypatch_place):
    def read():
        with typed():
            config = settings(words, "train").resolved()
            return config.build_recipe()

    ended(read)


@pytest.fixture(scope="module")
def monkeypatch_place(tmp_path_factory):
    """An empty directory to stand in: a random word could name a file of the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        yield


OTHERS = sorted(name for name, command in COMMANDS.items() if not command.own)


@cases("flags: commands", 50)
@given(data=st.data(), name=st.sampled_from(OTHERS))
def test_flags_of_other_commands(data, name, monkeypatch_place):
    spec = COMMANDS[name].flags
    words = data.draw(lines([slot.flag for slot in slots(spec)]))
    with typed():
        ended(lambda: record(spec, name, words))


# Commands that are quick where they do something; --dry-run and no model keep a lucky draw from training.
WHOLE = {
    "explain": ["grpo"],
    "diff": ["grpo", "dr_grpo"],
    "recipes": [],
    "completion": ["bash"],
    "report": ["gone"],
    "eval": ["gone"],
    "ask": ["gone", "1+1="],
    "why": ["nope"],
    "ladder": ["--recipes", "nope"],
    "audit": ["nope"],
    "train": ["--model", "gone", "--dry-run"],
    "plan": ["--model", "gone"],
    "variance": ["gone"],
    "verify": ["--task", "gone.jsonl"],
    "data": ["gone.jsonl"],
}


@cases("flags: whole", 30)
@given(data=st.data(), name=st.sampled_from(sorted(WHOLE)))
def test_a_command_ends_with_0_or_with_2_and_one_message(data, name, monkeypatch_place):
    spec = COMMANDS[name].flags
    known = [s.flag for s in slots(spec) if not s.positional and s.flag not in ("--json", "--out", "--markdown")]
    words = data.draw(lines(known))
    out, err = io.StringIO(), io.StringIO()
    with in_time(), redirect_stdout(out), redirect_stderr(err):
        status = main([name, *WHOLE[name], *words])
    said = err.getvalue()
    assert status in (0, 2), said
    assert (said.count("rung: ") >= 1) == (status == 2)
    assert not re.search(r"Traceback|[\x00-\x08\x0b-\x1f\x7f-\x9f]", said), "nothing that a terminal obeys"
