"""Which samplers there are, by the names that --sampler takes: a row here and a file beside it make one more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rung.errors import unknown

if TYPE_CHECKING:
    from rung.network.model import Model
    from rung.rollout.sampler import Sampler


@dataclass(frozen=True)
class Kind:
    """make: a sampler for a model that is loaded, which decodes so many answers at once.
    at_once: how many; a plan asks before anything is loaded."""

    make: Callable[[Model, int], Sampler]
    at_once: int


def _torch(model: Model, at_once: int) -> Sampler:
    from rung.rollout.torch_sampler import TorchSampler

    return TorchSampler(model, max_batch=at_once)


USUAL = "torch"
ENGINE = "another engine"  # than the trainer's code
SAMPLERS = {"torch": Kind(_torch, at_once=512)}

if TYPE_CHECKING:
    SamplerName = str
else:
    SamplerName = Literal[tuple(SAMPLERS)]


def make_sampler(model: Model, name: str = USUAL) -> Sampler:
    """The sampler of this name, with the model's weights of now."""
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    kind = SAMPLERS[name]
    sampler = kind.make(model, kind.at_once)
    sampler.load(model.hf.state_dict().items(), 0)
    return sampler


def numbers_of(sampler: str, dtype: str) -> str:
    """What a run's log-probabilities are, by its settings: only the embedded sampler shares the trainer's code."""
    return dtype if sampler == USUAL else ENGINE
