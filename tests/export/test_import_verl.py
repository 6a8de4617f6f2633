"""`rung import verl`: a configuration of verl's is the recipe that it computes, and what its names hide is said."""

from __future__ import annotations

import json

import pytest

from rung.cli import main
from rung.errors import InputError
from rung.export.command import export
from rung.export.from_verl import from_verl
from rung.export.targets import refusals
from rung.export.verl_names import BRANCHES, DEFAULTS, NOTED, ONLY
from rung.recipe_io import all_recipes, diff, find, override
from rung.training.config import from_toml

VERLS = {"credit.eps": 1e-6, "surrogate.dual": 3.0}  # what verl's GRPO has beside the paper's
ALONE = {
    "grpo": {}, "tokens": {"aggregate": "TokenMean"}, "no kl": {"kl": "NoKL"}, "k2": {"kl": "K2", "kl.coef": 0.1},
    "k3+": {"kl": "StraightThrough"}, "two passes": {"update.epochs": 2, "update.minibatches": 4}, "entropy": {"entropy": 0.01},
    "no std": {"credit": "GroupMean", "credit.scale": "none", "aggregate": "FixedBudget"},
    "budget": {"credit.scale": "none", "credit.eps": 1e-4, "aggregate": "FixedBudget", "aggregate.budget": 2048},
    "token weights": {"correction": "TokenTIS", "correction.cap": 3.0},
    "answer weights": {"correction": "SequenceTIS", "correction.cap": 3.0},
    "tokens dropped": {"correction": "TokenMask", "correction.low": 0.5, "correction.high": 2.0},
    "gspo": {"ratio": "SequenceRatio", "surrogate": "Clip", "surrogate.high": 0.3},
    "sapo": {"surrogate": "SAPO", "surrogate.negative": 1.2}, "cispo": {"surrogate": "CISPO", "surrogate.low": 0.5},
    "whitened": {"credit": "RewardToGo", "credit.gamma": 0.9, "normalize": "Whiten"},
    "group whitened": {"credit": "GroupMean", "credit.scale": "none", "normalize": "Whiten"},
}  # fmt: skip
GRPO = override(find("grpo"), VERLS)
LADDER = {name: r for name, r in all_recipes().items() if not refusals(r, "verl") and not export(r, "verl").module}
RECIPES = {**LADDER, **{f"grpo, {name}": override(GRPO, changes) for name, changes in ALONE.items()}}


