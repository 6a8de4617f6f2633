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
