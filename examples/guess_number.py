"""An environment in the protocol itself: guess a digit in several turns; each guess is told higher (h) or lower (l).

rung train dr_grpo --model MODEL --environment examples/guess_number.py:GuessNumber --max-turns 4
"""

from rung.records import Completion, Group, Step, Task


class Game:
    """One conversation about one hidden digit."""

    def __init__(self, task: Task):
        self.task, self.secret = task, task.data["secret"]

    def reset(self):
        return self.task.prompt

    def step(self, completion: Completion) -> Step:
        guess = completion.text.strip()[-1:]
        if guess == self.secret:
            return Step([], done=True, reward=1.0)
        hint = "unclear" if not guess.isdigit() else "higher" if guess < self.secret else "lower"
        return Step([{"role": "user", "content": hint}], done=False, reward=-0.1)


class GuessNumber:
    """Ten digits in an order of their own; the rewards of the steps say it all."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(index)
        prompt = [{"role": "user", "content": "Guess my digit. Answer with one digit."}]
        return Task(f"digit-{index}", prompt, {"secret": str(index * 7 % 10)})

    def session(self, task: Task) -> Game:
        return Game(task)

    def score(self, group: Group) -> list[dict[str, float]]:
        return [{} for _ in group.completions]
