"""--device: what it accepts, who takes it, where it is written down; and what is sent to a device and back."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

import rung
from rung.cli import COMMANDS, main
from rung.errors import InputError
from rung.io.run_dir import RunDir
from rung.kernels import device
from rung.kernels.device import CPU, choose, fetch, send
from rung.records import Totals

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
SMALL = {"prompts_per_step": 2, "samples_per_prompt": 2, "eval_problems": 2, "threads": 1}


def test_auto_is_cuda_where_there_is_one_and_never_mps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.mps, "is_available", lambda: True)
    assert choose("auto") == CPU == choose("cpu") == choose("cpu:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose("auto") == torch.device("cuda", 0)


def test_one_of_several_is_named_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose("cuda") == choose("cuda:0") == torch.device("cuda", 0) and choose("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match=r"device='cuda:2': PyTorch finds 2 of the kind \(0 to 1\)"):
        choose("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "Cuda", "cuda:x", "", "1"])
def test_a_word_that_is_no_device_is_refused(name):
    with pytest.raises(InputError, match=r"unknown device .*Known: auto, cpu, cuda, mps"):
        choose(name)


@pytest.mark.parametrize("name", ["meta", "vulkan", "mps" if not torch.backends.mps.is_available() else "vulkan"])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(InputError, match=f"device={name!r}: PyTorch finds none on this machine"):
        choose(name)


@NO_CUDA
@pytest.mark.parametrize(
    "words",
    [
        ["train", "grpo"], ["train", "grpo", "--dry-run"], ["plan"], ["ask", "starter", "1+1="], ["eval", "starter"],
        ["variance", "starter"], ["why", "grpo"], ["ladder"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_command_refuses_it_before_anything_is_written(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--device", "cuda"]) == 2
    err = capsys.readouterr().err
    (said,) = [line for line in err.splitlines() if not line.endswith(" ...")]  # what it is about to do
    assert said.startswith("rung: --device cuda: PyTorch finds none on this machine.")
    assert not list(tmp_path.iterdir())


def test_every_command_that_loads_a_model_takes_the_flag():
    flags = {name: {f.name for f in dataclasses.fields(command.flags)} for name, command in COMMANDS.items()}
    named = {name for name, fields in flags.items() if fields & {"model", "models", "run"}}
    loads = named - {"data"} | {"why"}  # data reads a model's tokenizer, no weights
    assert loads >= {"train", "plan", "ask", "eval", "ladder", "variance"} and all(
        "device" in flags[name] for name in loads
    ), loads


def test_a_run_says_where_it_computes(tmp_path, capsys):
    run = rung.train(recipe="reinforce", steps=1, out=tmp_path / "run", device="cpu", **SMALL)
    assert "device cpu" in capsys.readouterr().out
    assert RunDir.open(run.path).config()["device"] == "cpu"
    assert json.loads((run.path / "environment.json").read_text())["device"] == "cpu"


def test_what_is_sent_and_fetched_keeps_its_shape_and_kind(monkeypatch):
    """The packing itself, which a CPU never needs: as if the CPU were another device."""
    monkeypatch.setattr(device, "WITHOUT_FLOAT64", set())
    tensors = [
        torch.tensor(True), torch.arange(6).view(2, 3), torch.tensor([1.5, -2.0]), torch.zeros(0, 4),
        torch.tensor(7, dtype=torch.int8),
        torch.tensor([[0.1]], dtype=torch.float64), torch.arange(4.0).view(2, 2).T, torch.tensor([3.0], dtype=torch.bfloat16),
    ]  # fmt: skip
    for there, x in zip(device._send(CPU, tensors), tensors, strict=True):
        assert there.dtype == x.dtype and there.shape == x.shape and torch.equal(there, x)
    total = Totals(1, 2, 3, torch.tensor([4]))
    assert send(CPU, total, tensors[0])[0] is total and fetch(*tensors)[1] is tensors[1] and fetch() == []


def test_one_place_chooses_and_one_places():
    source = Path(rung.__file__).parent
    files = {str(p.relative_to(source)): p.read_text(encoding="utf-8") for p in source.rglob("*.py")}
    asks = {name for name, text in files.items() if "cuda.is_available" in text}
    assert asks == {"kernels/device.py", "io/environment.py"}, "who chooses, and who writes down what there is"
    moves = {name for name, text in files.items() if re.search(r"hf\.(to|cuda)\(|\.cuda\(\)|\.to\(\"", text)}
    assert moves == {"network/model.py"}
