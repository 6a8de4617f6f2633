"""Every recipe that SkyRL can express, executed in SkyRL: its trainer's advantages and weights, its worker's loss."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from types import SimpleNamespace
from unittest import mock

import cloudpickle
import pytest
import torch
import typing_extensions
from flat_batches import GROUPS, LIMIT, recipes, wanted, world

with mock.patch("typing.TypedDict", typing_extensions.TypedDict):  # pydantic wants this below Python 3.12
    from skyrl.backends.skyrl_train.training_batch import TrainingInputBatch
    from skyrl.backends.skyrl_train.utils.ppo_utils import AdvantageEstimatorRegistry, PolicyLossRegistry
    from skyrl.backends.skyrl_train.workers.worker import PolicyWorkerBase
    from skyrl.train.config import SkyRLTrainConfig
    from skyrl.train.trainer import RayPPOTrainer

from rung.errors import InputError
from rung.export.command import export, write
from rung.recipe_io import find

RECIPES = recipes("skyrl")
every_recipe = pytest.mark.parametrize("name", RECIPES)


@pytest.fixture
def load(tmp_path):
    """The module that an export wrote, imported and its names taken back afterwards."""
    names = []

    def loaded(recipe):
        made = export(recipe, "skyrl")
        write(made.files, tmp_path)
        assert [*made.files] == [f"{made.name}.py"]
        spec = importlib.util.spec_from_file_location(made.name, tmp_path / f"{made.name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        names.append(module.NAME)
        return module

    yield loaded
    for name in names:
        AdvantageEstimatorRegistry.unregister(name)
        PolicyLossRegistry.unregister(name)


def configured(module, *more):
    short = {"trainer.algorithm.max_seq_len", "generator.sampling_params.max_generate_length"}
    given = {key: LIMIT if key in short and value == 1024 else value for key, value in module.SETTINGS.items()}
    return SkyRLTrainConfig.from_cli_overrides(
        [*(f"{key}={str(value).lower()}" for key, value in given.items()), *more]
    )


def trainer(config):
    """SkyRL's trainer without models and Ray: what its methods for rewards, advantages and weights read."""
    bare = object.__new__(RayPPOTrainer)
    bare.cfg, bare.all_metrics, bare.reward_kl_controller = config, {}, None
    return bare


def prepared(w, config):
    """The batch as SkyRL's trainer makes it: KL into rewards, advantages, the weights in them. Rows of a prompt lie together."""
    order = torch.tensor(sorted(range(len(GROUPS)), key=lambda row: GROUPS[row]))
    b = w.batch.rows(order)
    fields = {
        "rewards": b.reward_BT, "loss_mask": b.mask_BT.long(), "response_mask": b.mask_BT.long(), "values": None,
        "action_log_probs": b.old_logp_BT, "base_action_log_probs": b.ref_logp_BT, "rollout_logprobs": b.behavior_logp_BT,
    }  # fmt: skip
    data = TrainingInputBatch(fields)
    data.metadata = {"uids": [f"prompt-{g}" for g in b.group_B.tolist()], "avg_response_length": 1.0, "pad_size": 0}
    own = trainer(config)
    if config.trainer.algorithm.use_kl_in_reward:
        data = own.apply_reward_kl_penalty(data)
    data = own.compute_advantages_and_returns(data)
    given_BT = data["advantages"].clone()
    ends = [i + 1 for i in range(12) if i == 11 or b.group_B[i] != b.group_B[i + 1]]
    prompts = list(zip([0, *ends[:-1]], ends, strict=True))
    data = own._normalize_advantages(data, [(0, 12)], prompts)
    return order, given_BT, data


