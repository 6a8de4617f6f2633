"""Does a run fit into the memory of this machine? If not it is refused before anything is loaded, with what would help."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rung.advice import command
from rung.errors import InputError, setting
from rung.kernels.device import choose
from rung.network.model import Model
from rung.plan.memory import GIB, LATER_IMPORTS, Need, Shape, Workload, need, sketch
from rung.recipe_io import find
from rung.recipes import Recipe
from rung.tasks.environments.protocol import Environment
from rung.training import needs
from rung.training.config import TrainConfig
from rung.training.micro import USUAL_GIB, kept_gib


# -- what the machine has ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Room:
    """Bytes. limit: what this process can ever have; free: what is not taken right now.  where: for messages."""

    limit: int
    free: int
    where: str


def room(device: torch.device) -> Room:
    """The memory that a run on `device` lives in: a GPU's, or RAM under the limits of this process's control group."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Room(total, free, f"GPU memory of {torch.cuda.get_device_name(device)}")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    free = int(found[1]) * 1024 if found else total
    limits = [x for x in _group_limits(Path("/sys/fs/cgroup"), _read(Path("/proc/self/cgroup"))) if x < total]
    if limits:
        return Room(min(limits), min(free, *limits), "memory limit of this control group")
    return Room(total, free, "memory of this machine")


def _group_limits(root: Path, groups: str) -> list[int]:
    """Memory limits of a control group and all groups above it, versions 1 and 2."""
    files = []
    for line in groups.splitlines():
        _, kinds, name = line.split(":", 2)
        base, file = (root, "memory.max") if not kinds else (root / "memory", "memory.limit_in_bytes")
        if kinds and "memory" not in kinds.split(","):
            continue
        here = base / name.strip("/")
        files += [folder / file for folder in (here, *here.parents) if folder == base or base in folder.parents]
    return [int(text) for file in files if (text := _read(file).strip()).isdecimal()]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def resident_bytes() -> int:
    """What this process holds now: Python, torch, transformers, the task."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", _read(Path("/proc/self/status")), re.MULTILINE)
    return int(found[1]) * 1024 if found else 600 * 2**20


# -- the refusal ---------------------------------------------------------------------------------------------------
def estimate(config: TrainConfig, recipe: Recipe, model: Model, work: Workload, on: torch.device) -> Need:
    """Memory of the run that a resolved `config` describes."""
    process = 0 if on.type == "cuda" else resident_bytes() + LATER_IMPORTS
    return need(Shape.of(model, config), work, recipe, process, cpu=on.type == "cpu")


def refuse_too_large(config: TrainConfig, recipe: Recipe, located: str | Model, envs: Sequence[Environment]) -> None:
    """Refuse a run whose estimated peak exceeds the memory that there is, with what would make it fit.

    located: where the model lies, or a model that is in memory already.

    Raises:
        InputError: it cannot fit.
    """
    if config.ignore_memory:
        return
    on = choose(config.device)
    has = room(on)
    if isinstance(located, Model):
        model = located
        if on.type == "cpu":  # the process holds its weights, and the estimate counts them once more
            has = replace(has, limit=has.limit + sum(p.numel() * p.element_size() for p in model.hf.parameters()))
    else:
        try:
            model = sketch(located, config.dtype, trust_remote_code=config.trust_remote_code)
        except InputError:
            return  # loading it will say what is wrong with it
    model.codec = model.codec.writing(config)
    refuse(config, recipe, model, Workload.of(config, model.codec, envs), on, has)


def refuse(config: TrainConfig, recipe: Recipe, model: Model, work: Workload, on: torch.device, has: Room) -> None:
    """Raise the InputError of `check` if the run needs more than `has.limit`."""
    if config.activation_gib is None:  # what is usual on a GPU is no reason: micro-batches are halved where memory runs out
        config = replace(config, activation_gib=USUAL_GIB)
    now = estimate(config, recipe, model, work, on)
    if now.peak <= has.limit:
        return
    largest = sorted(now.rows(), key=lambda row: -row[2])[:3]
    parts = ", ".join(f"{name} {_gib(size)}" for _, name, size in largest)
    lines = [
        f"the run would need about {_gib(now.peak)} of memory ({parts}, ...), but the {has.where} is {_gib(has.limit)}.",
        *remedies(config, recipe, model, work, on, has),
        f"`{command('plan')}` with the same flags shows every part; {setting('ignore_memory', True)} starts the run all the same.",
    ]
    raise InputError("\n".join(lines))


def remedies(
    config: TrainConfig, recipe: Recipe, model: Model, work: Workload, on: torch.device, has: Room
) -> list[str]:
    """Settings with which the run would fit: each alone where one is enough, else as many as it takes, in order."""

    def peak(c: TrainConfig) -> float:
        assert c.prompts_per_step and c.max_new_tokens
        rows = work.eval_rows * c.eval_problems // config.eval_problems
        w = replace(
            work, P=c.prompts_per_step, G=c.samples_per_prompt, T=c.max_new_tokens, answer=c.max_new_tokens,
            eval_rows=max(1, rows),
        )  # fmt: skip
        chosen = recipe if c.recipe == config.recipe else find(c.recipe)
        return estimate(c, chosen, model, w, on).peak

    enough, together, c = [], [], config
    least = peak(config)
    for flags, change in _changes(config, recipe, model):
        alone = peak(replace(config, **change))
        if alone <= has.limit:
            enough.append(f"  {flags}: {_gib(alone)}")
        if (smaller := peak(replace(c, **change))) < least and least > has.limit:
            c, least = replace(c, **change), smaller
            together.append(flags)
    if enough:
        return ["Any one of these would make it fit:", *enough]
    if least <= has.limit:
        return [f"Together these would make it fit ({_gib(least)}): {' '.join(together)}"]
    return [f"Even {' '.join(together)} would need {_gib(least)}: use a smaller model, or a machine with more memory."]


def _changes(config: TrainConfig, recipe: Recipe, model: Model) -> list[tuple[str, dict[str, Any]]]:
    """What a user can give up, from the least to the most."""
    assert config.max_new_tokens
    out: list[tuple[str, dict[str, Any]]] = []

    def alone(**change: Any) -> tuple[str, dict[str, Any]]:
        return " ".join(setting(name, value) for name, value in change.items()), change

    if kept_gib(config) > 0.25:
        out.append(alone(activation_gib=0.25))
    if config.eval_problems > 32:
        out.append(alone(eval_problems=32))
    if config.dtype == "float32":
        out.append(alone(dtype="bfloat16"))
    if config.samples_per_prompt > 4:
        out.append(alone(samples_per_prompt=4))
    if config.prompts_per_step is not None and config.prompts_per_step > 4:
        out.append(alone(prompts_per_step=4))
    if config.max_new_tokens > 128:
        out.append(alone(max_new_tokens=config.max_new_tokens // 2))
    if needs.reference(recipe.needs) or needs.critic(recipe.needs):
        out.append(("the recipe dr_grpo (no critic, no reference)", {"recipe": "dr_grpo", "overrides": {}}))
    if config.trainable is None and not config.lora_rank:
        out.append(alone(lora_rank=16))
        last = model.hf.config.get_text_config().num_hidden_layers - 1
        pattern = rf"\.({max(last - 1, 0)}|{last})\."
        out.append((f"{setting('trainable', pattern)} (the last two layers)", {"trainable": pattern}))
    return out


def _gib(size: float) -> str:
    return f"{size / GIB:.3g} GiB"
