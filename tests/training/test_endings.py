"""However a run ends, its last finished step is there, the command that goes on is printed, and going on loses nothing."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import rung
from rung.errors import InputError, RunFailed
from rung.io.run_dir import RunDir
from rung.io.stopping import Stopped, Stopping
from rung.training import saving
from rung.training.learner import LocalLearner

SMALL = {"prompts_per_step": 2, "samples_per_prompt": 4, "eval_problems": 2, "max_new_tokens": 8, "threads": 1, "eval_every": 0,
         "learning_rate": 1e-3}  # fmt: skip
TWO = {"update.minibatches": 2}
ENV = {**os.environ, "PYTHONPATH": str(Path(rung.__file__).parents[1]), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def paid(completions):
    return [float(len(set(text))) for text in completions]


def reward_that(does, at=9):
    """Pays for different letters, and does something at its `at`-th call of this process."""
    calls = []

    def reward(completions, **columns):
        calls.append(1)
        if len(calls) == at:
            does()
        return paid(completions)

    return reward


@pytest.fixture
def heard():
    """The signals that reach whoever calls rung.train, once it has saved."""
    seen = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda n, frame: seen.append(n)) for number in numbers]
    yield seen
    for number, old in zip(numbers, before, strict=True):
        signal.signal(number, old)


def newest(path):
    return int(RunDir.open(path).latest_checkpoint().name[5:])


def rows(path):
    return [row["step"] for row in RunDir.open(path).metrics() if "step_time" in row]


def weights(path):
    found = {p.relative_to(path): p.read_bytes() for p in sorted(path.rglob("step_000005/*.safetensors"))}
    return found | {p.relative_to(path): p.read_bytes() for p in sorted(path.rglob("*.zst"))}


SENDERS: list[threading.Thread] = []


def send(number, times):
    """From another thread, 10 ms apart, whatever the main one does at the first of them."""

    def sending():
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    SENDERS.append(threading.Thread(target=sending))
    SENDERS[-1].start()
    time.sleep(5)


@pytest.mark.parametrize("times", [1, 2, 30])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_a_reward_saves_the_step_before_it_and_going_on_equals_a_run_that_never_stopped(
    tmp_path, capsys, heard, number, times
):  # fmt: skip
    if (number, times) == (signal.SIGINT, 1):  # once is enough for what it costs
        rung.train("ppo", overrides=TWO, reward=reward_that(lambda: None), steps=5, out=tmp_path / "whole", **SMALL)
    begun = time.monotonic()
    run = rung.train(
        "ppo", overrides=TWO, reward=reward_that(lambda: send(number, times)), steps=5, out=tmp_path / "run", **SMALL
    )
    assert time.monotonic() - begun < 60 and run.interrupted
    assert set(heard) <= {number} and (heard or number == signal.SIGINT)
    assert newest(run.path) == rows(run.path)[-1] == run.steps, "the last finished step"
    assert 0 < run.steps < 5
    assert f"of step {run.steps}; go on with: rung.train(resume=" in capsys.readouterr().out
    assert not [p for p in run.path.rglob("*") if p.name.startswith(".tmp")]
    for sender in SENDERS:  # its last signals are not for the run that goes on
        sender.join()
    again = rung.train(resume=run.path, reward=reward_that(lambda: None))
    assert again.steps == 5 and rows(run.path) == [1, 2, 3, 4, 5]
    if (tmp_path / "whole").exists():
        assert weights(run.path) == weights(tmp_path / "whole")


def test_an_update_at_hand_is_finished_first(tmp_path, monkeypatch):
    step = LocalLearner.learn_values

    def interrupted(self, batch):
        if self.version == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch)

    monkeypatch.setattr(LocalLearner, "learn_values", interrupted)
    run = rung.train("ppo", overrides=TWO, steps=5, out=tmp_path / "run", **SMALL)
    assert (run.steps, newest(run.path), rows(run.path)) == (3, 3, [1, 2, 3])


def fails(kind):
    def does():
        raise kind

    return does


def test_a_reward_that_raises_or_exits_costs_the_step_at_hand_only(tmp_path, capsys):
    for name, kind in (
        ("raises", ZeroDivisionError("boom")),
        ("exits", SystemExit(0)),
        ("memory", MemoryError("no more")),
    ):
        path = tmp_path / name
        with pytest.raises(InputError, match=r"reward.* raised"):
            rung.train("grpo", reward=reward_that(fails(kind)), steps=5, out=path, **SMALL)
        assert newest(path) == rows(path)[-1] > 0
        assert f"of step {newest(path)}; go on with: " in capsys.readouterr().out


def test_a_start_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(InputError):
        rung.train("grpo", reward=reward_that(fails(ValueError()), at=3), steps=5, out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("waits", [False, True])
def test_a_reward_that_hangs_is_named_at_its_deadline_and_the_run_is_saved(tmp_path, waits):
    def hang():
        end = time.monotonic() + 15
        while time.monotonic() < end:
            try:
                time.sleep(1)
            except Exception:  # noqa: BLE001  a handler of its own, as libraries have them
                continue

    reward = reward_that(hang)
    reward.waits = waits
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"'reward' for .* has not answered within 0.5 s.*reward_deadline"):
        rung.train("grpo", reward=reward, reward_deadline=0.5, steps=5, out=tmp_path / "run", **SMALL)
    assert time.monotonic() - begun < 20 and newest(tmp_path / "run") == rows(tmp_path / "run")[-1] > 0


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_one_signal_ends_a_reward_that_hangs(tmp_path, waits, stubborn):
    def hang():
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                time.sleep(30)
            except BaseException:
                if not stubborn:
                    raise
                return  # it makes nothing of the signal

    reward = reward_that(hang)
    reward.waits = waits
    begun = time.monotonic()
    run = rung.train("grpo", reward=reward, steps=5, out=tmp_path / "run", **SMALL)
    assert run.interrupted and time.monotonic() - begun < 20 and newest(run.path) == run.steps > 0


def test_memory_that_runs_out_is_said_and_the_last_finished_step_is_kept(tmp_path, monkeypatch):
    score = torch.Tensor.backward

    def none_left(version):
        def backward(self, *args, **named):
            if learners and learners[0].version == version:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            return score(self, *args, **named)

        return backward

    learners = []
    made = LocalLearner.__post_init__
    monkeypatch.setattr(LocalLearner, "__post_init__", lambda self: (made(self), learners.append(self))[0])
    monkeypatch.setattr(torch.Tensor, "backward", none_left(2))
    with pytest.raises(RunFailed, match=r"memory ran out on one answer at a time"):
        rung.train("grpo", steps=5, out=tmp_path / "run", **SMALL)
    assert newest(tmp_path / "run") == 2 and rows(tmp_path / "run") == [1, 2]


def test_an_update_that_is_broken_in_the_middle_is_never_saved_as_a_step(tmp_path, monkeypatch, capsys):
    """PPO: the first minibatch had changed the weights."""
    step, steps = torch.optim.AdamW.step, []

    def second_fails(self, *args, **named):
        steps.append(len(rows(tmp_path / "run")))
        if steps.count(2) == 2:
            raise RuntimeError("out of memory")
        return step(self, *args, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", second_fails)
    with pytest.raises(RunFailed):
        rung.train("ppo", overrides=TWO, steps=5, save_every=1, out=tmp_path / "run", **SMALL)
    done = rows(tmp_path / "run")[-1]
    assert newest(tmp_path / "run") == done
    assert f"an update after step {done} had changed weights already" in capsys.readouterr().out


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    def spoil(record):
        if record.step == 2:
            with torch.no_grad():
                next(model.parameters()).view(-1)[0] = float("inf")

    from rung.models import starter
    from rung.network import model as models

    loaded = models.load(str(starter.path()), dtype=torch.float32)
    model = loaded.hf
    with pytest.raises(RunFailed, match="after step 2 the weights are not finite"):
        rung.train(
            "grpo", model=(model, loaded.codec.tokenizer), task="chained_arithmetic", steps=5, save_every=1, out=tmp_path / "run",
            callbacks=[SimpleNamespace(on_step=spoil)], **SMALL,
        )  # fmt: skip
    assert newest(tmp_path / "run") == 1


def test_a_full_disk_is_said_and_what_was_saved_stays(tmp_path, monkeypatch, capsys):
    write = RunDir.write_rollouts

    def full(self, step, found):
        if step == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path / "rollouts"))
        return write(self, step, found)

    monkeypatch.setattr(RunDir, "write_rollouts", full)
    with pytest.raises(RunFailed, match="the disk is full"):
        rung.train("grpo", steps=5, out=tmp_path / "run", **SMALL)
    assert newest(tmp_path / "run") == 3 and "go on with" in capsys.readouterr().out
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"a checkpoint takes about .* has room for"):
        rung.train("grpo", steps=5, out=tmp_path / "none", **SMALL)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "settings", [{"recipe": "grpo"}, {"recipe": "ppo", "overrides": TWO}, {"recipe": "trpo"}, {"lora_rank": 2}]
)
def test_what_a_checkpoint_takes_is_known_before_the_first_one(tmp_path, monkeypatch, settings):
    seen = []
    monkeypatch.setattr(saving.Saving, "refuse_full_disk", lambda self: seen.append(self.setup.learner.size()))
    run = rung.train(steps=1, out=tmp_path / "run", **{**SMALL, **settings})
    took = sum(path.stat().st_size for path in run.model_path.rglob("*.safetensors"))
    assert abs(seen[0] - took) < 0.05 * took + 2**16, "but for the names in the files"


def test_checkpoints_by_the_clock_are_few_and_the_best_one_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(saving, "EVERY", 0.0)
    monkeypatch.setattr(saving, "SHARE", 0)
    path = tmp_path / "run"
    rung.train("grpo", steps=5, out=path, **SMALL)
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == ["step_000004", "step_000005"]
    assert len(re.findall("again every .* minutes, the newest 2 stay", capsys.readouterr().out)) == 1
    rung.train("grpo", steps=4, out=tmp_path / "best", keep_best=True, **{**SMALL, "eval_every": 1})
    run = RunDir.open(tmp_path / "best")
    shown = {row["step"]: row["eval/accuracy"] for row in run.metrics() if "eval/accuracy" in row and row["step"]}
    best = min(step for step, value in shown.items() if value == max(shown.values()))
    there = {int(p.name[5:]) for p in run.checkpoints.complete()}
    assert best in there and there <= {best, 3, 4}


def test_what_is_cleaned_up_after_a_signal_is_not_disturbed_by_the_next_ones():
    cleaned = []

    def ended():
        with Stopping(anywhere=True) as stop:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) * 10:
                    signal.raise_signal(number)
                cleaned.append(stop.asked)

    with pytest.raises(Stopped) as stopped:
        ended()
    assert cleaned == [signal.SIGTERM] and stopped.value.status == 143


# -- the program -----------------------------------------------------------------------------------------------------
def program(tmp_path, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "rung", *words], env=ENV, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(what, seconds=120.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come that far"
        time.sleep(0.05)


FLAGS = [
    "--prompts-per-step",
    "2",
    "--samples-per-prompt",
    "4",
    "--eval-problems",
    "2",
    "--threads",
    "1",
    "--steps",
    "100000",
]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL)),
    ],
)
def test_the_program_ends_with_the_status_of_its_signal_and_is_gone_on_with(tmp_path, number):
    run = tmp_path / "run"
    process = program(tmp_path, "train", "grpo", *FLAGS, "--out", "run", "--save-every", "1")
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(rows(run)) > 2)
    begun = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in out + err and "Exception" not in err
    assert newest(run) >= rows(run)[-1] - 1
    if number != signal.SIGKILL:
        assert newest(run) == rows(run)[-1] and re.search(r"go on with: .*train --resume run", out)
    with RunDir.open(run, write=True) as free:
        assert not [p for p in free.path.rglob(".tmp-*") if p.is_file()]
