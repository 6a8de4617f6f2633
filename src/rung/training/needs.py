"""What a part of a recipe may need, and what prepares it: one name, one entry. Names that are not here are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rung.records import Batch

if TYPE_CHECKING:
    from rung.training.learner import LocalLearner
    from rung.training.policy import Part
    from rung.training.work import Work


@dataclass(frozen=True)
class Need:
    """collect: what the collector is told.
    fill:      puts a field into the scored batch, before the credit, without gradient.
    freeze:    gives a micro-batch a distribution of before the update.
    reference, critic: that the learner must hold one.
    """

    collect: Mapping[str, bool] = field(default_factory=dict)
    fill: Callable[[LocalLearner, Batch], Batch] | None = None
    freeze: Callable[[Work, Part], Part] | None = None
    reference: bool = False
    critic: bool = False


def _old_logp(learner: LocalLearner, batch: Batch) -> Batch:
    return replace(batch, old_logp_BT=learner.logp(learner.policy, batch))


def _ref_logp(learner: LocalLearner, batch: Batch) -> Batch:
    assert learner.reference is not None
    return replace(batch, ref_logp_BT=learner.logp(learner.reference, batch))


def _values(learner: LocalLearner, batch: Batch) -> Batch:
    assert learner.critic is not None
    return replace(batch, value_BT=learner.critic.predict(batch.spoken))


def _bootstrap(learner: LocalLearner, batch: Batch) -> Batch:
    assert learner.critic is not None
    return replace(batch, bootstrap_B=learner.critic.after(batch.spoken, batch.truncated_B))


def _ref_full(work: Work, part: Part) -> Part:
    assert work.reference is not None
    return replace(part, ref=work.reference.freeze(part.tokens))


def _old_full(work: Work, part: Part) -> Part:
    return replace(part, old=work.policy.freeze(part.tokens))


NEEDS: Mapping[str, Need] = {  # in the order in which they are prepared; recipe_rules.NEEDS has them in words
    "groups": Need(),  # every batch has them; recipe_rules.refuse_sampling asks for two answers a prompt
    "greedy": Need(collect={"greedy": True}),
    "steps": Need(collect={"steps": True}),
    "old_logp": Need(fill=_old_logp),
    "ref_logp": Need(fill=_ref_logp, reference=True),
    "values": Need(fill=_values, critic=True),
    "bootstrap": Need(fill=_bootstrap, critic=True),
    "ref_full": Need(freeze=_ref_full, reference=True),
    "old_full": Need(freeze=_old_full),
}


def _asked(needs: frozenset[str]) -> Iterable[Need]:
    return [entry for name, entry in NEEDS.items() if name in needs]


def collected(needs: frozenset[str]) -> dict[str, Any]:
    """Keyword arguments of the collector."""
    return {key: value for entry in _asked(needs) for key, value in entry.collect.items()}


def filled(learner: LocalLearner, batch: Batch, needs: frozenset[str]) -> Batch:
    """The batch with every field that parts need of the model, all without gradient and before any update."""
    for entry in _asked(needs):
        batch = batch if entry.fill is None else entry.fill(learner, batch)
    return batch


def frozen(work: Work, parts: list[Part]) -> list[Part]:
    """Micro-batches with the distributions of before the update that the recipe needs."""
    for freeze in [entry.freeze for entry in _asked(work.recipe.needs) if entry.freeze is not None]:
        parts = [freeze(work, part) for part in parts]
    return parts


def frozen_copies(needs: frozenset[str]) -> int:
    """How many distributions a micro-batch remembers."""
    return sum(entry.freeze is not None for entry in _asked(needs))


def reference(needs: frozenset[str]) -> bool:
    """Whether the reference policy must be held."""
    return any(entry.reference for entry in _asked(needs))


def critic(needs: frozenset[str]) -> bool:
    """Whether a critic must be learned."""
    return any(entry.critic for entry in _asked(needs))
