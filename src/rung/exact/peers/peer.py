"""What an adapter says of a project: its algorithms as functions of ours, by name, and what could not be run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Peer:
    """One algorithm of a project. loss, advantages: as in docs/audit_yours.md; they call the project's own code.

    recipe: the nearest of ours.  differs: field -> (their choice in our parts, why): with all of them ours must be theirs.
    rest: what no part of ours levels, in words; empty where nothing is left.
    paper: how it differs from the paper of its name; empty where it does not.
    equal_rows: its trainer makes micro-batches of equal numbers of answers only, so that unequal ones are no fault.
    issue: a heading of docs/field/issues.md.  reward: of the world in which it is looked at first.
    """

    name: str
    recipe: str
    loss: Callable[..., Any] | None = None
    advantages: Callable[..., Any] | None = None
    differs: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    rest: str = ""
    paper: str = ""
    equal_rows: bool = False
    issue: str = ""
    reward: Literal["dense", "binary"] = "dense"

    def __post_init__(self) -> None:
        assert self.loss or self.advantages, f"{self.name} has nothing to audit"


@dataclass(frozen=True)
class Project:
    """A package in one version. stood_in: what is imported and replaced by stand-ins (of packages, of `self`), in words.

    accumulation: how its trainer puts micro-batches together, which the adapters follow.
    not_audited: what could not be run, and why.
    """

    name: str
    package: str
    version: str
    peers: tuple[Peer, ...]
    stood_in: str
    accumulation: str
    not_audited: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        names = [peer.name for peer in self.peers]
        assert len({*names}) == len(names), f"two algorithms of {self.name} have one name: {names}"


def asking(function: Callable[..., Any], name: str, *names: str) -> Callable[..., Any]:
    """The function with a name, asking for these inputs, which it takes as keywords."""
    function.__name__ = name
    wanted = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in names]
    function.__signature__ = inspect.Signature(wanted)  # type: ignore[attr-defined]
    return function