def worker(config, w, rows):
    """SkyRL's worker with a model that says what it is told to."""
    bare = object.__new__(PolicyWorkerBase)

    def model(*args, **kwargs):
        T = w.now_BT.shape[1]
        blank = w.entropy_BT.new_zeros(len(rows), 1)
        return w.now_BT[rows], {"entropy": torch.cat([w.entropy_BT[rows], blank], 1)[:, -T - 1 :]}

    model.train = lambda: None
    bare.model, bare.optimizer, bare.cfg, bare.mesh_rank = model, None, config.trainer, SimpleNamespace(dp_size=1)
    bare.scheduler = SimpleNamespace(get_last_lr=lambda: [0.0])
    bare.strategy = SimpleNamespace(backward=lambda loss, model, optimizer: loss.backward())
    bare.policy_loss_fn = PolicyLossRegistry.get(config.trainer.algorithm.policy_loss_type)
    return bare


def experience(w, order, data, cut):
    b, rows = w.batch, order[cut]
    fields = defaultdict(lambda: None)
    fields |= {
        "sequences": torch.ones(len(rows), 3), "action_log_probs": b.old_logp_BT[rows], "num_actions": b.mask_BT.shape[1],
        "base_action_log_probs": None if b.ref_logp_BT is None else b.ref_logp_BT[rows], "advantages": data["advantages"][cut],
        "loss_mask": b.mask_BT[rows].long(), "action_mask": b.mask_BT[rows].long(), "rollout_logprobs": b.behavior_logp_BT[rows],
        "attention_mask": None, "pixel_values": None, "image_grid_thw": None,
    }  # fmt: skip
    return SimpleNamespace(**fields, to_device=lambda device: None)


@every_recipe
def test_advantages_loss_and_its_gradient_are_the_recipes_on_random_batches(name, load, monkeypatch):
    """Micro-batches of unequal size against -J of the whole batch."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")
    recipe = RECIPES[name]
    config = configured(load(recipe))
    for seed in range(3):
        w = world(seed, recipe)
        adv_BT, loss, slope_BT, _ = wanted(recipe, w)
        order, given_BT, data = prepared(w, config)
        torch.testing.assert_close(given_BT.double(), adv_BT[order], rtol=0, atol=1e-6)
        total = 0.0
        for cut in (slice(0, 3), slice(3, 8), slice(8, 12)):
            rows = order[cut]
            bare = worker(config, w, rows)
            status = bare._forward_backward_micro(experience(w, order, data, cut), len(rows) / 12)
            total += status["final_loss"]
        torch.testing.assert_close(total, float(loss), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(w.now_BT.grad, slope_BT, rtol=1e-6, atol=1e-7)
        assert slope_BT.abs().max() > 1e-3


def test_other_processes_get_the_functions_as_ray_sends_them(load):
    module = load(find("gmpo"))
    w, recipe = world(0, find("gmpo")), find("gmpo")
    config = configured(module).trainer.algorithm
    loss = cloudpickle.loads(cloudpickle.dumps(PolicyLossRegistry.get(module.NAME)))
    estimate = cloudpickle.loads(cloudpickle.dumps(AdvantageEstimatorRegistry.get(module.NAME)))
    given, _ = estimate(w.batch.reward_BT, w.batch.mask_BT, index=w.batch.group_B.tolist(), config=config)
    torch.testing.assert_close(given, wanted(recipe, w)[0])
    assert torch.isfinite(loss(w.now_BT, w.batch.old_logp_BT, given, config=config, loss_mask=w.batch.mask_BT)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trainer.algorithm.loss_reduction=token_mean", "loss_reduction is 'token_mean' and must be 'sequence_mean'"),
        ("trainer.algorithm.use_kl_loss=true", "use_kl_loss is True and must be False"),
        ("trainer.algorithm.advantage_batch_normalize=true", "advantage_batch_normalize is True and must be False"),
    ],
)
def test_settings_that_are_another_recipes_are_refused(change, message, load):
    config, w = configured(load(find("gmpo")), change), world(0, find("gmpo"))
    with pytest.raises(InputError, match=message):
        prepared(w, config)
