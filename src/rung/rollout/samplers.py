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
    """make: a sampler for a model that is loaded, which decodes so many answers at once, alone on its device or beside a learner.
    at_once: how many; a plan asks before anything is loaded.  usable: refuses where what it needs is not installed.
    suits: refuses a model that it cannot run: (model, with an adapter, on a CPU); the model may be without weights.
    engine: packages of its own and their versions, the same in all processes of a run."""

    make: Callable[[Model, int, bool], Sampler]
    at_once: int
    usable: Callable[[], None] = lambda: None
    suits: Callable[[Model, bool, bool], None] = lambda model, adapter, cpu: None
    engine: Callable[[], dict[str, str]] = dict


def _torch(model: Model, at_once: int, alone: bool) -> Sampler:
    from rung.rollout.torch_sampler import TorchSampler

    return TorchSampler(model, max_batch=at_once)


def _vllm(model: Model, at_once: int, alone: bool) -> Sampler:
    from rung.rollout.vllm_sampler import VLLMSampler

    return VLLMSampler(model, at_once, alone)


def _vllm_is_here() -> None:
    from rung.rollout.vllm_sampler import refuse_another_version

    refuse_another_version()


def _vllm_runs(model: Model, adapter: bool, cpu: bool) -> None:
    from rung.rollout.vllm_sampler import refuse_model

    refuse_model(model, adapter, cpu)


def _vllm_version() -> dict[str, str]:
    from rung.rollout.vllm_sampler import installed

    _, found = installed() or ("", "not installed")
    return {"vllm": found}


USUAL = "torch"
STALE = "weights of earlier steps"
ENGINE = "another engine"  # than the trainer's code
SAMPLERS = {
    "torch": Kind(_torch, at_once=512),
    "vllm": Kind(_vllm, at_once=256, usable=_vllm_is_here, suits=_vllm_runs, engine=_vllm_version),
}

if TYPE_CHECKING:
    SamplerName = str
else:
    SamplerName = Literal[tuple(SAMPLERS)]


def make_sampler(model: Model, name: str = USUAL, *, alone: bool = False) -> Sampler:
    """The sampler of this name, with the model's weights of now; what it returns is looked at.

    alone: nobody learns on its device.
    """
    from rung.rollout.checked import Checked

    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    kind = SAMPLERS[name]
    sampler = Checked(kind.make(model, kind.at_once, alone), int(model.hf.get_input_embeddings().weight.shape[0]))
    sampler.load(model.hf.state_dict().items(), 0)
    return sampler


def numbers_of(sampler: str, dtype: str, staleness: int = 0) -> str:
    """What a run's log-probabilities are, by its settings: only the embedded sampler shares the trainer's code, and its weights
    only where they are never older."""
    return STALE if staleness else dtype if sampler == USUAL else ENGINE
