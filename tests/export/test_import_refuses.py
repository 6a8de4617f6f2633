"""`rung import` refuses all that is wrong with a configuration at once, and meets no value with a traceback."""

from __future__ import annotations

import json
import math
import re
import warnings
from dataclasses import replace

import pytest

from rung.cli import main
from rung.compat import GRPOConfig, RLOOConfig
from rung.compat.fields import NOTED
from rung.errors import InputError, Refusals
from rung.export.from_trl import from_trl
from rung.export.from_verl import from_verl
from rung.export.verl_names import ACTOR, DEFAULTS, KINDS, ROLLOUT
from rung.recipe_io import find, override
from rung.tasks.problems import problems_of
from rung.training.config import TrainConfig, typed_settings
from rung.training.setup import settle

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
            "TRL 1.16 has token_truncate", "Clip.low is -0.2", "coef is -1.0", "learning_rate is 50.0", "temperature is -1.0"],
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


PROBLEMS = replace(problems_of(TrainConfig(task="chained_arithmetic")), train=range(2**60))  # of any step


def trains(found):
    """What `rung train` looks at before it loads a model takes the settings."""
    given = {name: value for name, value in found.items() if name != "model"}
    settle(TrainConfig(**typed_settings({"steps": 10**15, **given})), PROBLEMS)


APART = {  # each fits its own range, and not the rest
    "trl": [
        ({"num_generations": 1}, "a group of one"), ({"temperature": 0.0}, "greedy answers"),
        ({"warmup_steps": 20, "max_steps": 10}, "warmup_steps=20 in a run of 10"),
        ({"steps_per_generation": 8, "num_generations": 32}, "makes 8 minibatches of whole prompts"),
    ],
    "verl": [
        ({"algorithm.adv_estimator": "grpo", f"{ROLLOUT}.n": 1}, f"Use {ROLLOUT}.n=2 or more"),
        ({f"{ROLLOUT}.temperature": 0}, f"Use {ROLLOUT}.temperature=1"),
        ({f"{ACTOR}.optim.lr_warmup_steps": 20, "trainer.total_training_steps": 10}, "20 in a run of 10"),
        ({f"{ACTOR}.loss_agg_mode": "seq-mean-token-sum-norm", f"{ACTOR}.loss_scale_factor": 8}, "FixedBudget"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("source", "case"), [(source, i) for source in APART for i in range(4)])
def test_what_rung_train_refuses_is_refused_by_the_import(source, case, tmp_path):
    given, message = APART[source][case]
    with pytest.raises(InputError, match=re.escape(message)):
        WAYS[source](file(tmp_path, given))


def test_a_group_of_one_that_nobody_wrote_is_left_to_rung_and_said(tmp_path):
    found = from_verl(file(tmp_path, {"algorithm.adv_estimator": "grpo"}))
    assert "samples_per_prompt" not in found.settings and any("without rollout.n" in said for said in found.warnings)
    trains(found.toml())


def test_ranges_are_told_with_the_rest(tmp_path):
    given = {
        "learning_rate": -1,
        "temperature": 0,
        "loss_type": "x",
        "num_iterations": 0,
        "weight_decay": -1,
        "num_generations": 1,
    }
    with pytest.raises(InputError, match="6 refused") as found:
        from_trl(file(tmp_path, given))
    for words in (
        "learning_rate is -1",
        "temperature=0",
        "a group of one",
        "loss_type='x'",
        "num_iterations=0",
        "weight_decay is -1",
    ):
        assert words in str(found.value)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", ".1e-2", "+1e-3"])
def test_a_number_that_yaml_takes_for_text_is_one(text, tmp_path):
    yaml = f"learning_rate: {text}\nbeta: {text}\nnum_generations: 4e0\nrun_name: {text}\n"
    found = from_trl(file(tmp_path, yaml, "config.yaml"))
    assert (found.settings["learning_rate"], found.recipe.kl.coef) == (1e-3, 1e-3)
    assert found.settings["samples_per_prompt"] == 4
    yaml = f"{ACTOR}.optim.lr: {text}\n{ROLLOUT}.n: 4e0\n{ROLLOUT}.top_p: 1e0\n{ACTOR}.optim.betas: [{text}, 9e-1]\n"
    settings = from_verl(file(tmp_path, f"{yaml}trainer.experiment_name: {text}\n", "config.yaml")).settings
    assert [settings[name] for name in ("learning_rate", "samples_per_prompt", "adam_beta1", "adam_beta2")] == [
        1e-3, 4, 1e-3, 0.9,
    ]  # fmt: skip


def test_an_infinite_number_is_told_to_be_finite(tmp_path):
    with pytest.raises(InputError, match=r"coef is inf; it must be a finite number of at least 0"):
        from_trl(file(tmp_path, "beta: .inf", "config.yaml"))


@pytest.mark.parametrize("source", WAYS)
def test_whatever_a_value_is_it_is_read_or_refused(source, tmp_path):
    """Each name with each of VALUES: nothing but an InputError is raised, and what is read is what `rung train` takes."""
    usual = {
        "trl": {"max_steps": 1},
        "verl": {"algorithm.adv_estimator": "grpo", "data.train_batch_size": 256, f"{ROLLOUT}.n": 8},
    }[source]
    more = {"algorithm.rollout_correction.rollout_is": "token"} if source == "verl" else {"use_vllm": True}
    names, taken = ({*vars(GRPOConfig()), *vars(RLOOConfig())} - {*NOTED} if source == "trl" else {*DEFAULTS}), 0
    foreign = list[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(names):
            for value in VALUES:
                try:
                    found = WAYS[source](file(tmp_path, {**usual, **more, name: value})).toml()
                except InputError as error:
                    lines, told = error.found or (str(error),), all if source == "verl" else any
                    if value != 10**30 and not told(name in line for line in lines):  # which TRL multiplies by others
                        foreign += [f"{name}: {line}" for line in lines]
                    continue
                trains(found)
                taken += 1
    assert taken > 2 * len(names), "most names are taken with some of them"
    assert not foreign, "a refusal in rung's words alone, which the file does not use"


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
