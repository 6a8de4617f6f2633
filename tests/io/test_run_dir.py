import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rung
from rung.errors import InputError
from rung.io.run_dir import RunDir

ENV = {**os.environ, "PYTHONPATH": str(Path(rung.__file__).parents[1])}


@pytest.fixture
def run(tmp_path):
    with RunDir.create(None, "x", tmp_path / "run") as made:
        made.write_config({"recipe": "grpo"})
        yield made


def child(code: str, *arguments: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], env=ENV, stdout=subprocess.PIPE, text=True
    )


def test_numbers_are_given_in_order_and_names_become_safe(tmp_path):
    (tmp_path / "grpo-7").mkdir()
    paths = [
        RunDir.create(tmp_path, "grpo").path,
        RunDir.create(tmp_path, "grpo").path,
        RunDir.create(tmp_path, "../a b").path,
    ]
    assert [path.name for path in paths] == ["grpo-8", "grpo-9", "a-b-1"]
    assert all(path.parent == tmp_path for path in paths)


@pytest.mark.parametrize("kind", ["run", "directory", "file"])
def test_a_run_is_never_overwritten(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "run":
        RunDir.create(None, "x", out).write_config({"a": 1})
    elif kind == "directory":
        out.mkdir()
        (out / "thesis.txt").write_text("precious")
    else:
        out.write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="out="):
        RunDir.create(None, "x", out)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_directory_can_be_used(tmp_path):
    with RunDir.create(None, "x", tmp_path):
        pass
    RunDir.create(None, "x", tmp_path)  # a run that ended before its config was written left only its lock


def test_open_refuses_what_is_no_run(tmp_path, run):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match="not a run"):
            RunDir.open(path)
    with pytest.raises(InputError, match=r"Runs in .*: run"):
        RunDir.open(tmp_path / "rum")


def test_a_second_writer_is_refused_and_a_reader_is_not(run):
    run.log({"step": 1})
    with pytest.raises(InputError, match=f"process {os.getpid()}"):
        RunDir.open(run.path, write=True)
    assert RunDir.open(run.path).metrics() == [{"step": 1}]
    code = "import sys; from rung.io.run_dir import RunDir; RunDir.open(sys.argv[1], write=True)"
    assert child(code, run.path).wait() == 1
    run.close()
    RunDir.open(run.path, write=True).close()


def test_a_forked_child_that_outlives_the_writer_does_not_hold_the_lock(run):
    run.close()
    code = """
import os, signal, sys
from rung.io.run_dir import RunDir
run = RunDir.open(sys.argv[1], write=True)
if os.fork() == 0:
    print(os.getpid(), flush=True)
    signal.pause()
signal.pause()
"""
    process = child(code, run.path)
    grandchild = int(process.stdout.readline())
    try:
        with pytest.raises(InputError, match=f"process {process.pid}"):
            RunDir.open(run.path, write=True)
        process.kill()
        process.wait()
        RunDir.open(run.path, write=True).close()
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_the_lock_of_a_killed_writer_is_free(run):
    run.close()
    code = (
        "import sys, signal; from rung.io.run_dir import RunDir; r = RunDir.open(sys.argv[1], write=True);"
        "print('held', flush=True); signal.pause()"
    )
    process = child(code, run.path)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError):
        RunDir.open(run.path, write=True)
    process.kill()
    process.wait()
    RunDir.open(run.path, write=True).close()


def test_config_round_trip_without_none(run):
    config = {
        "model": "starter",
        "none": None,
        "path": Path("a/b"),
        "recipe": {"clip": (0.2, 0.28), "x": None},
        "seed": 3,
    }
    run.write_config(config)
    assert run.config() == {"model": "starter", "path": "a/b", "recipe": {"clip": [0.2, 0.28]}, "seed": 3}
    assert (run.path / "config.toml.bak-1").read_text() == 'recipe = "grpo"\n'


def test_environment_says_what_a_number_depends_on(run):
    run.write_environment()
    environment = run.environment()
    assert environment["versions"]["torch"] and environment["cores"] >= 1 and environment["memory_gib"] > 0
    assert {"commit", "dirty"} == set(environment["git"])


