"""What makes a GRPOTrainer of TRL's one whose advantages and loss are those of a recipe.

TRL samples, calls the reward functions, scores tokens and steps; what the answers are worth is `rung.maths.assess`, and the loss
is -J of `rung.maths.objective`, its denominators counted over the whole optimizer step. Evaluations stay TRL's own.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from rung.errors import InputError
from rung.export.targets import refuse
from rung.maths.assess import assess
from rung.maths.objective import count, objective
from rung.maths.returns import outcome_to_token
from rung.recipes import Recipe
from rung.records import Batch, Scores, Totals

KEPT = ("group", "valid", "keep", "right", "truncated")  # of each row, from the rewards to the loss


_Trainer: Any = object  # TRL's, which a generated module names: rung itself does not ask for TRL


class RecipeTrainer(_Trainer):  # type: ignore[misc]
    """What stands before TRL's GRPOTrainer in the class of a generated module, which names the recipe. One process, text only."""

    recipe: ClassVar[Recipe]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse(self.recipe, "trl")
        wanted = {"beta": self.recipe.kl.coef, **self._updates()}
        found = {name: getattr(self.args, name) for name in wanted}
        steps, accumulated = self.args.steps_per_generation, self.args.gradient_accumulation_steps
        if found != wanted or steps % accumulated or steps // accumulated != self.recipe.update.cost().minibatches:
            raise InputError(
                f"{self.recipe.name} needs {wanted} and steps_per_generation = {self.recipe.update.cost().minibatches} * "
                f"gradient_accumulation_steps, but the config has {found}, {steps} and {accumulated}. Make it with config()."
            )
        if self.accelerator.num_processes > 1:
            raise InputError(
                f"{type(self).__name__} runs in one process, and this is one of {self.accelerator.num_processes}."
            )
        self._rewards: Tensor | None = None

    def _updates(self) -> dict[str, Any]:
        return {"num_iterations": self.recipe.update.cost().passes, "mask_truncated_completions": False}

    # -- what the answers are worth -----------------------------------------------------------------------------------
    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        self._rewards = super()._calculate_rewards(*args, **kwargs)
        return self._rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        out: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return out
        if "pixel_values" in out:
            raise InputError(f"{type(self).__name__} trains on text, and these prompts have images.")
        if "old_per_token_logps" not in out and self.recipe.kl.where == "reward" and self.recipe.kl.coef:
            out["old_per_token_logps"] = self._old_logp(out)
        batch = self._rewarded(out)
        out["advantages"] = assess(self.recipe, batch).batch.adv_BT
        return out | {f"rung_{name}": getattr(batch, f"{name}_B") for name in KEPT}

    @torch.no_grad()
    def _old_logp(self, out: dict[str, Any]) -> Tensor:
        logp_BT, _ = self._score(self.model, out, batch_size=self.args.per_device_train_batch_size)
        return logp_BT

    def _rewarded(self, out: dict[str, Any]) -> Batch:
        """The whole generation with its rewards; the answers to one prompt lie one below the other."""
        assert self._rewards is not None, "TRL asks for rewards before it scores"
        mask_BT, ids_BT = _mask(out), out["completion_ids"]
        weighted = self._rewards.double() * self.reward_weights.to(self._rewards.device).double()
        reward_B = weighted.nansum(1).masked_fill(self._rewards.isnan().all(1), torch.nan)
        ends = torch.tensor([*self.eos_token_ids, self._tokenizer.pad_token_id], device=ids_BT.device)
        last_B = (out["completion_mask"].sum(1) - 1).clamp(min=0)
        truncated_B = ~torch.isin(ids_BT.gather(1, last_B[:, None])[:, 0], ends)
        fine_B = torch.zeros_like(reward_B)
        if self.recipe.data.overlong is not None:
            lengths = mask_BT.sum(1).tolist()
            fines = [self.recipe.data.overlong(n, self.max_completion_length) for n in lengths]
            fine_B = torch.tensor(fines, dtype=reward_B.dtype, device=reward_B.device)
        old_BT = out.get("old_per_token_logps", torch.zeros(mask_BT.shape, device=mask_BT.device))
        return Batch(
            reward_BT=outcome_to_token((reward_B + fine_B).nan_to_num(0.0), mask_BT),
            mask_BT=mask_BT,
            group_B=torch.arange(len(mask_BT), device=mask_BT.device) // self.num_generations,
            valid_B=reward_B.isfinite() & mask_BT.any(1),
            keep_B=~truncated_B if self.recipe.data.drop_truncated else torch.ones_like(truncated_B),
            truncated_B=truncated_B,
            right_B=reward_B.nan_to_num(0.0) > 0,
            behavior_logp_BT=old_BT,
            old_logp_BT=old_BT,
            ref_logp_BT=out.get("ref_per_token_logps"),
            state=self.recipe.initial_state(),
        )

    # -- the loss -----------------------------------------------------------------------------------------------------
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if not self.model.training:
            loss: Tensor = super()._compute_loss(model, inputs)
            return loss
        logp_BT, entropy_BT = self._score(model, inputs, compute_entropy=True)
        batch = self._row(inputs, logp_BT)
        J = objective(self.recipe, batch, Scores(logp_BT, entropy_BT), inputs["advantages"], self._totals())
        mean = (entropy_BT.detach() * batch.mask_BT).sum() / batch.mask_BT.sum().clamp(min=1)
        self._metrics["train"]["entropy"].append(float(mean))
        return -J

    def _row(self, inputs: dict[str, Any], logp_BT: Tensor) -> Batch:
        """A micro-batch. Where TRL keeps no log-probabilities of the old policy, it is the policy of now."""
        kept: dict[str, Any] = {f"{name}_B": inputs[f"rung_{name}"] for name in KEPT}
        old_BT = inputs.get("old_per_token_logps")
        old_BT = logp_BT.detach() if old_BT is None else old_BT
        sampled_BT = inputs.get("sampling_per_token_logps")
        sampled_BT = old_BT if sampled_BT is None else torch.where(sampled_BT.isnan(), old_BT, sampled_BT)
        return Batch(
            reward_BT=torch.zeros_like(logp_BT, dtype=torch.float64), mask_BT=_mask(inputs), behavior_logp_BT=sampled_BT,
            old_logp_BT=old_BT, ref_logp_BT=inputs.get("ref_per_token_logps"), state=self.recipe.initial_state(), **kept,
        )  # fmt: skip

    def _totals(self) -> Totals:
        """The denominators of the optimizer step that this micro-batch is a part of."""
        at = self._step % self.args.steps_per_generation
        first = at - at % self.args.gradient_accumulation_steps
        parts = self._buffered_inputs[first : first + self.current_gradient_accumulation_steps]
        kept: dict[str, Any] = {f"{name}_B": torch.cat([part[f"rung_{name}"] for part in parts]) for name in KEPT}
        mask_BT = torch.cat([_mask(part) for part in parts])
        nothing_BT = torch.zeros(mask_BT.shape, device=mask_BT.device)
        whole = Batch(
            reward_BT=nothing_BT, mask_BT=mask_BT, behavior_logp_BT=nothing_BT, old_logp_BT=nothing_BT, **kept
        )
        return count(whole, self.max_completion_length)

    def _score(self, model: Any, inputs: dict[str, Any], **options: Any) -> tuple[Tensor, Tensor]:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        width = inputs["completion_ids"].shape[1]
        logp_BT, entropy_BT, _ = self._get_per_token_logps_and_entropies(model, ids, seen, width, **options)
        return logp_BT, entropy_BT


def _mask(inputs: dict[str, Any]) -> Tensor:
    """The tokens that the policy sampled: bool[B, T]."""
    mask_BT: Tensor = inputs["completion_mask"].bool()
    return mask_BT & inputs["tool_mask"].bool() if "tool_mask" in inputs else mask_BT
