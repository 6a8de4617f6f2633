"""TRL's GRPOConfig as settings of rung.train and parts of the recipe GRPO."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from rung.compat.fields import notes, refusals, refuse

SCHEDULES = {"linear": True, "constant": False, "constant_with_warmup": False}  # whether the learning rate falls
AGGREGATES = {"grpo": "SequenceMean", "bnpo": "TokenMean", "dapo": "TokenMean", "dr_grpo": "FixedBudget"}
SCALES = {"group": "group", "batch": "batch", "none": "none", True: "group", False: "none"}
RATIOS = {"token": "TokenRatio", "sequence": "SequenceRatio"}
SAVES = {"steps": True, "no": False}


@dataclass(init=False)
class GRPOConfig:
    """TRL's GRPOConfig as far as it is translated, with TRL's defaults. `max_steps` must be given.

    bf16, gradient_checkpointing: None: not set; TRL then takes True, rung False, and says so.
    """

    output_dir: str | None = None
    max_steps: int = -1
    learning_rate: float = 1e-6
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    num_generations: int = 8
    max_completion_length: int = 512
    temperature: float = 1.0
    chat_template_kwargs: Mapping[str, Any] | None = None
    beta: float = 0.0
    use_bias_correction_kl: bool = True
    epsilon: float = 0.2
    epsilon_high: float | None = None
    num_iterations: int = 1
    loss_type: Literal["grpo", "bnpo", "dapo", "dr_grpo"] = "dapo"
    scale_rewards: str | bool = "group"
    importance_sampling_level: Literal["token", "sequence"] = "token"
    mask_truncated_completions: bool = False
    reward_weights: Sequence[float] | None = None
    max_tool_calling_iterations: int | None = None
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    warmup_steps: float = 0
    lr_scheduler_type: Literal["linear", "constant", "constant_with_warmup"] = "linear"
    save_strategy: Literal["steps", "no"] = "steps"
    save_steps: float = 500
    seed: int = 42
    bf16: bool | None = None
    gradient_checkpointing: bool | None = None
    trust_remote_code: bool = False

    def __init__(self, output_dir: str | None = None, **arguments: Any) -> None:
        known = {f.name: f.default for f in fields(self)}
        refuse("GRPOConfig", refusals(arguments, known))
        self.notes = notes(arguments)
        for name, default in {**known, "output_dir": output_dir}.items():
            setattr(self, name, arguments.get(name, default))

    def misfits(self) -> list[str]:
        """A sentence for each value that cannot be translated."""
        found = [
            f"{name}={getattr(self, name)!r}: only {', '.join(map(repr, choices))} are translated."
            for name, choices in (
                ("loss_type", AGGREGATES), ("scale_rewards", SCALES), ("importance_sampling_level", RATIOS),
                ("lr_scheduler_type", SCHEDULES), ("save_strategy", SAVES),
            ) if getattr(self, name) not in choices
        ]  # fmt: skip
        answers = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if answers % self.num_generations:
            found.append(
                f"per_device_train_batch_size * gradient_accumulation_steps = {answers} answers a step are not a multiple of "
                f"num_generations = {self.num_generations}."
            )
        if self.max_steps < 1:
            found.append(f"max_steps={self.max_steps}: say how many steps to train; epochs are not translated.")
        return found

    def settings(self) -> dict[str, Any]:
        """The same as settings of rung.train."""
        refuse("GRPOConfig", self.misfits())
        warmup = _steps(self.warmup_steps, self.max_steps)
        turns = {} if self.max_tool_calling_iterations is None else {"max_turns": self.max_tool_calling_iterations + 1}
        return {
            "recipe": "grpo",
            "overrides": self.overrides(),
            "steps": self.max_steps,
            "prompts_per_step": self.per_device_train_batch_size
            * self.gradient_accumulation_steps
            // self.num_generations,
            "samples_per_prompt": self.num_generations,
            "max_new_tokens": self.max_completion_length,
            "temperature": self.temperature,
            "template_options": dict(self.chat_template_kwargs or {}),
            "learning_rate": self.learning_rate,
            "warmup_steps": warmup,
            "decay_steps": max(0, self.max_steps - warmup) if SCHEDULES[self.lr_scheduler_type] else 0,
            "weight_decay": self.weight_decay,
            "clip_norm": self.max_grad_norm,
            "save_every": _steps(self.save_steps, self.max_steps) if SAVES[self.save_strategy] else 0,
            "seed": self.seed,
            "dtype": "bfloat16" if self.bf16 else "float32",
            "gradient_checkpointing": bool(self.gradient_checkpointing),
            "trust_remote_code": self.trust_remote_code,
            **turns,
            **({"out": Path(self.output_dir)} if self.output_dir else {}),
        }

    def overrides(self) -> dict[str, Any]:
        """Parts of the recipe GRPO that the arguments change."""
        refuse("GRPOConfig", [line for line in self.misfits() if not line.startswith("max_steps")])
        return {
            "aggregate": AGGREGATES[self.loss_type],
            "credit.scale": SCALES[self.scale_rewards],
            "ratio": RATIOS[self.importance_sampling_level],
            "surrogate.low": self.epsilon,
            "surrogate.high": self.epsilon if self.epsilon_high is None else self.epsilon_high,
            "kl": ("RatioK3" if self.use_bias_correction_kl else "K3") if self.beta else "NoKL",
            **({"kl.coef": self.beta} if self.beta else {}),
            "update.epochs": self.num_iterations,
            "data.drop_truncated": self.mask_truncated_completions,
        }


def _steps(value: float, of: int) -> int:
    """A number of steps; below 1 it is a share of all of them."""
    return int(value) if value >= 1 or value == 0 else math.ceil(of * value)
