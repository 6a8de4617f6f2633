"""A gymnasium environment whose actions and observations are text: an episode is a conversation, a problem is a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from rung.errors import InputError
from rung.records import Completion, Group, Message, Prompt, Step, Task


@dataclass(frozen=True)
class Gymnasium:
    """`make()` gives a fresh environment. Text actions go in as they are; for a discrete space the turn must be a number."""

    name: str
    make: Callable[[], Any]
    split: str
    size: int = 4096
    instruction: str = ""

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Task:
        digest = hashlib.sha256(f"{self.name}/{self.split}/{index}".encode()).digest()
        seed = int.from_bytes(digest[:3], "big") * 2 + (self.split == "eval")  # even and odd: splits never meet
        with closing(self.make()) as env:
            observation, _ = env.reset(seed=seed)
        text = f"{self.instruction}\n{observation}" if self.instruction else str(observation)
        return Task(f"{self.name}/{self.split}/{index}", [{"role": "user", "content": text}], {"seed": seed})

    def session(self, task: Task) -> GymnasiumSession:
        return GymnasiumSession(task, self.make())

    def score(self, group: Group) -> list[dict[str, float]]:
        return [{} for _ in group.completions]  # the steps' rewards say it all


@dataclass
class GymnasiumSession:
    """One episode."""

    task: Task
    env: Any
    counters: dict[str, float] = field(default_factory=lambda: {"calls": 0.0, "failures": 0.0})

    def reset(self) -> Prompt:
        self.env.reset(seed=self.task.data["seed"])
        return self.task.prompt

    def step(self, completion: Completion) -> Step:
        self.counters["calls"] += 1
        action = _action(self.env.action_space, completion.text)
        if action is None:
            self.counters["failures"] += 1
            return Step([_user(f"{completion.text.strip()[:80]!r} is no action here. {_wanted(self.env)}")], done=False)
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return Step([_user(str(observation))], bool(terminated or truncated), float(reward))

    def close(self) -> None:
        self.env.close()


def _action(space: Any, text: str) -> Any:
    """The action that a turn names; None if it names none."""
    if hasattr(space, "n"):
        word = text.strip()
        inside = word.isascii() and word.isdigit() and len(word) < 10 and space.contains(int(word))
        return int(word) if inside else None
    return text if space.contains(text) else None


def _wanted(env: Any) -> str:
    space = env.action_space
    if not hasattr(space, "n"):
        return f"Actions are {space}."
    first = int(getattr(space, "start", 0))
    return f"Write one number from {first} to {first + int(space.n) - 1}."


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def refuse_actions(name: str, make: Callable[[], Any]) -> None:
    """Refuse an environment that no text can act in."""
    with closing(make()) as env:
        kind = type(env.action_space).__name__
    if kind not in ("Text", "Discrete"):
        raise InputError(
            f"the environment {name} has actions of the kind {kind}, which a model's text cannot name. Wrap it so that its "
            "action space is gymnasium.spaces.Text or Discrete (gymnasium.ActionWrapper)."
        )
