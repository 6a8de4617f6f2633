"""What Ray ends for want of memory (its monitor, whose threshold is set to nothing here) is a death like others."""

import os
import subprocess
import sys

import pytest

SHORT_OF = {
    "RAY_memory_usage_threshold": "0.01",
    "RAY_memory_monitor_refresh_ms": "3000",
    "RAY_USAGE_STATS_ENABLED": "0",
}
ASK = """
import time
from rung.cluster import connect, pool
connect._unsaid()
import ray
from rung.cluster.engine import _agreed
from rung.errors import RunFailed
from rung.records import SamplingLaw
from rung.rollout.draws import Draws

class Sampler:
    def same_numbers(self):
        time.sleep(60)
    def generate(self, *asked):
        time.sleep(60)

ray.init(
    num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, _node_ip_address="127.0.0.1", log_to_driver=False
)
pool.TRIES, pool.LOOK = 1, 0.2
actor = ray.remote(Sampler).options(max_restarts=-1, max_task_retries=0, num_cpus=1).remote()
seats = pool.SamplerPool([pool.Seat(actor)], True)
for ask in (lambda: _agreed([actor]), lambda: seats.sample([[1]], SamplingLaw(max_new_tokens=1), Draws.whole(0, 1))):
    try:
        ask()
    except RunFailed as error:
        print("given up:", error)
"""


@pytest.mark.slow
def test_a_sampler_that_is_ended_for_memory_is_given_up_with_the_cause():
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, timeout=120, env=os.environ | SHORT_OF
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before, while_drawing = (line for line in done.stdout.splitlines() if line.startswith("given up: "))
    assert "a sampler ended before it had begun (" in before and "within" not in before
    assert "1 samplers have died of the same answers (" in while_drawing and "Usually memory ran out" in while_drawing
    assert "A worker died" not in done.stdout
