"""What a cluster has no room for, and what cannot be asked of it, is refused before anything is started."""

import importlib.util
import re
import socket
from dataclasses import replace
from fractions import Fraction

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import rung
from rung import advice
from rung.cli import main
from rung.cluster import connect
from rung.cluster.actors import LearnerActor, SamplerActor
from rung.cluster.connect import Capacity
from rung.cluster.engine import Actors
from rung.cluster.order import ordered
from rung.cluster.room import Demand, refuse_masters, refuse_pieces, refuse_staleness, refuse_too_many, refuse_too_much
from rung.errors import InputError
from rung.models import starter
from rung.plan.fit import Room
from rung.recipe_io import find, override
from rung.records import Task
from rung.rollout import vllm_sampler
from rung.settings.cluster import Cluster, spread
from rung.tasks import registry
from rung.tasks.sources.mixture import Mixture, Stage
from rung.training.config import TrainConfig, from_toml

HERE = Capacity(cpus=2, gpus=0, memory=8 * 2**30, machines=1, joined=False)


# -- the settings -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cluster", "rey"], "--cluster is 'rey'; it must be one of local, ray. Did you mean 'ray'?"),
        (
            ["--cluster", "ray", "--cluster.learnes", "2"],
            "unknown option of cluster 'learnes'. Did you mean 'learners'?",
        ),
        (["--cluster", "ray", "--cluster.samplers", "0"], "cluster.samplers is 0; it must be a whole number from 1"),
        (["--cluster", "ray", "--cluster.staleness", "-1"], "cluster.staleness is -1"),
        (["--cluster.samplers", "2"], "is of several processes, and the run is computed in one"),
    ],
)
def test_words_that_mean_no_cluster_are_refused(words, said, capsys):
    assert main(["train", "grpo", *words]) == 2
    assert said in capsys.readouterr().err


def test_flags_a_file_and_python_say_the_same(tmp_path):
    (tmp_path / "run.toml").write_text('cluster = "ray"\n[cluster_options]\nlearners = 2\nstaleness = 1\n')
    stored = TrainConfig(**from_toml(tmp_path / "run.toml")).spread()
    assert stored == Cluster(learners=2, staleness=1) == spread("ray", {"learners": 2, "staleness": 1})
    with pytest.raises(InputError, match=r"cluster_options=\{'samplers': 2\} is of several processes.*cluster='ray'"):
        rung.train(steps=1, cluster_options={"samplers": 2})


def test_without_ray_the_command_that_brings_it_is_said(monkeypatch, capsys):
    monkeypatch.setattr(advice, "installed", lambda package: False)
    assert main(["train", "grpo", "--cluster", "ray"]) == 2
    assert "--cluster ray needs ray, which is not installed. Install:" in capsys.readouterr().err


# -- the room ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "has", "device", "said"),
    [
        ({"learners": 3}, HERE, "auto", r"'learners': 3.* this machine has 2 cores"),
        ({"samplers": 3}, HERE, "auto", r"'samplers': 3.* this machine has 2 cores"),
        ({"learners": 2}, replace(HERE, gpus=1), "auto", "has 1 GPU, and each learner takes one"),
        (
            {"learners": 9},
            replace(HERE, cpus=8, machines=2, joined=True),
            "cpu",
            "the cluster of 2 machines has 8 cores",
        ),
    ],
)
def test_more_processes_than_there_is_room_for_are_refused(options, has, device, said):
    with pytest.raises(InputError, match=said):
        refuse_too_many(Cluster(**options), has, device)


def test_as_many_as_there_is_room_for_are_not():
    refuse_too_many(Cluster(learners=2, samplers=2), HERE, "auto")
    refuse_too_many(Cluster(learners=2), replace(HERE, gpus=1), "cpu")


def test_more_memory_than_there_is_is_refused_and_can_be_insisted_on():
    demand = Demand(process=2**29, weights=2**30, learner=3 * 2**30, sampler=2 * 2**30)
    config = TrainConfig(cluster="ray", cluster_options={"learners": 2, "samplers": 1})
    assert demand.total(config.spread()) == 2**29 + 2 * 2**30 + 2 * 3 * 2**30 + 2 * 2**30
    with pytest.raises(
        InputError, match=r"2 learners, 1 sampler would need about 10.5 GiB \(3 GiB each learner, 2 GiB each"
    ):
        refuse_too_much(config, demand, HERE)
    refuse_too_much(replace(config, ignore_memory=True), demand, HERE)
    refuse_too_much(config, demand, replace(HERE, memory=11 * 2**30))


def test_older_weights_are_refused_where_nothing_corrects_for_them():
    grpo = find("grpo")
    with pytest.raises(
        InputError, match=r"'staleness': 1.* learns from answers of older weights.*'correction': 'TokenTIS'"
    ):
        refuse_staleness(grpo, Cluster(staleness=1))
    refuse_staleness(grpo, Cluster())
    refuse_staleness(override(grpo, {"correction": "TokenTIS"}), Cluster(staleness=1))
    with pytest.raises(InputError, match="older weights"):
        refuse_staleness(override(grpo, {"correction": "StaleNegativeMask"}), Cluster(staleness=1))


