"""A run is a model everywhere, a path without one is one message, and what cannot be saved is not trained."""

import importlib.util
from pathlib import Path

import pytest
import torch

import rung
from rung.cli import main
from rung.errors import InputError
from rung.evaluation.conformance import tiny
from rung.io.run_dir import RunDir
from rung.models import starter
from rung.network import model as models
from rung.training.config import TrainConfig, to_toml
from rung.training.setup import locate, try_saving

torch.set_num_threads(1)
SMALL = {"steps": 1, "prompts_per_step": 2, "samples_per_prompt": 4, "eval_problems": 2, "threads": 1}
TASK = {"task": "chained_arithmetic"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of all weights, and one of an adapter, with a learning rate that changes something."""
    home = tmp_path_factory.mktemp("runs")
    return [
        rung.train(recipe="dr_grpo", out=home / f"dr_grpo-{rank}", lora_rank=rank, learning_rate=0.05, **SMALL).path
        for rank in (0, 2)
    ]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_is_a_model_to_train_and_to_evaluate(runs, which, rank, tmp_path, capsys):
    start = runs[which]
    child = rung.train(model=str(start), out=tmp_path / "child", lora_rank=rank, learning_rate=1e-9, **TASK, **SMALL)
    ids = torch.tensor([[3, 4, 5]])
    parent, own = (models.load(locate(str(path))).hf(ids).logits for path in (start, child.path))
    torch.testing.assert_close(own, parent, rtol=0, atol=1e-4)
    assert (parent - models.load(str(starter.path())).hf(ids).logits).abs().max() > 1e-2, "and not where it began"
    for name in (child.path, RunDir.open(child.path).model_path()):
        assert main(["eval", str(name), "--task", "chained_arithmetic", "--problems", "2"]) == 0
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "eval", "plan", "variance"])
def test_a_path_without_a_model_is_one_message(runs, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(runs[0].parent.parent)
    (tmp_path / "empty").mkdir()
    home = runs[0].parent.name
    for name, message in (
        (f"{home}/dr_grpo-3", f"no such directory. Did you mean '{home}/dr_grpo-"),
        ("./nothing", "no such directory"),
        (str(runs[0] / "checkpoints"), "holds no model (no config.json). Models in it: step_000001"),
        (str(tmp_path / "empty"), "holds no model"),
        ("startr", "Did you mean 'starter'"),
        ("none.gguf", "no such file"),
    ):
        model = [f"--model={name}"] if command in ("train", "plan") else [name]
        assert main([command, *model, "--task", "chained_arithmetic"]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("loading")]
        assert len(said) == 1 and message in said[0], said


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(InputError, match="no complete checkpoint"):
        locate(str(tmp_path))


# -- GGUF --------------------------------------------------------------------------------------------------------------
def write_gguf(path):
    file = Path(__file__).parents[1] / "network" / "test_model_kinds.py"
    spec = importlib.util.spec_from_file_location("kinds", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = tiny("llama")
    module.write_gguf(path, model)
    return model


@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_from_a_gguf_file_is_kept_and_loads_again(tmp_path, rank, monkeypatch):
    (tmp_path / "home").mkdir()
    source = write_gguf(tmp_path / "home" / "tiny.gguf")
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "{"ab" * i}a", "answer": "{i}"}}\n' for i in range(8)))
    monkeypatch.chdir(tmp_path / "home")
    small = {**SMALL, "max_new_tokens": 4, "learning_rate": 1e-9, "task": str(tmp_path / "rows.jsonl")}
    run = rung.train(model="tiny.gguf", out=tmp_path / "run", lora_rank=rank, **small)
    monkeypatch.chdir(tmp_path)  # the base is found from anywhere
    again = models.load(locate(str(run.path)))
    ids = torch.tensor([[1, 5, 6]])
    torch.testing.assert_close(again.hf(ids).logits, source.hf(ids).logits, rtol=0, atol=1e-4)
    assert not hasattr(again.hf.config, "quantization_config")
    assert main(["eval", str(run.path), "--problems", "1", "--max-new-tokens", "4"]) == 0


def test_what_cannot_be_saved_is_refused_before_the_training(tmp_path, monkeypatch):
    model = models.load(str(starter.path()))
    try_saving(model)

    def refuse(*args, **more):
        raise ValueError("The model is quantized with madeup and is not serializable")

    monkeypatch.setattr(type(model.hf), "save_pretrained", refuse)
    with pytest.raises(InputError, match=r"would be lost.*quantized with madeup.*lora_rank="):
        rung.train(out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_an_adapter_whose_base_is_gone_says_which(runs, tmp_path):
    import json
    import shutil

    copy = tmp_path / "adapter"
    shutil.copytree(RunDir.open(runs[1]).model_path(), copy)
    config = json.loads((copy / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (copy / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"adapter is a LoRA adapter, and its base model is missing\. model '.*gone'"):
        models.load(str(copy))


def test_a_run_as_model_brings_its_own_problems(tmp_path):
    own = TrainConfig(model="starter", task_options={"reward_offset": 1.0}, system=None)
    RunDir.create(tmp_path, "r", tmp_path / "run").write_config(to_toml(own.resolved(), own.build_recipe()))
    found = TrainConfig(model=str(tmp_path / "run")).resolved()
    assert (found.task, found.task_options, found.steps) == ("chained_arithmetic", {"reward_offset": 1.0}, 100)
    other = TrainConfig(model=str(tmp_path / "run"), task="chain_sum").resolved()
    assert (other.task, other.task_options) == ("chain_sum", {})
