"""Defaults that the user did not set, lowered to what the task and the model allow; what was set is refused with numbers."""

from __future__ import annotations

from dataclasses import replace

from rung.errors import InputError, setting
from rung.io.held_out import too_few
from rung.kernels.device import choose, emulated
from rung.plan.memory import sketch
from rung.recipes import Recipe
from rung.tasks.environments.protocol import Conversational, Splits, least_of, most_of
from rung.text import Codec
from rung.training.config import TrainConfig

LOOKED_AT = 128  # problems of each side, for the lengths of their prompts
LEFT_OUT = 0.05  # share of prompts that may be too long, so that one of them does not cut every answer


def by_task(given: TrainConfig, splits: Splits, own: Recipe | None = None) -> tuple[TrainConfig, Splits]:
    """The resolved settings with no more prompts a step than there are problems; the note, if any, among the Splits'."""
    sizes = {"training": len(splits.train), "held-out": len(splits.eval)}
    for side, size in sizes.items():
        if not size:
            raise InputError(
                f"the task {given.task or splits.name} has no {side} problems, and a run needs some to train on and some to "
                f"evaluate on. Give more rows, or another share of them with {setting('task_options.eval_share')}."
            )
    config = given.resolved(own)
    refuse_aim("until", config.until, splits)
    if given.dtype == "auto":
        dtype, why = given.usual_dtype(own)
        splits = _noted(splits, f"the model computes in {dtype}, since {why}")
    elif config.dtype == "bfloat16" and (why := emulated(choose(config.here))):
        splits = _noted(
            splits,
            f"bfloat16 is emulated, since {why}: it saves memory and costs time (a step of SmolLM2 took 1.8 times as long as in "
            f"float32). {setting('dtype', 'float32')} or auto is faster",
        )
    if few := too_few(sizes["held-out"]):
        splits = _noted(splits, few)
    assert config.prompts_per_step is not None
    if config.prompts_per_step <= sizes["training"]:
        return config, splits
    if given.prompts_per_step is not None:
        raise InputError(
            f"prompts_per_step is {given.prompts_per_step}, but the task has only {sizes['training']} training problems, and a "
            f"step must not hold the same problem twice. Use {setting('prompts_per_step', sizes['training'])} or fewer."
        )
    note = (
        f"{sizes['training']} prompts a step and not {config.prompts_per_step}, for there are no more training problems"
    )
    return replace(given, prompts_per_step=sizes["training"]).resolved(own), _noted(splits, note)


def refuse_aim(name: str, aim: float | None, splits: Splits) -> None:
    """Refuse an aim that no evaluation would ever reach, and one that each reaches, the first too. name: the setting that holds it.

    They are told by what an answer can earn.
    """
    least, most = least_of(splits.eval), most_of(splits.eval)
    said = f"{setting(name, aim)}: an answer to {splits.name} earns"
    if aim is not None and most is not None and aim > most:
        raise InputError(f"{said} {most:g} at most, so no evaluation can reach that. Give {most:g} or less.")
    if aim is not None and least is not None and aim <= least:
        raise InputError(
            f"{said} {least:g} at least, so the evaluation before the first step reaches that. Give more than {least:g}."
        )


def by_recipe(recipe: Recipe, steps: int | None, splits: Splits) -> Splits:
    """A note, where the run ends before the policy would be trained for the first time."""
    critic = recipe.credit.learns()
    if critic is None or not steps or critic.warmup < steps:
        return splits
    note = (
        f"only the critic learns in the first {critic.warmup} steps, and the run has {steps}: the policy stays as it is"
    )
    return _noted(splits, f"{note} ({setting('recipe.credit.critic.warmup', 0)} trains both at once)")


def by_model(given: TrainConfig, config: TrainConfig, splits: Splits, codec: Codec) -> tuple[TrainConfig, Splits]:
    """The settings with answers no longer than the model's context has room for behind the prompts, likewise.

    A conversation has limits of its own, and room is looked for at every turn. Prompts that leave no room at all are
    refused where they are met.
    """
    if given.max_new_tokens is not None:
        return config, splits
    splits = shortened(splits, codec)
    return replace(config, max_new_tokens=splits.max_new_tokens), splits


def shortened(splits: Splits, codec: Codec) -> Splits:
    """The same problems with a limit of answers that leaves room for the prompts in the model's context."""
    if isinstance(splits.train, Conversational):
        return splits
    sides = (splits.train, splits.eval)
    lengths = sorted(len(codec.encode(env[i].prompt)) for env in sides for i in range(min(len(env), LOOKED_AT)))
    longest = lengths[int((1 - LEFT_OUT) * (len(lengths) - 1))]
    room = codec.context - longest
    if not 0 < room < splits.max_new_tokens:
        return splits
    note = (
        f"answers of at most {room} tokens and not {splits.max_new_tokens}, for the model's context holds {codec.context} and "
        f"prompts have up to {longest}"
    )
    return _noted(replace(splits, max_new_tokens=room), note)


def shortened_for(splits: Splits, name: str) -> Splits:
    """`shortened` for a model that is not loaded yet."""
    try:
        return shortened(splits, sketch(name, "float32").codec)
    except InputError:
        return splits  # loading it will say what is wrong with it


def _noted(splits: Splits, note: str) -> Splits:
    return replace(splits, notes=(*splits.notes, note))
