"""`rung import trl`: a configuration of TRL's is the recipe that it computes, and what its names hide is said."""

from __future__ import annotations

import json

import pytest

from rung.cli import main
from rung.compat import GRPOConfig, RLOOConfig
from rung.errors import InputError
from rung.export.command import export
from rung.export.from_trl import SCRIPT, from_trl
from rung.export.made import yaml
from rung.export.targets import refusals
from rung.recipe_io import all_recipes, diff, find, override
from rung.training.config import from_toml

ALONE = {  # recipes that TRL's own settings express, beside those of the ladder
    "grpo": {}, "two passes": {"update.epochs": 2, "update.minibatches": 3}, "sums": {"aggregate": "SequenceSum"},
    "two-sided": {"surrogate.two_sided": 3.0}, "stale": {"correction": "StaleNegativeMask", "correction.delta": 0.2},
    "batch": {"credit.scale": "batch"}, "k3 times rho": {"kl": "RatioK3", "kl.coef": 0.1},
    "dropped": {"data.drop_truncated": True, "credit.scale": "none"}, "sapo": {"surrogate": "SAPO", "surrogate.positive": 0.9},
    "cispo": {"surrogate": "CISPO", "surrogate.high": 3.0, "aggregate": "TokenMean"}, "gspo": {"ratio": "SequenceRatio"},
}  # fmt: skip
RLOO = {"ratio": "SequenceProduct", "surrogate": "Clip", "surrogate.high": 0.3, "update.epochs": 2}
LADDER = {name: r for name, r in all_recipes().items() if not refusals(r, "trl") and not export(r, "trl").module}
RECIPES = {
    **LADDER,
    **{f"grpo, {name}": override(find("grpo"), changes) for name, changes in ALONE.items()},
    "rloo, clipped": override(find("rloo"), RLOO),
}


def file(tmp_path, text, name="config.yaml"):
    (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
    return tmp_path / name


@pytest.mark.parametrize("name", RECIPES)
def test_what_was_exported_comes_back(name, tmp_path):
    made = export(RECIPES[name], "trl")
    assert not made.module, "TRL's own settings express it"
    found = from_trl(file(tmp_path, yaml(made.settings)))
    assert diff(found.recipe, RECIPES[name]) == {}
    assert found.source == made.trainer.replace("Trainer", "Config")
    assert name not in LADDER or found.recipe.name == name


@pytest.mark.parametrize("name", ["gspo", "rloo", "grpo, two passes"])
def test_the_toml_is_the_recipe_and_the_settings(name, tmp_path, capsys):
    settings = {**export(RECIPES[name], "trl").settings, "max_steps": 36, "learning_rate": 3e-5, "num_generations": 4}
    path, out = file(tmp_path, yaml(settings)), tmp_path / "config.toml"
    assert main(["import", "trl", str(path), "--out", str(out)]) == 0
    assert f"in rung: {RECIPES[name].name}" in capsys.readouterr().out
    read = from_toml(out)
    assert diff(override(find(read["recipe"]), read.get("overrides", {})), RECIPES[name]) == {}
    assert (read["learning_rate"], read["samples_per_prompt"]) == (3e-5, 4)
    before = out.read_bytes()
    assert main(["import", "trl", str(path), "--out", str(out)]) == 2 and out.read_bytes() == before
    assert main(["import", "trl", str(path), "--json", "-"]) == 0
    rows = {row["setting"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert rows["recipe"] == read["recipe"]


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        ({}, "is DAPO's mean over the tokens of the step: no clip-higher"),
        ({"epsilon_high": 0.28}, "is DAPO's mean over the tokens of the step: no dynamic sampling"),
        ({"loss_type": "dr_grpo"}, "advantages are still divided by a std (scale_rewards='group')"),
        ({"loss_type": "bnpo", "gradient_accumulation_steps": 4}, "each of the 4 micro-batches by itself"),
        ({"loss_type": "bnpo"}, "the Beta distribution that the name comes from"),
        ({"loss_type": "grpo"}, "no KL to a reference; GRPO's paper has 0.04"),
        ({"beta": 0.1}, "the KL is k3 times the ratio"),
        ({"importance_sampling_level": "sequence"}, "GSPO has loss_type='grpo'"),
        ({"loss_type": "luspo"}, "LUSPO's ratio is the answer's"),
        ({"mask_truncated_completions": True}, "does not count the tokens of the answers that it drops"),
        ({"steps_per_generation": 4}, "divides each by the mean number of tokens of an update"),
        ({"epsilon": 0.1}, "one update on each generation: every ratio is 1"),
        ({"epsilon": 0.1}, "with a model that has dropout"),
    ],
)
def test_where_a_name_and_the_mathematics_part_is_said(arguments, warning, tmp_path):
    assert any(warning in said for said in from_trl(file(tmp_path, {"max_steps": 1, **arguments})).warnings)


def test_a_configuration_whose_names_are_right_has_no_warning(tmp_path):
    right = {
        "loss_type": "grpo",
        "beta": 0.04,
        "use_bias_correction_kl": False,
        "num_iterations": 2,
        "disable_dropout": True,
    }
    assert from_trl(file(tmp_path, {"max_steps": 2, **right})).warnings == ()


@pytest.mark.parametrize(
    ("more", "part", "held"),
    [
        ({}, "SequenceMask", {"cap": 3.0}),
        ({"mode": "sequence_truncate", "clip_max": 2.0}, "SequenceTIS", {"cap": 2.0}),
        ({"mode": "token_truncate"}, "TokenTIS", {"cap": 3.0}),
        ({"mode": "token_mask", "clip_min": 0.5, "clip_max": 2.0}, "TokenMask", {"low": 0.5, "high": 2.0}),
        ({"correction": False}, "NoCorrection", {}),
    ],
)
def test_with_vllm_trl_corrects_for_its_sampler(more, part, held, tmp_path):
    given = {"use_vllm": True, **{f"vllm_importance_sampling_{name}": value for name, value in more.items()}}
    found = from_trl(file(tmp_path, given)).recipe.correction
    assert type(found).__name__ == part and vars(found) == held


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lerning_rate": 1}, "Did you mean 'learning_rate'"),
        ({"loss_type": "vespo"}, "loss_type='vespo': only 'grpo'"),
        ({"loss_type": "cispo"}, "the cap on the ratio itself"),
        ({"top_entropy_quantile": 0.2}, "top_entropy_quantile=0.2: rung has no such loss"),
        ({"use_vllm": True, "vllm_importance_sampling_mode": "x"}, "TRL 1.16 has token_truncate"),
        ({"use_vllm": True, "vllm_importance_sampling_clip_min": 0.5}, "has no lower bound"),
        ([1, 2], "must hold names with values"),
    ],
)
def test_what_trl_has_not_or_no_part_computes_is_refused(given, message, tmp_path):
    with pytest.raises(InputError, match=message):
        from_trl(file(tmp_path, given))


