"""Every file of a run, damaged in every way of a table: a result, or one message that names the file; never a traceback, never
other weights than were saved."""

import os
import shutil
from pathlib import Path

import pytest

import rung
from rung.cli import main
from rung.errors import InputError
from rung.io import files
from rung.io.checkpoints import damage
from rung.io.run_dir import RunDir
from rung.training.checkpoint import go_on
from rung.training.held_out import stored
from rung.training.resume import begun
from rung.training.setup import prepare

AT = "checkpoints/step_000002/"
NAMES = [
    "config.toml", "environment.json", "metrics.jsonl", "evaluations/step_000000.jsonl", "rollouts/step_000001.jsonl.zst",
    *(AT + name for name in (
        "COMPLETE", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "state.json", "state.safetensors", "progress.json",
    )),
]  # fmt: skip


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES = {
    "missing": None,
    "a directory": "directory",
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "a bit in the middle": lambda data: flipped(data, len(data) // 2),
    "a bit at the beginning": lambda data: flipped(data, 0),
    "a bit near the end": lambda data: flipped(data, -2 % len(data)),
    "zeros at the end": lambda data: data[:-20] + bytes(20),
    "zeros": lambda data: bytes(len(data)),
    "not text": lambda data: b"\xff\xfe" + data,
    "a list": lambda data: b"[]",
    "a number": lambda data: b"3\n3\n",
    "another object": lambda data: b'{"a": 1}\n{"a": [1]}\n',
    "deep": lambda data: b"[" * 100_000,
}
CASES = [(file, name) for file in NAMES for name in DAMAGES]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("damage") / "run"
    rung.train(
        "grpo",
        steps=2,
        save_every=1,
        out=path,
        prompts_per_step=2,
        samples_per_prompt=2,
        eval_problems=2,
        threads=1,
        quiet=True,
    )
    assert all((path / file).is_file() for file in NAMES)
    return path


def damaged(whole, folder, file, name):
    path = folder / "run"
    shutil.copytree(whole, path)
    how, target = DAMAGES[name], path / file
    if not callable(how):
        target.unlink()
        if how:
            target.mkdir()
    else:
        target.write_bytes(how(target.read_bytes()))
    return path


def readings(path):
    """Everything that a command reads of a run."""
    yield lambda: RunDir.open(path).config()
    yield lambda: RunDir.open(path).environment()
    yield lambda: RunDir.open(path).metrics()
    yield lambda: stored(RunDir.open(path), 0)
    yield lambda: RunDir.open(path).read_rollouts(1)
    yield lambda: begun(path)
    yield lambda: RunDir.open(path).model_path()


def refused(read):
    try:
        read()
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("file", NAMES)
def test_whatever_is_damaged_is_said_in_one_message(whole, tmp_path, file):
    for name in DAMAGES:
        path = damaged(whole, tmp_path / name.replace(" ", "_"), file, name)
        for read in readings(path):
            said = refused(read)
            assert said is None or (said.count("\n") <= 2 and str(path) in said), (name, said)  # TOML's has two lines
        if file.startswith(AT) and (path / AT / "COMPLETE").is_file():
            assert (damage(path / AT) is not None) == ((path / file).read_bytes() != (whole / file).read_bytes()
                                                       if (path / file).is_file() else True), name  # fmt: skip


@pytest.mark.parametrize(
    "file", [AT + name for name in ("model.safetensors", "state.safetensors", "progress.json", "COMPLETE")]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_gone_on_with(whole, tmp_path, capsys, file):
    path = damaged(whole, tmp_path, file, "a bit in the middle")
    begin = begun(path)[0]
    with RunDir.open(path, write=True) as run:
        assert go_on(prepare(begin), run)[0] == 1
        said = capsys.readouterr().err
        assert f"{Path(file).name} is not as it was written" in said and "step_000001 is used instead" in said
        assert [p.name for p in run.checkpoints.complete()] == ["step_000001"]
        assert (run.path / "checkpoints" / "damaged-1-step_000002").is_dir(), "it is kept, out of the way"
    assert RunDir.open(path).model_path().name == "step_000001"


def test_where_every_checkpoint_is_damaged_all_are_named(whole, tmp_path):
    path = damaged(whole, tmp_path, AT + "model.safetensors", "half")
    (path / "checkpoints/step_000001/model.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"step_000002 is damaged .*step_000001 is damaged \(model.safetensors is missing\)"
    ):
        RunDir.open(path).model_path()


def test_a_run_without_any_checkpoint_begins_again(whole, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    shutil.rmtree(path / "checkpoints")
    assert main(["train", "--resume", str(path)]) == 0
    again, first = RunDir.open(path), RunDir.open(whole)
    assert [row["reward"] for row in again.metrics() if "reward" in row] == [
        r["reward"] for r in first.metrics() if "reward" in r
    ]
    both = [(run.model_path() / "model.safetensors").read_bytes() for run in (again, first)]
    assert both[0] == both[1]


def test_what_a_killed_process_leaves_blocks_neither_a_new_run_nor_going_on(whole, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in (".lock", ".tmp-4711-config.toml"):
        (out / name).write_text("torn")
    with RunDir.create(None, "x", out) as run:
        run.write_config({"a": 1})
        assert not list(out.glob(".tmp-*"))
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    for torn in (
        path / ".tmp-4711-metrics.jsonl",
        path / "rollouts/.tmp-4711-step",
        path / "checkpoints/.tmp-step_000003-4711",
    ):
        torn.mkdir() if "step_000003" in torn.name else torn.write_text("torn")
    assert main(["train", "--resume", str(path), "--steps", "3"]) == 0
    assert not list(path.rglob(".tmp-*"))


@pytest.mark.slow
@pytest.mark.parametrize("command", [["report"], ["explain"], ["eval", "--problems", "2"], ["train", "--resume"]])
@pytest.mark.parametrize("file", NAMES)
def test_every_command_ends_in_a_result_or_one_message(whole, tmp_path, capsys, file, command):
    for name in DAMAGES:
        path = damaged(whole, tmp_path / name.replace(" ", "_"), file, name)
        words = (
            [command[0], str(path), *command[1:]]
            if command != ["train", "--resume"]
            else [*command, str(path), "--steps", "3"]
        )
        status = main(words)
        assert status in (0, 2), (name, status)
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("other", ["model", "dtype", "trained"])
def test_another_model_than_the_runs_is_refused_in_one_sentence(whole, tmp_path, other):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path / "run"
    shutil.copytree(whole, path)
    config = begun(path)[0]
    setup = prepare(config)
    if other == "model":
        shape = setup.model.hf.config.to_dict() | {"num_hidden_layers": setup.model.hf.config.num_hidden_layers + 1}
        setup.model.hf = LlamaForCausalLM(LlamaConfig(**shape))
    elif other == "dtype":
        setup.model.hf.to(torch.bfloat16)
    else:
        next(setup.model.hf.parameters()).requires_grad_(False)
    with RunDir.open(path, write=True) as run, pytest.raises(InputError, match="belongs to another model") as error:
        go_on(setup, run)
    assert str(error.value).count(". ") == 1


def test_a_temporary_directory_that_a_killed_process_left_is_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    old, new, other = (tmp_path / name for name in ("rung-scratch-old", "rung-scratch-new", "rung-other"))
    for path in (old, new, other):
        path.mkdir()
        (path / "config.json").write_text("{}")
    for path in (old, other):
        os.utime(path, (0, 0))
    with files.scratch():
        assert not old.exists() and new.is_dir() and other.is_dir()
