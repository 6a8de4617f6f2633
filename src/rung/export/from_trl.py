"""TRL's GRPOConfig or RLOOConfig as a recipe, and where its names and its mathematics part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rung import errors
from rung.compat import objective
from rung.compat.config import GRPOConfig, RLOOConfig
from rung.compat.fields import COUNTS, NOTED, NUMBERS, WORDS, refuse, renamed
from rung.compat.scripts import ModelConfig, ScriptArguments
from rung.errors import InputError, Refusals, setting
from rung.export.config_file import ConfigFile, number, read_config
from rung.export.imported import Imported, fitting, named, refuse_untrainable
from rung.recipe_io import find, override
from rung.recipes import Recipe
from rung.settings.ranges import LARGEST_WHOLE

CLASSES: Mapping[str, type[GRPOConfig]] = {"GRPOConfig": GRPOConfig, "RLOOConfig": RLOOConfig}
TRAINERS: Mapping[str, type[GRPOConfig]] = {"grpo": GRPOConfig, "rloo": RLOOConfig}
# Of a script's YAML file, beside the trainer's arguments: which model, which rows, which rewards.
SCRIPT = {f.name for f in (*fields(ScriptArguments), *fields(ModelConfig)) if f.name != "trust_remote_code"} | {
    "env", "reward_funcs", "reward_model_name_or_path", "datasets",
}  # fmt: skip
NUMERIC = {*COUNTS, *NUMBERS}
LENGTHS = ("steps", "warmup_steps", "decay_steps", "eval_every", "save_every")  # follow from the number of problems
CORRECTIONS = {
    "token_truncate": "TokenTIS", "sequence_truncate": "SequenceTIS", "token_mask": "TokenMask", "sequence_mask": "SequenceMask",
}  # fmt: skip


def from_trl(path: Path, trainer: str | None = None) -> Imported:
    """Raises: InputError: a name or value that TRL 1.16 has not, or whose mathematics no parts stand for."""
    file = read_config(path, tuple(CLASSES))
    kind = _kind(file, trainer)
    given = {name: value for name, value in file.values.items() if name not in SCRIPT}
    refusals = Refusals()
    with refusals:
        _refuse_unread(file)
    config = _config(kind, given, refusals)
    settings = {k: v for k, v in config.settings().items() if k not in ("recipe", "overrides")}
    if config.max_steps < 1:
        settings = {k: v for k, v in settings.items() if k not in LENGTHS}
    settings = fitting(settings, WORDS, refusals)
    recipe = _recipe(config, refusals)
    refuse_untrainable(find(config.recipe) if refusals.errors else recipe, settings, WORDS, refusals)
    refusals.refuse(str(path))
    notes = [*_read_as(file, kind, trainer), *config.notes, *_scripts(file)]
    if config.max_steps < 1:
        notes.append(
            f"num_train_epochs={config.num_train_epochs:g}: how many steps that is depends on your problems; give --steps"
        )
    if "model_name_or_path" in file.values:
        settings["model"] = str(file.values["model_name_or_path"])
    return Imported(kind.__name__, named(recipe), settings, tuple(_warnings(config)), tuple(notes))


def _config(kind: type[GRPOConfig], given: Mapping[str, Any], refusals: Refusals) -> GRPOConfig:
    """The config of what TRL has and rung translates; the rest is refused, and does not hide what else is wrong."""
    read = {name: _whole(number(v)) if renamed({name: v})[0].keys() & NUMERIC else v for name, v in given.items()}
    strange = {name: value for name, value in read.items() if kind.strange(renamed({name: value})[0])}
    with refusals:
        refuse(kind.__name__, kind.strange(renamed(strange)[0]))
    taken = {name: value for name, value in read.items() if name not in strange}
    with refusals:
        config = kind(**taken)
        misfits = config.misfits()
        if not misfits:
            return config
        with refusals:
            refuse(kind.__name__, misfits)
        told = {word for said in misfits for word in re.findall(r"\w+", said)}
        config = kind(**{name: v for name, v in taken.items() if not renamed({name: v})[0].keys() & told})
        if not config.misfits():
            return config
    return kind()


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_WHOLE else value


def _recipe(config: GRPOConfig, refusals: Refusals) -> Recipe:
    """What it computes; with TRL's correction for vLLM, which rung as a sampler does not need."""
    recipe, changes = find(config.recipe), dict[str, Any]()
    with refusals:
        changes |= _overrides(config)
    with refusals:
        changes |= _correction(config)
    with errors.named(WORDS):
        try:
            recipe = override(recipe, changes)
        except InputError as error:
            for line in error.found or (str(error),):
                with refusals:
                    raise InputError(_in_words(line, changes)) from error
    return recipe


def _in_words(line: str, changes: Mapping[str, Any]) -> str:
    """What a part refuses (Clip.low is -0.2), said of the names that it comes from."""
    asked = {path: value for path, value in changes.items() if re.match(rf"\w+\.{path.rpartition('.')[2]} is ", line)}
    return "".join(f"{setting('recipe.' + path, value)}: " for path, value in asked.items()) + line


def _kind(file: ConfigFile, trainer: str | None) -> type[GRPOConfig]:
    """By the call in Python, by what the user says, else by a name that only one of the two has."""
    if file.made:
        return CLASSES[file.made]
    if trainer is not None:
        return TRAINERS[trainer]
    return RLOOConfig if {*GRPOConfig.ABSENT} & {*file.values} else GRPOConfig


