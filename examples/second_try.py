"""Two tries: a wrong answer is followed by the same problem once more, and a late right answer is worth half.

rung train reward_to_go --environment examples/second_try.py:splits --max-turns 2 --max-new-tokens 48
"""

from rung.records import Completion, Group, Step, Task
from rung.tasks.environments.protocol import Environment, Splits
from rung.tasks.sources import arithmetic


class Tries:
    def __init__(self, task: Task, env: Environment):
        self.task, self.env, self.count = task, env, 0

    def reset(self) -> str:
        return self.task.prompt

    def step(self, completion: Completion) -> Step:
        self.count += 1
        right = self.env.score(Group(self.task, [completion]))[0]["correct"] > 0
        reward = {1: 1.0, 2: 0.5}[self.count] * right
        return Step([{"role": "user", "content": self.task.prompt}], done=right or self.count == 2, reward=reward)


class SecondTry:
    def __init__(self, env: Environment):
        self.env = env

    def __len__(self) -> int:
        return len(self.env)

    def __getitem__(self, index: int) -> Task:
        return self.env[index]

    def session(self, task: Task) -> Tries:
        return Tries(task, self.env)

    def score(self, group: Group) -> list[dict[str, float]]:
        return [{} for _ in group.completions]


def splits() -> Splits:
    base = arithmetic.splits()
    return Splits("second_try", SecondTry(base.train), SecondTry(base.eval), max_new_tokens=48)
