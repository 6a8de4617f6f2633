"""Every recipe that verl can express, executed in verl: its own advantage step and its own loss of micro-batches and ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import verl
from flat_batches import LIMIT, recipes, wanted, world
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo.core_algos import get_kl_controller
from verl.trainer.ppo.ray_trainer import apply_kl_penalty, compute_advantage
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_add_to_batch
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.utils.losses import ppo_loss

from rung.errors import InputError
from rung.export.command import export, write
from rung.export.from_verl import _flat as flattened
from rung.export.verl_names import DEFAULTS, ONLY, in_branch, known
from rung.recipe_io import find

RECIPES = recipes("verl")
BY_ITSELF = {"leave_one_out", "rloo", "opo", "grpo, verl's eps", "k3 in the reward"}
every_recipe = pytest.mark.parametrize("name", RECIPES)
PROMPT = 3
FOLDER = Path(verl.__file__).parent / "trainer/config"


def configured(made, folder, *more):
    """The whole configuration of verl, read by Hydra from the file that the export wrote."""
    write(made.files, folder)
    GlobalHydra.instance().clear()
    mine = ["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4", f"data.max_response_length={LIMIT}"]
    with initialize_config_dir(str(folder), version_base=None):
        return compose(made.name, [*mine, *more])


def loaded(made):
    """The registered names of a module are names of this process: each test has its own."""
    if made.module:
        exec(
            compile(
                made.module.replace(f"NAME = {made.name!r}", f"NAME = {made.name + str(loaded.count)!r}"),
                "made",
                "exec",
            ),
            {},
        )
    loaded.count += 1
    return f"{made.name}{loaded.count - 1}" if made.module else None


loaded.count = 0


def prepared(w, config, name):
    """The batch as verl's driver makes it: KL into rewards, weights for the sampler, advantages."""
    b = w.batch
    fields = {
        "response_mask": b.mask_BT.long(), "token_level_scores": b.reward_BT, "token_level_rewards": b.reward_BT,
        "old_log_probs": b.old_logp_BT, "rollout_log_probs": b.behavior_logp_BT,
    } | ({} if b.ref_logp_BT is None else {"ref_log_prob": b.ref_logp_BT})  # fmt: skip
    data = DataProto.from_dict(fields, {"uid": np.array([f"prompt-{g}" for g in b.group_B.tolist()], dtype=object)})
    algorithm = config.algorithm
    if algorithm.use_kl_in_reward:
        data, _ = apply_kl_penalty(data, get_kl_controller(algorithm.kl_ctrl), algorithm.kl_penalty)
    if algorithm.rollout_correction.rollout_is is not None:
        data, _ = compute_rollout_correction_and_add_to_batch(data, algorithm.rollout_correction)
    return compute_advantage(
        data, adv_estimator=name or algorithm.adv_estimator, gamma=algorithm.gamma, lam=algorithm.lam,
        norm_adv_by_std_in_grpo=algorithm.norm_adv_by_std_in_grpo, config=algorithm,
    )  # fmt: skip


def micro(w, data, rows, ranks):
    """Some rows as verl's engine gives them to its loss: what the model says is one row of all tokens."""
    b, seen = w.batch, w.batch.mask_BT.cumsum(1) < w.batch.mask_BT.sum(1, keepdim=True)
    long_BT = (seen | b.mask_BT)[rows]  # the answer with its observations
    T = long_BT.shape[1]
    kept = ("response_mask", "old_log_probs", "advantages", "rollout_is_weights", "ref_log_prob")
    fields = {name: data.batch[name][rows] for name in kept if name in data.batch}
    fields |= {
        "prompts": torch.ones(len(rows), PROMPT, dtype=torch.long), "responses": torch.ones(len(rows), T, dtype=torch.long),
        "attention_mask": torch.cat([torch.ones(len(rows), PROMPT, dtype=torch.long), long_BT.long()], 1),
    }  # fmt: skip
    out = TensorDict(fields, batch_size=len(rows))
    tu.assign_non_tensor(
        out, dp_size=ranks, batch_num_tokens=int(b.mask_BT.sum()), global_batch_size=len(b.mask_BT), max_response_len=T
    )

    def said(x_BT):
        blank = x_BT.new_zeros(PROMPT - 1), x_BT.new_zeros(1)
        rows_ = [torch.cat([blank[0], x_BT[r][: int(n)], blank[1]]) for r, n in zip(rows, long_BT.sum(1), strict=True)]
        return torch.cat(rows_)

    return {"log_probs": said(w.now_BT), "entropy": said(w.entropy_BT)}, out


