"""What a run tells its user to type next: commands that work as printed, or Python where only Python has what they need."""

from __future__ import annotations

from pathlib import Path

from rung.advice import command
from rung.recipe_io import is_stored
from rung.recipes import Recipe
from rung.tasks.sources.given import MADE
from rung.training.config import TrainConfig

OBJECTS = ("task", "reward", "environment", "model")  # settings that Python may give as objects


def made(config: TrainConfig) -> list[str]:
    """The settings that Python gave as objects, which no file holds."""
    return [name for name in OBJECTS if str(getattr(config, name)).startswith(MADE)]


def when_done(path: Path, config: TrainConfig, recipe: Recipe, question: str | None) -> list[str]:
    """Ask, report, evaluate, explain. question: a problem of the run that one would type."""
    given = [name for name in made(config) if name != "model"]  # the run has a model of its own by now
    words = [] if question is None or not _typed(question) else [question]
    again = f"rung.load({str(path)!r}).evaluate({_open(given)}) in Python" if given else command("eval", path)
    named = path if len(path.parts) > 1 else f"./{path}"  # a directory may have a recipe's name
    shown = [command("explain", named)] if is_stored(recipe) else []
    return [command("ask", path, *words), command("report", path), again, *shown]


def resuming(path: Path, config: TrainConfig) -> str:
    """What goes on with a run that was interrupted."""
    given = made(config)
    return (
        f"rung.train(resume={str(path)!r}, {_open(given)}) in Python" if given else command("train", "--resume", path)
    )


def _open(names: list[str]) -> str:
    return ", ".join(f"{name}=..." for name in names)


def _typed(question: str) -> bool:
    """Whether one would type it into a command."""
    return question.isprintable() and 0 < len(question) <= 40 and not question.startswith("--") and question != "-h"
