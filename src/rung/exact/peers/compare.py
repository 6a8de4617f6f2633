"""Is a peer one of our recipes? Batch by batch, the two gradients at the logits are laid side by side.

gap = min_c max_n |g_n - c h_n| / max_n |c h_n| over every batch n of a small world, on-policy and off
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from rung.exact.audit import ON_POLICY
from rung.exact.peers.ours import as_pair
from rung.exact.peers.peer import Peer
from rung.exact.world import F64, World
from rung.exact.yours.measure import every_batch
from rung.exact.yours.signature import Yours
from rung.exact.yours.steps import Pair, stage
from rung.exact.yours.verdict import settled
from rung.recipe_io import find
from rung.recipes import Recipe

SAME = 1e-5  # float32 inside a peer stays below it
# log pi/old of the tokens, one after the other: on both sides of every clip that is in use (log 1.2 = .18, log 1.28 = .25)
STEPS = torch.tensor([0.21, -0.21, 1.2, -0.3, 0.5, -0.6, 0.1, 1.3, -0.05, 0.23, -1.4, 1.25], dtype=F64)
AWAY = (1.0, 0.002)  # times those: ratios of tokens as above, then such that ratios of answers lie at GSPO's clips


@dataclass(frozen=True)
class Match:
    """c: their gradient is c times ours.  on_policy, gap: how far it is from that, there and anywhere (NaN: not finite)."""

    c: float
    on_policy: float
    gap: float

    @property
    def same(self) -> bool:
        return self.gap < SAME

    @property
    def same_on_policy(self) -> bool:
        return self.on_policy < SAME


def match(theirs: Pair, ours: Recipe, world: World) -> Match:
    """c of the batches that are on-policy, and the largest gaps."""
    whole = recipe_pair(ours)
    mine = Pair(whole.loss if theirs.loss else None, whole.advantages if theirs.advantages else None)
    g, h = (pulls(pair, world, 0.0) for pair in (theirs, mine))
    c = float((g * h).sum() / h.square().sum())
    near = _gap(g, c * h)
    far = [_gap(pulls(theirs, world, size), c * pulls(mine, world, size)) for size in AWAY]
    return Match(c, near, math.nan if any(map(math.isnan, [near, *far])) else max(near, *far))


def _gap(g: Tensor, h: Tensor) -> float:
    return float((g - h).abs().amax() / h.abs().amax())


@lru_cache(maxsize=256)
def pulls(pair: Pair, world: World, size: float) -> Tensor:
    """d loss / d logits of every batch, with old and sampler's log-probabilities moved by `size` STEPS: [N, B T V]."""
    here = stage(world, ON_POLICY)
    batches, logp_CT, mask_CT = every_batch(here, False), here.cells.x["old_logp"], here.cells.x["mask"]
    places = mask_CT.flatten().cumsum(0).view_as(mask_CT)
    old_CT = logp_CT - size * STEPS[places % len(STEPS)] * mask_CT
    behavior_CT = old_CT - 0.5 * size * STEPS[5 * places % len(STEPS)] * mask_CT
    moved = {"old_logp": old_CT, "behavior_logp": behavior_CT}
    out = []
    for cells_B in batches.cells_NB:
        rows = here.step(cells_B, batches.group_B).put(**{k: v[cells_B] for k, v in moved.items()})
        out.append(pair(pair.assess(rows))[1].flatten())
    return torch.stack(out)


@lru_cache(maxsize=256)
def recipe_pair(recipe: Recipe) -> Pair:
    loss, advantages = as_pair(recipe)
    return settled(Pair(Yours(loss), Yours(advantages, "advantages")))


def variant(peer: Peer, *, without: str = "") -> Recipe:
    """Our recipe with the peer's choices, or all of them but one. A key may name fields that go together: "ratio, surrogate"."""
    changes: dict[str, Any] = {}
    for names, (parts, _) in peer.differs.items():
        fields = names.split(", ")
        if names != without:
            changes.update(zip(fields, parts if len(fields) > 1 else (parts,), strict=True))
    return replace(find(peer.recipe), **changes)


def pair_of(peer: Peer) -> Pair:
    loss = None if peer.loss is None else Yours(peer.loss)
    advantages = None if peer.advantages is None else Yours(peer.advantages, "advantages")
    return settled(replace(Pair(loss, advantages), equal_rows=peer.equal_rows))
