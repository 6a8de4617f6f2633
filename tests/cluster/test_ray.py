"""A run on actors of Ray is the run of one process: the same answers, metrics and weights, whatever dies meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from ray_runs import NODE, TINY, Killer, above, answers, metrics, processes, state, train
from safetensors.torch import load_file

import rung
from rung.io.run_dir import RunDir

pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("joined")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The run of one process with this recipe, made once."""
    made = {}

    def run(recipe="grpo"):
        if recipe not in made:
            made[recipe] = tmp_path_factory.mktemp("here") / recipe
            train(made[recipe], recipe)
        return made[recipe]

    return run


@pytest.mark.parametrize("recipe", ["grpo", "ppo"])  # a reference, a critic
def test_one_learner_and_one_sampler_are_the_run_of_one_process_to_the_byte(tmp_path, recipe, here):
    train(tmp_path / "there", recipe, cluster="ray")
    assert metrics(tmp_path / "there") == metrics(here(recipe))
    assert state(tmp_path / "there") == state(here(recipe)) != {}


@pytest.fixture(scope="module")
def two(tmp_path_factory, ray_cluster):
    """The run of two learners."""
    path = tmp_path_factory.mktemp("two") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", ray_cluster.address)
        train(path, cluster="ray", cluster_options={"learners": 2})
    return path


