"""The flags of `rung export` and `rung import`: recipes in other trainers.

They are read without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rung.settings.ranges import Hidden, Positional


@dataclass(frozen=True)
class Export:
    """A recipe inside another trainer: its settings there and, where its own code does not compute it, a module that does."""

    recipe: Positional[str]
    """its name; or a run's directory: the recipe as it was trained"""
    to: Literal["trl", "verl", "skyrl"]
    """the trainer; what it cannot express is refused with the reason"""
    out: Path | None = None
    """write settings and module as new files into this folder"""
    json: str | None = None
    """write the settings as JSON to this new file, or - for standard output"""
    overrides: Hidden[dict[str, Any]] = field(default_factory=dict)
    """fields of the recipe, by path"""


@dataclass(frozen=True)
class Import:
    """Another trainer's configuration as a recipe: what it really computes, and where its names and its mathematics part."""

    source: Positional[Literal["trl", "verl"]]
    """whose configuration it is"""
    config: Positional[Path]
    """a YAML or JSON file, or for TRL a Python file that makes a GRPOConfig or RLOOConfig"""
    trainer: Literal["grpo", "rloo"] | None = None
    """of TRL's two, where the file does not tell; None: grpo, unless a name in it is RLOOConfig's alone"""
    out: Path | None = None
    """write it as TOML to this new file, for `rung train --config FILE`"""
    json: str | None = None
    """write it as JSON to this new file, or - for standard output"""
