"""Two machines as far as a network can tell: a node of Ray in each of two namespaces, with a cable between them that is cut."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ray_runs import above, answers, metrics, processes, state, train

pytest.importorskip("ray")
FIRST, OTHER = "10.77.0.1", "10.77.0.2"
RAY = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--object-store-memory", str(200 * 2**20)]
NEAR = {"no_proxy": f"{FIRST},{OTHER}", "no_grpc_proxy": f"{FIRST},{OTHER}", "RAY_AUTH_MODE": "disabled"}
RUN = "import sys, ray_runs; ray_runs.train(sys.argv[1], cluster='ray', cluster_options={'samplers': 2})"


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def inside(name, *words):
    return ["ip", "netns", "exec", name, *words]


@pytest.fixture
def cable():
    """Two namespaces that see each other and nothing else; skipped where they cannot be made."""
    names = [f"rung{os.getpid()}{end}" for end in "ab"]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "rung0", "netns", names[0], "type", "veth", "peer", "name", "rung0", "netns", names[1])
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here ({error})")
        for name, address in zip(names, (FIRST, OTHER), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "rung0")
            for link in ("lo", "rung0"):
                ip("-n", name, "link", "set", link, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.fixture
def nodes(cable):
    """A node with two cores and one with one, each in its namespace."""
    home = tempfile.mkdtemp(prefix="rung")  # short: sockets lie in it
    options = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
    environment = os.environ | options | NEAR | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
    head = ["--head", "--port", "6379", "--node-ip-address", FIRST, "--num-cpus", "2", "--temp-dir", home]
    more = ["--address", f"{FIRST}:6379", "--node-ip-address", OTHER, "--num-cpus", "1"]
    running = []
    try:
        for name, words in zip(cable, ([*head, "--include-dashboard", "false"], more), strict=True):
            running.append(subprocess.Popen(inside(name, *RAY, *words), env=environment, stdout=subprocess.DEVNULL))
            end = time.monotonic() + 60
            while not raylet(running[-1].pid):
                assert running[-1].poll() is None and time.monotonic() < end, "the node has not begun"
                time.sleep(0.2)
        yield running
    finally:
        for node in running:
            node.terminate()
        for node in running:
            node.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def raylet(pid):
    """Whether a node is there."""
    return any("raylet" in line for line in below(pid))


def below(pid):
    """The command lines of what this process started."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and above(int(entry.name), pid):
            try:
                yield (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[0]
            except OSError:  # it has just ended
                continue


def test_a_run_over_two_networks_is_the_same_when_the_cable_is_cut(tmp_path, cable, nodes):
    """The third actor is on the other machine; behind the cut nobody hears of it, and its answers are drawn again."""
    train(tmp_path / "here")
    environment = os.environ | NEAR | {"RAY_ADDRESS": f"{FIRST}:6379", "PYTHONPATH": os.pathsep.join(sys.path)}
    words = inside(cable[0], sys.executable, "-c", RUN, str(tmp_path / "cut"))
    with subprocess.Popen(words, env=environment) as driver:
        while len(metrics(tmp_path / "cut")) < 2 and driver.poll() is None:
            time.sleep(0.01)
        actors = [pid for pid in processes("ray::SamplerActor") if above(pid, nodes[1].pid)]
        ip("-n", cable[1], "link", "set", "rung0", "down")
        assert driver.poll() is None and len(actors) == 1, "it was cut while a sampler was on the other side"
        assert driver.wait(240) == 0
    assert answers(tmp_path / "cut") == answers(tmp_path / "here") != []
    assert state(tmp_path / "cut") == state(tmp_path / "here")
