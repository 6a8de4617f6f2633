"""Numbers of numpy and torch are taken wherever Python's are, as what they hold exactly."""

import json
import typing
from dataclasses import fields

import numpy as np
import pytest
import torch

import rung
from rung import InputError
from rung.recipe_io import all_recipes
from rung.settings.flags import Eval
from rung.settings.ranges import options_of, plain
from rung.training.config import TrainConfig, to_toml, typed_settings

OF_PYTHON = {bool: True, int: 2, float: 0.5}
KINDS = {
    bool: [np.bool_],
    int: [np.int64, np.int32, np.uint8, np.array, torch.tensor],
    float: [np.float64, np.float32, np.float16, np.longdouble, np.array, torch.tensor],
}  # fmt: skip


def kinds_of(hint):
    return {typing.get_args(o)[0] if typing.get_origin(o) is typing.Annotated else o for o in options_of(hint)}


def cases(record):
    """(field, kind) of every number and every yes or no of a record."""
    hints = typing.get_type_hints(record, include_extras=True)
    return [(f.name, kind) for f in fields(record) for kind in OF_PYTHON if kind in kinds_of(hints[f.name])]


@pytest.mark.parametrize(("name", "kind"), cases(TrainConfig))
def test_a_setting_takes_a_number_of_numpy_or_torch(name, kind):
    for make in KINDS[kind]:
        given = make(OF_PYTHON[kind])
        for config in (TrainConfig(**{name: given}), TrainConfig(**typed_settings({name: given}))):
            assert getattr(config, name) == OF_PYTHON[kind] and type(getattr(config, name)) in (kind, int)
    if kind is float:
        whole = np.int64(0 if "beta" in name else 1)
        assert type(typed_settings({name: whole})[name]) is float, "and is written as a number with a fraction"


@pytest.mark.parametrize(("name", "kind"), cases(Eval))
def test_a_setting_of_an_evaluation_takes_it_too(name, kind):
    for make in KINDS[kind]:
        assert type(getattr(Eval(model="starter", task="x", **{name: make(OF_PYTHON[kind])}), name)) is kind


@pytest.mark.parametrize("recipe", all_recipes().values(), ids=lambda r: r.name)
def test_a_part_of_a_recipe_takes_it_too(recipe):
    for f in fields(recipe):
        part = getattr(recipe, f.name)
        for name, value in vars(part).items() if hasattr(part, "__dict__") else ():
            if type(value) in OF_PYTHON:
                made = type(part)(**{**vars(part), name: np.array(value)[()]})
                assert made == part and type(getattr(made, name)) is type(value)


def test_tables_of_settings_hold_numbers_of_python(tmp_path):
    table = {"kl.coef": np.float32(0.5), "surrogate.high": [np.int8(3)]}
    config = TrainConfig(overrides={"kl": "K3", "kl.coef": np.float32(0.5)}, task_options={"min_digits": np.int64(2)})
    written = to_toml(config, config.build_recipe())
    assert json.dumps(written["task_options"]) == '{"min_digits": 2}' and type(written["overrides"]["kl.coef"]) is float
    assert plain(table) == {"kl.coef": 0.5, "surrogate.high": [3]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": np.float64(0.5)}, r"seed is 0\.5; it must be a whole number"),
        ({"seed": np.array([1, 2])}, "seed is array"),
        ({"learning_rate": np.float32("nan")}, "learning_rate is nan"),
        ({"learning_rate": np.complex64(1j)}, "learning_rate is"),
        ({"steps": np.int64(-1)}, "steps is -1"),
        ({"chat": np.int64(1)}, "chat is 1; it must be true or false"),
        ({"learning_rate": np.longdouble(1) / 3}, "learning_rate is .*longdouble"),
    ],
)
def test_what_does_not_fit_is_named_as_ever(settings, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**settings)


def test_a_run_of_such_numbers_is_the_same_run(tmp_path):
    how = {
        "steps": 1,
        "prompts_per_step": 2,
        "samples_per_prompt": 2,
        "eval_problems": 2,
        "threads": 1,
        "max_new_tokens": 4,
    }
    run = rung.train("grpo", out=tmp_path / "a", quiet=True, learning_rate=0.5, **how)
    theirs = {name: np.int64(value) for name, value in how.items()}
    again = rung.train("grpo", out=tmp_path / "b", quiet=True, learning_rate=np.float32(0.5), **theirs)
    drop = {"out"}
    assert {k: v for k, v in run.config.items() if k not in drop} == {
        k: v for k, v in again.config.items() if k not in drop
    }
    assert again.rollouts[np.int64(1)] and np.int64(1) in again.rollouts
    assert again.evaluate(samples=np.int64(2), seed=np.uint8(1)).result.n == 2
    assert len(again.ask("1+2=", np.int64(2), temperature=np.float32(1), seed=np.int64(3), before=False).now) == 2
