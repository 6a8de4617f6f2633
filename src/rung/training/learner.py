"""One training step, the story of the project in order: rewards -> credit -> objective -> update -> what happened.

The learner does not know a recipe's name. Parts declare what they need, and it prepares that: a reference policy, a
critic, the trainer's own log-probabilities.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from rung.io.state import load_state, save_state, tensors_in
from rung.maths.assess import Assessed, assess, next_state
from rung.maths.objective import right
from rung.network import adapter
from rung.network.float32 import Masters
from rung.network.model import Model
from rung.recipes import Recipe
from rung.records import Batch, State, StepResult
from rung.rollout.collect import Collected
from rung.rollout.phases import Phase, untold
from rung.training import needs
from rung.training.critic import ValueModel, explained_variance
from rung.training.metrics import advantage_metrics, correction_metrics, reference_metrics, signal_metrics
from rung.training.micro import Micro
from rung.training.optimizer import MasterAdamW
from rung.training.policy import BasePolicy, Policy, activation_bytes_per_token, in_parts
from rung.training.ranks import ALONE, Ranks
from rung.training.work import Work


@dataclass(frozen=True)
class Hyper:
    """Settings of the optimization that are no part of a recipe."""

    learning_rate: float = 1e-5
    warmup_steps: int = 0
    decay_steps: int = 0
    decay_shape: Literal["linear", "cosine"] = "linear"
    steps: int = 0  # of the whole run, at whose end a decay ends
    clip_norm: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    max_new_tokens: int = 64
    temperature: float = 1.0
    activation_gib: float = 1.25  # micro-batches are sized so that the backward keeps about this much
    seed: int = 0

    def rate(self, step: int) -> float:
        """Share of the learning rate in a step (from 0): rises over warmup_steps, falls over the last decay_steps."""
        rising = (step + 1) / (self.warmup_steps + 1)
        left = (self.steps - step) / self.decay_steps if self.decay_steps else 1.0
        return min(1.0, rising, fallen(self.decay_shape, left))


def fallen(shape: str, left: float) -> float:
    """linear: x; cosine: (1 - cos(pi x)) / 2, with x the share of the decay that is left, kept between 0 and 1."""
    left = max(0.0, min(1.0, left))
    return left if shape == "linear" else (1 - math.cos(math.pi * left)) / 2


class Learner(Protocol):
    """What learns, wherever it runs. The loop and the experiments know nothing else of it.

    state: what the recipe remembers from step to step.  version: updates made.  phase: told what it is doing.
    """

    state: State
    version: int
    phase: Phase

    def assess(self, collected: Collected) -> Assessed:
        """What the step's answers are worth. Changes nothing."""

    def step(self, collected: Collected) -> StepResult:
        """One training step."""

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """The policy's weights of now by their names, for a sampler that holds its own; copied only where it asks."""

    def save(self, directory: Path) -> None:
        """Weights and everything else that going on needs."""

    def restore(self, directory: Path) -> None:
        """What `save` wrote, into a learner that was built alike."""

    def size(self) -> int:
        """Bytes that `save` writes, once every weight has been met."""

    def marks(self) -> Hashable:
        """Changes with every write to what `save` saves: a step that was broken off before its first update changed nothing."""


