"""What TRL's scripts read their command line with: TrlParser, ModelConfig, ScriptArguments and what is made of them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Optional

from transformers import HfArgumentParser

from rung.advice import need
from rung.compat.config import GRPOConfig
from rung.compat.fields import DICTS
from rung.errors import InputError
from rung.settings.documents import from_yaml
from rung.settings.paths import path_of


@dataclass
class ScriptArguments:
    """Which rows a script trains on."""

    dataset_name: Optional[str] = None  # noqa: UP045  HfArgumentParser reads these annotations
    dataset_config: Optional[str] = None  # noqa: UP045
    dataset_train_split: str = "train"
    dataset_test_split: str = "test"
    dataset_streaming: bool = False
    ignore_bias_buffers: bool = False


@dataclass
class ModelConfig:
    """Which model a script trains, and with which adapter."""

    model_name_or_path: Optional[str] = None  # noqa: UP045
    model_revision: str = "main"
    dtype: Optional[str] = "float32"  # noqa: UP045
    attn_implementation: Optional[str] = None  # noqa: UP045
    trust_remote_code: bool = False
    use_peft: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_target_modules: Optional[list[str]] = None  # noqa: UP045
    lora_target_parameters: Optional[list[str]] = None  # noqa: UP045
    lora_modules_to_save: Optional[list[str]] = None  # noqa: UP045
    lora_task_type: str = "CAUSAL_LM"
    use_rslora: bool = False
    use_dora: bool = False
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    bnb_4bit_quant_type: str = "nf4"
    use_bnb_nested_quant: bool = False
    bnb_4bit_quant_storage: Optional[str] = None  # noqa: UP045

    def __post_init__(self) -> None:
        if self.lora_target_modules and len(self.lora_target_modules) == 1:
            (only,) = self.lora_target_modules
            self.lora_target_modules = only if only == "all-linear" else [only]  # type: ignore[assignment]


def get_peft_config(model_args: ModelConfig) -> Any:
    """The LoraConfig that the arguments describe; None without use_peft."""
    if not model_args.use_peft:
        return None
    need("use_peft", "peft")
    from peft import LoraConfig

    more: dict[str, Any] = (
        {"target_parameters": model_args.lora_target_parameters} if model_args.lora_target_parameters else {}
    )
    return LoraConfig(
        r=model_args.lora_r, lora_alpha=model_args.lora_alpha, lora_dropout=model_args.lora_dropout,
        target_modules=model_args.lora_target_modules, modules_to_save=model_args.lora_modules_to_save,
        task_type=model_args.lora_task_type, use_rslora=model_args.use_rslora, use_dora=model_args.use_dora, **more,
    )  # fmt: skip


def get_quantization_config(model_args: ModelConfig) -> None:
    """None: weights are trained as they are.

    Raises:
        InputError: the arguments ask for quantized weights.
    """
    if model_args.load_in_4bit or model_args.load_in_8bit:
        raise InputError(
            "load_in_4bit and load_in_8bit: rung trains weights as they are. Leave them out; bf16=True halves the memory."
        )


def get_kbit_device_map() -> None:
    """None: the whole model lies on one device."""


class TrlParser(HfArgumentParser):  # type: ignore[misc]
    """transformers' HfArgumentParser, with --config FILE.yaml, whose values stand where the command line gives none."""

    def __init__(self, dataclass_types: Any = None, **more: Any) -> None:
        types = [dataclass_types] if isinstance(dataclass_types, type) else list(dataclass_types or [])
        self.configs = [t for t in types if issubclass(t, GRPOConfig)]
        super().__init__(dataclass_types=[t for t in types if t not in self.configs], **more)
        self.order = types
        for config in self.configs:
            for f in fields(config):
                self._add_flag(f.name, f.default)

    def _add_flag(self, name: str, default: Any) -> None:
        """A flag of a config; one that is not given is not passed on, so that defaults are the config's affair."""
        if any(action.dest == name for action in self._actions):
            return
        dashed = [f"--{name}"] + ([f"--{name.replace('_', '-')}"] if "_" in name else [])
        more: dict[str, Any] = {"nargs": "+"} if name in ("reward_weights", "report_to") else {}
        if _reader(name, default) is _truth:
            more = {"nargs": "?", "const": True}
        self.add_argument(*dashed, default=argparse.SUPPRESS, type=_reader(name, default), **more)

    def parse_args_and_config(
        self, args: Iterable[str] | None = None, return_remaining_strings: bool = False, fail_with_unknown_args: bool = True
    ) -> tuple[Any, ...]:  # fmt: skip
        """An object of each type, in their order; with return_remaining_strings what was left over behind them."""
        argv = list(sys.argv[1:] if args is None else args)
        unknown = self._read_config(argv)
        if unknown and fail_with_unknown_args and not return_remaining_strings:
            raise InputError(f"--config holds {', '.join(unknown)}, which none of the script's arguments is called.")
        found, left = self.parse_known_args(argv)
        if left and not return_remaining_strings:
            raise InputError(f"the script does not know {' '.join(left)}. `--help` lists its arguments.")
        made = tuple(self._made(kind, vars(found)) for kind in self.order)
        return (*made, [*unknown, *left]) if return_remaining_strings else made

    @staticmethod
    def _made(kind: Any, values: dict[str, Any]) -> Any:
        own = {f.name for f in fields(kind) if f.init}
        return kind(**{name: value for name, value in values.items() if name in own})

    def _read_config(self, argv: list[str]) -> list[str]:
        """Take `--config FILE` out of argv and its values as defaults; returns the names that nothing reads."""
        if "--config" not in argv:
            return []
        at = argv.index("--config")
        path = path_of(argv[at + 1]) if at + 1 < len(argv) else Path()
        del argv[at : at + 2]
        if not path.is_file():
            raise InputError(f"--config {path}: there is no such file.")
        try:
            values = from_yaml(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"--config {path} is not valid YAML: {error}.") from error
        if not isinstance(values, dict):
            raise InputError(f"--config {path} must hold names with values.")
        os.environ.update({name: str(value) for name, value in (values.pop("env", None) or {}).items()})
        known = {action.dest: action for action in self._actions}
        for name in set(values) & set(known):
            action, value = known[name], values[name]
            read = isinstance(value, str) and callable(action.type)
            action.default, action.required = (action.type(value) if read else value), False
        return [name for name in values if name not in known]


def _reader(name: str, default: Any) -> Any:
    """How a config's flag is read: as its default is."""
    if isinstance(default, bool) or name in ("bf16", "gradient_checkpointing"):
        return _truth
    if name == "reward_weights" or name in ("epsilon_high", "eval_steps"):
        return float
    if name in (
        "steps_per_generation",
        "generation_batch_size",
        "num_generations_eval",
        "max_tool_calling_iterations",
        "save_total_limit",
    ):
        return int
    if name in DICTS or name.endswith("_kwargs"):
        return str
    return type(default) if isinstance(default, int | float) else str


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "yes", "no", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in ("true", "yes", "1")
