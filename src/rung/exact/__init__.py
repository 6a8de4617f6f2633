"""Small worlds in which every answer is enumerated: what a recipe's gradient is on average, and why.

peers/     Adapters to the losses of other projects: their own code, in one version each, through the audit of `exact/yours`.
yours/     The audit for functions of other people: a loss or an advantage function goes through the same small worlds.
audit      `rung audit`: is a recipe's gradient, on average over every batch of a small world, the policy gradient? If not, why?
causes     Why an expected gradient bends: each part of a recipe is swapped for one that is known to be exact, one at a time.
estimate   What a recipe does on average against what it should do: bias, direction and variance.
needs      What parts need, prepared exactly for enumerated worlds, by the names of recipe_rules.NEEDS. One name, one entry.
oracle     The exact expected gradient of a recipe: every batch of a small world, weighed by its probability.
staleness  What answers of earlier weights cost a recipe, exactly: the bias that they bring, the variance that its repair brings.
tiny       Tiny policies over a tree of tokens: a flat float64 vector of parameters in, the logits of every state out.
world      Small token worlds in which every answer can be written down: rewards, policies, and what a batch of rows is made of.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rung.exact.yours.verdict import assert_policy_gradient, audit_function

__all__ = ["assert_policy_gradient", "audit_function"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("rung.exact.yours.verdict"), name)
    raise AttributeError(f"module 'rung.exact' has no attribute {name!r}")