def _read_as(file: ConfigFile, kind: type[GRPOConfig], trainer: str | None) -> list[str]:
    sure = file.made or trainer or {*GRPOConfig.ABSENT, *RLOOConfig.ABSENT} & {*file.values}
    return [] if sure else [f"read as a {kind.__name__}; if it is for RLOOTrainer, say --trainer rloo"]


def _refuse_unread(file: ConfigFile) -> None:
    """A value that the script works out is refused, unless nothing that is computed depends on it."""
    found = {name: text for name, text in (file.unread or {}).items() if name not in (*NOTED, "output_dir", "run_name")}
    if found:
        said = ", ".join(f"{name}={text}" for name, text in found.items())
        raise InputError(
            f"{file.path}: {said} is worked out when the script runs, and here it is only read. Write the value."
        )


def _scripts(file: ConfigFile) -> list[str]:
    names = [name for name in file.values if name in SCRIPT and name != "model_name_or_path"]
    said = f"not read: {', '.join(names)}; say which problems with --task, which judge with --reward, an adapter with --lora-rank"
    return [said] if names else []


def _overrides(config: GRPOConfig) -> dict[str, Any]:
    """The config's, but for what never acts there."""
    found = config.overrides()
    if config.recipe == "rloo" and config.updates == 1:  # the answer's ratio is 1: the score function's gradient
        found = {k: v for k, v in found.items() if not k.startswith(("ratio", "surrogate"))}
    return found


def _correction(config: GRPOConfig) -> dict[str, Any]:
    if config.recipe != "grpo" or not (config.use_vllm and config.vllm_importance_sampling_correction):
        return {}
    mode, low, high = (getattr(config, f"vllm_importance_sampling_{name}") for name in ("mode", "clip_min", "clip_max"))
    if mode not in CORRECTIONS:
        raise InputError(f"vllm_importance_sampling_mode={mode!r}: TRL 1.16 has {', '.join(CORRECTIONS)}.")
    part = CORRECTIONS[mode]
    if low is not None and part != "TokenMask":
        raise InputError(
            f"vllm_importance_sampling_clip_min={low!r} with mode {mode!r}: rung's {part} has no lower bound. Leave it out."
        )
    if high is None:
        high = float("inf")
    ends = {"correction.low": low or 0.0, "correction.high": high} if part == "TokenMask" else {"correction.cap": high}
    return {"correction": part, **ends}


# -- where the words and the mathematics part ---------------------------------------------------------------------------
def _warnings(c: GRPOConfig) -> list[str]:
    once = c.updates == 1
    if c.recipe == "rloo":
        found = ["one update on each generation: the ratio is 1, so that epsilon never acts"] if once else []
        return [*found, *objective.differences(c)]
    return [*_of_loss(c), *_of_kl(c), *_of_updates(c, once), *objective.differences(c)]


def _of_loss(c: GRPOConfig) -> list[str]:
    found = []
    if c.loss_type == "dapo":
        high = "" if c.epsilon_high not in (None, c.epsilon) else " no clip-higher (epsilon_high),"
        found.append(
            f"loss_type='dapo' (TRL's default) is DAPO's mean over the tokens of the step:{high} no dynamic sampling, no penalty "
            "for overlong answers come with it; and it is not GRPO's mean over each answer, which is loss_type='grpo'"
        )
    if c.loss_type == "dr_grpo" and objective.SCALES[c.scale_rewards] != "none":
        found.append(
            f"loss_type='dr_grpo' drops 1/length alone: advantages are still divided by a std (scale_rewards={c.scale_rewards!r}). "
            "Dr. GRPO has scale_rewards='none'"
        )
    if c.loss_type == "bnpo":
        found.append(
            "loss_type='bnpo': a mean over tokens; the Beta distribution that the name comes from is not in it"
        )
    if c.importance_sampling_level == "sequence" and c.loss_type not in ("grpo", "luspo", "sapo"):
        found.append(
            f"importance_sampling_level='sequence' with loss_type={c.loss_type!r}: an answer weighs as much as it is long. GSPO "
            "has loss_type='grpo'"
        )
    if c.loss_type == "luspo" and c.importance_sampling_level == "token":
        found.append(
            "loss_type='luspo' with importance_sampling_level='token': LUSPO's ratio is the answer's, 'sequence'"
        )
    return found


def _of_kl(c: GRPOConfig) -> list[str]:
    if c.beta and c.use_bias_correction_kl:
        return ["use_bias_correction_kl=True (TRL's default): the KL is k3 times the ratio, not the k3 of GRPO's paper"]
    if not c.beta:
        return (
            ["beta=0.0 (TRL's default): no KL to a reference; GRPO's paper has 0.04"] if c.loss_type == "grpo" else []
        )
    return []


def _of_updates(c: GRPOConfig, once: bool) -> list[str]:
    found = []
    if once:
        acts = "epsilon, epsilon_high, delta and the temperatures of SAPO never act"
        found.append(
            f"one update on each generation: every ratio is 1, so that {acts}: whatever the loss type, A grad log pi"
        )
    if not c.disable_dropout:
        found.append("disable_dropout=False (TRL's default): with a model that has dropout, ratios depend on a draw")
    return found
