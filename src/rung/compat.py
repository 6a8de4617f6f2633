"""TRL's names for a script that is being ported: `from rung.compat import GRPOConfig, GRPOTrainer`.

Each documented argument is translated into a setting or a part of a recipe; an argument that is not translated is
refused by name, never ignored. docs/port_from_trl.md lists both kinds and what differs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from rung.errors import InputError, unknown
from rung.records import Group, Task
from rung.tasks.adapters import Rewarded
from rung.tasks.environment import Splits
from rung.tasks.environments import with_tools

HELD_OUT = 8  # without an eval_dataset every eighth row is for the evaluations before and after
SCHEDULES = {"linear": True, "constant": False, "constant_with_warmup": False}  # whether the learning rate falls
AGGREGATES = {"grpo": "SequenceMean", "bnpo": "TokenMean", "dapo": "TokenMean", "dr_grpo": "FixedBudget"}
SCALES = {"group": "group", "batch": "batch", "none": "none", True: "group", False: "none"}
RATIOS = {"token": "TokenRatio", "sequence": "SequenceRatio"}
# What rung does anyway, or has no counterpart for: accepted with these values only.
FIXED: Mapping[str, tuple[Any, ...]] = {
    "report_to": ("none", None, []),
    "remove_unused_columns": (False,),
    "disable_dropout": (True,),
    "shuffle_dataset": (True,),
    "use_vllm": (False,),
}
UNUSED = ("logging_steps", "logging_first_step", "log_completions", "run_name", "disable_tqdm")  # only what is shown


@dataclass(init=False)
class GRPOConfig:
    """TRL's GRPOConfig as far as it is understood, with TRL's defaults. `max_steps` must be given."""

    output_dir: str | None = None
    max_steps: int = -1
    learning_rate: float = 1e-6
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    num_generations: int = 8
    max_completion_length: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    beta: float = 0.0
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
    warmup_steps: int = 0
    lr_scheduler_type: Literal["linear", "constant", "constant_with_warmup"] = "linear"
    save_steps: int = 500
    seed: int = 42
    bf16: bool = False
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    chat_template_kwargs: Mapping[str, Any] | None = None

    def __init__(self, **arguments: Any) -> None:
        known = {f.name: f.default for f in fields(self)}
        for name, value in arguments.items():
            if name in FIXED and value not in FIXED[name]:
                raise InputError(f"GRPOConfig({name}={value!r}): rung supports only {name} = {FIXED[name][0]!r}.")
            if name not in known and name not in FIXED and name not in UNUSED:
                raise unknown("argument of rung.compat.GRPOConfig", name, known, more=" See docs/port_from_trl.md.")
        for name, default in known.items():
            setattr(self, name, arguments.get(name, default))

    def settings(self) -> dict[str, Any]:
        """The same as settings of rung.train."""
        answers = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if answers % self.num_generations:
            raise InputError(
                f"per_device_train_batch_size * gradient_accumulation_steps = {answers} answers a step are not a multiple of "
                f"num_generations = {self.num_generations}."
            )
        if self.max_steps < 1:
            raise InputError("GRPOConfig(max_steps=...) must say how many steps to train; epochs are not translated.")
        falls = _choice("lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
        turns = {} if self.max_tool_calling_iterations is None else {"max_turns": self.max_tool_calling_iterations + 1}
        return {
            "recipe": "grpo",
            "overrides": self.overrides(),
            "steps": self.max_steps,
            "prompts_per_step": answers // self.num_generations,
            "samples_per_prompt": self.num_generations,
            "max_new_tokens": self.max_completion_length,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "decay_steps": max(0, self.max_steps - self.warmup_steps) if falls else 0,
            "weight_decay": self.weight_decay,
            "clip_norm": self.max_grad_norm,
            "save_every": self.save_steps,
            "seed": self.seed,
            "dtype": "bfloat16" if self.bf16 else "float32",
            "gradient_checkpointing": self.gradient_checkpointing,
            "trust_remote_code": self.trust_remote_code,
            "template_options": dict(self.chat_template_kwargs or {}),
            **turns,
            **({"out": Path(self.output_dir)} if self.output_dir else {}),
        }

    def overrides(self) -> dict[str, Any]:
        """Parts of the recipe GRPO that the arguments change."""
        return {
            "aggregate": _choice("loss_type", self.loss_type, AGGREGATES),
            "credit.scale": _choice("scale_rewards", self.scale_rewards, SCALES),
            "ratio": _choice("importance_sampling_level", self.importance_sampling_level, RATIOS),
            "surrogate.low": self.epsilon,
            "surrogate.high": self.epsilon if self.epsilon_high is None else self.epsilon_high,
            **({"kl.coef": self.beta} if self.beta else {"kl": "NoKL"}),
            "update.epochs": self.num_iterations,
            "data.drop_truncated": self.mask_truncated_completions,
        }


class GRPOTrainer:
    """TRL's GRPOTrainer: `train()` returns a rung Run, `save_model(DIR)` copies the trained model."""

    def __init__(
        self,
        model: str,
        reward_funcs: Callable[..., Any] | Sequence[Callable[..., Any]] = (),
        args: GRPOConfig | None = None,
        train_dataset: Sequence[Mapping[str, Any]] | None = None,
        eval_dataset: Sequence[Mapping[str, Any]] | None = None,
        peft_config: Any = None,
        environment_factory: Callable[[], Any] | None = None,
        **others: Any,
    ) -> None:
        for name, value in others.items():
            if value is not None:
                raise unknown("argument of rung.compat.GRPOTrainer", name, ["reward_funcs", "args", "train_dataset"])
        if not isinstance(model, str):
            raise InputError("GRPOTrainer(model=...): give the model's directory or hub id; rung loads it itself.")
        if train_dataset is None:
            raise InputError(
                "GRPOTrainer(train_dataset=...) is missing; rows that an environment makes are not translated."
            )
        self.args = args or GRPOConfig()
        judges = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
        if not judges and environment_factory is None:
            raise InputError("GRPOTrainer needs reward_funcs, or an environment_factory whose class has get_reward.")
        if not all(map(callable, judges)):
            raise InputError("GRPOTrainer(reward_funcs=...): only functions are supported, not reward models.")
        weights = list(self.args.reward_weights or [1.0] * len(judges))
        if len(weights) != len(judges):
            raise InputError(f"reward_weights has {len(weights)} numbers for {len(judges)} reward functions.")
        rows = list(train_dataset)
        held_out = list(eval_dataset) if eval_dataset is not None else rows[::HELD_OUT]
        kept = rows if eval_dataset is not None else [r for i, r in enumerate(rows) if i % HELD_OUT]
        sides = [_Judged(_tasks(x, n), judges, weights) for x, n in ((kept, "train"), (held_out, "eval"))]
        splits = Splits("python", sides[0], sides[1])
        self.splits = (
            splits if environment_factory is None else with_tools(environment_factory, splits, judge=bool(judges))
        )
        self.settings = {**self.args.settings(), "model": model, **_lora(peft_config)}
        self.run: Any = None

    def train(self) -> Any:
        from rung.train.config import TrainConfig, checked
        from rung.train.loop import train

        settings = checked({"task": f"python:{self.splits.name}", **self.settings})
        self.run = train(TrainConfig(**settings), splits=self.splits)
        return self.run

    def save_model(self, directory: str | Path) -> None:
        from rung.io.run_dir import RunDir

        if self.run is None:
            raise InputError("save_model: there is nothing to save before train().")
        source = RunDir.open(self.run.path).model_path()
        shutil.copytree(source, directory, ignore=shutil.ignore_patterns("state.*", "COMPLETE"))


