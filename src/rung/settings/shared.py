"""The settings that commands share: which problems are asked and who judges them, and which weights are trained."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from rung.errors import InputError, setting
from rung.settings.ranges import Hidden, Natural, Positive

COLUMNS = (
    "prompt_column",
    "answer_column",
    "verifier",
)  # settings of rows, which a part of a mixture has among its options


@dataclass(frozen=True, kw_only=True)
class Problems:
    """Fields of every command's flags (and of TrainConfig) that say what is asked and who judges the answers."""

    task: str | None = None
    """a task's name or a .jsonl/.csv/.parquet file; None: the run's own, else the model's usual task"""
    task_path: Path | None = None
    """data of a task that has none of its own (gsm8k)"""
    prompt_column: str | None = None
    """of rows: the column of the question, with dots into it; None: found (docs/tasks.md)"""
    answer_column: str | None = None
    """of rows: the column of the answer, likewise; None: found"""
    verifier: str | None = None
    """of rows: exact, numeric, choice, math or code; None: the one that fits the answers"""
    reward: str | None = None
    """FILE.py:NAME, a reward function instead of the verifier: f(prompts, completions, **columns) -> list of floats,
    called once a prompt, with all answers to it"""
    reward_deadline: Positive = 600.0
    """seconds that a reward function may take for all answers to one problem"""
    environment: str | None = None
    """FILE.py:NAME or gymnasium:ID, what the model talks to in several turns (docs/environments.md)"""
    system: str | None = None
    """a system message before each problem, which becomes a conversation if it is plain text"""
    chat: bool | None = None
    """make a problem of plain text one message of the user, for the model's chat template; None: the run's own, else not"""
    prompt_template: str | None = None
    """words around a problem of plain text, which stands in them as {prompt}"""
    task_options: Hidden[dict[str, Any]] = field(default_factory=dict)
    """settings of the task itself, e.g. min_digits=2"""
    template_options: Hidden[dict[str, Any]] = field(default_factory=dict)
    """arguments of the model's chat template, e.g. enable_thinking=False"""

    def options(self) -> dict[str, Any]:
        """The task's own settings, with those of rows among them."""
        named = {name: value for name in COLUMNS if (value := getattr(self, name)) is not None}
        for name, value in named.items():
            other = self.task_options.get(name, value)
            if other != value:
                raise InputError(
                    f"{setting(name, value)} and {setting(f'task_options.{name}', other)} contradict each other. Give one."
                )
        if self.reward is not None and self.reward_deadline != Problems.reward_deadline:
            named["reward_deadline"] = self.reward_deadline
        return {**self.task_options, **named}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Fields of the flags of train, plan, ladder and variance."""

    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """what the model computes in; the weights that an update moves are float32 either way; auto: what this machine is faster in"""
    trainable: str | None = None
    """regular expression: only parameters whose name it finds are trained (a subset keeps trpo small); None: all"""
    lora_rank: Natural = 0
    """train a LoRA adapter of this rank, nothing else; 0: the model's own weights"""
    lora_alpha: Positive | None = None
    """scale of the adapter, alpha / rank; None: 2 * rank"""
    lora_targets: str = "all-linear"
    """layers that get an adapter: all-linear, or names separated by commas (q_proj,v_proj)"""
    gradient_checkpointing: bool = False
    """compute each layer again in the backward instead of keeping its activations: slower, much less memory"""
    trust_remote_code: bool = False
    """run code that comes with a model; off unless you say so"""

    def trained_names(self) -> re.Pattern[str] | None:
        """The pattern of --trainable; None: every parameter is trained."""
        try:
            return None if self.trainable is None else re.compile(self.trainable)
        except re.error as error:
            raise InputError(f"{setting('trainable', self.trainable)} is not a regular expression: {error}.") from error


def settings_of(record: Any, kind: Any) -> dict[str, Any]:
    """The fields of `kind` that the record has, as keyword arguments."""
    return {f.name: getattr(record, f.name) for f in fields(kind)}


def given(record: Any, kind: Any) -> dict[str, Any]:
    """The same without those that are as they are where nobody says anything."""
    usual: Mapping[str, Any] = settings_of(kind(), kind)
    return {name: value for name, value in settings_of(record, kind).items() if value != usual[name]}


def as_typed(settings: Mapping[str, Any]) -> str:
    """The settings as flags, with a space in front of each."""
    words = []
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, Mapping):
            words += [
                f"{flag}.{key} {shlex.quote(x if isinstance(x, str) else json.dumps(x))}" for key, x in value.items()
            ]
        else:
            words.append(_switched(flag, value) if isinstance(value, bool) else f"{flag} {shlex.quote(str(value))}")
    return "".join(f" {word}" for word in words)


def _switched(flag: str, value: bool) -> str:
    return flag if value else flag.replace("--", "--no-", 1)
