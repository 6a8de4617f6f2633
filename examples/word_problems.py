"""Word problems of one step and of two. What a model learns from some stories: other numbers in them, and other stories.

python examples/word_problems.py --model smollm2
"""

import argparse
import json
from itertools import combinations_with_replacement
from pathlib import Path
from random import Random

import rung

ASK = "Answer with one short sentence that ends with the number."
NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Ivy", "Jack")
THINGS = ("apples", "books", "buttons", "cards", "coins", "marbles", "pencils", "shells", "stamps", "stickers")


def known(a, b, c, A, B, x):
    """Stories to train on, each with its answer. A and B are two people, x are things."""
    yield f"{A} finds {a} {x} on the way to school and {b} on the way home. How many {x} does {A} find?", a + b
    yield f"There are {a} {x} in the red box and {b} {x} in the blue box. How many {x} are in the two boxes?", a + b
    yield f"{A} has {a} {x}. {B} brings {b} more. How many {x} are there now?", a + b
    yield f"A bus leaves with {a} children. Then {b} more children get on. How many children are on the bus?", a + b
    yield f"{A} had {a + b} {x} and gave {b} of them to {B}. How many {x} does {A} have left?", a
    yield f"{A} owns {a + b} {x}. {b} of them are old and the others are new. How many of the {x} are new?", a
    yield f"{A} has {a + b} {x} and {B} has {b}. How many more {x} does {A} have than {B}?", a
    yield f"{A} needs {a + b} {x} and has {b} so far. How many {x} are still missing?", a
    yield f"{A} buys {a} bags of {x}. There are {b} {x} in each bag. How many {x} does {A} buy?", a * b
    yield f"{A} reads {a} pages every day. How many pages does {A} read in {b} days?", a * b
    yield f"A garden has {a} rows of trees with {b} trees in each row. How many trees are in the garden?", a * b
    yield f"One ticket costs {a} dollars. How many dollars do {b} tickets cost?", a * b
    yield f"{A} shares {a * b} {x} equally among {b} friends. How many {x} does each friend get?", a
    yield f"{A} puts {a * b} {x} into bags, {b} in each bag. How many bags does {A} fill?", a
    yield f"A room has {a * b} chairs in {b} equal rows. How many chairs are in each row?", a
    yield f"{A} had {a + b} {x}, lost {b} of them and found {c} others. How many {x} does {A} have now?", a + c
    yield f"{A} has {c} {x} and buys {a} bags with {b} {x} in each. How many {x} does {A} have now?", a * b + c
    yield f"A book costs {c} dollars and a pen {a} dollars. How many dollars do one book and {b} pens cost?", a * b + c
    yield f"{A} has {a} {x}. {B} has {b} more than {A}. How many {x} do {A} and {B} have together?", 2 * a + b
    yield f"{A} had {c} {x}. {B} shares {a * b} {x} equally among {b} children, {A} too. How many has {A} now?", a + c


def new(a, b, c, A, B, x):
    """Stories that are never trained on."""
    yield f"{A} walks {a} miles on Monday and {b} miles on Tuesday. How many miles is that in all?", a + b
    yield f"There are {a + b} birds in a tree. Then {b} of them fly away. How many birds stay in the tree?", a
    yield f"Every car holds {a} people. How many people fit into {b} cars?", a * b
    yield f"{A} cuts a rope of {a * b} feet into {b} equal pieces. How many feet long is each piece?", a
    yield f"{a * b} pupils make {b} equal teams. Then {c} parents join each team. How many people has a team?", a + c
    yield f"{A} has {a} {x}, {B} has {b}. I have {c} more than both together. How many {x} do I have?", a + b + c


def rows(stories, pairs, draw):
    """Each story with each pair of numbers in either order; people, things and the third number are drawn."""
    for a, b in sorted({*pairs, *((b, a) for a, b in pairs)}):
        people, x = draw.sample(NAMES, 2), draw.choice(THINGS)
        for text, answer in stories(a, b, draw.randint(2, 9), *people, x):
            yield {"prompt": [{"role": "user", "content": f"{text} {ASK}"}], "answer": str(answer)}


def problems(held_out: int, seed: int = 0):
    """Rows to train on; known stories with pairs of numbers that those never have; new stories with any numbers."""
    draw, pairs = Random(seed), list(combinations_with_replacement(range(2, 10), 2))
    draw.shuffle(pairs)
    apart = pairs[: len(pairs) // 6]
    train, other, fresh = (list(rows(*x, draw)) for x in ((known, pairs[len(apart) :]), (known, apart), (new, pairs)))
    return train, {"known": draw.sample(other, held_out), "new": draw.sample(fresh, held_out)}


def write(path: Path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def main(model: str, out: Path, steps: int = 60, held_out: int = 80, samples: int = 4, **settings):
    train, tests = problems(held_out)
    write(out / "problems" / "train.jsonl", train)
    write(out / "problems" / "test.jsonl", [row for both in zip(*tests.values(), strict=True) for row in both])
    mine = {
        "recipe": "dapo",
        "overrides": {"data.resample": 2, "data.overlong.factor": 0.2},  # as docs/speedrun.md found
        "prompts_per_step": 8,
        "samples_per_prompt": 16,
        "max_new_tokens": 40,
        "learning_rate": 4e-5,
        "decay_steps": steps,
        "dtype": "auto",
        "eval_problems": 40,
        "eval_every": 20,
    }
    mine |= settings
    run = rung.train(model=model, task=str(out / "problems"), steps=steps, out=out / "run", **mine)
    found = {}
    for name, test in tests.items():
        write(out / f"{name}.jsonl", test)
        found[name] = run.evaluate(
            compare=model, task=str(out / f"{name}.jsonl"), task_options={"eval_share": 1.0}, samples=samples,
            max_new_tokens=mine["max_new_tokens"],
        )  # fmt: skip
        print(f"held-out problems, {name} stories (after, before, paired):\n{found[name]!r}")
    return run, found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/word_problems"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    main(args.model, args.out, args.steps, threads=args.threads)