def file(tmp_path, text, name="config.yaml"):
    (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
    return tmp_path / name


@pytest.mark.parametrize("name", RECIPES)
def test_what_was_exported_comes_back(name, tmp_path):
    made = export(RECIPES[name], "verl")
    assert not made.module, "verl's own settings express it"
    found = from_verl(file(tmp_path, made.files[f"{made.name}.yaml"]))
    assert diff(found.recipe, RECIPES[name]) == {}
    assert name not in LADDER or found.recipe.name == name


SCRIPT = """
set -x
lr=1e-6
python3 -m verl.trainer.main_ppo \\
    algorithm.adv_estimator=grpo \\
    data.train_files=$HOME/data/train.parquet \\
    data.train_batch_size=512 data.max_response_length=1024 \\
    actor_rollout_ref.model.path=Qwen/Qwen3-0.6B \\
    actor_rollout_ref.actor.optim.lr=3e-6 \\
    actor_rollout_ref.actor.use_kl_loss=True \\
    +actor_rollout_ref.actor.kl_loss_coef=0.04 \\
    actor_rollout_ref.actor.loss_agg_mode='seq-mean-token-mean' \\
    actor_rollout_ref.rollout.n=8 $@
"""


def test_a_script_is_read_for_its_words_and_becomes_toml(tmp_path, capsys):
    path, out = file(tmp_path, SCRIPT, "run.sh"), tmp_path / "config.toml"
    assert main(["import", "verl", str(path), "--out", str(out)]) == 0
    assert "where the words and the mathematics part" in capsys.readouterr().out
    read = from_toml(out)
    recipe = override(find(read["recipe"]), read["overrides"])
    assert diff(recipe, override(GRPO, {"update.minibatches": 2})) == {} and read["recipe"] == "grpo"
    assert (read["learning_rate"], read["prompts_per_step"], read["samples_per_prompt"]) == (3e-6, 512, 8)
    assert (read["model"], read["max_new_tokens"]) == ("Qwen/Qwen3-0.6B", 1024)


ACTOR = "actor_rollout_ref.actor."


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        ({}, "adv_estimator='gae' (verl's default) is PPO"),
        ({"algorithm.adv_estimator": "grpo"}, "GRPO's paper averages over each answer first"),
        ({"algorithm.adv_estimator": "grpo"}, "a group of one, which has no baseline there"),
        ({"algorithm.adv_estimator": "grpo", "algorithm.norm_adv_by_std_in_grpo": False}, "drops the std alone"),
        ({f"{ACTOR}clip_ratio": 0.3}, "clip_ratio=0.3 is not read"),
        ({}, "the dual clip at 3.0"),
        ({f"{ACTOR}policy_loss.loss_mode": "geo_mean"}, "no account of how many there are"),
        ({f"{ACTOR}policy_loss.loss_mode": "sapo"}, "averages over each answer first, whatever"),
        ({f"{ACTOR}policy_loss.loss_mode": "gspo"}, "an answer weighs as it is long"),
        ({f"{ACTOR}policy_loss.loss_mode": "cispo"}, "caps the ratio at 1 + clip_ratio_high = 1.2"),
        ({f"{ACTOR}loss_agg_mode": "seq-mean-token-sum-norm"}, "the width that a micro-batch is padded to"),
        ({f"{ACTOR}use_kl_loss": True}, "is k3, cut at 10 a token"),
        ({f"{ACTOR}use_kl_loss": True, f"{ACTOR}kl_loss_type": "kl+"}, "has the gradient of k2"),
        ({"data.train_batch_size": 256}, "every ratio is 1"),
    ],
)
def test_where_a_name_and_the_mathematics_part_is_said(given, warning, tmp_path):
    assert any(warning in said for said in from_verl(file(tmp_path, given)).warnings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algorithm.adv_estimater": "grpo"}, "Did you mean 'algorithm.adv_estimator'"),
        ({"algorithm.adv_estimator": "gpg"}, "divides by the share of rewards that are not 0"),
        ({"algorithm.adv_estimator": "rung_gmpo"}, "registered by a module of your own"),
        ({"algorithm.adv_estimator": "remax"}, "asks for no greedy answer"),
        ({f"{ACTOR}policy_loss.loss_mode": "kl_cov"}, "loss_mode='kl_cov': no part of rung's"),
        ({f"{ACTOR}loss_agg_mode": "token-sum"}, "a sum grows with the batch"),
        ({f"{ACTOR}use_kl_loss": True, f"{ACTOR}kl_loss_type": "abs"}, "kl_loss_type='abs': no part"),
        ({f"{ACTOR}use_kl_loss": True, f"{ACTOR}kl_loss_type": "kl"}, "its expected gradient is zero"),
        ({f"{ACTOR}use_kl_loss": True, "algorithm.use_kl_in_reward": True}, "a recipe has one KL"),
        ({"algorithm.use_kl_in_reward": True, "algorithm.kl_ctrl.type": "adaptive"}, "verl adapts to a token's KL"),
        ({"actor_rollout_ref.rollout.top_p": 0.9}, "the law that it samples"),
        ({"algorithm.filter_groups.enable": True}, "verl draws until a batch is full"),
        ({"data.train_batch_size": 300}, "no multiple of"),
        ({"data.train_batch_size": "${oc.env:SIZE}"}, "is known where verl runs"),
        ({f"{ACTOR}policy_loss.loss_mode": "gpg", "data.train_batch_size": 512}, "NoRatio with several updates"),
    ],
)
def test_what_verl_has_not_or_no_part_computes_is_refused(given, message, tmp_path):
    base = {"algorithm.adv_estimator": "grpo", "data.train_batch_size": 256}
    with pytest.raises(InputError, match=message):
        from_verl(file(tmp_path, {**base, **given}))


def test_no_name_stands_in_two_lists():
    assert not {*DEFAULTS} & {*ONLY} and not {*DEFAULTS} & NOTED and not {*ONLY} & NOTED
    assert len(set(BRANCHES)) == len(BRANCHES)