@every_recipe
def test_advantages_loss_and_its_gradient_are_the_recipes_on_random_batches(name, tmp_path):
    """Micro-batches of unequal size on two ranks, whose gradients verl averages, against -J of the whole batch."""
    recipe = RECIPES[name]
    made = export(recipe, "verl")
    config, registered = configured(made, tmp_path), loaded(made)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    if registered:
        object.__setattr__(actor.policy_loss, "loss_mode", registered)
    for seed in range(3):
        w = world(seed, recipe)
        adv_BT, loss, slope_BT, slope_of_entropy_BT = wanted(recipe, w)
        data = prepared(w, config, registered)
        torch.testing.assert_close(data.batch["advantages"].double(), adv_BT, rtol=0, atol=1e-6)
        for rows, ranks in (([list(range(12))], 1), ([[0, 1, 2], [3, 4, 5, 6, 7], [8, 9, 10, 11]], 2)):
            w.now_BT.grad = w.entropy_BT.grad = None
            total = sum(ppo_loss(actor, *micro(w, data, torch.tensor(part), ranks))[0] for part in rows) / ranks
            total.backward()
            torch.testing.assert_close(total.detach(), loss, rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(w.now_BT.grad, slope_BT, rtol=1e-6, atol=1e-7)
            if recipe.entropy:
                torch.testing.assert_close(w.entropy_BT.grad, slope_of_entropy_BT, rtol=1e-6, atol=1e-9)


def test_settings_alone_are_enough_where_verls_own_code_computes_the_recipe():
    assert {name for name, recipe in RECIPES.items() if not export(recipe, "verl").module} == BY_ITSELF


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "actor_rollout_ref.actor.loss_agg_mode=token-mean",
            "loss_agg_mode is 'token-mean' and must be 'seq-mean-token-mean'",
        ),
        ("actor_rollout_ref.actor.kl_loss_coef=0.1", "kl_loss_coef is 0.1 and must be 0.04"),
        ("actor_rollout_ref.actor.ppo_epochs=2", "ppo_epochs is 2 and must be 1"),
        ("algorithm.use_kl_in_reward=true", "algorithm.use_kl_in_reward is True and must be False"),
    ],
)
def test_settings_that_are_another_recipes_are_refused(change, message, tmp_path):
    recipe = find("grpo")
    made = export(recipe, "verl")
    config, registered = configured(made, tmp_path, change), loaded(made)
    actor, w = omega_conf_to_dataclass(config.actor_rollout_ref.actor), world(0, recipe)
    object.__setattr__(actor.policy_loss, "loss_mode", registered)
    with pytest.raises(InputError, match=message):
        ppo_loss(actor, *micro(w, prepared(w, config, registered), torch.arange(12), 1))


def test_the_module_is_loaded_by_the_variable_and_by_the_entry_point(tmp_path):
    write(export(find("gmpo"), "verl").files, tmp_path)
    write(export(find("maxrl"), "verl").files, tmp_path)
    found = tmp_path / "plugin-1.dist-info"
    found.mkdir()
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (found / "entry_points.txt").write_text("[verl.plugins]\nrung_maxrl = rung_maxrl\n")
    code = (
        "import verl; from verl.trainer.ppo.core_algos import get_adv_estimator_fn as a, get_policy_loss_fn as l; "
        "print([f(n).__module__ for n in ('rung_gmpo', 'rung_maxrl') for f in (a, l)])"
    )
    env = {
        **os.environ,
        "VERL_USE_EXTERNAL_MODULES": "rung_gmpo",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(["rung.export.inside.flat", "rung.export.inside.verl"] * 2)


def test_the_names_that_an_import_knows_are_verls():
    """Every name of verl's whole configuration is read, noted, bound to one value or in a branch, with verl's own default."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(FOLDER), version_base=None):
        whole = flattened(OmegaConf.to_container(compose("ppo_trainer"), resolve=False))
    assert [name for name in whole if name not in known() and not in_branch(name)] == []
    assert [name for name in known() if name not in whole and name not in ("hydra", "defaults")] == []
    other = {
        name: (whole[name], value) for name, value in DEFAULTS.items() if whole[name] != value and value is not None
    }
    assert other == {}
    assert [name for name, (values, _) in ONLY.items() if whole[name] not in values] == []