@dataclass(frozen=True)
class _Judged:
    """Rows judged by several functions, each reward times its weight."""

    tasks: Sequence[Task]
    judges: Sequence[Callable[..., Any]]
    weights: Sequence[float] = field(default_factory=tuple)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Task:
        return self.tasks[index]

    def score(self, group: Group) -> list[dict[str, float]]:
        out: list[dict[str, float]] = [{} for _ in group.completions]
        for i, (judge, weight) in enumerate(zip(self.judges, self.weights, strict=True)):
            for parts, scored in zip(out, Rewarded(self, judge).score(group), strict=True):
                for name, value in scored.items():
                    parts[f"{name}_{i}" if name in parts else name] = weight * value
        return out


def _tasks(rows: Sequence[Mapping[str, Any]], split: str) -> list[Task]:
    for i, row in enumerate(rows):
        if "prompt" not in row:
            raise unknown(f"column of row {i}:", "prompt", row)
    return [Task(f"{split}/{i}", row["prompt"], dict(row)) for i, row in enumerate(rows)]


def _lora(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    targets = config.target_modules or "all-linear"
    for name, off in (("lora_dropout", 0.0), ("bias", "none"), ("modules_to_save", None), ("use_dora", False)):
        if getattr(config, name, off) != off:
            raise InputError(f"peft_config with {name}={getattr(config, name)!r}: rung supports only {off!r}.")
    names = targets if isinstance(targets, str) else ",".join(sorted(targets))
    return {"lora_rank": config.r, "lora_alpha": float(config.lora_alpha), "lora_targets": names}


def _choice(name: str, value: Any, known: Mapping[Any, Any]) -> Any:
    if value not in known:
        raise unknown(f"value of {name}", str(value), [str(k) for k in known])
    return known[value]