def test_weights_of_low_precision_that_a_rule_moves_by_itself_need_one_learner_or_an_adapter(capsys):
    trpo, two = find("trpo"), Cluster(learners=2)
    low = TrainConfig(recipe="trpo", dtype="bfloat16", cluster="ray", cluster_options={"learners": 2})
    with pytest.raises(
        InputError, match=r"'trpo' moves the weights by itself.* 2 learners, 1 sampler keep none.*dtype='float32'"
    ):
        refuse_masters(low, trpo, two)
    refuse_masters(low, trpo, Cluster(samplers=2))
    refuse_masters(low, find("ppo"), two)
    refuse_masters(replace(low, dtype="float32"), trpo, two)
    refuse_masters(replace(low, lora_rank=4), trpo, two)
    with pytest.raises(InputError, match="float32 masters"):
        Actors().refuse(low, trpo, str(starter.path()), registry.load("chained_arithmetic"))
    assert main(["plan", "trpo", "--dtype", "bfloat16", "--cluster", "ray", "--cluster.learners", "2"]) == 2
    assert "float32 masters, and 2 learners, 1 sampler keep none" in " ".join(capsys.readouterr().err.split())


class Talks:
    """Problems whose answers are conversations."""

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return Task("a", "a")

    def session(self, task):
        raise AssertionError("no conversation is begun")

    def score(self, group):
        return [{} for _ in group.completions]


def test_pieces_are_refused_where_no_version_could_draw_the_next_one(capsys):
    grpo, env = override(find("grpo"), {"correction": "TokenTIS"}), registry.load("chained_arithmetic").train
    refuse_pieces(grpo, Cluster(), env)
    refuse_pieces(grpo, Cluster(staleness=2, partial=4), env)
    for behind in (0, 1):
        with pytest.raises(
            InputError, match=rf"'partial': 4.* with .*'staleness': {behind}.* no others than its first"
        ):
            refuse_pieces(grpo, Cluster(staleness=behind, partial=4), env)
    pieces = Cluster(staleness=2, partial=4)
    with pytest.raises(InputError, match="a conversation's sessions would have to wait"):
        refuse_pieces(grpo, pieces, Talks())
    with pytest.raises(InputError, match=r"recipe 'dapo' draws others after what those earned.*'data.resample': 0"):
        refuse_pieces(find("dapo"), pieces, env)
    with pytest.raises(InputError, match=r"the task chooses problems by what those earned.*take another task"):
        refuse_pieces(grpo, pieces, Mixture({"a": env}, [Stage({"a": Fraction(1)})], repeat=True))
    assert main(["train", "grpo", "--cluster", "ray", "--cluster.partial", "0"]) == 2
    assert "cluster.partial is 0; it must be a whole number of at least 1" in capsys.readouterr().err


# -- before anything is started ---------------------------------------------------------------------------------------
@pytest.fixture
def unstarted(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(advice, "installed", lambda package: True)
    monkeypatch.setattr(connect, "join", lambda store: pytest.fail("Ray was started"))


@pytest.mark.usefixtures("unstarted")
def test_nothing_is_started_for_what_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="this machine has"):
        rung.train("grpo", cluster="ray", cluster_options={"learners": 4096}, out=tmp_path / "run")
    with pytest.raises(InputError, match="older weights"):
        rung.train("grpo", cluster="ray", cluster_options={"staleness": 1}, out=tmp_path / "run")
    monkeypatch.setattr(connect, "room", lambda device: Room(2**28, 2**28, "this machine"))
    with pytest.raises(InputError, match="1 learner, 1 sampler would need about"):
        rung.train("grpo", cluster="ray", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_vllm_cannot_run_is_refused_before_an_actor_says_so(unstarted, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_sampler, "version", lambda package: vllm_sampler.VERSION)
    with pytest.raises(InputError, match=r"a LoRA adapter's are not.*sampler='torch'"):
        rung.train("grpo", cluster="ray", sampler="vllm", lora_rank=4, out=tmp_path / "run")
    if importlib.util.find_spec("vllm"):
        with pytest.raises(InputError, match=r"knows heads of 32, 64.*this model's have 16"):
            rung.train("grpo", cluster="ray", sampler="vllm", out=tmp_path / "run")


@pytest.mark.parametrize(("name", "sampler"), [("torch", "torch"), ("rung", "torch"), ("vllm", "vllm")])
def test_another_version_on_another_machine_is_refused_where_it_is(name, sampler, monkeypatch):
    monkeypatch.setattr(vllm_sampler, "version", lambda package: vllm_sampler.VERSION)
    config = TrainConfig(steps=1, sampler=sampler).resolved()
    order = ordered(config, find("grpo"), str(starter.path()), 0, 1)
    order.refuse_others(sampler)
    other = replace(order, versions={**order.versions, name: "1.0.0"})
    said = rf"{name} is 1.0.0 where the run was started and {re.escape(order.versions[name])} on .*Install the same"
    with pytest.raises(InputError, match=said):
        SamplerActor(other).same_numbers()
    if sampler == "vllm":  # which learners need not have
        return
    with pytest.raises(InputError, match=said):
        LearnerActor(other, 0, 1).begin("")


def test_a_model_that_is_an_object_is_refused(unstarted, tmp_path):
    where = str(starter.path())
    pair = AutoModelForCausalLM.from_pretrained(where), AutoTokenizer.from_pretrained(where)
    with pytest.raises(InputError, match=r"an object of this process.*Save it"):
        rung.train("grpo", model=pair, task="chained_arithmetic", cluster="ray", out=tmp_path / "run")


def test_a_cluster_that_does_not_answer_is_refused_at_once(monkeypatch, tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(InputError, match=rf"RAY_ADDRESS is 127.0.0.1:{port}, and no cluster of Ray answers there"):
        rung.train("grpo", cluster="ray", out=tmp_path / "run")
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    with pytest.raises(InputError, match="Ray's client"):
        rung.train("grpo", cluster="ray", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
