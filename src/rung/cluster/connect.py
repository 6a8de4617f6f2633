"""A cluster of Ray for a run: the one of RAY_ADDRESS, else a new one on this machine that ends with the run."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rung.cluster.order import cores
from rung.errors import InputError
from rung.io.stopping import NUMBERS
from rung.kernels.device import CPU
from rung.plan.fit import room

ADDRESS = "RAY_ADDRESS"
KNOCK = 5.0  # seconds in which the head of a cluster must answer
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0, on any system: no address but 127.0.0.1
UNSAID = "RAY_DEDUP_LOGS_SKIP_REGEX"  # lines that Ray's driver does not print; read when Ray is imported
ENDED = "A worker died or was killed"  # not what Ray says where it has ended one for memory: nothing else tells that cause
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "namespace": "rung"}

_began = False  # of the process: it has had a cluster of its own


@dataclass(frozen=True)
class Capacity:
    """What a cluster has. memory: bytes of all its machines.  joined: it was there before."""

    cpus: int
    gpus: int
    memory: float
    machines: int
    joined: bool


def asked() -> bool:
    """Whether there is a cluster to join."""
    return bool(os.environ.get(ADDRESS))


def capacity_here() -> Capacity:
    """Of this machine, before anything is started."""
    import torch

    return Capacity(cores(), torch.cuda.device_count(), room(CPU).limit, 1, joined=False)


def join(store: int) -> Capacity:
    """Attach this process to its cluster, and say what is there. store: bytes that a new one's object store must hold.

    Raises:
        InputError: the cluster of RAY_ADDRESS does not answer.
    """
    _unsaid()
    address = os.environ.get(ADDRESS, "")
    if not address:
        return _begin(store)
    if _began:
        raise InputError(
            f"{ADDRESS} is {address}, and this process has begun a cluster of its own before: Ray cannot join another one after "
            "that. Start a new process."
        )
    import ray

    _knock(address)
    try:
        with _own_signals():
            ray.init(address=address, **QUIET)
    except ConnectionError as error:
        raise _unreachable(address, str(error).strip().split("\n")[0]) from error
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        raise InputError(
            f"the cluster of {ADDRESS} {address} runs other versions of Ray or Python than this process: {error}. Use the same."
        ) from error
    has = ray.cluster_resources()
    machines = sum(bool(node["Alive"]) for node in ray.nodes())
    memory = has.get("memory", 0.0) + has.get("object_store_memory", 0.0)
    return Capacity(int(has.get("CPU", 0)), int(has.get("GPU", 0)), memory, machines, joined=True)


def _begin(store: int) -> Capacity:
    """A cluster on the loopback alone: left to itself, Ray listens on every interface and runs what anybody sends."""
    global _began
    os.environ[LOOPBACK] = "0"  # for its processes, and for Ray where it is not imported yet
    import ray
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False
    here, _began = capacity_here(), True
    with _own_signals():
        ray.init(
            address="local", num_cpus=here.cpus, num_gpus=here.gpus, object_store_memory=store, include_dashboard=False, **QUIET
        )  # fmt: skip
    return here


def _unsaid() -> None:
    """Of each process that ends Ray's driver prints a paragraph, also without the logs of others (QUIET). Here a line says so,
    and what becomes of its work."""
    theirs = os.environ.get(UNSAID)
    if theirs is None or ENDED not in theirs:
        os.environ[UNSAID] = ENDED if theirs is None else f"{theirs}|{ENDED}"


def deaths() -> tuple[type[Exception], ...]:
    """What Ray raises where a process has ended, by itself or with its machine, or by Ray's own hand for want of memory."""
    from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError

    return RayActorError, ObjectLostError, OutOfMemoryError


def leave() -> None:
    """End what was begun for the run; a cluster that was joined goes on."""
    import ray

    ray.shutdown()


def _knock(address: str) -> None:
    """Ray waits long for a head that is not there, and some of its versions end the process."""
    if address.startswith("ray://"):
        raise InputError(
            f"{ADDRESS} is {address}, Ray's client. A run's driver is a process of the cluster: start it on one of its machines, "
            f"with {ADDRESS}=auto."
        )
    import ray

    host, _, port = address.rpartition(":")
    if address == "auto" or not port.isdecimal():
        return
    if host in ("localhost", "127.0.0.1", "[::1]"):  # Ray asks at this machine's other address
        host = ray.util.get_node_ip_address()
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, why: str) -> InputError:
    return InputError(
        f"{ADDRESS} is {address}, and no cluster of Ray answers there ({why}). Start one (`ray start`), correct the "
        f"address, or unset {ADDRESS}: then this machine is the cluster."
    )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own on SIGTERM, which would end the run without its last step."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in NUMBERS} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