@dataclass
class LocalLearner:
    """The learner of one process: the policy, its optimizer, the critic, and the recipe's own state."""

    recipe: Recipe
    model: Model
    hyper: Hyper
    ranks: Ranks = ALONE
    works: ClassVar[type[Work]] = Work
    state: State = field(init=False)
    version: int = 0

    def __post_init__(self) -> None:
        self.phase: Phase = untold
        recipe, hyper = self.recipe, self.hyper
        self.state = recipe.initial_state()
        self.memory: dict[str, Any] = {}  # the update rule's own
        self.masters = self._masters()
        activations = activation_bytes_per_token(self.model) * (1 if self.masters is None else 2)
        self.micro = Micro(max(256, int(hyper.activation_gib * 2**30 / activations)), self.ranks.again)
        self.reference = self._frozen_copy() if needs.reference(recipe.needs) else None
        config = recipe.credit.learns() if needs.critic(recipe.needs) else None
        self.critic: ValueModel | None = None
        if config is not None:
            self.critic = ValueModel.build(config, self.model, hyper.learning_rate, self.micro, self.ranks)
        self.ranks.hold(self.model)  # now that it has been copied
        self.policy = Policy(self.model, hyper.temperature)
        self.parameters = [p for p in self.model.hf.parameters() if p.requires_grad]
        self.optimizer: MasterAdamW | None = None
        if recipe.update.cost().adamw:
            self.optimizer = MasterAdamW(
                self.parameters, hyper.learning_rate, hyper.betas, hyper.weight_decay, hyper.epsilon, self.ranks
            )

    def _masters(self) -> Masters | None:
        """Of weights of low precision, under a rule that moves them by itself."""
        masters = None if self.recipe.update.cost().adamw else Masters(self.model.hf)
        return masters if masters is not None and masters.weights else None

    def _frozen_copy(self) -> Policy:
        """pi_ref: the weights of now, never updated; of a model with an adapter, the model without it."""
        if adapter.has_adapter(self.model.hf):
            return BasePolicy(self.model, self.hyper.temperature)
        with self.at_work():  # it is compared with what they say there
            frozen = replace(self.model, hf=copy.deepcopy(self.model.hf).requires_grad_(False))
        self.ranks.hold(frozen)
        return Policy(frozen, self.hyper.temperature)

    # -- the step ---------------------------------------------------------------------------------------------------
    def step(self, collected: Collected) -> StepResult:
        """One optimizer step's worth of answers becomes new parameters."""
        halved = self.micro.halved
        assessed = self.assess(collected)
        batch, work, before = assessed.batch, self.work(assessed), self._some_weights()
        assert batch.adv_BT is not None
        metrics = reference_metrics(batch) | advantage_metrics(batch, len(assessed.active))
        metrics |= signal_metrics(collected.batch, batch.adv_BT, assessed.dominated)
        if "old_logp" in self.recipe.correction.needs:
            metrics |= correction_metrics(batch)
        if self.recipe.imitation:
            metrics["imitated_rows"] = float((right(batch) & batch.loss_mask_BT.any(1)).sum())
        with self.phase("update"), self.at_work():
            metrics |= self.learn_values(batch)
            if len(assessed.active) == 0 or self._critic_warms_up():
                metrics |= {"grad_norm": 0.0, "update/steps": 0.0}
                work.forget()
            else:
                metrics |= self.recipe.update.run(work)
        self.state = next_state(self.recipe, batch, old_kl=metrics.get("trust/kl"), ref_kl=metrics.get("kl"))
        self.version += 1
        metrics |= {
            **work.drift.metrics(),
            "update/changed": self._changed(before),
            "update/skipped": float(metrics["update/steps"] == 0),
            "update/halved": float(self.micro.halved - halved),
            "kl_coef": self.state.kl_coef,
            **({"trust/coef": self.state.trust_coef} if "trust/kl" in metrics else {}),
        }
        return StepResult(metrics, batch.adv_BT, *work.remembered(), batch.ref_logp_BT, batch.value_BT)

    def assess(self, collected: Collected) -> Assessed:
        with self.phase("logprob"):
            batch = self.prepare(collected.batch)
        return assess(self.recipe, batch)

    def prepare(self, batch: Batch) -> Batch:
        """Fill in what the recipe's parts need of the model, all of it without gradient and before any update."""
        asked = self.recipe.needs
        if "ref_logp" in asked and not batch.same_numbers:  # a KL compares numbers of one kind
            asked = asked | {"old_logp"}
        with self.at_work():
            return needs.filled(self, replace(batch, state=self.state), asked)

    def work(self, assessed: Assessed) -> Work:
        """The batch as an update rule sees it."""
        hyper = self.hyper
        return self.works(
            self.recipe, self.policy, assessed.batch, assessed.active, hyper.max_new_tokens, self.micro,
            self.reference, self.optimizer, hyper.learning_rate, hyper.rate(self.version), hyper.clip_norm,
            hyper.seed + self.version, self.memory, self.ranks,
        )  # fmt: skip

    def at_work(self) -> AbstractContextManager[None]:
        """Inside, the policy computes as its update does: in float32, on masters, where there are some."""
        return nullcontext() if self.masters is None else self.masters.at_work()

    def _some_weights(self) -> list[Tensor]:
        """About a thousand weights of every parameter: do they move at all, in the precision that they are kept in?"""
        flat = [p.detach().reshape(-1) for p in self.parameters]
        return [x[:: max(1, len(x) // 1000)].clone() for x in flat]

    def _changed(self, before: list[Tensor]) -> float:
        """The share of those weights that are others now."""
        pairs = zip(before, self._some_weights(), strict=True)
        return float(torch.cat([(a != b).float() for a, b in pairs]).mean())

    def logp(self, policy: Policy, batch: Batch) -> Tensor:
        """What `policy` says about a whole step, some rows at a time, in main memory: float32[B, T]."""
        tokens, ranks = batch.spoken, self.ranks
        return self.micro.tried(
            lambda: in_parts(tokens, 4 * self.micro.tokens, lambda part: policy.score(part).logp_BT, ranks=ranks),
            tokens,
        )

    def learn_values(self, batch: Batch) -> dict[str, float]:
        """One fit of the critic, if there is one, to a batch that `assess` has prepared."""
        if self.critic is None:
            return {}
        assert batch.value_BT is not None
        valid_BT, target_BT = batch.mask_BT & batch.valid_B[:, None], self.recipe.credit.targets(batch)
        metrics = {
            "critic/explained_variance": explained_variance(batch.value_BT, target_BT, valid_BT),
            "critic/value_mean": float(batch.value_BT[valid_BT].mean()) if valid_BT.any() else 0.0,
        }
        seed = self.hyper.seed + self.version
        aimed = replace(batch, target_BT=target_BT.to(batch.value_BT.dtype))
        metrics["critic/loss"] = self.critic.fit(aimed, self.hyper.clip_norm, seed)
        return metrics

    def _critic_warms_up(self) -> bool:
        return self.critic is not None and self.version < self.critic.config.warmup

    # -- what others get of it --------------------------------------------------------------------------------------
    def weights(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model.hf.state_dict().items()

    def save(self, directory: Path) -> None:
        self.model.hf.save_pretrained(directory)
        save_state(directory, {"learner": self._state()})

    def restore(self, directory: Path) -> None:
        """Raises: InputError: the weights are an adapter's and the model has none."""
        hf = self.model.hf
        if adapter.has_adapter(hf):
            adapter.restore(hf, directory)
        else:
            adapter.refuse_adapter(directory)
            hf.load_state_dict(type(hf).from_pretrained(directory, dtype=hf.dtype).state_dict())
        self._load(load_state(directory)["learner"])

    def marks(self) -> Hashable:
        return tuple((tensor.data_ptr(), tensor._version) for tensor in self._saved())

    def size(self) -> int:
        return self._unmet() + sum({tensor.data_ptr(): tensor.nbytes for tensor in self._saved()}.values())

    def _unmet(self) -> int:
        """Bytes of what the optimizers will keep of weights that had no gradient yet: two moments, float32."""
        optimizers = [x.optimizer for x in (self, self.critic) if x is not None and x.optimizer is not None]
        return sum(8 * w.numel() for o in optimizers for w in o.masters if w not in o.adam.state)

    def _saved(self) -> Iterator[Tensor]:
        weights = self.model.hf.state_dict(keep_vars=True).values()
        yield from self.parameters if adapter.has_adapter(self.model.hf) else weights
        yield from tensors_in(self._state())

    def _state(self) -> dict[str, Any]:
        """Everything but the policy's weights, which are saved as a Hugging Face model."""
        return {
            "version": self.version,
            "state": vars(self.state),
            "rule": self.memory,
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            **({"masters": self.masters.weights} if self.masters else {}),
            "reference": self.reference.kept() if self.reference else None,
            "critic": self.critic.state_dict() if self.critic else None,
        }

    def _load(self, saved: dict[str, Any]) -> None:
        self.version = int(saved["version"])
        self.state = State(**saved["state"])
        self.memory = saved.get("rule", {})  # an older checkpoint has none
        if self.optimizer is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
        if self.masters is not None:
            self.masters.load(saved.get("masters"))
        if self.reference is not None and saved["reference"] is not None:
            self.reference.model.hf.load_state_dict(saved["reference"])
        if self.critic is not None:
            self.critic.load_state_dict(saved["critic"])
