"""The flags of `rung speedrun`: the settings that are timed, and over how many seeds.

They are read without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from rung.settings.ranges import (
    Answers,
    Count,
    Flags,
    Hidden,
    LearningRate,
    Natural,
    Positional,
    Seed,
    Share,
    between,
)
from rung.settings.shared import Problems, Weights

USUAL: tuple[str, Mapping[str, Any]] = ("dapo", {"data.resample": 2, "data.overlong.factor": 0.2})  # no recipe is named


@dataclass(frozen=True)
class Speedrun(Weights, Problems, Flags):
    """How soon a model calculates: training time until held-out accuracy is at a target, over seeds (docs/speedrun.md)."""

    recipe: Positional[str | None] = None
    """name of the recipe; None: dapo, which draws anew twice at most, and whose price for length is a
    fifth of the usual one (docs/speedrun.md)"""
    seeds: Count = 3
    """runs, one after the other; the table wants three"""
    seed: Seed = 0
    """of the first run; the table's are 0, 1 and 2, so choose settings on others, such as 1000"""
    target: Share = 0.9
    """accuracy at which the clock stops, once more answers to the same held-out problems confirm it"""
    control: bool = False
    """instead: deal each group's training rewards out at random, as long as the slowest seed took; accuracy must not rise"""
    model: str = "smollm2"
    """smollm2, starter, a model's directory, a run, or a hub id"""
    dtype: Literal["float32", "bfloat16", "auto"] = field(default="auto", kw_only=True)
    """what the model computes in; the weights that an update moves are float32 either way; auto: what this machine is faster in"""
    steps: Count = 60
    """training steps at most"""
    prompts_per_step: Count = 8
    """problems per step"""
    samples_per_prompt: Answers = 16
    """answers per problem"""
    max_new_tokens: Count = 16
    """token limit of an answer; the table allows no more than 16"""
    learning_rate: LearningRate = 4e-5
    """of AdamW"""
    warmup_steps: Natural = 0
    """first steps, in which the learning rate rises"""
    decay_steps: Natural | None = None
    """last steps, in which the learning rate falls to zero; None: 60, or as many as the steps"""
    eval_every: Count = 5
    """steps between evaluations"""
    threads: Annotated[int, between(0, 1024)] = 0
    """CPU threads; 0: one per core"""
    device: str = "auto"
    """auto (CUDA where there is a GPU for it, else the CPU), cpu, cuda, cuda:1 or mps"""
    out: Path = Path("runs/speedrun")
    """where the runs are kept, and speedrun.json and row.md; a run that is there is not made again, a broken one goes on"""
    json: str | None = None
    """write the table as JSON to this new file, or - for standard output"""
    overrides: Hidden[dict[str, Any]] = field(default_factory=dict)
    """fields of the recipe, by path"""

    def decay(self) -> int:
        """decay_steps as they are trained with: never more than there are steps, where nobody gave them."""
        return min(60, self.steps) if self.decay_steps is None else self.decay_steps

    def looks(self) -> int:
        """Steps between evaluations: in a run of fewer steps there is one before its last."""
        return min(self.eval_every, max(self.steps - 1, 1))

    def named(self) -> tuple[str, dict[str, Any]]:
        """The recipe and what is changed of it."""
        name, changes = USUAL if self.recipe is None else (self.recipe, {})
        return name, {**changes, **self.overrides}
