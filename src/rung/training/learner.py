"""One training step, the story of the project in order: rewards -> credit -> objective -> update -> what happened.

The learner does not know a recipe's name. Parts declare what they need, and it prepares that: a reference policy, a
critic, the trainer's own log-probabilities.
"""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rung.errors import InputError, setting
from rung.maths.objective import right
from rung.maths.returns import varies
from rung.network.adapter import has_adapter, load_trained, trained_weights
from rung.network.model import Model
from rung.parts import GradientSteps, Value
from rung.recipes import Recipe
from rung.records import Batch, State, StepResult
from rung.rollout.collect import Collected, Phase
from rung.training.base_policy import BasePolicy
from rung.training.critic import ValueModel, explained_variance
from rung.training.metrics import advantage_metrics, reference_metrics, signal_metrics
from rung.training.needs import PREPARED
from rung.training.optimizer import MasterAdamW
from rung.training.policy import Policy, activation_bytes_per_token, in_parts
from rung.training.rules import Work, gradient_steps, natural_step


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


@dataclass
class Learner:
    """Holds what training changes: the policy, its optimizer, the critic, and the recipe's own state."""

    recipe: Recipe
    model: Model
    hyper: Hyper
    state: State = field(init=False)
    version: int = 0
    phase: Phase = lambda name: nullcontext()

    def __post_init__(self) -> None:
        self.state = self.recipe.initial_state()
        self.policy = Policy(self.model, self.hyper.temperature)
        self.micro_tokens = max(256, int(self.hyper.activation_gib * 2**30 / activation_bytes_per_token(self.model)))
        self.parameters = [p for p in self.model.hf.parameters() if p.requires_grad]
        needs = self.recipe.needs
        self.optimizer: MasterAdamW | None = None
        if isinstance(self.recipe.update, GradientSteps):
            self.optimizer = MasterAdamW(
                self.parameters, self.hyper.learning_rate, self.hyper.betas, self.hyper.weight_decay, self.hyper.epsilon
            )
        elif any(p.dtype != torch.float32 for p in self.parameters):
            raise InputError(
                f"recipe {self.recipe.name!r} solves a linear system, which needs float32 weights. Use "
                f"{setting('dtype', 'float32')}."
            )
        self.reference = self._frozen_copy() if needs & {"ref_logp", "ref_full"} else None
        self.critic: ValueModel | None = None
        if isinstance(self.recipe.credit, Value):
            config = self.recipe.credit.critic
            self.critic = ValueModel.build(config, self.model, self.hyper.learning_rate, self.micro_tokens)

    def _frozen_copy(self) -> Policy:
        """pi_ref: the weights of now, never updated; of a model with an adapter, the model without it."""
        if has_adapter(self.model.hf):
            return BasePolicy(self.model, self.hyper.temperature)
        frozen = replace(self.model, hf=copy.deepcopy(self.model.hf).requires_grad_(False))
        return Policy(frozen, self.hyper.temperature)

    # -- the step ---------------------------------------------------------------------------------------------------
    def step(self, collected: Collected) -> StepResult:
        """One optimizer step's worth of answers becomes new parameters."""
        work = self.assess(collected)
        shaped, active = work.batch, work.active
        assert shaped.adv_BT is not None
        self.state = self.recipe.credit.observe(shaped)
        metrics = reference_metrics(shaped)
        before = self._some_weights()
        metrics |= advantage_metrics(shaped, len(active))
        metrics |= signal_metrics(collected.batch, shaped.adv_BT, work.dominated)
        if self.recipe.imitation:
            metrics["imitated_rows"] = float((right(shaped) & shaped.loss_mask_BT.any(1)).sum())
        with self.phase("update"):
            metrics |= self.learn_values(shaped)
            if len(active) == 0 or self._critic_warms_up():
                metrics |= {"grad_norm": 0.0, "update/steps": 0.0}
                self._forget_gradients()
            elif isinstance(self.recipe.update, GradientSteps):
                assert self.optimizer is not None
                scale, seed = self.hyper.rate(self.version), self.hyper.seed + self.version
                metrics["learning_rate"] = scale * self.hyper.learning_rate
                metrics |= gradient_steps(work, self.recipe.update, self.optimizer, self.hyper.clip_norm, scale, seed)
                metrics["grad_rms"] = metrics["grad_norm"] / math.sqrt(sum(p.numel() for p in self.parameters))
            else:
                metrics |= natural_step(work, self.recipe.update, self.parameters)
        self._adapt(metrics, shaped)
        self.version += 1
        pairs = zip(before, self._some_weights(), strict=True)
        metrics["update/changed"] = float(torch.cat([(a != b).float() for a, b in pairs]).mean())
        skipped = float(metrics["update/steps"] == 0)
        metrics |= {**work.drift.metrics(), "update/skipped": skipped, "kl_coef": self.state.kl_coef}
        return StepResult(metrics, shaped.adv_BT, *work.remembered())

    def assess(self, collected: Collected) -> Work:
        """What the step's answers are worth: their rewards as the recipe shapes them, and the advantages. Changes nothing."""
        with self.phase("logprob"):
            batch = self._prepare(collected.batch)
        shaped = self.recipe.kl.shape_reward(batch)
        adv_BT, dominated = advantages(self.recipe, batch, shaped)
        adv_BT = adv_BT.to(shaped.behavior_logp_BT.dtype)
        shaped = replace(shaped, adv_BT=adv_BT)
        return Work(
            self.recipe, self.policy, shaped, self._active(shaped, adv_BT), self.hyper.max_new_tokens, self.micro_tokens,
            self.reference, dominated,
        )  # fmt: skip

    def _some_weights(self) -> list[Tensor]:
        """About a thousand weights of every parameter: do they move at all, in the precision that they are kept in?"""
        flat = [p.detach().reshape(-1) for p in self.parameters]
        return [x[:: max(1, len(x) // 1000)].clone() for x in flat]

    def _prepare(self, batch: Batch) -> Batch:
        """Fill in what the recipe's parts need, all of it without gradient and before any update."""
        batch, needs, kl = replace(batch, state=self.state), self.recipe.needs, self.recipe.kl
        if kl.where == "reward" and kl.coef and self.model.hf.dtype != torch.float32:
            needs = needs | {"old_logp"}  # pi and pi_ref in the same numbers: the sampler's are others in low precision
        for need, prepare in PREPARED.items():
            if need in needs:
                batch = prepare(self, batch)
        return batch

    def logp(self, policy: Policy, batch: Batch) -> Tensor:
        """What `policy` says about a whole step, some rows at a time, in main memory: float32[B, T]."""
        return in_parts(batch.spoken, 4 * self.micro_tokens, lambda part: policy.score(part).logp_BT)

    def _active(self, batch: Batch, adv_BT: Tensor) -> Tensor:
        """Rows that can change the policy: those on which a term of J has a gradient, or will have once others moved it."""
        r, in_loss_B = self.recipe, batch.loss_mask_BT.any(1)
        acting_B = ((adv_BT != 0) & batch.loss_mask_BT).any(1)
        if r.imitation:
            acting_B = acting_B | (in_loss_B & right(batch))
        if r.entropy or (r.kl.where == "loss" and self.state.kl_coef):
            acting_B = in_loss_B
        leashed = self.state.trust_coef or r.surrogate.acts_without_advantage or not isinstance(r.update, GradientSteps)
        if leashed and acting_B.any():  # what holds the policy to pi_old has no gradient there
            acting_B = in_loss_B
        return acting_B.nonzero()[:, 0]

    def learn_values(self, batch: Batch) -> dict[str, float]:
        """One fit of the critic, if there is one, to a batch that `assess` has prepared."""
        if self.critic is None:
            return {}
        credit = self.recipe.credit
        assert isinstance(credit, Value) and batch.value_BT is not None
        valid_BT, target_BT = batch.mask_BT & batch.valid_B[:, None], credit.targets(batch)
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

    def _forget_gradients(self) -> None:
        for p in self.parameters:
            p.grad = None

    def _adapt(self, metrics: dict[str, float], batch: Batch) -> None:
        """Adaptive coefficients look at what the update did."""
        if "trust/kl" in metrics:
            self.state = self.recipe.trust.observe(self.state, metrics["trust/kl"])
            metrics["trust/coef"] = self.state.trust_coef
        if "kl" in metrics:
            answers = batch.mask_BT.shape[0]
            per_answer = metrics["kl"] * float(batch.mask_BT.sum()) / answers
            self.state = self.recipe.kl.observe(self.state, per_answer, answers)

    # -- what a checkpoint holds ------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Everything but the policy's weights, which are saved as a Hugging Face model."""
        critic = self.critic
        frozen = None if isinstance(self.reference, BasePolicy) else self.reference
        return {
            "version": self.version,
            "state": vars(self.state),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "reference": dict(frozen.model.hf.state_dict()) if frozen else None,
            "critic": None
            if critic is None
            else {
                "head": dict(critic.head.state_dict()),
                "trunk": None if critic.config.shared else trained_weights(critic.model.hf),
                "optimizer": critic.optimizer.state_dict(),
            },
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.version = int(saved["version"])
        self.state = State(**saved["state"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
        if self.reference is not None and saved["reference"] is not None:
            self.reference.model.hf.load_state_dict(saved["reference"])
        if self.critic is not None:
            self.critic.head.load_state_dict(saved["critic"]["head"])
            if saved["critic"]["trunk"] is not None:
                load_trained(self.critic.model.hf, saved["critic"]["trunk"])
            self.critic.optimizer.load_state_dict(saved["critic"]["optimizer"])


def advantages(recipe: Recipe, batch: Batch, shaped: Batch) -> tuple[Tensor, float | None]:
    """A = normalize(credit(r)), in the rewards' float64, 0 where the task's rewards show no difference: float64[B, T].

    batch: with the rewards as they were earned.  shaped: with a KL in them, where the recipe puts it there.
    Beside them the share of the prompts with a signal in which eps exceeds the std that it stands beside.
    """
    credit_BT, counted_BT = recipe.credit(shaped), shaped.mask_BT & shaped.valid_B[:, None]
    adv_BT = recipe.normalize(credit_BT, counted_BT, varies(batch))
    if batch.dull_B is not None:
        adv_BT = adv_BT.masked_fill(batch.dull_B[:, None], 0.0)
    groups, whole = recipe.credit.dominated(shaped), recipe.normalize.dominated(credit_BT, counted_BT)
    if groups is None:
        return adv_BT, None if whole is None else float(whole)
    return adv_BT, float(groups.double().mean()) if len(groups) else 0.0
