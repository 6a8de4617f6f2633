"""Settings that do not go together, refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rung.errors import Refusals, setting

if TYPE_CHECKING:
    from rung.training.config import TrainConfig


def refuse_together(config: TrainConfig) -> None:
    """All of them at once. config: every default in place."""
    Refusals(_apart(config)).refuse("settings that do not go together")


def _apart(config: TrainConfig) -> Iterator[str]:
    """What is wrong with which of them, and what to do."""
    said = {
        name: setting(name, getattr(config, name))
        for name in ("lora_rank", "trainable", "decay_steps", "tokens", "warmup_steps")
    }
    if config.lora_rank and config.trainable is not None:
        yield (
            f"{said['lora_rank']} with {said['trainable']}: an adapter trains nothing but itself. Give one of the two."
        )
    if config.decay_steps and config.tokens is not None:
        yield (
            f"{said['decay_steps']} with {said['tokens']}: the end of a run with a budget of tokens is not known beforehand, so no "
            f"learning rate can fall towards it. Give {setting('steps')} instead of {setting('tokens')}."
        )
    for name in ("decay_steps", "warmup_steps"):
        if config.steps and getattr(config, name) > config.steps:
            yield (
                f"{said[name]} in a run of {config.steps} steps: the learning rate would never be reached. Give at most "
                f"{config.steps}."
            )
    yield from _without_a_look(config)


def _without_a_look(config: TrainConfig) -> Iterator[str]:
    """An aim at which the run ends, and no evaluation between its first step and its last that could see it reached."""
    if config.until is None or config.eval_every is None or not config.steps:
        return
    aim, every = setting("until", config.until), setting("eval_every", config.eval_every)
    if config.eval_every == 0:
        yield (
            f"{aim} with {every}: nothing is evaluated before the end, so nothing can end the run. Say how many steps lie between "
            "evaluations, or leave one of the two out."
        )
    elif config.eval_every >= config.steps > 1:
        yield (
            f"{aim} with {every}: the run has {config.steps} steps, so nothing is evaluated before the end and nothing can end it. "
            f"Give fewer than {config.steps} steps between evaluations, or leave one of the two out."
        )
