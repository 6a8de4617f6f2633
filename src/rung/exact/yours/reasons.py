"""Why an opaque function's gradient bends: what would straighten it, and what it leaves out.

Nothing is read from the source. Each repair multiplies the gradient of a row, in every batch, by a number that only the batch's own
rewards and lengths decide; the fewest that make E[g] = c grad J are the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rung.exact.estimate import Estimate
from rung.exact.world import F64, Condition, World
from rung.exact.yours.checks import a_step
from rung.exact.yours.measure import STRAIGHT, Measured, measure
from rung.exact.yours.signature import NAMES, ROWS
from rung.exact.yours.steps import Pair, rewarded

EPS = (0.0, 1e-9, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3)


@dataclass(frozen=True)
class Repair:
    """Multiplying every row of every batch by factor_NB undoes what `words` say."""

    kind: str
    words: str
    factor_NB: Tensor


def repairs(m: Measured) -> Iterator[Repair]:
    w, cells = m.stage.scene.world, m.batches.cells_NB
    R_NB, L_NB = m.stage.cells.x["rewards"][cells], m.stage.cells.x["mask"].sum(1)[cells].to(F64)
    grouped = R_NB.view(len(cells), w.prompts, w.samples)
    tokens = L_NB.view_as(grouped).sum(2)

    def wide(x_NP: Tensor) -> Tensor:
        return x_NP.repeat_interleave(w.samples, 1)

    yield Repair("length", "each answer is divided by its own length", L_NB)
    yield Repair("length", "each answer is multiplied by its own length", 1 / L_NB)
    whole = tokens.sum(1, keepdim=True).expand(-1, w.prompts)
    yield Repair(
        "tokens", "the sum is divided by the tokens of the batch, which differ from batch to batch", wide(whole)
    )
    yield Repair("tokens", "each prompt is divided by the tokens of its own answers", wide(tokens))
    for ddof, eps in itertools.product((1, 0), EPS):
        for power, how in ((1, f"std + {eps:g}"), (2, f"sqrt(var + {eps:g})")):
            for kind, x_NQS in (("the rewards of its group", grouped), ("the rewards of the batch", R_NB[:, None])):
                if x_NQS.shape[2] > ddof and not (eps == 0 and power == 2):
                    std = x_NQS.std(2, correction=ddof)
                    scale = std + eps if power == 1 else (std.square() + eps).sqrt()
                    text = how if eps else "std"
                    yield Repair(
                        "spread", f"each answer is divided by the {text} of {kind}", wide(scale.expand(-1, w.prompts))
                    )
    yield Repair("spread", "each answer is divided by the mean reward of its group", wide(grouped.mean(2)))


def straightened(m: Measured, target: Tensor) -> tuple[tuple[str, float], ...]:
    """The fewest repairs that make the expected gradient proportional to the target, with the cosine after each; () if none do."""
    found = list(repairs(m))
    for size in (1, 2, 3):
        for combo in itertools.combinations(found, size):
            if len({r.kind for r in combo}) == size and bend(m, combo, target) < STRAIGHT:
                return _in_turn(m, combo, target)
    return ()


def bend(m: Measured, combo: tuple[Repair, ...], target: Tensor) -> float:
    return _estimate(m, combo, target).bend


def _estimate(m: Measured, combo: tuple[Repair, ...], target: Tensor) -> Estimate:
    factor_NB = torch.stack([r.factor_NB for r in combo]).prod(0)
    mean = torch.einsum("n,nb,nbd->d", m.batches.weight_N, factor_NB, m.rows_NBD)
    return Estimate(mean, target, torch.zeros(0, 0), 0)


def _in_turn(m: Measured, combo: tuple[Repair, ...], target: Tensor) -> tuple[tuple[str, float], ...]:
    return tuple((r.words, _estimate(m, combo[: k + 1], target).cosine) for k, r in enumerate(combo))


# -- what it leaves out -----------------------------------------------------------------------------------------------------
def left_out(m: Measured) -> list[str]:
    """Tokens and answers that never have a gradient where others do."""
    cells = m.stage.cells.x
    size_CT = torch.zeros(cells["mask"].shape, dtype=F64)
    per_token = m.pull_NBTV.abs().sum(-1)
    size_CT.index_add_(0, m.batches.cells_NB.flatten(), per_token.flatten(0, 1))
    mask, length, cut = cells["mask"], cells["mask"].sum(1), cells["truncated"]
    dead = (size_CT <= 1e-12) & mask
    last = torch.arange(mask.shape[1]) == length[:, None] - 1
    end, first = last & ~cut[:, None] & mask, torch.zeros_like(mask)
    first[:, 0] = True
    sets = {
        "the end token of an answer has no gradient (a mask made of ids == pad, where pad is the end token?)": end,
        "answers that the limit cut have no gradient: they are never discouraged": mask & cut[:, None],
        "the last token of an answer has no gradient": last & mask,
        "the first token of an answer has no gradient": first & mask,
    }
    for words, these in sets.items():
        if bool(dead[these].all()) and not bool(dead[mask & ~these].any()):
            return [words]
    return []


def one_sided(m: Measured) -> list[str]:
    """Whether answers below (or above) their group's others are ignored."""
    adv = m.advantages_NBT[..., 0]
    size = m.pull_NBTV.abs().sum((-1, -2))
    for words, side in (("below", adv < 0), ("above", adv > 0)):
        other = (adv != 0) & ~side
        if side.any() and other.any() and float(size[side].max()) < 1e-12 < float(size[other].min()):
            return [f"answers {words} the others to their prompt have no gradient"]
    return []


