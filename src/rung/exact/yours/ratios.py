"""What an importance ratio or a KL of an opaque function is: read off its gradient, token by token.

A function that sees logp pulls each token by phi_bt = - d loss / d logp_bt. Exchanging old_logp or ref_logp alone shows the factor
of phi that belongs to it, which is compared with the known ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rung.exact.yours.steps import Pair, Rows, logp_of

CLOSE = 1e-4
Known = dict[str, Callable[[Tensor, Tensor], Tensor]]
RATIOS: Known = {  # of d_bt = logp - old_logp (0 beyond the mask) and the mask
    "none (old_logp changes nothing)": lambda d, m: torch.ones_like(d),
    "each token's own, exp(logp - old)": lambda d, m: d.exp(),
    "the whole answer's, exp(sum)": lambda d, m: d.sum(1, keepdim=True).exp().expand_as(d),
    "the answer's geometric mean, exp(mean)": lambda d, m: (
        (d.sum(1, keepdim=True) / m.sum(1, keepdim=True)).exp().expand_as(d)
    ),
    "that of the tokens so far, exp(cumulative sum)": lambda d, m: d.cumsum(1).exp(),
    "upside down, exp(old - logp)": lambda d, m: (-d).exp(),
}
KLS: Known = {  # of q_bt = logp - ref_logp: the pull of a KL in the loss, up to -beta and the weight of the token
    "k1 in the loss, or a KL without gradient: on average it does nothing": lambda q, m: torch.ones_like(q),
    "k2 = (log pi/ref)^2 / 2": lambda q, m: q,
    "k3 = ref/pi - 1 + log pi/ref": lambda q, m: 1 - (-q).exp(),
    "pi/ref - 1 - log pi/ref, the wrong way round": lambda q, m: q.exp() - 1,
    "|log pi/ref|, which is no KL": lambda q, m: q.sign(),
}


def phi(pair: Pair, rows: Rows) -> Tensor:
    """- d loss / d logp of each token, from the gradient at the logits of the token itself: (e_y - pi) phi. [B, T]"""
    _, pull_BTV = pair(rows)
    token_BT1 = rows.x["tokens"][..., None]
    p_BT = logp_of(rows, rows.x["logits"]).exp()
    return -rows.temperature * pull_BTV.gather(-1, token_BT1)[..., 0] / (1 - p_BT) * rows.x["mask"]


def apart(logp_BT: Tensor, mask_BT: Tensor, seed: int, size: float) -> Tensor:
    """Log-probabilities moved by unequal amounts up to `size`, none of them 0."""
    rng = torch.Generator().manual_seed(seed)
    sign = torch.rand(logp_BT.shape, generator=rng, dtype=logp_BT.dtype) - 0.5
    return torch.where(mask_BT, logp_BT - size * (sign.sign() * 0.5 + sign), logp_BT)


def ratio_of(pair: Pair, rows: Rows) -> str | None:
    """Which importance ratio multiplies the pull; None: none of those that are known."""
    logp_BT, mask_BT = logp_of(rows, rows.x["logits"]).detach(), rows.x["mask"]
    at = rows.put(old_logp=logp_BT, behavior_logp=logp_BT, ref_logp=logp_BT)
    old_BT = apart(logp_BT, mask_BT, 3, 0.05)
    moved = at.put(old_logp=old_BT, behavior_logp=old_BT)  # together, so that a correction of the sampler stays 1
    before, after = phi(pair, at), phi(pair, moved)
    seen = mask_BT & (before.abs() > CLOSE * before.abs().max())
    d_BT = (logp_BT - old_BT) * mask_BT
    kept = seen & (after.abs() > 1e-9)
    for name, factor in RATIOS.items():
        want = before * factor(d_BT, mask_BT)
        if kept.any() and torch.allclose(after[kept], want[kept], rtol=CLOSE, atol=0.0):
            return name + (", stopped at a clip" if bool((seen & ~kept).any()) else "")
    return None


def kl_of(pair: Pair, rows: Rows) -> str | None:
    """Which estimator of the KL to the reference the loss holds: how its pull grows tells; None: unknown, or in the reward."""
    logp_BT, mask_BT = logp_of(rows, rows.x["logits"]).detach(), rows.x["mask"]
    at = rows.put(old_logp=logp_BT, behavior_logp=logp_BT, ref_logp=logp_BT)
    far_BT = apart(logp_BT, mask_BT, 5, 0.6)
    half_BT = (logp_BT + far_BT) / 2
    base, far, half = (phi(pair, pair.assess(at.put(ref_logp=ref))) for ref in (logp_BT, far_BT, half_BT))
    q, h = (logp_BT - far_BT) * mask_BT, (logp_BT - half_BT) * mask_BT
    if torch.allclose(far, base, rtol=1e-7, atol=1e-12):
        return _constant(pair, at, base)
    for name, factor in [*KLS.items()][1:]:  # the first has no reference in its pull, which is the case above
        wanted = (far - base) * factor(h, mask_BT), (half - base) * factor(q, mask_BT)
        if torch.allclose(wanted[0][mask_BT], wanted[1][mask_BT], rtol=CLOSE, atol=1e-9):
            return name if _own(pair, at, base, far_BT) else None
    return None


def _own(pair: Pair, at: Rows, base: Tensor, far_BT: Tensor) -> bool:
    """Each token's pull knows its own reference alone, not those of the tokens that follow or of other answers."""
    last_BT = at.x["mask"].flip(1).cumsum(1).flip(1) == 1
    one = phi(pair, pair.assess(at.put(ref_logp=torch.where(last_BT, far_BT, at.x["ref_logp"]))))
    return torch.allclose(one[~last_BT], base[~last_BT], rtol=1e-7, atol=1e-12)


def _constant(pair: Pair, at: Rows, base: Tensor) -> str | None:
    """The loss's value knows the reference, its gradient does not: k1, or nothing at all."""
    loss, other = (pair(pair.assess(at.put(ref_logp=at.x["ref_logp"] - shift)))[0] for shift in (0.0, 0.1))
    return None if loss == other else next(iter(KLS))
