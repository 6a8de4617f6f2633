"""Flags as they are typed: every one is read as its field is annotated, and what is no flag of ours is answered with ours."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from rung.cli import COMMANDS, main
from rung.errors import InputError
from rung.settings.flags import Ask, Eval, Report
from rung.settings.ranges import bare, options_of
from rung.shell.arguments import record, refuse_repeated, settings
from rung.shell.help import more_of
from rung.shell.words import FOREIGN, parse, slots
from rung.training.config import TrainConfig

SPECS = {name: command.flags for name, command in COMMANDS.items()}
EVERY = [(name, slot) for name, spec in SPECS.items() for slot in slots(spec)]
NEEDED = {
    "starter": ["--out", "x"],
    "report": ["runs"],
    "diff": ["a", "b"],
    "export": ["a", "--to", "trl"],
    "import": ["trl", "x"],
}


def words_of(name: str) -> list[str]:
    """The least that the command takes."""
    positional = [slot for slot in slots(SPECS[name]) if slot.positional and slot.field.default is dataclasses.MISSING]
    texts = {"shell": "bash"}
    return NEEDED.get(name, [texts.get(slot.field.name, "x") for slot in positional])


def example(slot) -> tuple[str, object]:
    """A text that the field takes, and what it means."""
    kind = next(o for o in options_of(slot.hint) if o is not type(None))
    if (literal := bare(kind)) and "Literal" in str(literal):
        return literal.__args__[-1], literal.__args__[-1]
    if bare(kind) is int:
        return "7", 7
    return {float: ("0.5", 0.5), Path: ("a/b", Path("a/b"))}.get(bare(kind), ("text", "text"))


@pytest.mark.parametrize(("name", "slot"), EVERY, ids=[f"{name} {slot.flag}" for name, slot in EVERY])
def test_every_flag_of_every_command_is_read(name, slot):
    if slot.positional:
        return
    field, least = slot.field.name, [] if name == "starter" and slot.field.name == "out" else words_of(name)
    if slot.switch:
        for word, value in ((slot.flag, True), (slot.flag.replace("--", "--no-", 1), False)):
            assert getattr(parse(SPECS[name], name, [*least, word]), field) is value
        return
    text, value = example(slot)
    for typed in (
        [slot.flag, text],
        [f"{slot.flag}={text}"],
        [slot.flag.replace("-", "_").replace("__", "--", 1), text],
    ):
        assert getattr(parse(SPECS[name], name, [*least, *typed]), field) == value
    with pytest.raises(InputError, match=f"{slot.flag} needs a value"):
        parse(SPECS[name], name, [*least, slot.flag])
    with pytest.raises(InputError, match=f"{slot.flag} is given twice"):
        refuse_repeated([slot.flag, text, f"{slot.flag}={text}"])


@pytest.mark.parametrize(("name", "slot"), [(n, s) for n, s in EVERY if {int, float, bool, Literal} & {*s.kinds}],
                         ids=lambda x: getattr(x, "flag", x))  # fmt: skip
def test_a_value_that_does_not_fit_is_refused_in_words_of_people(name, slot):
    with pytest.raises(InputError) as refused:
        parse(SPECS[name], name, [*words_of(name), f"{slot.flag}=abc"] if not slot.positional else ["abc"])
    said = str(refused.value)
    assert slot.flag in said and not [x for x in ("None", "none", "{", "}", "typing", "Annotated", "NoneType") if x in
                                      said.replace("one of none", "")], said  # fmt: skip
    assert slot.switch or "must be" in said


def test_foreign_flags_name_flags_that_there_are():
    own = {slot.flag for _, slot in EVERY} | {flag.name for n, spec in SPECS.items() for flag in more_of(spec, n)}
    of_train = {slot.flag.removeprefix("--") for slot in slots(TrainConfig)}
    names = [name for theirs, _, _ in FOREIGN for name in theirs.split()]
    assert len(names) == len(set(names)) > 100 and not of_train & set(names)
    for theirs, ours, note in FOREIGN:
        words = [w.strip(",;()") for w in f"{ours} {note}".split()]
        for flag in (w for w in words if w.startswith("--") and not w.startswith("--recipe.")):
            assert flag in own, f"{theirs}: there is no {flag}"
    for path in ("kl.coef=0.1", "surrogate.high=0.3", "surrogate.low=0.1", "entropy=0.1", "update.epochs=2"):
        settings(["ppo", f"--recipe.{path}"], "train").build_recipe()
    settings(["ppo", "--recipe.credit.estimator.lam=0.9"], "train").build_recipe()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--run-dir", "x"], "here it is --out"),
        (["train", "--output_dir=x"], "here it is --out"),
        (["train", "--lr", "1e-3"], "here it is --learning-rate"),
        (["plan", "--max-steps", "3"], "here it is --steps"),
        (["train", "--epochs", "3"], "here it is --steps (one pass"),
        (["train", "--batch-size", "8"], "--samples-per-prompt"),
        (["train", "--clip-range", "0.3"], "here it is --recipe.surrogate.high"),
        (["eval", "starter", "--n-samples", "4"], "--samples"),
        (["ladder", "--num-generations", "4"], "here it is --samples-per-prompt"),
        (["train", "--sede", "3"], "Did you mean --seed?"),
        (["train", "--save-rollout"], "Did you mean --save-rollouts?"),
        (["train", "--dryrun"], "Did you mean --dry-run?"),
        (["train", "--no-steps"], "has no flag --no-steps"),
        (["train", "--chat=true"], "takes no value"),
        (["eval"], "needs MODEL"),
        (["train", "grpo", "ppo"], "one word too many"),
        (["starter"], "needs --out"),
        (["eval", "starter", "-k", "3"], "no flag -k"),
    ],
)
def test_what_is_no_flag_here_is_answered_with_what_is(words, said, capsys):
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith("rung: ") and said in message and message.count("\n") == 1


def test_words_without_a_flag():
    assert parse(Ask, "ask", ["run", "1+1=", "--seed", "3", "-2+5="]).questions == ("1+1=", "-2+5=")
    assert parse(Ask, "ask", ["run", "--", "--1+1="]).questions == ("--1+1=",), "behind -- nothing is a flag"
    assert parse(Eval, "eval", ["run", "--json", "-"]).json == "-"
    assert parse(Report, "report", ["a", "b"]).paths == (Path("a"), Path("b"))


def test_what_a_run_does_can_be_switched_off():
    usual = parse(TrainConfig, "train", [], TrainConfig(chat=True))
    assert usual.chat is True and parse(TrainConfig, "train", ["--no-chat"], TrainConfig(chat=True)).chat is False
    assert record(Eval, "eval", ["x"]).chat is None and record(Eval, "eval", ["x", "--no-chat"]).chat is False