def test_metrics_are_valid_json_whatever_is_logged(run):
    import numpy as np
    import torch

    run.log(
        {"step": 1, "reward": math.nan, "kl": -math.inf, "np": np.float32(0.5), "t": torch.tensor(2), "s": "\ud800\n"}
    )
    (line,) = (run.path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert row == {"step": 1, "reward": None, "kl": None, "np": 0.5, "t": 2, "s": "\ud800\n"}


@pytest.mark.parametrize("torn", [b'{"step": 3, "rew', b'{"step": 3, "s": "\xc3', b'{"step": 3', b"\0\0\0\0"])
def test_a_half_written_last_line_is_left_out_and_never_continued(run, torn):
    run.log({"step": 1})
    run.log({"step": 2})
    run.close()
    path = run.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    assert [row["step"] for row in RunDir.open(run.path).metrics()] == [1, 2]
    with RunDir.open(run.path, write=True) as again:
        again.log({"step": 3})
        assert [row["step"] for row in again.metrics()] == [1, 2, 3]
    assert (run.path / "metrics.jsonl.bak-1").read_bytes().endswith(torn)


def test_damage_in_the_middle_is_an_error_and_not_a_gap(run):
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(InputError, match="line 2"):
        run.metrics()


def test_truncating_loses_nothing(run):
    for step in range(1, 6):
        run.log({"step": step})
    whole = (run.path / "metrics.jsonl").read_bytes()
    assert run.truncate_metrics(9) == 0 and not list(run.path.glob("*.bak-*"))
    assert run.truncate_metrics(3) == 2
    run.log({"step": 4, "again": 1})
    assert run.metrics() == [{"step": 1}, {"step": 2}, {"step": 3}, {"step": 4, "again": 1}]
    first, second = (run.path / f"metrics.jsonl.bak-{n}" for n in (1, 2))
    assert first.read_bytes() == whole[whole.index(b'{"step": 4') :], "what was taken out, and no second copy of the rest"
    run.truncate_metrics(1)
    assert second.read_bytes() == b'{"step": 2}\n{"step": 3}\n{"step": 4, "again": 1}\n' and first.exists()


def test_rollouts_round_trip_and_the_first_ones_are_kept(run):
    rows = [{"text": "7\x1b[31m ü \ud800", "tokens": (1, 2), "logp": [-0.5, math.nan]}, {"text": ""}]
    run.write_rollouts(10, iter(rows))
    run.write_rollouts(2, [])
    assert run.read_rollouts(10) == [{"text": rows[0]["text"], "tokens": [1, 2], "logp": [-0.5, None]}, {"text": ""}]
    run.write_rollouts(10, [{"text": "second"}])
    assert run.read_rollouts(10) == [{"text": "second"}] and run.read_rollouts(2) == []
    assert run.rollout_steps() == [2, 10] and len(list((run.path / "rollouts").iterdir())) == 3

    def broken():
        yield {"text": "third"}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run.write_rollouts(10, broken())
    assert run.read_rollouts(10) == [{"text": "second"}]
    with pytest.raises(InputError, match="no rollouts of step 3"):
        run.read_rollouts(3)


def writes(text: str):
    def writer(path: Path) -> None:
        (path / "sub").mkdir()
        (path / "sub" / "a").write_text(text)

    return writer


def test_the_newest_complete_checkpoint_is_the_model(run):
    assert run.latest_checkpoint() is None
    with pytest.raises(InputError, match="no complete checkpoint"):
        run.model_path()
    for step in (5, 1_000_000, 10):
        run.checkpoint(step, writes(str(step)))
    assert run.model_path().name == "step_1000000"
    (run.model_path() / "COMPLETE").unlink()
    assert run.latest_checkpoint() == run.path / "checkpoints/step_000010"
    assert run.checkpoint(10, writes("other")).joinpath("sub/a").read_text() == "10"  # complete: never written again
    assert run.checkpoint(1_000_000, writes("new")).joinpath("sub/a").read_text() == "new"  # torn: written again


def test_old_checkpoints_go_once_the_new_one_is_complete(run):
    def steps():
        return sorted(p.name for p in (run.path / "checkpoints").iterdir())

    for step in (1, 2, 3):
        run.checkpoint(step, lambda d: (d / "model").write_text("x"))
    run.resumed()
    (run.path / "checkpoints" / "step_000002" / "COMPLETE").unlink()  # torn: it counts for nothing
    with pytest.raises(ZeroDivisionError):
        run.checkpoint(4, lambda d: 1 / 0, keep_last=1)
    assert steps() == ["step_000001", "step_000002", "step_000003"], "a failing writer costs no other checkpoint"
    run.checkpoint(4, lambda d: (d / "model").write_text("x"), keep_last=1)
    assert steps() == ["step_000002", "step_000003", "step_000004"] and run.latest_checkpoint().name == "step_000004"
    run.checkpoint(5, lambda d: (d / "model").write_text("x"), keep_last=3)
    assert steps() == ["step_000002", "step_000003", "step_000004", "step_000005"]


def test_a_failing_writer_leaves_no_checkpoint(run):
    def fails(path: Path) -> None:
        (path / "a").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.checkpoint(1, fails)
    assert list((run.path / "checkpoints").iterdir()) == []


def test_a_writer_killed_in_the_middle_leaves_the_checkpoint_before_it(run):
    run.checkpoint(1, writes("one"))
    run.close()
    code = """
import sys, signal
from rung.io.run_dir import RunDir
def writer(path):
    (path / "half").write_text("half")
    print("writing", flush=True)
    signal.pause()
RunDir.open(sys.argv[1], write=True).checkpoint(2, writer)
"""
    process = child(code, run.path)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    with RunDir.open(run.path, write=True) as again:
        assert again.latest_checkpoint().name == "step_000001"
        again.checkpoint(2, writes("two"))
        assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["step_000001", "step_000002"]


@pytest.mark.parametrize("call", ["rename", "replace"])
def test_a_crash_before_the_marker_leaves_the_checkpoint_before_it(run, monkeypatch, call):
    run.checkpoint(1, writes("one"))

    def crash(*_):
        raise OSError("power cut")

    monkeypatch.setattr(Path, call, crash)
    with pytest.raises(OSError, match="power cut"):
        run.checkpoint(2, writes("two"))
    monkeypatch.undo()
    assert run.latest_checkpoint().name == "step_000001"
    assert run.checkpoint(2, writes("two")) == run.latest_checkpoint()


def test_a_start_that_fails_leaves_nothing_and_a_run_that_fails_later_stays(tmp_path):
    def fails_after(rows, out):
        with RunDir.create(None, "x", out) as run:
            run.write_config({"recipe": "grpo"})
            for row in rows:
                run.log(row)
            raise ZeroDivisionError

    for name, rows in (("early", [{"step": 0}]), ("late", [{"step": 0}, {"step": 1}])):
        with pytest.raises(ZeroDivisionError):
            fails_after(rows, tmp_path / name)
    assert not (tmp_path / "early").exists() and (tmp_path / "late" / "metrics.jsonl").is_file()
    with pytest.raises(ZeroDivisionError), RunDir.open(tmp_path / "late", write=True):
        raise ZeroDivisionError
    assert (tmp_path / "late").exists(), "a run that is gone on with is never removed"
