"""LoRA: only the adapter moves, the reference is the model without it, checkpoints hold it alone and resume bit for bit."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import rung
from rung.cli import main
from rung.errors import InputError
from rung.evaluation.conformance import tiny
from rung.io.run_dir import RunDir
from rung.models import starter
from rung.network import adapter
from rung.network import model as models
from rung.recipe_io import find
from rung.records import SamplingLaw
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks import registry
from rung.training.learner import Hyper, LocalLearner
from rung.training.policy import BasePolicy

torch.set_num_threads(1)
SMALL = {"prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 8, "threads": 1, "lora_rank": 4}


def fresh(name: str, rank: int = 4):
    torch.manual_seed(0)
    model = models.load(str(starter.path()))
    adapter.add(model, rank)
    recipe = find(name)
    learner = LocalLearner(recipe, model, Hyper(learning_rate=4e-3, max_new_tokens=16))
    env = registry.load("chained_arithmetic").train
    law = SamplingLaw(max_new_tokens=16)
    return learner, Collector(env, model.codec, TorchSampler(model), law, recipe.data, 6, 4, 0)


@pytest.mark.parametrize("name", ["grpo", "ppo", "trpo", "ppo_kl"])
def test_only_the_adapter_moves_and_the_reference_is_the_model_without_it(name):
    learner, collector = fresh(name)
    model = learner.model
    base = {k: v.clone() for k, v in model.hf.state_dict().items() if "lora_" not in k}
    start = learner.logp(learner.policy, collector.collect(0, learner.state).batch)
    with adapter.adapter_off(model.hf):
        without = learner.logp(learner.policy, collector.collect(0, learner.state).batch)
    assert torch.equal(start, without), "B is zero: a fresh adapter changes nothing, bit for bit"
    for step in range(3):
        collected = collector.collect(step, learner.state)
        metrics = learner.step(collected).metrics
        assert metrics["sampling/logp_gap_max"] < 1e-4, "the sampler runs the adapter as well"
    after = model.hf.state_dict()
    assert all(torch.equal(after[k], v) for k, v in base.items())
    moved = [v.abs().max() for k, v in adapter.trained_weights(model.hf).items() if "lora_B" in k]
    assert max(moved) > 0
    if name == "trpo":
        assert 0 < metrics["trpo/kl"] <= learner.recipe.update.max_kl
    if learner.reference is not None:
        assert isinstance(learner.reference, BasePolicy) and learner.reference.model is model, "no second copy"
        batch = collected.batch
        whole = models.load(str(starter.path()))
        untouched = LocalLearner(find("reinforce"), whole, Hyper())
        expected = untouched.logp(untouched.policy, batch)
        assert torch.equal(learner.logp(learner.reference, batch), expected)
        assert not torch.equal(learner.logp(learner.policy, batch), expected), "and the adapter is on again"
        assert metrics["kl"] > 0


def test_a_critic_shares_the_frozen_weights_and_has_an_adapter_of_its_own():
    learner, _ = fresh("ppo")
    ours, critics = (dict(m.hf.named_parameters()) for m in (learner.model, learner.critic.model))
    assert len(ours) == len(critics) > 0
    for name, parameter in ours.items():
        assert (critics[name].data_ptr() == parameter.data_ptr()) == ("lora_" not in name), name


@pytest.mark.parametrize("recipe", ["grpo", "ppo", pytest.param("trpo", marks=pytest.mark.slow)])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path, recipe):
    whole = rung.train(recipe=recipe, steps=2, out=tmp_path / "whole", **SMALL)
    rung.train(recipe=recipe, steps=1, out=tmp_path / "part", **SMALL)
    part = rung.train(recipe=recipe, steps=2, out=tmp_path / "part", resume=True, **SMALL)
    a, b = (load_file(RunDir.open(r.path).model_path() / adapter.FILE) for r in (whole, part))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert [m["reward"] for m in whole.metrics if "reward" in m] == [m["reward"] for m in part.metrics if "reward" in m]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return rung.train(recipe="dr_grpo", steps=2, out=tmp_path_factory.mktemp("lora") / "run", **SMALL)


def test_a_checkpoint_is_an_adapter_that_peft_and_transformers_load(run):
    from peft import PeftModel

    path = RunDir.open(run.path).model_path()
    assert not (path / "model.safetensors").exists() and all("lora_" in k for k in load_file(path / adapter.FILE))
    assert json.loads((path / "adapter_config.json").read_text())["r"] == 4
    ids = torch.tensor([[3, 4, 5]])
    a = AutoModelForCausalLM.from_pretrained(path)(ids).logits
    base = AutoModelForCausalLM.from_pretrained(str(starter.path()))
    plain = base(ids).logits
    b = PeftModel.from_pretrained(base, path)(ids).logits
    assert torch.equal(a, b) and not torch.equal(a, plain)


def test_it_is_evaluated_like_any_run(run, capsys):
    assert main(["eval", str(run.path), "--problems", "8", "--json", "-"]) == 0
    assert '"accuracy"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_targets": "q_proj,lm_head"}, "names the head 'lm_head'"),
        ({"lora_targets": "nothing_like_it"}, "fits no layer.*q_proj"),
        ({"trainable": "q_proj"}, "Give one of the two"),
        ({"lora_rank": -1}, "at least 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        rung.train(steps=1, out=tmp_path / "run", **{**SMALL, **change})
    assert not (tmp_path / "run").exists()


def test_a_run_is_resumed_with_its_own_adapter_only(run):
    again = {**SMALL, "recipe": "dr_grpo", "steps": 4, "out": run.path, "resume": True}
    for rank in (2, 0):
        with pytest.raises(InputError, match=f"lora_rank is 4, not {rank}"):
            rung.train(**{**again, "lora_rank": rank})


def test_without_peft_the_user_hears_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"needs peft, which is not installed"):
        adapter.add(tiny("llama"), 2)


def test_adapters_are_float32_whatever_the_model_computes_in(tmp_path):
    run = rung.train(recipe="grpo", steps=2, dtype="bfloat16", out=tmp_path / "run", **SMALL)
    stored = load_file(RunDir.open(run.path).model_path() / adapter.FILE)
    assert {v.dtype for v in stored.values()} == {torch.float32}
    assert run.metrics[-2]["sampling/logp_gap_mean"] < 0.05
