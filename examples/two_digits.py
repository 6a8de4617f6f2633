"""Sums and differences of two-digit numbers in three lines: worked examples in the prompt, a reward for each right part.

    python examples/two_digits.py --model smollm2

"62 - 28 =" is to be answered by "6 - 2 = 4", "2 - 8 = -6", "40 - 6 = 34": tens, ones, both together. What is right is said by
the task, chain_sum, which reads the last number. The rewards in between need a part of a recipe that compares each part of an
answer with the same part of the other answers: here it is.
"""

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

import rung
import rung.parts as p
from rung.maths.returns import group_sum, outcome_to_token
from rung.recipes import DR_GRPO
from rung.tasks import registry
from rung.tasks.environments.protocol import Splits

EQUATION = re.compile(r"(-?\d+) *([+-]) *(\d+) *= *(-?\d+)")
SHOWN = ("35 + 48", "62 - 28", "28 - 63")  # none of them is held out


# -- the prompt: problems that were solved in steps, as turns of a conversation ---------------------------------------
def column(a: str, operation: str, b: str) -> tuple[int, str, int, int]:
    """An equation as its parts: "6", "-", "2" -> (6, "-", 2, 4)."""
    return int(a), operation, int(b), int(a) + (int(b) if operation == "+" else -int(b))


def together(tens: int, ones: int) -> tuple[int, str, int, int]:
    return 10 * tens, "-" if ones < 0 else "+", abs(ones), 10 * tens + ones


def columns(problem: str) -> list[tuple[int, str, int, int]]:
    """Of the tens and of the ones."""
    a, operation, b = problem.split()
    return [column(x, operation, y) for x, y in zip(a, b, strict=True)]


def worked(problem: str) -> str:
    tens, ones = columns(problem)
    lines = (tens, ones, together(tens[-1], ones[-1]))
    return "\n".join(f"{a} {operation} {b} = {c}" for a, operation, b, c in lines)


def prompt(problem: str) -> list[dict[str, str]]:
    shown = [turn for x in SHOWN for turn in (("user", f"{x} ="), ("assistant", worked(x)))]
    return [{"role": role, "content": text} for role, text in (*shown, ("user", f"{problem} ="))]


# -- the problems: chain_sum's, which judges the result, and a reward for each right part of the working ---------------
def problem(task) -> str:
    return task.data["question"].partition(": ")[2].removesuffix(" =")


class InSteps:
    name = "two_digits"

    def __init__(self, problems):
        self.problems = problems

    def __len__(self) -> int:
        return len(self.problems)

    def __getitem__(self, index: int):
        task = self.problems[index]
        return replace(task, prompt=prompt(problem(task)))

    def score(self, group):
        return self.problems.score(group)

    def extract(self, task, completion):
        return self.problems.extract(task, completion)

    def steps(self, task, completion):
        """(where a part of the working ends, 1 if it is right), as `judged` divides a line.

        The third line is to follow from the results of the others, whatever they are. What follows a line that is no equation
        has no parts, and a fourth line costs 1.
        """
        at, results, expected = 0, [], columns(problem(task))
        for number, line in enumerate(completion.text.split("\n")):
            if number == 3:
                yield at, -1.0
                return
            found = EQUATION.fullmatch(line)
            if found is None:
                return
            parts = together(*results) if number == 2 else expected[number]
            yield from ((at + end, float(right)) for end, right in judged(parts, found))
            results.append(int(found[4]))
            at += len(line) + 1


def judged(parts, found):
    """(its end in the line, whether it is right) of operand, sign, operand, and of the result's sign and the result."""
    same = [str(x) == y for x, y in zip(parts, found.groups(), strict=True)]
    yield from zip(map(found.end, (1, 2, 3)), same, strict=False)
    minus = found[4].startswith("-")
    yield found.start(4) + minus, all(same[:3]) and minus == (parts[3] < 0)
    yield found.end(4), all(same)


# -- the recipe: a token has the reward of the part that it belongs to --------------------------------------------------
@dataclass(frozen=True)
class PartMean(p.Credit):
    """A_bt = (r_bj - m_j) / m_j, where token t lies in part j of the answer and m_j = mean_G r_j.

    As in maxrl the division lets a part that few get right say most; where m_j is not positive there is none. Behind an answer's
    last part it is the sum over all parts that it lacks (r = 0) and over the outcome.
    """

    needs: ClassVar = frozenset({"steps", "groups"})

    def __call__(self, batch):
        last_BT = outcome_to_token(torch.ones_like(batch.reward_BT[:, 0]), batch.mask_BT) > 0
        end_BT = batch.step_end_BT & ~last_BT
        part_BT, parts_B = end_BT.cumsum(1) - end_BT.long(), end_BT.sum(1)
        r_BN = torch.zeros(len(parts_B), int(parts_B.max()) + 1, dtype=torch.double)  # the last column is the outcome
        b, t = end_BT.nonzero(as_tuple=True)
        r_BN[b, part_BT[b, t]] = batch.reward_BT[b, t].double()
        r_BN[:, -1] = batch.reward_BT[last_BT].double()
        size_P = group_sum(torch.ones_like(r_BN[:, 0]), batch.group_B)
        m_BN = torch.stack([group_sum(r_B, batch.group_B) / size_P for r_B in r_BN.T], 1)[batch.group_B]
        A_BN = (r_BN - m_BN) / m_BN.where(m_BN > 0, 1.0)
        rest_B = (A_BN * (torch.arange(A_BN.shape[1]) >= parts_B[:, None])).sum(1)
        A_BT = torch.where(part_BT < parts_B[:, None], A_BN.gather(1, part_BT), rest_B[:, None])
        return (A_BT * (batch.mask_BT & batch.valid_B[:, None])).to(batch.reward_BT.dtype)


RECIPE = replace(
    DR_GRPO, name="part_mean", parent="dr_grpo", paper="none",
    why="One reward for all parts of an answer is noise for each: compare a part with the same part of the other answers.",
    credit=PartMean(), aggregate=p.TokenMean())  # fmt: skip


def splits() -> Splits:
    found = registry.load("chain_sum", options={"min_digits": 2, "max_digits": 2})
    return Splits("two_digits", InSteps(found.train), InSteps(found.eval))


def main(model: str, out: Path, steps: int = 120, **settings):
    mine = {
        "prompts_per_step": 12,
        "samples_per_prompt": 10,
        "max_new_tokens": 32,
        "learning_rate": 4e-5,
        "decay_steps": steps,
        "dtype": "auto",
        "eval_problems": 200,
        "eval_samples": 2,
        "eval_every": 20,
    }
    return rung.train(RECIPE, model=model, task=splits(), steps=steps, out=out, **mine | settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/two_digits"))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    main(args.model, args.out, args.steps, threads=args.threads, seed=args.seed)
