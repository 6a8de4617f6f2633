"""All algorithms of a project, one after the other: what each computes, and which recipe of ours it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rung.errors import InputError
from rung.exact.peers.compare import Match, match, pair_of, variant
from rung.exact.peers.peer import Peer, Project
from rung.exact.peers.registry import peer
from rung.exact.world import World
from rung.exact.yours.verdict import Findings, Kind, audit_pair, expectation, say_findings
from rung.io.tables import refuse_target

MAIN = World(vocabulary=2, horizon=3, prompts=2, samples=2, reward="dense")
OTHERS = {
    "G = 2, binary": World(vocabulary=2, horizon=3, prompts=2, samples=2, reward="binary"),
    "G = 4, binary": World(vocabulary=2, horizon=2, prompts=2, samples=4, reward="binary"),
}


@dataclass(frozen=True)
class Elsewhere:
    """The verdict in another world."""

    kind: Kind
    cosine: float
    scale: float


@dataclass(frozen=True)
class Line:
    """What was found about one algorithm. faults: where its adapter's explanation and the numbers part."""

    peer: Peer
    found: Findings
    elsewhere: tuple[Elsewhere, ...]
    match: Match
    faults: tuple[str, ...]


def look_at(one: Peer) -> Line:
    """Audit in three worlds, compare with our recipe, and hold the adapter to what it says of the difference."""
    pair, ours = pair_of(one), variant(one)
    world = replace(MAIN, reward=one.reward)
    found, same = audit_pair(pair, world), match(pair, ours, world)
    elsewhere = tuple(Elsewhere(*expectation(pair, world)) for world in OTHERS.values())
    return Line(one, found, elsewhere, same, _faults(one, same))


def _faults(one: Peer, same: Match) -> tuple[str, ...]:
    out = []
    if not same.same and not one.rest:
        out.append(f"{one.name} is no {one.recipe} with what it lists (gap {same.gap:.2g}), and does not say why")
    if same.same and one.rest:
        out.append(f"{one.name} is {one.recipe} with what it lists; {one.rest!r} explains nothing")
    pair = pair_of(one)
    for name in one.differs if same.same else ():
        less = match(pair, variant(one, without=name), replace(MAIN, reward=one.reward))
        if less.same and math.isclose(less.c, same.c, rel_tol=1e-6):
            out.append(f"{one.name} lists {name}, which makes no difference")
    return tuple(out)


def look_at_all(project: Project) -> list[Line]:
    """Every algorithm; one that cannot be audited is an error of its adapter."""
    out = []
    for one in project.peers:
        try:
            out.append(look_at(one))
        except InputError as error:
            raise InputError(f"{project.name}:{one.name}: {error}") from error
    return out


# -- the command --------------------------------------------------------------------------------------------------------------
def run_audit_peer(spec: str, json_to: str | None) -> int:
    """`rung audit --of PROJECT:NAME`: one line of docs/field.md, with all its checks."""
    refuse_target(json_to)
    line = look_at(peer(spec))
    worlds = [
        (where, e.kind, f"cosine {e.cosine:.4f}, c {e.scale:.4g}")
        for where, e in zip(OTHERS, line.elsewhere, strict=True)
    ]
    ours = ("against ours", "", against_ours(line))
    paper = [("against its paper", "", line.peer.paper)] * bool(line.peer.paper)
    say_findings(replace(line.found, name=spec), json_to, *worlds, ours, *paper)
    return 0


def against_ours(line: Line) -> str:
    """Which recipe of ours it is, in words."""
    peer, same = line.peer, line.match
    times = "" if math.isclose(same.c, 1, rel_tol=1e-5) else f"{same.c:.4g} times "
    lists = "; ".join(f"{name}: {why}" for name, (_, why) in peer.differs.items())
    but = f", but for {lists}" if lists else ""
    if same.same:
        return f"is {times}{peer.recipe}{but}"
    if same.same_on_policy:
        return f"is {times}{peer.recipe} on-policy{but}; {peer.rest}"
    return f"is not {peer.recipe}: {peer.rest}{' (besides ' + lists + ')' if lists else ''}"
