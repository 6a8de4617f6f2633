"""Young variants, beside the ladder: right by their papers and by our tests, but not yet part of the story."""

from __future__ import annotations

from collections.abc import Mapping

import rung.parts as p
from rung.recipes import GRPO, LEAVE_ONE_OUT, Recipe, rung

MAXRL = rung(
    GRPO, "maxrl", "arXiv:2602.02710",
    "The policy gradient of a rare success is tiny: divide by the success rate, the first G - 1 terms of grad log p.",
    silent=("a prompt without any success gets 0",),
    credit=p.GroupMean(scale="mean"), kl=p.NoKL(), aggregate=p.SequenceSum())  # fmt: skip
KIMI = rung(
    LEAVE_ONE_OUT, "kimi", "arXiv:2501.12599 sec. 2.3.2",
    "A batch is good for one step only: fit the squared distance to the regularized optimum, which needs no ratio.",
    silent=("tau is undisclosed, 0.1 here", "the optimizer is not reset between batches"),
    credit=p.GroupMean(scale="none"), surrogate=p.MirrorDescent(), update=p.GradientSteps(minibatches=2))  # fmt: skip

CONTRIB: Mapping[str, Recipe] = {r.name: r for r in (MAXRL, KIMI)}