def test_two_learners_take_the_same_steps_within_rounding(here, two):
    assert answers(two)[0] == answers(here())[0], "by the weights that both begin with"
    norms = [[row["grad_norm"] for row in metrics(path) if "grad_norm" in row] for path in (here(), two)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    assert norms[1][0] == pytest.approx(norms[0][0], rel=1e-5)
    last = [load_file(path / "checkpoints/step_000004/model.safetensors") for path in (here(), two)]
    assert last[0].keys() == last[1].keys()
    apart = max(float((last[0][name] - last[1][name]).abs().max()) for name in last[0])
    assert 0 < apart < 1e-4, "four steps of up to 1e-3"


def test_a_run_of_two_learners_goes_on_in_one_process(tmp_path, two):
    shutil.copytree(two, tmp_path / "run")
    again = rung.train(resume=tmp_path / "run", cluster="local", steps=5, quiet=True)
    assert again.steps == 5 and again.config["cluster_options"] == {}


OWN = """
import os, sys
from pathlib import Path
import pytest, rung, ray_runs
from rung.cluster import connect
os.environ["RAY_ADDRESS"] = sys.argv[2]
assert connect.join(0).joined
connect.leave()
del os.environ["RAY_ADDRESS"]
heard = []
class Look:
    def on_step(self, step):
        heard.append(ray_runs.listening(os.getpid()))
with ray_runs.Killer("ray::SamplerActor.generate", lambda: heard) as killer:
    ray_runs.train(sys.argv[1], cluster="ray", steps=2, eval_every=0, callbacks=Look())
import ray
assert killer.killed and not ray.is_initialized() and len(heard) == 2 and heard[0] == {"127.0.0.1"}, heard
os.environ["RAY_ADDRESS"] = sys.argv[2]
with pytest.raises(rung.InputError, match="has begun a cluster of its own before"):
    ray_runs.train(sys.argv[1] + "-more", cluster="ray")
"""


def test_a_cluster_of_its_own_ends_with_the_run_and_is_heard_by_nobody_else(tmp_path, here, joined):
    """Also behind another one that was joined and left; and of a sampler that dies there is one line, which is ours."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), environment.get("PYTHONPATH", "")])
    words = [sys.executable, "-c", OWN, str(tmp_path / "there"), joined.address]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "note: a sampler has ended (" in done.stderr and "raylet" not in said and "A worker died" not in said, said
    weights = "checkpoints/step_000002/model.safetensors"
    assert state(tmp_path / "there")[weights] == state(here())[weights]


# -- what dies meanwhile ----------------------------------------------------------------------------------------------
def test_answers_that_died_with_their_sampler_are_drawn_again_and_are_the_same(tmp_path, here):
    cut = tmp_path / "cut"
    with Killer("ray::SamplerActor.generate", lambda: len(metrics(cut)) > 1) as killer:
        train(cut, cluster="ray", cluster_options={"samplers": 2})
    assert killer.killed, "it was killed while it drew"
    assert answers(cut) == answers(here()) != []
    assert state(cut) == state(here()), (
        "log-probabilities of other batches differ in their last digits, and reach no weight"
    )


# Rows of metrics there are before it: an evaluation and a step; or those, a step, an evaluation with its checkpoint, and a step.
@pytest.mark.parametrize(("learners", "rows"), [(1, 2), (2, 5)], ids=["before a checkpoint", "one of two, behind one"])
def test_a_learner_that_died_in_its_step_leaves_no_trace(tmp_path, learners, rows, here, two):
    cut, whole = tmp_path / "cut", here() if learners == 1 else two
    with Killer("ray::LearnerActor.step", lambda: len(metrics(cut)) >= rows) as killer:
        train(cut, cluster="ray", cluster_options={"learners": learners})
    assert killer.killed, "it was killed while it learned"
    assert metrics(cut) == metrics(whole)
    assert state(cut) == state(whole)


def test_a_run_whose_driver_was_killed_is_resumed_to_the_same_bytes(tmp_path, here):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items() if k != "quiet"]
    words = [sys.executable, "-m", "rung", "train", "grpo", *flags, "--cluster", "ray", "--out", str(tmp_path / "cut")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as driver:
        while not (tmp_path / "cut" / "checkpoints" / "step_000002" / "COMPLETE").is_file():
            assert driver.poll() is None, "it ended by itself"
            time.sleep(0.01)
        os.kill(driver.pid, signal.SIGKILL)
    done = len(metrics(tmp_path / "cut"))
    assert done < len(metrics(here())), "it was killed before its end"
    end = time.monotonic() + 60
    while processes("ray::LearnerActor") and time.monotonic() < end:
        time.sleep(0.1)
    assert not processes("ray::LearnerActor"), "its actors end with it"
    rung.train(resume=tmp_path / "cut", quiet=True)
    assert metrics(tmp_path / "cut") == metrics(here())
    assert state(tmp_path / "cut") == state(here())


def test_a_machine_that_leaves_and_one_that_comes_change_nothing(tmp_path, here, joined, monkeypatch):
    """Two actors fill the first machine and the third is on the other: it dies with it, and finds a place on the one that comes."""
    other, cut, held, came = joined.add_node(**NODE), tmp_path / "cut", list[int](), list[object]()

    def leave_and_come():
        while len(metrics(cut)) < 2:
            time.sleep(0.01)
        held.extend(pid for pid in processes("ray::") if above(pid, other_raylet))
        joined.remove_node(other, allow_graceful=False)
        time.sleep(1)
        came.append(joined.add_node(**NODE))

    other_raylet = other.all_processes["raylet"][0].process.pid
    monkeypatch.setattr("ray._private.utils.set_sigterm_handler", lambda handler: None)  # which only a main thread may
    leaving = threading.Thread(target=leave_and_come, daemon=True)
    leaving.start()
    train(cut, cluster="ray", cluster_options={"samplers": 2})
    leaving.join()
    assert held and came, "an actor was there, and another machine came"
    joined.remove_node(came[0])
    assert answers(cut) == answers(here()) != []
    assert state(cut) == state(here())


# -- answers of earlier weights ---------------------------------------------------------------------------------------
LAG = {"cluster": "ray", "overrides": {"correction": "TokenTIS"}}


def test_staleness_is_what_was_asked_for_and_sampling_overlaps_learning(tmp_path):
    train(tmp_path / "one", **LAG, cluster_options={"staleness": 1})
    steps = [row for row in RunDir.open(tmp_path / "one").metrics() if "step_time" in row]
    assert [row["sampling/staleness_max"] for row in steps] == [0, 1, 1, 1]
    assert [row["sampling/staleness_mean"] for row in steps] == [0, 1, 1, 1]
    assert all(0 < row["sampling/ess"] <= 1 and row["sampling/ratio_mean"] > 0 for row in steps)
    assert steps[0]["sampling/ess"] > 1 - 1e-6 > steps[-1]["sampling/ess"], "weights of 1 where nothing is stale"
    assert all(b["cluster/sample_start"] < a["cluster/update_end"] for a, b in pairwise(steps))


def test_two_steps_behind_are_the_same_run_each_time_and_resumed_from_fresh_weights(tmp_path):
    options = {"staleness": 2, "samplers": 2}
    train(tmp_path / "one", **LAG, cluster_options=options)
    with Killer("ray::SamplerActor.generate", lambda: len(metrics(tmp_path / "two")) > 1) as killer:
        train(tmp_path / "two", **LAG, cluster_options=options)
    assert killer.killed
    assert [row["sampling/staleness_max"] for row in metrics(tmp_path / "one") if "reward" in row] == [0, 1, 2, 2]
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    assert state(tmp_path / "one") == state(tmp_path / "two")
    again = rung.train(resume=tmp_path / "one", steps=6, quiet=True)
    assert [row["sampling/staleness_max"] for row in again.metrics if "reward" in row] == [0, 1, 2, 2, 0, 1]
    walk = json.loads((Path(again.model_path) / "progress.json").read_text())["state"]["walk"]
    assert walk["step"] == 6 and walk["inside"] == 24, "problems that were drawn ahead are drawn by whoever goes on"


def test_answers_in_pieces_are_the_same_run_each_time_whoever_dies(tmp_path):
    options = {"staleness": 2, "partial": 3, "samplers": 2}
    train(tmp_path / "one", **LAG, cluster_options=options)
    with Killer("ray::SamplerActor.generate", lambda: len(metrics(tmp_path / "two")) > 1) as killer:
        train(tmp_path / "two", **LAG, cluster_options=options)
    assert killer.killed
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    assert state(tmp_path / "one") == state(tmp_path / "two")
    steps = [row for row in metrics(tmp_path / "one") if "reward" in row]
    assert [row["sampling/staleness_max"] for row in steps] == [0, 1, 2, 2]
    assert all(1 < row["sampling/staleness_mean"] < 2 for row in steps[2:])
    run = RunDir.open(tmp_path / "one")
    by = {tuple(r["versions"]) for k in run.rollout_steps()[2:] for r in run.read_rollouts(k) if "versions" in r}
    assert by <= {(v,) * 3 + (v + 1,) * n for v in (0, 1) for n in range(1, 6)} and len(by) > 1
