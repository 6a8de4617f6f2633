"""A run is trained once: what its key holds, what a second call does, and what happens after a kill."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import rung
import rung.experiments.runs as runs
import rung.training.loop as loop
from rung.errors import InputError
from rung.experiments.runs import Job, key, measured_as, moved, place, run, run_all
from rung.io.console import Console
from rung.io.run_dir import RunDir
from rung.training.config import TrainConfig
from rung.training.setup import prepare

TINY = TrainConfig(
    recipe="dr_grpo", prompts_per_step=2, samples_per_prompt=2, steps=3, eval_problems=8, save_rollouts=False, threads=1
)


def quiet(text):
    pass


def test_the_key_holds_what_a_result_depends_on_and_nothing_else(tmp_path):
    base = key(TINY)
    different = [
        replace(TINY, **change)
        for change in (
            {"seed": 1},
            {"learning_rate": 1e-3},
            {"recipe": "grpo"},
            {"overrides": {"surrogate.high": 0.28}},
            {"tokens": 10_000},
            {"task_options": {"reward_offset": 1.0}},
            {"eval_problems": 9},
        )
    ]
    assert len({base, *map(key, different)}) == 1 + len(different)
    same = [{"out": tmp_path}, {"threads": 2}, {"resume": True}, {"save_every": 1}, {"save_rollouts": True}, {"keep_last": 1},
            {"keep_best": True}, {"reward_deadline": 5.0}]  # fmt: skip
    same += [{"overrides": {"surrogate.high": 0.2}}, {"learning_rate": 4e-4}]  # what they are anyway
    assert {key(replace(TINY, **change)) for change in same} == {base}


def test_the_key_reads_files_not_their_names(tmp_path):
    rows = '{"prompt": "1+1=", "answer": "2"}\n' * 10
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(rows)
    keys = [key(replace(TINY, task=str(tmp_path / f"{n}.jsonl"))) for n in ("a", "b")]
    (tmp_path / "c.jsonl").write_text(rows + rows)
    assert keys[0] != key(replace(TINY, task=str(tmp_path / "c.jsonl")))
    assert keys[0] != key(TINY)


def test_a_second_call_trains_nothing(tmp_path, monkeypatch):
    jobs = [Job("one", TINY), Job("two", replace(TINY, seed=1))]
    first = run_all(jobs, tmp_path, tell=quiet)
    assert [r["label"] for r in first] == ["one", "two"] and first[0]["seed"] == 0
    monkeypatch.setattr(runs, "train", lambda *a: pytest.fail("it was trained again"))
    again = run_all([replace(job, label=f"again {job.label}") for job in jobs], tmp_path, tell=quiet)
    assert [{**r, "label": ""} for r in again] == [{**r, "label": ""} for r in first]
    assert again[0]["label"] == "again one"


def test_a_result_says_what_the_run_reached_and_cost(tmp_path):
    row = run(Job("x", replace(TINY, tokens=60, steps=50)), tmp_path)
    metrics = [json.loads(line) for line in (tmp_path / "runs" / row["run"] / "metrics.jsonl").read_text().splitlines()]
    steps = [m for m in metrics if "num_tokens" in m]
    assert row["tokens"] == steps[-1]["num_tokens"] >= 60, "the budget is spent"
    assert len(steps) == row["steps"] < 50 and all(m["num_tokens"] < 60 for m in steps[:-1]), (
        "and not exceeded by a step"
    )
    assert row["curve"]["tokens"] == [0.0, row["tokens"]]
    assert row["accuracy"] == metrics[-1]["eval/accuracy"] and row["accuracy_start"] == metrics[0]["eval/accuracy"]
    assert abs(row["kl"]) < 0.1 and row["state_mb"] > 3 * 85e3 * 4 / 2**20 * 0.9, "weights and two moments"


def test_a_policy_that_has_not_moved_has_kl_zero(tmp_path):
    config = replace(TINY, steps=0, out=tmp_path / "x")
    done = loop.train(config, Console(io.StringIO()))
    assert moved(config.resolved(), done.after.answers) == pytest.approx(0.0, abs=1e-5)


class Killed(BaseException):
    pass


def kill_after(monkeypatch, steps):
    whole = loop._Loop._step

    def step(self, number, **how):
        if number == steps:
            raise Killed
        whole(self, number, **how)

    monkeypatch.setattr(loop._Loop, "_step", step)
    monkeypatch.setattr(loop.Saving, "leave", lambda self, *, begun: None)  # nobody has time for that


def test_a_killed_run_without_a_checkpoint_is_set_aside_and_redone(tmp_path, monkeypatch):
    job = Job("x", TINY)
    with monkeypatch.context() as m:
        kill_after(m, 2)
        with pytest.raises(Killed):
            run(job, tmp_path)
    assert not (place(job, tmp_path) / "result.json").exists()
    row = run(job, tmp_path)
    assert row["steps"] == 3
    assert (place(job, tmp_path).with_name(f"{place(job, tmp_path).name}.incomplete-1") / "metrics.jsonl").is_file()
    assert strip(row) == strip(run(job, tmp_path / "elsewhere")), "as if it had never been killed"


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    job = Job("x", replace(TINY, save_every=1))
    with monkeypatch.context() as m:
        kill_after(m, 2)
        with pytest.raises(Killed):
            run(job, tmp_path)
    trained = []
    whole = loop._Loop._step
    monkeypatch.setattr(loop._Loop, "_step", lambda self, n, **how: (trained.append(n), whole(self, n, **how))[1])
    row = run(job, tmp_path)
    assert trained == [2], "only the step that was missing"
    assert strip(row) == strip(run(Job("x", TINY), tmp_path / "elsewhere"))


def strip(row):
    return {k: row[k] for k in ("accuracy", "tokens", "steps", "length")}


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    jobs = [Job(str(s), replace(TINY, seed=s)) for s in range(3)]
    two, one = run_all(jobs, tmp_path / "two", 2, quiet), run_all(jobs, tmp_path / "one", 1, quiet)
    assert [strip(r) for r in two] == [strip(r) for r in one]


# -- the budget ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["dapo", "remax", "grpo"])
def test_a_step_counts_every_answer_that_it_has_cost(name):
    setup = prepare(replace(TINY, recipe=name, prompts_per_step=3))
    drawn = []
    sample = setup.sampler.sample

    def counting(prompts, law, draws):
        drawn.append(sample(prompts, law, draws))
        return drawn[-1]

    setup.sampler.sample = counting
    collected = setup.collector.collect(0, setup.learner.state)
    kept = sum(len(row.rollout.tokens) for row in collected.scored)
    assert collected.sampled == sum(len(r.tokens) for rollouts in drawn for r in rollouts)
    assert (collected.sampled > kept) == (name != "grpo"), "discarded answers (dapo) and greedy ones (remax) cost too"


def test_a_budget_must_be_positive():
    with pytest.raises(InputError, match="tokens is 0"):
        replace(TINY, tokens=0).resolved()


def test_a_budget_sets_the_cap_on_steps():
    assert replace(TINY, steps=None, tokens=41).resolved().steps == 11, "2 x 2 answers have at least 4 tokens"


def test_rewards_on_a_scale_of_their_own_are_measured_as_such():
    assert measured_as([{"accuracy": 0.5}, {"measure": "accuracy"}]) == "accuracy"
    assert measured_as([{"measure": "accuracy"}, {"measure": "reward"}]) == "mean reward", (
        "one name for all that is compared"
    )


def test_a_run_with_a_reward_of_its_own_scale_is_measured_by_its_mean(tmp_path):
    (tmp_path / "pay.py").write_text(
        "def pay(completions, **columns):\n    return [5.0 + len(t) % 3 for t in completions]\n"
    )
    rows = "".join(f'{{"prompt": "{i}+2=", "answer": "{i + 2}"}}\n' for i in range(16))
    (tmp_path / "rows.jsonl").write_text(rows)
    own = {"task": str(tmp_path / "rows.jsonl"), "reward": f"{tmp_path / 'pay.py'}:pay", "max_new_tokens": 6}
    config = TrainConfig(
        recipe="dr_grpo", steps=1, prompts_per_step=2, samples_per_prompt=4, eval_problems=2, **own, threads=1
    )
    row = run(Job("own", config), tmp_path / "out")
    assert row["measure"] == "reward" and 5 <= row["accuracy"] <= 7 and row["curve"]["accuracy"][-1] == row["accuracy"]


def alive(session):
    """Processes of this session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_a_ladder_of_two_jobs_and_the_same_command_goes_on(tmp_path, number):
    words = ["ladder", "--recipes", "grpo,dr_grpo", "--seeds", "2", "--tokens", "10000000", "--rates", "1e-4", "--sweep-seeds", "1",
             "--jobs", "2", "--out", "L"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path(rung.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "rung", *words], env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip

    def begun():
        return [
            path for path in (tmp_path / "L" / "runs").glob("*/metrics.jsonl") if path.read_bytes().count(b"\n") > 2
        ]

    end = time.monotonic() + 240
    while len(begun()) < 2:
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.2)
    sent = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    while (left := alive(process.pid)) and time.monotonic() < sent + 10:
        time.sleep(0.1)
    assert not left and time.monotonic() - sent < 12
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert "Traceback" not in err and "the same command goes on" in err
        for path in begun():
            run = RunDir.open(path.parent)
            assert run.latest_checkpoint() is not None, "each worker has saved its last finished step"
