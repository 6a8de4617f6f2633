"""Rows made in Python as a task: problems, and a verifier of your own that scores all answers to one problem.

python examples/own_dataset.py --model MODEL
"""

import argparse
from pathlib import Path

import rung
from rung.records import Group, Task
from rung.tasks.environments.protocol import Splits


class Reversal:
    """Say a word backwards. Problems of the two splits have no word in common."""

    words = ("lamp", "stone", "river", "cloud", "table", "green", "north", "paper", "sugar", "train")

    def __init__(self, held_out: bool):
        self.mine = [w for i, w in enumerate(self.words) if (i % 5 == 0) == held_out]

    def __len__(self) -> int:
        return len(self.mine)

    def __getitem__(self, index: int) -> Task:
        word = self.mine[index]
        return Task(word, f"Spell {word} backwards:", {"gold": word[::-1]})

    def score(self, group: Group) -> list[dict[str, float]]:
        gold = group.task.data["gold"]
        return [{"correct": float(c.text.strip().lower() == gold)} for c in group.completions]


def main(model: str, out: Path, steps: int = 60, **settings):
    splits = Splits("reversal", Reversal(held_out=False), Reversal(held_out=True), max_new_tokens=16)
    return rung.train(model=model, task=splits, steps=steps, out=out / "run", **{"prompts_per_step": 4, **settings})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/own_dataset"))
    args = parser.parse_args()
    main(args.model, args.out)
