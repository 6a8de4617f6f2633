"""LoRA by peft (arXiv:2106.09685): W x + (alpha / r) B A x, where only A and B are trained and B starts at zero.

The adapter lives inside the model, so sampler and trainer run it as it is: nothing is merged and no weight is copied.
The reference policy is the same model with the adapter off.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rung.advice import need, pip_install
from rung.errors import InputError, setting
from rung.network.model import Model

LINEAR = (torch.nn.Linear, Conv1D)
FILE = "adapter_model.safetensors"


def add(model: Model, rank: int, alpha: float | None = None, targets: str = "all-linear") -> None:
    """Put a fresh adapter into the model and freeze everything else.

    alpha: None means 2 * rank. targets: all-linear (every linear layer but the head), or names separated by commas.
    The adapter's weights are float32, whatever the model computes in.
    """
    need(setting("lora_rank"), "peft")
    from peft import LoraConfig

    _refuse_versions()
    if rank < 1:
        raise InputError(f"{setting('lora_rank', rank)}: a rank is at least 1.")
    if has_adapter(model.hf):
        raise InputError(
            "this model has a LoRA adapter already. Load it with merge=True, which adds the adapter to the weights."
        )
    names = "all-linear" if targets == "all-linear" else [x.strip() for x in targets.split(",") if x.strip()]
    head = next((n for n, m in model.hf.named_modules() if m is model.hf.get_output_embeddings()), "lm_head")
    if isinstance(names, list) and head.rpartition(".")[2] in names:
        raise InputError(
            f"{setting('lora_targets')} names the head {head!r}, whose weight is read without its adapter (and may be tied to the "
            "embeddings). Leave it out."
        )
    alpha = 2.0 * rank if alpha is None else alpha
    # peft's type says int, its code only divides: 0.5 is as good an alpha as 16
    transposed = any(isinstance(m, Conv1D) for m in model.hf.modules())  # GPT-2 keeps [in, out]
    scale: Any = alpha  # peft's type says int, its code only divides by the rank
    config = LoraConfig(
        r=rank, lora_alpha=scale, target_modules=names, lora_dropout=0.0, task_type="CAUSAL_LM",
        fan_in_fan_out=transposed, exclude_modules=_routers(model.hf) if names == "all-linear" else None,
    )  # fmt: skip
    try:
        model.hf.add_adapter(config)
    except ValueError as error:
        if wrong := _strangers(model.hf, names):
            layers = {n.rpartition(".")[2] for n, m in model.hf.named_modules() if isinstance(m, LINEAR)}
            raise InputError(
                f"{setting('lora_targets')}: {', '.join(wrong)} fits no layer of this model. Its linear layers: "
                f"{', '.join(sorted(layers - {head.rpartition('.')[2]}))}."
            ) from error
        if "is incompatible with" in str(error):  # layers whose weights a model's kernels read by themselves
            raise InputError(
                f"{setting('lora_targets', targets)}: {error}. Name the layers that should have an adapter."
            ) from error
        raise  # peft's own words, whatever else it is
    train_alone(model.hf)


def train_alone(hf: PreTrainedModel) -> None:
    """Freeze everything but the adapter, whose weights are float32 whatever the model computes in."""
    for name, parameter in hf.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()


def _routers(hf: PreTrainedModel) -> list[str] | None:
    """Linear layers that give more than a product, which expert takes a token: no adapter can wrap them."""
    linear = [(n, m) for n, m in hf.named_modules() if isinstance(m, torch.nn.Linear)]
    return [n for n, m in linear if type(m).__name__.endswith("Router")] or None


def _strangers(hf: PreTrainedModel, names: str | list[str]) -> list[str]:
    """Those of the named targets that stand for no layer that can be adapted."""
    layers = [f".{n}" for n, m in hf.named_modules() if isinstance(m, (*LINEAR, torch.nn.Embedding))]
    return (
        [name for name in names if not any(n.endswith(f".{name}") for n in layers)] if isinstance(names, list) else []
    )


def _refuse_versions() -> None:
    """transformers works with peft from some version on, and says so only when an adapter is put in."""
    from transformers.integrations.peft import MIN_PEFT_VERSION
    from transformers.utils import check_peft_version

    try:
        check_peft_version(min_version=MIN_PEFT_VERSION)
    except ValueError as error:
        ours = f"transformers {metadata.version('transformers')}, peft {metadata.version('peft')}"
        raise InputError(
            f"{setting('lora_rank')}: {error} ({ours}). Versions that fit: {pip_install(['peft'])}"
        ) from error


def has_adapter(hf: PreTrainedModel) -> bool:
    return bool(getattr(hf, "_hf_peft_config_loaded", False))


@contextmanager
def adapter_off(hf: PreTrainedModel) -> Iterator[None]:
    """The base model inside this block: the reference policy, without a second copy of any weight."""
    hf.disable_adapters()
    try:
        yield
    finally:
        hf.enable_adapters()


def twin(hf: PreTrainedModel) -> PreTrainedModel:
    """A copy with weights of its own; of a model with an adapter, frozen weights are shared and the adapter is copied."""
    shared: dict[int, Any] = {}
    if has_adapter(hf):
        shared = {id(p): p for p in hf.parameters() if not p.requires_grad}
    return copy.deepcopy(hf, shared)


def trained_weights(hf: PreTrainedModel) -> dict[str, Tensor]:
    """What a checkpoint must hold of a model: everything, or the adapter alone."""
    weights = dict(hf.state_dict())
    if not has_adapter(hf):
        return weights
    return {name: value for name, value in weights.items() if "lora_" in name}


def load_trained(hf: PreTrainedModel, saved: dict[str, Tensor]) -> None:
    """Undo `trained_weights`: every name must be there, and no other."""
    expected = trained_weights(hf).keys()
    if has_adapter(hf) and expected != saved.keys():
        raise InputError(f"the checkpoint's adapter has other layers: {sorted(expected ^ saved.keys())[:3]} ...")
    hf.load_state_dict(saved, strict=not has_adapter(hf))


def refuse_adapter(checkpoint: Path) -> None:
    """Refuse a checkpoint that holds no whole model."""
    if (checkpoint / FILE).is_file():
        raise InputError(
            f"{checkpoint} holds a LoRA adapter. Resume with the {setting('lora_rank')} of the run's config.toml."
        )


def stored(hf: PreTrainedModel, checkpoint: Path) -> dict[str, Tensor]:
    """The weights of the adapter that `save_pretrained` wrote, by their names in a model that has one of the same shape."""
    from peft import get_peft_model_state_dict

    saved, own = _read(hf, checkpoint), trained_weights(hf)
    names = {id(value): name for name, value in own.items()}
    ours = get_peft_model_state_dict(hf, state_dict=own, adapter_name="default")
    wanted = {names[id(value)]: f"base_model.model.{key}" for key, value in ours.items()}
    if {*wanted.values()} != saved.keys():
        raise _other_layers(checkpoint)
    return {name: saved[key] for name, key in wanted.items()}


def restore(hf: PreTrainedModel, checkpoint: Path) -> None:
    """The adapter that `save_pretrained` wrote, into a model that has one of the same shape."""
    from peft import set_peft_model_state_dict

    result: Any = set_peft_model_state_dict(hf, _read(hf, checkpoint))
    if result.unexpected_keys:
        raise _other_layers(checkpoint)


def _read(hf: PreTrainedModel, checkpoint: Path) -> dict[str, Tensor]:
    from peft import LoraConfig

    path = checkpoint / FILE
    if not path.is_file():
        raise InputError(
            f"{checkpoint} holds a whole model and no LoRA adapter. Resume without {setting('lora_rank')}."
        )
    stored, ours = LoraConfig.from_pretrained(str(checkpoint)), hf.peft_config["default"]
    for name in ("r", "lora_alpha"):
        if getattr(stored, name) != getattr(ours, name):
            raise InputError(
                f"{checkpoint} was trained with {name} = {getattr(stored, name)}, but now it is {getattr(ours, name)}. "
                "Resume with the settings of the run's config.toml."
            )
    saved = load_file(path)
    if len(saved) != len(trained_weights(hf)):
        raise _other_layers(checkpoint)
    return saved


def _other_layers(checkpoint: Path) -> InputError:
    return InputError(
        f"{checkpoint}: its adapter has other layers. Resume with the run's own {setting('lora_targets')}."
    )
