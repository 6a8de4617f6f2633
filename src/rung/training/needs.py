"""What a part of a recipe may need, and the one function that prepares it. Names that are not here are refused.

COLLECTED   while answers are drawn: what the collector is told
PREPARED    after they are scored and before the credit: a field of the batch
FROZEN      before the update: a distribution that a micro-batch remembers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rung.records import Batch

if TYPE_CHECKING:
    from rung.training.learner import Learner
    from rung.training.rules import Part, Work

COLLECTED: Mapping[str, Mapping[str, bool]] = {
    "groups": {},  # every batch has them; recipe_rules.check_sampling asks for two answers a prompt
    "greedy": {"greedy": True},
    "steps": {"steps": True},
}


def collected(needs: frozenset[str]) -> dict[str, Any]:
    """Keyword arguments of the collector."""
    return {key: value for need, told in COLLECTED.items() if need in needs for key, value in told.items()}


# -- fields of the batch, all of them without gradient and before any update ------------------------------------------
def _old_logp(learner: Learner, batch: Batch) -> Batch:
    return replace(batch, old_logp_BT=learner.logp(learner.policy, batch))


def _ref_logp(learner: Learner, batch: Batch) -> Batch:
    assert learner.reference is not None
    return replace(batch, ref_logp_BT=learner.logp(learner.reference, batch))


def _values(learner: Learner, batch: Batch) -> Batch:
    assert learner.critic is not None
    return replace(batch, value_BT=learner.critic.predict(batch.spoken))


def _bootstrap(learner: Learner, batch: Batch) -> Batch:
    assert learner.critic is not None
    return replace(batch, bootstrap_B=learner.critic.after(batch.spoken, batch.truncated_B))


PREPARED: Mapping[str, Callable[[Learner, Batch], Batch]] = {
    "old_logp": _old_logp,
    "ref_logp": _ref_logp,
    "values": _values,
    "bootstrap": _bootstrap,
}


# -- full distributions of the policy and the reference as they are now -------------------------------------------------
def _ref_full(work: Work, part: Part) -> Part:
    assert work.reference is not None
    return replace(part, ref=work.reference.freeze(part.tokens))


def _old_full(work: Work, part: Part) -> Part:
    return replace(part, old=work.policy.freeze(part.tokens))


FROZEN: Mapping[str, Callable[[Work, Part], Part]] = {"ref_full": _ref_full, "old_full": _old_full}
