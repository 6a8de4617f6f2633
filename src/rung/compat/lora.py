"""PEFT's LoraConfig, and models that PEFT has put an adapter into, as settings of rung.train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from rung.compat.fields import same
from rung.errors import InputError

LORA = ("r", "lora_alpha", "target_modules", "use_rslora")  # translated
LORA_ANY = {  # do nothing by themselves, or are read off the model
    "task_type", "peft_type", "peft_version", "base_model_name_or_path", "fan_in_fan_out", "megatron_core",
    "qalora_group_size", "runtime_config", "inference_mode", "revision",
}  # fmt: skip
LORA_NOTED: Mapping[str, str] = {"lora_dropout": "log-probabilities must not depend on a draw, so dropout is off"}
LORA_WHY: Mapping[str, str] = {
    "rank_pattern": "all layers have one rank",
    "alpha_pattern": "all layers have one alpha",
    "layers_to_transform": "adapters go into all layers; name modules with target_modules",
    "layers_pattern": "adapters go into all layers; name modules with target_modules",
    "exclude_modules": "name the modules that get an adapter with target_modules",
    "init_lora_weights": "A is drawn as PEFT's default draws it and B is zero",
    "modules_to_save": "an adapter trains nothing but itself",
    "bias": "an adapter trains nothing but itself",
}


def lora(config: Any) -> tuple[list[str], list[str]]:
    """(refusals, notes) for a peft_config, whatever fields its PEFT has."""
    if not is_dataclass(config) or type(config).__name__ != "LoraConfig":
        return [f"peft_config of the kind {type(config).__name__}: only a LoraConfig is translated."], []
    found, said = [], []
    for f in fields(config):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        value = getattr(config, f.name)
        if f.name in LORA or f.name in LORA_ANY or same(value, default):
            continue
        if f.name in LORA_NOTED:
            said.append(f"peft_config with {f.name}={value!r}: {LORA_NOTED[f.name]}")
        else:
            why = LORA_WHY.get(f.name, "rung has no such adapter")
            found.append(f"peft_config with {f.name}={value!r}: {why}. Only {default!r} is taken.")
    targets: Any = vars(config)["target_modules"]
    if isinstance(targets, str) and targets != "all-linear":
        found.append(f"peft_config with target_modules={targets!r}, a pattern: give a list of names, or 'all-linear'.")
    if targets is None:
        said.append(
            "peft_config without target_modules: an adapter for every linear layer; PEFT chooses by the model's kind"
        )
    return found, said


def settings(config: Any) -> dict[str, Any]:
    """Rank, scale and layers. rsLoRA scales by alpha / sqrt(r), rung by alpha / r."""
    if config is None:
        return {}
    targets = config.target_modules or "all-linear"
    names = targets if isinstance(targets, str) else ",".join(sorted(targets))
    scale = math.sqrt(config.r) if config.use_rslora else 1.0
    return {"lora_rank": config.r, "lora_alpha": config.lora_alpha * scale, "lora_targets": names}


def apart(model: Any, config: Any) -> tuple[Any, Any]:
    """(model, peft_config) of a model that get_peft_model made: the plain model, and the config of its fresh adapter.

    Raises:
        InputError: its adapter has been trained, or there are two configs.
    """
    if not hasattr(model, "peft_config") or not hasattr(model, "unload"):
        return model, config
    if config is not None:
        raise InputError("GRPOTrainer: the model has an adapter of PEFT's already; leave peft_config out.")
    own = model.peft_config[model.active_adapter]
    second = [p for name, p in model.named_parameters() if "lora_B" in name]
    if any(bool(p.detach().any()) for p in second):
        raise InputError(
            "GRPOTrainer: the model's adapter has been trained. Merge it first (model = model.merge_and_unload()) and give "
            "peft_config for a new one, or give the directory that save_pretrained wrote."
        )
    plain = model.unload()
    plain.requires_grad_(True)
    return plain, own
