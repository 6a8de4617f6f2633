"""A control: rewards that do not depend on what was said, though each group earns what it earned."""

from __future__ import annotations

import random

from rung.records import Group
from rung.tasks.environments.protocol import Environment
from rung.tasks.environments.wrapper import Wrapper


class Shuffled(Wrapper):
    """The rewards of a group, dealt out among its answers at random; the same answers are dealt the same, so that runs repeat."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def score(self, group: Group) -> list[dict[str, float]]:
        rewards = super().score(group)
        said = "\n".join(completion.text for completion in group.completions)
        random.Random(f"{group.task.id}\n{said}").shuffle(rewards)
        return rewards
