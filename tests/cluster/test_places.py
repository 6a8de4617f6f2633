"""Which GPU a learner or a sampler gets. Ray counts GPUs that are not there, so where its processes stand is the real thing."""

import json
import subprocess
import sys

import pytest

from rung.cluster.actors import SamplerActor
from rung.cluster.connect import Capacity
from rung.cluster.order import ordered
from rung.cluster.places import Places
from rung.models import starter
from rung.recipe_io import find
from rung.rollout.samplers import SAMPLERS, Kind
from rung.rollout.torch_sampler import TorchSampler
from rung.settings.cluster import Cluster
from rung.training.config import TrainConfig

ASK = """
import json, sys
import ray
from rung.cluster.connect import Capacity
from rung.cluster.places import Places
from rung.settings.cluster import Cluster

class Where:
    def gpu(self):
        return ray.get_gpu_ids()

ray.init(num_cpus=8, num_gpus=3, include_dashboard=False, object_store_memory=80 * 2**20, _node_ip_address="127.0.0.1")
for learners, samplers, gpus in json.loads(sys.argv[1]):
    places = Places(Cluster(learners=learners, samplers=samplers), Capacity(8, gpus, 1e9, 1, False), gpus=True)
    draw = [ray.remote(Where).options(**places.sampler(i, 1)).remote() for i in range(samplers)]
    learn = [ray.remote(Where).options(**places.learner(i, 1)).remote() for i in range(learners)]
    where = [ray.get([actor.gpu.remote() for actor in actors], timeout=90) for actors in (learn, draw)]
    print(json.dumps([*where, [places.alone(i) for i in range(samplers)]]))
    for actor in (*draw, *learn):
        ray.kill(actor)
    if places._group:
        ray.util.remove_placement_group(places._group)
"""
# learners, samplers, GPUs -> of each sampler, whether no learner is on its GPU
CASES = {(2, 2, 2): [False, False], (2, 1, 2): [False], (1, 2, 2): [True, False], (1, 2, 3): [True, True]}


@pytest.fixture(scope="module")
def places():
    """Of each case the GPUs of its learners, of its samplers, and which of these are told that they have one to themselves."""
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps([*CASES])], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, map(json.loads, done.stdout.splitlines()[-len(CASES) :]), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_two_of_one_kind_share_a_gpu(case, places):
    """Two learners on one GPU cannot talk by NCCL, and two samplers would take each other's memory."""
    learn, draw, _ = places[case]
    for kind in (learn, draw):
        assert all(len(ids) == 1 for ids in kind)
        assert len({*map(tuple, kind)}) == len(kind)
    if sum(case[:2]) <= case[2]:
        assert not {*map(tuple, learn)} & {*map(tuple, draw)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sampler_knows_whether_a_learner_is_on_its_gpu(case, places):
    learn, draw, alone = places[case]
    assert alone == [ids not in learn for ids in draw] == CASES[case]


def test_what_it_knows_reaches_the_sampler_that_it_makes(monkeypatch):
    """vllm takes the more of its GPU for it (tests/rollout/test_vllm_sampler.py)."""
    told = []

    def made(model, at_once, alone):
        told.append(alone)
        return TorchSampler(model, max_batch=at_once)

    monkeypatch.setitem(SAMPLERS, "torch", Kind(made, at_once=1))
    order = ordered(TrainConfig(steps=1).resolved(), find("grpo"), str(starter.path()), 0, 1)
    for alone in (True, False):
        assert SamplerActor(order, alone).same_numbers()
    assert told == [True, False]
    assert not Places(Cluster(), Capacity(8, 0, 1e9, 1, False), gpus=False).alone(0), "there is no GPU to have"
