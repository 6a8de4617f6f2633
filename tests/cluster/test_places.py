"""Which GPU a learner or a sampler gets. Ray counts GPUs that are not there, so where its processes stand is the real thing."""

import json
import subprocess
import sys

import pytest

ASK = """
import json, sys
import ray
from rung.cluster.connect import Capacity
from rung.cluster.places import Places
from rung.settings.cluster import Cluster

class Where:
    def gpu(self):
        return ray.get_gpu_ids()

learners, samplers, gpus = map(int, sys.argv[1:])
ray.init(num_cpus=8, num_gpus=gpus, include_dashboard=False, object_store_memory=80 * 2**20, _node_ip_address="127.0.0.1")
places = Places(Cluster(learners=learners, samplers=samplers), Capacity(8, gpus, 1e9, 1, False), gpus=True)
draw = [ray.remote(Where).options(**places.sampler(i, 1)).remote() for i in range(samplers)]
learn = [ray.remote(Where).options(**places.learner(i, 1)).remote() for i in range(learners)]
print(json.dumps([ray.get([actor.gpu.remote() for actor in actors], timeout=90) for actors in (learn, draw)]))
"""


@pytest.mark.parametrize(("learners", "samplers", "gpus"), [(2, 2, 2), (2, 1, 2), (1, 2, 3)])
def test_no_two_of_one_kind_share_a_gpu(learners, samplers, gpus):
    """Two learners on one GPU cannot talk by NCCL, and two samplers would take each other's memory."""
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, "-c", ASK, *map(str, (learners, samplers, gpus))], capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    learn, draw = json.loads(done.stdout.splitlines()[-1])
    for kind in (learn, draw):
        assert all(len(ids) == 1 for ids in kind)
        assert len({*map(tuple, kind)}) == len(kind)
    if learners + samplers <= gpus:
        assert not {*map(tuple, learn)} & {*map(tuple, draw)}
