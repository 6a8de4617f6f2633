"""TRL's GRPOConfig and RLOOConfig as settings of rung.train and parts of a recipe."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from rung.compat import fields as table
from rung.compat import objective
from rung.io.trackers import TRACKERS
from rung.settings.paths import path_of

SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": None,
    "constant_with_warmup": None,
}  # how the rate falls
WHEN = ("steps", "epoch", "no")

_Untranslated: Any = dataclasses.make_dataclass(
    "_Untranslated", [(name, Any, field(default=value)) for name, value in table.defaults().items()], kw_only=True
)


@dataclass(init=False)
class GRPOConfig(_Untranslated):  # type: ignore[misc]
    """TRL's GRPOConfig with TRL's defaults, as far as it is translated; arguments that are not stand in fields.py.

    bf16, gradient_checkpointing: None: not set; TRL then takes True, rung False, and says so.
    """

    output_dir: str | None = None
    max_steps: int = -1
    num_train_epochs: float = 3.0
    learning_rate: float = 1e-6
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    steps_per_generation: int | None = None
    generation_batch_size: int | None = None
    num_generations: int = 8
    num_generations_eval: int | None = None
    max_completion_length: int = 512
    temperature: float = 1.0
    chat_template_kwargs: Mapping[str, Any] | None = None
    generation_kwargs: Mapping[str, Any] | None = None
    model_init_kwargs: Mapping[str, Any] | None = None
    beta: float = 0.0
    use_bias_correction_kl: bool = True
    epsilon: float = 0.2
    epsilon_high: float | None = None
    num_iterations: int = 1
    loss_type: str = "dapo"
    scale_rewards: str | bool = "group"
    importance_sampling_level: str = "token"
    mask_truncated_completions: bool = False
    delta: float | None = None
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    off_policy_mask_threshold: float | None = None
    reward_weights: Sequence[float] | None = None
    max_tool_calling_iterations: int | None = None
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    optim: str = "adamw_torch_fused"
    warmup_steps: float = 0
    lr_scheduler_type: str = "linear"
    eval_strategy: str = "no"
    eval_steps: float | None = None
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    save_strategy: str = "steps"
    save_steps: float = 500
    save_total_limit: int | None = None
    report_to: str | Sequence[str] | None = "none"
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_token: str | None = None
    hub_private_repo: bool | None = None
    seed: int = 42
    bf16: bool | None = None
    gradient_checkpointing: bool | None = None
    trust_remote_code: bool = False

    recipe: ClassVar[str] = "grpo"
    ABSENT: ClassVar[tuple[str, ...]] = ("reward_clip_range", "normalize_advantages")  # in this config of TRL's

    def __init__(self, output_dir: str | None = None, **arguments: Any) -> None:
        given, said = table.renamed({**({} if output_dir is None else {"output_dir": output_dir}), **arguments})
        for f in fields(self):
            setattr(self, f.name, given.get(f.name, f.default))
        self._settle(given, said)

    def __post_init__(self) -> None:
        """Where a script's own dataclass inherits: what differs from TRL's defaults was given."""
        self._settle({f.name: v for f in fields(type(self)._ours()) if (v := getattr(self, f.name)) != f.default}, [])

    @classmethod
    def _ours(cls) -> Any:
        return next(c for c in cls.__mro__ if c.__module__ == __name__)

    def _settle(self, given: Mapping[str, Any], said: list[str]) -> None:
        for name in table.DICTS:
            value = getattr(self, name)
            setattr(self, name, table.from_text(name, value) if isinstance(value, str) else value)
        for name in (
            "lr_scheduler_type",
            "optim",
            "eval_strategy",
            "save_strategy",
        ):  # may be enumerations of transformers'
            value = getattr(self, name)
            setattr(self, name, getattr(value, "value", value))
        found = self._ours().strange({name: getattr(self, name, value) for name, value in given.items()})
        sound = not table.of_another_type(self.to_dict())
        table.refuse(type(self).__name__, [*found, *(self.misfits() if sound else [])] if found else [])
        if self.metric_for_best_model is not None and self.greater_is_better is None:  # as transformers settles it
            self.greater_is_better = not self.metric_for_best_model.endswith("loss")
        self.notes = [*said, *table.notes(given), *self._noted()]
        self.notes += [] if self.misfits() else objective.differences(self)

    @classmethod
    def strange(cls, given: Mapping[str, Any]) -> list[str]:
        """A sentence for each argument that this config of TRL's has not, or whose value is not taken or of another type."""
        ours = {f.name for f in fields(cls)} - set(cls.ABSENT)
        found = table.refusals({n: v for n, v in given.items() if n not in ours or n in table.ONLY}, ours)
        return [*found, *table.of_another_type(given)]

    def _noted(self) -> list[str]:
        found, other = [], set(self.trackers()) - set(TRACKERS)
        if other:
            found.append(f"report_to={self.report_to!r}: no tracker of rung's; metrics.jsonl is written in any case")
        if self.optim in table.SMALL_ADAMW:
            found.append(f"optim={self.optim!r}: AdamW with 32-bit state, on the device")
        init = [name for name in self.model_init_kwargs or {} if name in table.INIT_NOTED]
        if init:
            found.append(f"no effect here: model_init_kwargs with {', '.join(init)} (rung loads the model itself)")
        if self._init_dtype() not in ("auto", "float32", "bfloat16"):
            found.append("rung computes in float32 or, with bf16=True, in bfloat16; never in float16")
        return found

    def _init_dtype(self) -> str:
        init = self.model_init_kwargs or {}
        return str(init.get("dtype", init.get("torch_dtype", "auto"))).removeprefix("torch.")

    def trackers(self) -> list[str]:
        names = [self.report_to] if isinstance(self.report_to, str) else list(self.report_to or [])
        return [name for name in names if name != "none"]

    # -- what cannot be translated ------------------------------------------------------------------------------------
    def misfits(self) -> list[str]:
        """A sentence for each value that cannot be translated."""
        found = [
            f"{name}={getattr(self, name)!r}: only {', '.join(map(repr, choices))} are translated."
            for name, choices in (
                *objective.CHOICES, ("lr_scheduler_type", SCHEDULES), ("save_strategy", WHEN), ("eval_strategy", WHEN),
                ("optim", (*table.ADAMW, *table.SMALL_ADAMW)),
            ) if getattr(self, name) not in tuple(choices)
        ]  # fmt: skip
        init = self.model_init_kwargs or {}
        known = {*table.INIT_NOTED, "dtype", "torch_dtype", "trust_remote_code"}
        if init.get("revision") not in (None, "main"):
            known.discard("revision")
        found += [
            f"model_init_kwargs with {n}={v!r}: rung loads the model itself." for n, v in init.items() if n not in known
        ]
        later = {name: getattr(self, name) for name in table.ONLY}  # a script may set them on the finished config
        found += table.refusals(later, ())
        found += table.generation(self.generation_kwargs or {}, self.temperature)
        return found + (table.no_numbers(self.to_dict()) or [*objective.misfits(self), *self._batch_misfits()])

    def _batch_misfits(self) -> list[str]:
        found, answers = [], self.answers
        if self.steps_per_generation and self.generation_batch_size:
            found.append("steps_per_generation and generation_batch_size say the same: give one.")
        if answers % self.num_generations:
            found.append(
                f"per_device_train_batch_size * gradient_accumulation_steps = {answers} answers a step are not a multiple of "
                f"num_generations = {self.num_generations}."
            )
        if max(self._rounds, self.gradient_accumulation_steps) % min(self._rounds, self.gradient_accumulation_steps):
            found.append(
                f"steps_per_generation = {self._rounds} and gradient_accumulation_steps = {self.gradient_accumulation_steps}: "
                "one must be a multiple of the other."
            )
        if self.max_steps < 1 and self.num_train_epochs <= 0:
            found.append(
                f"max_steps={self.max_steps} and num_train_epochs={self.num_train_epochs}: no step would be taken."
            )
        return found

    # -- batch arithmetic ---------------------------------------------------------------------------------------------
    @property
    def _rounds(self) -> int:
        """Micro-batches of one generation."""
        batch = self.generation_batch_size
        return max(
            1,
            batch // self.per_device_train_batch_size
            if batch
            else self.steps_per_generation or self.gradient_accumulation_steps,
        )

    @property
    def answers(self) -> int:
        """Answers that one step of rung's samples: those of a generation of TRL's, at least of an optimizer step."""
        return self.per_device_train_batch_size * max(self._rounds, self.gradient_accumulation_steps)

    @property
    def minibatches(self) -> int:
        return max(1, self._rounds // self.gradient_accumulation_steps)

    @property
    def updates(self) -> int:
        """Optimizer steps, which TRL counts, of one step of rung's."""
        return self.minibatches * self.num_iterations

    def steps(self, problems: int) -> int:
        if self.max_steps > 0:
            return math.ceil(self.max_steps / self.updates)
        return math.ceil(self.num_train_epochs * self.per_epoch(problems))

    def per_epoch(self, problems: int) -> int:
        return max(1, problems * self.num_generations // self.answers)

    def _every(self, strategy: str, count: float | None, steps: int, problems: int) -> int:
        """Steps between two evaluations or checkpoints; below 1 the count is a share of the run."""
        if strategy == "no":
            return 0
        if strategy == "epoch":
            return self.per_epoch(problems)
        count = self.logging_steps if count is None else count
        return _share(count, steps) if count < 1 else math.ceil(count / self.updates)

    # -- the translation ----------------------------------------------------------------------------------------------
    def settings(self, problems: int = 1) -> dict[str, Any]:
        """The same as settings of rung.train, for a task of this many problems."""
        table.refuse(type(self).__name__, self.misfits())
        steps, init = self.steps(problems), self.model_init_kwargs or {}
        warmup = 0 if self.lr_scheduler_type == "constant" else self._warmup(steps)
        falls = SCHEDULES[self.lr_scheduler_type]
        low = self.bf16 or self._init_dtype() == "bfloat16"
        turns = {} if self.max_tool_calling_iterations is None else {"max_turns": self.max_tool_calling_iterations + 1}
        return {
            "recipe": self.recipe,
            "overrides": self.overrides(),
            "steps": steps,
            "prompts_per_step": self.answers // self.num_generations,
            "samples_per_prompt": self.num_generations,
            "max_new_tokens": (self.generation_kwargs or {}).get("max_new_tokens", self.max_completion_length),
            "temperature": self.temperature,
            "template_options": dict(self.chat_template_kwargs or {}),
            "learning_rate": self.learning_rate,
            "warmup_steps": warmup,
            "decay_steps": max(0, steps - warmup) if falls else 0,
            "decay_shape": falls or "linear",
            "weight_decay": self.weight_decay,
            "adam_beta1": self.adam_beta1,
            "adam_beta2": self.adam_beta2,
            "adam_epsilon": self.adam_epsilon,
            "clip_norm": self.max_grad_norm,
            "eval_every": self._every(self.eval_strategy, self.eval_steps, steps, problems),
            "save_every": self._every(self.save_strategy, self.save_steps, steps, problems),
            "keep_last": max(0, self.save_total_limit or 0),
            "seed": self.seed,
            "dtype": "bfloat16" if low else "float32",
            "gradient_checkpointing": bool(self.gradient_checkpointing),
            "trust_remote_code": self.trust_remote_code or bool(init.get("trust_remote_code")),
            "tracker": next((name for name in self.trackers() if name in TRACKERS), "none"),
            **turns,
            **({"eval_samples": self.num_generations_eval} if self.num_generations_eval else {}),
            **({"out": path_of(self.output_dir)} if self.output_dir else {}),
        }

    def _warmup(self, steps: int) -> int:
        return (
            _share(self.warmup_steps, steps) if self.warmup_steps < 1 else math.ceil(self.warmup_steps / self.updates)
        )

    def overrides(self) -> dict[str, Any]:
        """Parts of the recipe that the arguments change."""
        table.refuse(type(self).__name__, self.misfits())
        return objective.grpo(self)

    def to_dict(self) -> dict[str, Any]:
        """Every argument with its value."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    to_sanitized_dict = to_dict


@dataclass(init=False)
class RLOOConfig(GRPOConfig):
    """TRL's RLOOConfig: the recipe rloo with the ratio of the whole answer and its clip."""

    num_generations: int = 2
    beta: float = 0.05

    recipe: ClassVar[str] = "rloo"
    ABSENT: ClassVar[tuple[str, ...]] = (
        "use_bias_correction_kl", "loss_type", "scale_rewards", "importance_sampling_level", "max_tool_calling_iterations",
        "delta", "sapo_temperature_pos", "sapo_temperature_neg", "off_policy_mask_threshold",
    )  # fmt: skip

    def overrides(self) -> dict[str, Any]:
        table.refuse(type(self).__name__, self.misfits())
        return objective.rloo(self)


def _share(value: float, of: int) -> int:
    return math.ceil(of * value)
