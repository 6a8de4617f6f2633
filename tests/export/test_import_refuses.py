"""`rung import` refuses all that is wrong with a configuration at once, and meets no value with a traceback."""

from __future__ import annotations

import json
import math
import warnings

import pytest

from rung.cli import main
from rung.compat import GRPOConfig, RLOOConfig
from rung.compat.fields import NOTED
from rung.errors import InputError, Refusals
from rung.export.from_trl import from_trl
from rung.export.from_verl import from_verl
from rung.export.verl_names import ACTOR, DEFAULTS, KINDS, ROLLOUT
from rung.recipe_io import find, override

WAYS = {"trl": from_trl, "verl": from_verl}
WRONG = {
    "trl": {
        "lerning_rate": 1, "loss_type": "vespo", "num_generations": 3, "epsilon": -0.2, "temperature": -1.0, "learning_rate": 50.0,
        "generation_kwargs": [1], "use_vllm": True, "vllm_importance_sampling_mode": "x", "beta": -1.0,
    },
    "verl": {
        "algorithm.adv_estimater": "grpo", "algorithm.adv_estimator": "gpg", "algorithm.gamma": "x", "data.train_batch_size": 300,
        f"{ACTOR}.policy_loss.loss_mode": "kl_cov", f"{ACTOR}.loss_agg_mode": "token-sum", f"{ROLLOUT}.n": 2.5,
        f"{ROLLOUT}.temperature": -1.0, f"{ROLLOUT}.top_p": 0.9, "trainer.total_training_steps": "${STEPS}",
        f"{ACTOR}.use_kl_loss": True, f"{ACTOR}.kl_loss_type": "abs",
    },
}  # fmt: skip
SAYS = {
    "trl": ["lerning_rate: there is no such", "'vespo'", "not a multiple of num_generations", "generation_kwargs=[1]",
            "TRL 1.16 has token_truncate"],
    "verl": ["adv_estimater", "share of rewards that are not 0", "gamma is 'x'", "no multiple of", "'kl_cov'",
             "grows with the batch", "rollout.n is 2.5", "temperature is -1.0", "top_p=0.9", "is known where verl runs",
             "kl_loss_type='abs'"],
}  # fmt: skip
VALUES = [
    3,
    -1,
    0.5,
    "x",
    "",
    [1],
    [0.5, 0.5],
    {"a": 1},
    None,
    True,
    math.nan,
    math.inf,
    "1e5",
    '{"a": 1}',
    10**30,
    "a_b",
]


def file(tmp_path, given, name="config.json"):
    (tmp_path / name).write_text(given if isinstance(given, str) else json.dumps(given))
    return tmp_path / name


@pytest.mark.parametrize("source", WAYS)
def test_all_that_is_wrong_is_said_at_once(source, tmp_path, capsys):
    assert main(["import", source, str(file(tmp_path, WRONG[source]))]) == 2
    said = capsys.readouterr().err
    assert [words for words in SAYS[source] if words not in said] == []
    lines = [line for line in said.splitlines() if line.startswith("  ")]
    assert len(lines) == len(set(lines)) == len(SAYS[source]) and f"{len(lines)} refused" in said


def test_values_that_no_part_takes_are_said_at_once_where_all_names_are_right(tmp_path):
    given = {"epsilon": -0.2, "beta": -1.0, "learning_rate": 50.0, "temperature": -1.0, "max_steps": 1}
    with pytest.raises(InputError, match="4 refused") as found:
        from_trl(file(tmp_path, given))
    for words in ("Clip.low is -0.2", "coef is -1.0", "learning_rate is 50.0", "temperature is -1.0"):
        assert words in str(found.value)
    with pytest.raises(InputError, match="changes to the recipe grpo: 2 refused") as found:
        override(find("grpo"), {"surrogate.low": -1, "kl.coef": "many", "update.epochs": 2})
    assert len(found.value.found) == 2


def test_what_a_script_works_out_does_not_hide_the_rest(tmp_path):
    text = "from trl import GRPOConfig\nGRPOConfig(epsilon=A * 2, lerning_rate=1, loss_type='vespo', seed=len('x'))\n"
    with pytest.raises(InputError, match="3 refused") as found:
        from_trl(file(tmp_path, text, "train.py"))
    assert "epsilon=A * 2, seed=len('x')" in str(found.value)


@pytest.mark.parametrize("source", WAYS)
def test_whatever_a_value_is_it_is_read_or_refused(source, tmp_path):
    """Each name with each of VALUES: nothing but an InputError is raised."""
    usual = {"trl": {"max_steps": 1}, "verl": {"algorithm.adv_estimator": "grpo", "data.train_batch_size": 256}}[source]
    more = {"algorithm.rollout_correction.rollout_is": "token"} if source == "verl" else {"use_vllm": True}
    names, taken = ({*vars(GRPOConfig()), *vars(RLOOConfig())} - {*NOTED} if source == "trl" else {*DEFAULTS}), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(names):
            for value in VALUES:
                try:
                    WAYS[source](file(tmp_path, {**usual, **more, name: value})).toml()
                    taken += 1
                except InputError:
                    continue
    assert taken > 2 * len(names), "most names are taken with some of them"


def test_what_a_value_of_verls_must_be_is_known_of_each():
    fine = {name for name, value in DEFAULTS.items() if type(value) in (bool, int, float, str)}
    assert {*DEFAULTS} - fine <= {*KINDS} <= {*DEFAULTS}


@pytest.mark.parametrize("text", ["python train.py data.train_batch_size='1", "x data.train_batch_size=[1"])
def test_a_script_that_cannot_be_read_is_refused(text, tmp_path):
    with pytest.raises(InputError, match="is no shell script"):
        from_verl(file(tmp_path, text, "run.sh"))
    (tmp_path / "bytes.sh").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is no text"):
        from_verl(tmp_path / "bytes.sh")


def test_one_thing_is_refused_in_its_own_words():
    refusals, own = Refusals(), InputError("x is wrong. Leave it out.")
    refusals.refuse("nothing")
    with refusals:
        raise own
    with pytest.raises(InputError) as found:
        refusals.refuse("all")
    assert found.value is own
    with pytest.raises(ZeroDivisionError), refusals:
        1 / 0  # noqa: B018  whatever else goes wrong is no refusal