ELSEWHERE = ("mask", "tokens", "index", "groups", "truncated")  # what other checks look at


def unused(pair: Pair) -> list[str]:
    """What it asks for and then ignores."""
    rows, out = a_step((3, 3), 13), []
    base = pair(pair.assess(rows))
    rng = torch.Generator().manual_seed(0)
    for name in [n for n in ROWS if n in pair.needs and n not in ELSEWHERE]:
        noise = 0.05 * torch.randn(rows.x[name].shape, generator=rng, dtype=F64)
        changed = rows.put(**{name: rows.x[name] + noise * (rows.x["mask"] if noise.ndim == 2 else 1)})
        assessed = pair.assess(changed)
        if pair.advantages is not None and name in ("advantages", "advantages_B"):
            continue
        loss, pull = pair(assessed)
        if loss == base[0] and torch.equal(pull, base[1]):
            out.append(f"asks for {name} ({NAMES[name][0]}) and ignores it")
    return out


# -- all together -----------------------------------------------------------------------------------------------------------
Reasons = tuple[tuple[str, float], ...]  # each with the cosine once it is undone, NaN where it was seen and not undone


def reasons(pair: Pair, m: Measured, e: Estimate, world: World, condition: Condition, ordered: bool) -> Reasons:
    """What bends the gradient, the fewest repairs first, then what was seen."""
    if float(e.gradient.norm()) < 1e-12 * max(1.0, float(e.target.norm())):
        return (("the expected gradient is 0", float("nan")),)
    if e.cosine < -1 + 1e-9:
        return (("the sign is wrong: the loss is minimized", 1.0),)
    found = straightened(m, e.target)
    if found:
        return found
    if "truncated" in pair.needs:
        other = measure(pair, world, condition, ordered=ordered, untruncated=True, no_ref=True).estimate(e.target)
        if abs(other.cosine - e.cosine) > 1e-9:
            return (("answers that the limit cut are treated apart", other.cosine),)
    out = [(words, float("nan")) for words in [*left_out(m), *one_sided(m)]]
    if pair.advantages is not None:
        exact = measure(pair, world, condition, ordered=ordered, exact=True)
        other = exact.estimate(e.target)
        if abs(other.cosine - e.cosine) > 1e-9:
            out.append(("its advantages are not unbiased in themselves; leave-one-out ones are", other.cosine))
            rest = () if other.bend < STRAIGHT else straightened(exact, e.target)
            return (*out, *rest)
    out += [(words, float("nan")) for words in [*other_prompts(pair), *beyond_scores(pair), *unused(pair)]]
    return tuple(out)


def other_prompts(pair: Pair) -> list[str]:
    """Whether the rewards of other prompts move an answer's weight: statistics of the whole batch."""
    rows = a_step((3, 3), 15)
    far = rows.x["rewards"].clone()
    far[3:] = far[3:] + torch.tensor([0.3, -0.2, 0.7])
    (_, pull), (_, other) = (pair(pair.assess(r)) for r in (rows, rewarded(rows, far)))
    if torch.allclose(pull[:3], other[:3], rtol=1e-9, atol=1e-12):
        return []
    return ["an answer's weight depends on the rewards of other prompts in the batch (a mean or std over the batch)"]


def beyond_scores(pair: Pair) -> list[str]:
    """Whether logits are pulled otherwise than by log-probabilities of the sampled tokens: an entropy, a KL over the vocabulary."""
    rows = pair.assess(a_step((3, 3), 17))
    pull = pair(rows)[1]
    p_BTV = (rows.x["logits"] / rows.temperature).softmax(-1)
    score = torch.nn.functional.one_hot(rows.x["tokens"], p_BTV.shape[-1]) - p_BTV
    size = (pull * score).sum(-1, keepdim=True) / score.square().sum(-1, keepdim=True)
    if torch.allclose((size * score)[rows.x["mask"]], pull[rows.x["mask"]], rtol=1e-6, atol=1e-10):
        return []
    return ["logits are pulled otherwise than through the sampled tokens' log-probabilities (an entropy bonus?)"]
