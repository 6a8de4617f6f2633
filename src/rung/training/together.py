"""Settings that do not go together, refused before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rung.errors import InputError, setting

if TYPE_CHECKING:
    from rung.training.config import TrainConfig


def refuse_together(config: TrainConfig) -> None:
    """config: every default in place."""
    if config.lora_rank and config.trainable is not None:
        raise InputError(
            f"lora_rank {config.lora_rank} with trainable {config.trainable!r}: an adapter trains nothing but itself. Give "
            "one of the two."
        )
    if config.decay_steps and config.tokens is not None:
        raise InputError(
            f"decay_steps {config.decay_steps} with tokens {config.tokens}: the end of a run with a budget of tokens is not "
            f"known beforehand, so no learning rate can fall towards it. Give {setting('steps')} instead of "
            f"{setting('tokens')}."
        )
    if config.steps is not None and config.decay_steps > config.steps:
        raise InputError(
            f"decay_steps is {config.decay_steps} in a run of {config.steps} steps: the learning rate would never be reached. "
            f"Give at most as many as {setting('steps')}."
        )
    if config.steps and config.warmup_steps > config.steps:
        raise InputError(
            f"warmup_steps is {config.warmup_steps} in a run of {config.steps} steps: the learning rate would never be reached. "
            f"Give fewer than {setting('steps')}."
        )
    if config.until is not None and config.eval_every == 0:
        raise InputError(
            f"{setting('until', config.until)} with {setting('eval_every', 0)}: nothing is evaluated before the end, so nothing "
            "can end the run. Say how many steps lie between evaluations, or leave one of the two out."
        )
