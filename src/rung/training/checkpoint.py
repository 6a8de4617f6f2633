"""What a checkpoint holds, written and read in one place: model and tokenizer, learner, problems, how far the run has come."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from rung.errors import InputError, RunFailed, setting
from rung.io.run_dir import RunDir
from rung.io.state import load_state, save_state
from rung.network import adapter
from rung.network.model import Model
from rung.tasks.environments.protocol import Stateful
from rung.training.config import TrainConfig
from rung.training.setup import Setup

NAMED = 3  # names of weights in a message


@dataclass(frozen=True)
class Finished:
    """Where a run stood after a finished step, beside what its learner holds.

    marks: what the learner said then: it says the same while a later step has not begun to change it.
    """

    step: int
    progress: Mapping[str, Any]
    marks: Hashable

    def intact(self, setup: Setup) -> bool:
        """Whether the learner is still the one of this step."""
        return self.marks == setup.learner.marks()


def finished(setup: Setup, step: int, tokens: int) -> Finished:
    """The run as it is now. Nothing large is copied."""
    progress = {
        "step": step,
        "tokens": tokens,
        **setup.collector.position(),
        "model": described(setup.model),
    }
    return Finished(step, progress, setup.learner.marks())


def write(setup: Setup, done: Finished, directory: Path) -> None:
    """The model in Hugging Face format with its tokenizer, and the training state beside it.

    Raises:
        RunFailed: weights are not finite, so that nothing could be done with them.
    """
    wrong = next((name for name, weight in setup.learner.weights() if not bool(torch.isfinite(weight).all())), None)
    if wrong is not None:
        raise RunFailed(
            f"after step {done.step} the weights are not finite (the first is {wrong}), so nothing can be done with them and they "
            f"are not saved. Start again with a lower {setting('learning_rate')}, or go on from an earlier checkpoint."
        )
    try:
        setup.learner.save(directory)
        setup.model.codec.save(directory)
        save_state(directory, done.progress, "progress")
    except SafetensorError as error:
        if found := re.search(r"os error (\d+)", str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(directory)) from error
        raise


def kept(config: TrainConfig) -> int:
    """How many checkpoints stay; 0: all."""
    if config.keep_last is not None:
        return config.keep_last
    return 2 if config.save_every is None else 0


# -- reading -------------------------------------------------------------------------------------------------------
def described(model: Model) -> dict[str, Any]:
    """What must be the same when a run goes on."""
    return {
        "kind": str(model.hf.config.model_type),
        "parameters": sum(weight.numel() for weight in model.hf.parameters()),
        "dtype": str(model.hf.dtype).removeprefix("torch."),
        "adapter": adapter.has_adapter(model.hf),
        "trained": [name for name, weight in model.hf.named_parameters() if weight.requires_grad],
    }


def _refuse_other(model: Model, checkpoint: Path, then: Mapping[str, Any]) -> None:
    """Another model, dtype, adapter or set of trained weights than the run's, in one sentence."""
    now, wrong = described(model), list[str]()
    for key in ("kind", "dtype", "adapter", "parameters"):
        if then.get(key, now[key]) != now[key]:
            wrong.append(f"{key}: {now[key]}, not {then[key]}")
    before, after = set(then.get("trained", now["trained"])), set(now["trained"])
    if not wrong and before != after:
        names = sorted(before ^ after)
        wrong.append(f"{len(after)} of its weights are trained, not {len(before)} (other: {', '.join(names[:NAMED])})")
    if wrong:
        raise InputError(
            f"{checkpoint} belongs to another model than the one that is given: {'; '.join(wrong)}. Give the model that the run "
            "was begun with."
        )


def _restore(setup: Setup, checkpoint: Path) -> None:
    """The learner as the checkpoint has it, and the sampler with its weights."""
    try:
        setup.learner.restore(checkpoint)
    except RuntimeError as error:
        if not str(error).startswith("Error(s) in loading state_dict"):
            raise
        first = " ".join(str(error).split()[5:])[:200]
        raise InputError(
            f"{checkpoint} belongs to another model than the one that is given: {first}. Give the model that the run was begun "
            "with."
        ) from error
    setup.sampler.load(setup.learner.weights(), setup.learner.version)


def go_on(setup: Setup, run: RunDir) -> tuple[int, int]:
    """The newest sound checkpoint into the setup: weights, optimizer, critic, problems. Steps done, tokens sampled.

    What was written of later steps is set aside, once nothing can be refused any more. Without a checkpoint: from the beginning.
    """
    checkpoint, steps = run.resumed(), setup.config.steps
    if checkpoint is None:
        run.truncate_metrics(0)
        return 0, 0
    both = (checkpoint / "progress.json").is_file()  # one file of older checkpoints held this and the learner
    state = load_state(checkpoint, "progress" if both else "state")
    assert steps is not None
    if steps < state["step"]:
        raise InputError(
            f"{run.path} has done {state['step']} steps, and {setting('steps', steps)} lies before that. Give more, or "
            "leave it out."
        )
    _refuse_other(setup.model, checkpoint, state.get("model", {}))  # an older checkpoint does not say
    _restore(setup, checkpoint)
    if walk := state.get("walk"):  # an older checkpoint has none, and its steps took their own problems only
        setup.collector.walk.load_state_dict(walk)
    if curriculum := state.get("curriculum"):
        if not isinstance(setup.splits.train, Stateful):
            raise InputError(
                f"the checkpoint of {run.path} says where its problems stood, and {setup.splits.name} as it is given now keeps no "
                "such state. Give the task that the run was begun with."
            )
        setup.splits.train.load_state_dict(curriculum)
    run.truncate_metrics(int(state["step"]))
    return int(state["step"]), int(state["tokens"])
