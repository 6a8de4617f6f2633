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
    if config.lora_rank and config.trainable is not None:
        yield (
            f"lora_rank {config.lora_rank} with trainable {config.trainable!r}: an adapter trains nothing but itself. Give "
            "one of the two."
        )
    if config.decay_steps and config.tokens is not None:
        yield (
            f"decay_steps {config.decay_steps} with tokens {config.tokens}: the end of a run with a budget of tokens is not "
            f"known beforehand, so no learning rate can fall towards it. Give {setting('steps')} instead of "
            f"{setting('tokens')}."
        )
    if config.steps is not None and config.decay_steps > config.steps:
        yield (
            f"decay_steps is {config.decay_steps} in a run of {config.steps} steps: the learning rate would never be reached. "
            f"Give at most as many as {setting('steps')}."
        )
    if config.steps and config.warmup_steps > config.steps:
        yield (
            f"warmup_steps is {config.warmup_steps} in a run of {config.steps} steps: the learning rate would never be reached. "
            f"Give fewer than {setting('steps')}."
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
