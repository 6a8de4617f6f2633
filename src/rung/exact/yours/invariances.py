"""What may change nothing, and what happens where there is nothing to learn.

Each check says "holds", "assumes" or "fails".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rung.errors import InputError
from rung.exact.world import F64
from rung.exact.yours.checks import CLOSE, Check, a_step, assumes, fails, holds, near
from rung.exact.yours.edges import far_reference, masked_rows, no_signal
from rung.exact.yours.signature import Raised
from rung.exact.yours.steps import Pair, Rows


# -- padding ------------------------------------------------------------------------------------------------------------
def padded(rows: Rows, extra: int, seed: int, junk: bool) -> Rows:
    """Wider by `extra` positions; with junk, whatever lies beyond the mask holds random numbers."""
    rng, out = torch.Generator().manual_seed(seed), dict(rows.x)
    wide_BT = torch.nn.functional.pad(rows.x["mask"], (0, extra))
    for name, x in rows.x.items():
        if x.ndim < 2:
            continue
        x = torch.nn.functional.pad(x, (0, 0, 0, extra) if x.ndim == 3 else (0, extra))
        if junk and name not in ("mask", "tokens", "reward_BT"):  # trainers pad with the pad id, and with no reward
            noise = torch.randn(x.shape, generator=rng, dtype=F64)
            beyond = ~wide_BT[..., None] if x.ndim == 3 else ~wide_BT
            x = torch.where(beyond, noise.to(x.dtype), x)
        out[name] = x
    return replace(rows, x=out)


def padding(pair: Pair) -> Check:
    """Padding made wider, then filled: before the advantages are made, and after."""
    rows = a_step((3, 3), 1)
    mask_BT = rows.x["mask"]
    loss, pull = pair(pair.assess(rows))

    def same(junk: bool, seed: int) -> tuple[bool, float, float]:
        before, after = pair.assess(padded(rows, 2, seed, junk)), padded(pair.assess(rows), 2, seed, junk)
        out = [pair(x) for x in (before, after)]
        beyond = max(float(grad[~before.x["mask"]].abs().max()) for _, grad in out)
        fine = all(
            near(loss, other) and near(pull[mask_BT], grad[:, : mask_BT.shape[1]][mask_BT]) for other, grad in out
        )
        return fine, next((x for x, _ in out if not near(loss, x)), out[0][0]), beyond

    fine, other, _ = same(False, 2)
    if not fine:
        return fails(
            "padding",
            f"two columns of padding turn the loss {loss:.4g} into {other:.4g}: it divides by the padded width, "
            "or counts padding. Divide by counts of the mask, or by max_tokens",
        )
    if not pair.masks:
        return assumes(
            "padding", "asks for no mask: log-probabilities beyond an answer's end must be 0, without gradient"
        )
    fine, other, beyond = same(True, 2)
    if not fine or beyond > CLOSE:
        return fails(
            "padding",
            f"other numbers beyond the mask turn the loss {loss:.4g} into {other:.4g}, with a gradient of up to "
            f"{beyond:.2g} there: the mask is not used everywhere",
        )
    return holds("padding", "neither its width nor what stands in it matters")


def _told(name: str, x: Tensor) -> Tensor:
    """With a second position that the policy did not say: any number, but no reward."""
    if x.ndim < 2:
        return x
    any_number = torch.randn(x[:, :1].shape, generator=torch.Generator().manual_seed(4), dtype=F64)
    zero = name in ("mask", "reward_BT")
    told = torch.zeros_like(x[:, :1]) if zero else any_number if x.is_floating_point() else torch.ones_like(x[:, :1])
    return torch.cat([x[:, :1], told.to(x.dtype), x[:, 1:]], 1)


def observations(pair: Pair) -> list[Check]:
    """A token that the policy did not say, inside every answer: between what it says before and after."""
    if not pair.masks or (pair.loss is not None and "mask" not in pair.loss.needs | {"step"}):
        return []
    rows = a_step((3, 3), 25)
    told_rows, kept = replace(rows, x={name: _told(name, x) for name, x in rows.x.items()}), [0, 2, 3]
    if pair.advantages is None:
        told_rows = told_rows.put(advantages=told_rows.x["advantages_B"][:, None] * told_rows.x["mask"])
    (loss, pull), (other, grad) = pair(pair.assess(rows)), pair(pair.assess(told_rows))
    mask_BT = rows.x["mask"]
    if near(loss, other) and near(pull[mask_BT], grad[:, kept][mask_BT]) and float(grad[:, 1].abs().max()) <= CLOSE:
        return [holds("observations", "tokens inside an answer that the mask leaves out change nothing")]
    return [
        fails(
            "observations",
            f"a token that the mask leaves out, inside each answer, turns the loss {loss:.4g} into {other:.4g}: "
            "a recursion over tokens must skip it (carry its value), neither stop nor discount there",
        )
    ]


# -- order --------------------------------------------------------------------------------------------------------------
def _order(pair: Pair, rows: Rows, order: Tensor) -> tuple[bool, str]:
    (loss, pull), moved = pair(pair.assess(rows)), rows.take(order)
    try:
        other, grad = pair(pair.assess(moved))
    except InputError as error:
        return False, str(error)
    return near(loss, other) and near(pull[order], grad), f"the loss {loss:.4g} becomes {other:.4g}"


def order(pair: Pair) -> Check:
    """Rows of a group exchanged; whole groups exchanged; rows of different groups interleaved."""
    rows = a_step((3, 3, 3), 3)
    within = torch.tensor([1, 2, 0, 4, 3, 5, 8, 7, 6])
    blocks = torch.tensor([6, 7, 8, 0, 1, 2, 3, 4, 5])
    mixed = torch.tensor([0, 3, 6, 1, 4, 7, 2, 5, 8])
    for index, what in ((within, "rows of a group exchanged"), (blocks, "whole groups exchanged")):
        fine, words = _order(pair, rows, index)
        if not fine:
            return fails("order", f"{what}: {words}. An answer must not be known by its place")
    fine, words = _order(pair, rows, mixed)
    if fine:
        return holds("order", "rows may lie anywhere")
    if pair.needs & {"groups", "index"}:
        return fails(
            "order",
            f"rows of different prompts interleaved: {words}, although it knows groups. Use them instead of places",
        )
    return assumes("order", "the answers to a prompt must lie side by side, in groups of one size")


# -- micro-batches ------------------------------------------------------------------------------------------------------
RULES: dict[str, Callable[[Rows, Rows], float]] = {  # how losses of micro-batches are put together
    "sum": lambda part, whole: 1.0,
    "rows": lambda part, whole: len(part) / len(whole),
    "tokens": lambda part, whole: float(part.x["mask"].sum() / whole.x["mask"].sum()),
}


def parts_under(pair: Pair, rows: Rows, cuts: list[slice], rule: str) -> tuple[float, Tensor]:
    totals = rows.totals(len(cuts))
    out = [(RULES[rule](rows.take(cut), rows), *pair(rows.take(cut), totals)) for cut in cuts]
    return sum(w * loss for w, loss, _ in out), torch.cat([w * pull for w, _, pull in out])


def micro_batches(pair: Pair) -> list[Check]:
    """Equal micro-batches (accumulation) and unequal ones, of whole groups; then groups cut, where the loss sees no rewards."""
    rows = pair.assess(a_step((4, 4, 4, 4), 5))
    equal, unequal = [slice(0, 8), slice(8, 16)], [slice(0, 4), slice(4, 16)]
    finer = [slice(4 * k, 4 * k + 4) for k in range(4)]
    rule = "sum" if pair.counts else "rows"
    ways = {"sum": "summed", "rows": "averaged", "tokens": "weighed by their tokens"}

    def adds_up(cuts: list[slice], how: str) -> tuple[bool, float]:
        totals = rows.totals(len(cuts))
        (loss, pull), (other, grad) = pair(rows, {**totals, "micro_batches": 1}), parts_under(pair, rows, cuts, how)
        size = float(torch.dot(grad.flatten(), pull.flatten()) / pull.square().sum().clamp(min=1e-300))
        return near(loss, other) and near(pull, grad), size

    def check(name: str, cases: list[list[slice]], good: str) -> Check:
        found = [adds_up(cuts, rule) for cuts in cases]
        if all(ok for ok, _ in found):
            return holds(name, good)
        other = [how for how in RULES if how != rule and all(adds_up(cuts, how)[0] for cuts in cases)]
        hint = f"it would hold if they were {ways[other[0]]}" if other else "no way of adding them up repairs it"
        sizes = ", ".join(f"{s:.3g}" for _, s in found)
        told = "it is given totals of the step" if pair.counts else "it is given no totals"
        return fails(
            name, f"losses of micro-batches, {ways[rule]} ({told}), are {sizes} times the whole loss's gradient; {hint}"
        )

    how = "summed: its denominators are the whole step's" if pair.counts else "averaged, weighed by their answers"
    out = [check("accumulation", [equal, finer], f"equal micro-batches give the step's gradient, {how}")]
    cases = [unequal, [slice(0, 12), slice(12, 16)]]
    split = check("micro-batches", cases, f"unequal micro-batches give the step's gradient, {how}")
    if split.status == "holds" and not pair.counts:
        split = replace(split, status="assumes")
    if split.status == "fails" and pair.equal_rows:
        return [*out, assumes("micro-batches", "micro-batches of equal numbers of answers, which its trainer makes")]
    alone = not (pair.loss and pair.loss.needs & {"rewards", "reward_BT"})
    if split.status != "fails" and not alone and not adds_up([slice(0, 2), slice(2, 16)], rule)[0]:
        split = assumes(
            "micro-batches", f"{split.words}; a group must not be cut, because the loss compares its answers"
        )
    elif split.status != "fails" and alone:
        cut = check("micro-batches", [[slice(0, 3), slice(3, 16)]], split.words)
        split = split if cut.status == "holds" else cut
    return [*out, split]


# -- temperature -----------------------------------------------------------------------------------------------------
def temperature(pair: Pair) -> Check:
    """loss(T z, temperature=T) = loss(z, temperature=1): log-probabilities are of the law that was sampled."""
    if pair.loss is None or "logits" not in pair.loss.needs:
        return assumes(
            "temperature", "it is given log-probabilities: they must be those of the temperature that was sampled"
        )
    rows = pair.assess(a_step((3, 3), 7))
    hot = replace(rows.put(logits=2.0 * rows.x["logits"]), temperature=2.0)
    (loss, pull), (other, grad) = pair(rows), pair(hot)
    if near(loss, other) and near(pull, 2.0 * grad):
        return holds("temperature", "logits are divided by it before the softmax")
    return fails(
        "temperature",
        f"logits of the same law at temperature 2 give the loss {other:.4g} instead of {loss:.4g}: divide them "
        "by the temperature that was sampled, everywhere",
    )


# -- all together ----------------------------------------------------------------------------------------------------
def _guarded(name: str, check: Callable[[Pair], Check | list[Check]], pair: Pair) -> list[Check]:
    """What a check says; a function that refuses such rows with a ValueError says what it assumes, other errors are faults."""
    try:
        found = check(pair)
    except Raised as error:
        refusal = isinstance(error.__cause__, ValueError | NotImplementedError)
        return [assumes(name, f"refuses it: {error.__cause__}") if refusal else fails(name, str(error))]
    return found if isinstance(found, list) else [found]


CHECKS: dict[str, Callable[[Pair], Check | list[Check]]] = {
    "padding": padding,
    "observations": observations,
    "order": order,
    "accumulation": micro_batches,
    "temperature": temperature,
    "truncated": masked_rows,
    "no signal": no_signal,
    "far reference": far_reference,
}


def invariances(pair: Pair) -> list[Check]:
    return [found for name, check in CHECKS.items() for found in _guarded(name, check, pair)]
