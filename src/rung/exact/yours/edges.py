"""What happens where there is nothing to learn: rows that are masked whole, equal rewards, a reference that is far away."""

from __future__ import annotations

import torch

from rung.exact.world import F64
from rung.exact.yours.checks import CLOSE, Check, a_step, fails, finite, holds
from rung.exact.yours.steps import Pair, rewarded

RESIDUE = 0.01  # of an ordinary gradient: what rounding may leave of a group whose rewards are equal


def masked_rows(pair: Pair) -> Check:
    """Answers cut by the limit, and rows that a filter masks whole."""
    rows = a_step((3, 3), 9)
    cut = rows.put(truncated=torch.ones_like(rows.x["truncated"]))
    loss, pull = pair(pair.assess(cut))
    if not finite(loss, pull):
        return fails("truncated", "a batch in which every answer was cut gives NaN or inf. Guard the denominator")
    if not pair.masks:
        return holds("truncated", "a batch in which every answer was cut gives a finite loss")
    for gone in (torch.tensor([True, False, False, False, False, True]), torch.ones(6, dtype=torch.bool)):
        masked = pair.assess(rows).put(mask=rows.x["mask"] & ~gone[:, None])
        loss, pull = pair(masked)
        if not finite(loss, pull):
            what = "every row" if gone.all() else "a row"
            return fails("truncated", f"NaN or inf where a filter masks {what} whole (0/0?). Clamp denominators at 1")
        if float(pull[gone].abs().max()) > CLOSE:
            return fails("truncated", "a row that a filter masks whole still has a gradient")
    return holds(
        "truncated", "cut answers, and rows or batches that are masked whole, give a finite loss and no gradient"
    )


def no_signal(pair: Pair) -> Check:
    """A group whose rewards are equal: finite, and what float32 rounding leaves of it is no gradient."""
    ordinary = float(pair(pair.assess(a_step((3, 3), 11)))[1].abs().max())
    judged = pair.advantages is not None or bool(pair.needs & {"rewards", "reward_BT"})
    for size in (2, 3, 6, 7, 12):
        for value in (0.0, 0.1, 0.7):
            rows = a_step((size, size), 11)
            rows = rewarded(rows, torch.full_like(rows.x["rewards"], value))
            pulls = [pair(pair.assess(rows.cast(dtype)))[1].to(F64) for dtype in (F64, torch.float32)]
            if not all(p.isfinite().all() for p in pulls):
                return fails(
                    "no signal", f"NaN or inf where all {size} answers to a prompt earn {value:g} (a std of 0?)"
                )
            left = float((pulls[0] - pulls[1]).abs().max()) / max(ordinary, 1e-9)
            if judged and left > RESIDUE:
                return fails(
                    "no signal",
                    f"all {size} answers to a prompt earn {value:g}, and rounding in float32 makes a gradient of "
                    f"{left:.2g} of an ordinary one: the eps beside the std is too small. Set the advantages to 0 there",
                )
    return holds("no signal", "a group without a difference gives a finite loss, and no gradient out of rounding")


def far_reference(pair: Pair) -> list[Check]:
    """In float32, tokens that the reference likes 100 nats more, or less, than the policy."""
    if "ref_logp" not in pair.needs:
        return []
    rows = a_step((3, 3), 27)
    gap_BT = torch.zeros_like(rows.x["ref_logp"])
    gap_BT[0, 0], gap_BT[4, 0] = 100.0, -100.0
    rows = rows.put(ref_logp=rows.x["ref_logp"] + gap_BT).cast(torch.float32)
    loss, pull = pair(pair.assess(rows))
    if not finite(loss, pull):
        return [
            fails(
                "far reference",
                f"where the reference likes a token 100 nats more or less, the loss is {loss:.4g} and a gradient "
                f"{float(pull.abs().max()):.4g}: clamp log pi/ref BEFORE exp, never the result",
            )
        ]
    return [
        holds("far reference", "tokens that the reference likes 100 nats more or less give a finite loss and gradient")
    ]
