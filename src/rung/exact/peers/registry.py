"""Which projects have an adapter, and one of their algorithms by name: trl:dapo."""

from __future__ import annotations

import importlib
import importlib.metadata
from functools import cache

from rung.advice import pip_install
from rung.errors import InputError, unknown
from rung.exact.peers.peer import Peer, Project

ADAPTERS = {  # project: (module, package, version)
    "polgrad": ("polgrad_0_2", "polgrad", "0.2.1"),
    "trl": ("trl_1_16", "trl", "1.16.0"),
    "verl": ("verl_0_9", "verl", "0.9.1"),
    "skyrl": ("skyrl_0_3", "skyrl", "0.3.0"),
    "openrlhf": ("openrlhf_0_11", "openrlhf", "0.11.2"),
    "liger": ("liger_0_8", "liger-kernel", "0.8.5"),
    "areal": ("areal_1_0", "areal", "1.0.4"),
    "swift": ("swift_4_6", "ms-swift", "4.6.0"),
    "tinker": ("tinker_0_6", "tinker-cookbook", "0.6.1"),
}


def is_peer(spec: str | None) -> bool:
    """Whether it names a project of these, rather than a file."""
    return spec is not None and spec.partition(":")[0] in ADAPTERS


@cache
def project(name: str) -> Project:
    """The adapter, in an environment that holds the package in the version that it was written for.

    Raises:
        InputError: no adapter of that name; the package is not installed, or in another version.
    """
    if name not in ADAPTERS:
        raise unknown("project", name, ADAPTERS)
    module, package, version = ADAPTERS[name]
    install = pip_install([f"{package}=={version}"])
    there = next(iter(importlib.metadata.distributions(name=package)), None)
    if there is None:
        raise InputError(
            f"{name} is audited by running its own code, and its package {package} is not installed here. In rung's sources "
            f"`make field` makes an environment with all projects (.venv-field/bin/rung); anywhere: {install}"
        )
    if (found := there.version) != version:
        raise InputError(
            f"the adapter was written for {package} {version}, and {found} is installed: its private functions may have moved. "
            f"Install that version, as .venv-field of `make field` has it: {install}"
        )
    made: Project = importlib.import_module(f"rung.exact.peers.{module}").project(version)
    return made


def peer(spec: str) -> Peer:
    """The algorithm that PROJECT:NAME names."""
    name, _, algorithm = spec.partition(":")
    known = {p.name: p for p in project(name).peers}
    if algorithm not in known:
        raise unknown(f"algorithm of {name}:", algorithm, known)
    return known[algorithm]
