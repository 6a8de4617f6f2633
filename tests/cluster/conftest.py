"""One cluster of Ray for all tests here, with two cores as it thinks; and the folder's helpers by their names."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def ray_cluster():
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",  # other work on the machine is no reason to end ours
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "3",
    }
    from ray_runs import NODE

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 2})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def joined(ray_cluster, monkeypatch):
    """Runs with cluster="ray" join the tests' cluster."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    return ray_cluster