PYTHON = """
from trl import {name}, GRPOTrainer
BETA = 0.02
args = {name}("there", beta=BETA, num_generations=4, max_steps=7, {more})
raise SystemExit("this file is read, not run")
"""


def test_a_python_file_is_read_and_not_run(tmp_path):
    found = from_trl(file(tmp_path, PYTHON.format(name="RLOOConfig", more="run_name=f'{BETA}'"), "train.py"))
    assert (found.source, found.recipe.kl.coef, found.settings["steps"]) == ("RLOOConfig", 0.02, 7)
    with pytest.raises(InputError, match=r"epsilon=BETA \* 2 is worked out when the script runs"):
        from_trl(file(tmp_path, PYTHON.format(name="GRPOConfig", more="epsilon=BETA * 2"), "train.py"))
    with pytest.raises(InputError, match="GRPOConfig or RLOOConfig 0 times"):
        from_trl(file(tmp_path, "print(1)", "train.py"))
    with pytest.raises(InputError, match="not valid Python"):
        from_trl(file(tmp_path, "print(", "train.py"))


def test_which_of_trls_two_trainers_it_is(tmp_path):
    either, own = (
        file(tmp_path, {"beta": 0.1, "max_steps": 3}),
        file(tmp_path, "normalize_advantages: false", "own.yaml"),
    )
    assert from_trl(either).source == "GRPOConfig" and any("--trainer rloo" in note for note in from_trl(either).notes)
    assert from_trl(either, "rloo").source == from_trl(own).source == "RLOOConfig"
    assert not any("--trainer" in note for note in from_trl(own).notes)


def test_what_a_script_says_beside_the_trainer_is_not_read_and_said(tmp_path):
    text = "model_name_or_path: some/model\ndataset_name: rows\nreward_funcs: [accuracy_reward]\nnum_train_epochs: 2\n"
    found = from_trl(file(tmp_path, text))
    assert found.settings["model"] == "some/model" and "steps" not in found.settings
    assert any("not read: dataset_name, reward_funcs" in note for note in found.notes)
    assert any("num_train_epochs=2" in note for note in found.notes)


def test_the_names_of_a_script_are_not_those_of_a_trainer():
    assert not SCRIPT & {*vars(GRPOConfig()), *vars(RLOOConfig())}
