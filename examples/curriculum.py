"""A curriculum: sums of one digit first, then three terms, products and word problems together.

python examples/curriculum.py --model smollm2
"""

import argparse
import json
from itertools import product
from pathlib import Path

import rung

STORIES = (
    ("{name} has {a} {things} and finds {b} more. How many {things} does {name} have now?", lambda a, b: a + b),
    ("There are {a} {things} on the table. {name} takes {b} of them. How many are left?", lambda a, b: a - b),
    ("{name} buys {a} bags with {b} {things} in each. How many {things} is that?", lambda a, b: a * b),
)
NAMES, THINGS = ("Anna", "Ben", "Carla", "David"), ("apples", "coins", "books", "pens")
CURRICULUM = """
[[part]]
task = "chain_sum"
name = "two_terms"
[[part]]
task = "chain_sum"
name = "three_terms"
options = {min_terms = 3, max_terms = 3}
[[part]]
task = "products"
options = {min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1}
[[part]]
task = "words.jsonl"

[[stage]]
weights = {two_terms = 1}
until_step = FIRST
[[stage]]
weights = {two_terms = 1, three_terms = 1, products = 1, words = 1}
"""


def word_problems():
    """Every story with every pair of digits that makes sense in it; names and things take turns."""
    for i, ((story, result), a, b) in enumerate(product(STORIES, range(2, 10), range(2, 10))):
        if result(a, b) >= 0:
            name, things = NAMES[i % len(NAMES)], THINGS[i // len(NAMES) % len(THINGS)]
            text = story.format(name=name, a=a, b=b, things=things)
            # a message, since a plain string would not go through the model's chat template
            question = {"role": "user", "content": f"{text} Give only the number."}
            yield {"prompt": [question], "answer": str(result(a, b))}


def main(model: str, out: Path, steps: int = 60, first: int = 10, **settings):
    out.mkdir(parents=True)
    (out / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in word_problems()), encoding="utf-8")
    (out / "curriculum.toml").write_text(CURRICULUM.replace("FIRST", str(first)), encoding="utf-8")
    mine = {
        "recipe": "dapo",
        "overrides": {"entropy": 0.01},  # a policy that is sure of itself finds nothing new in the next stage
        "prompts_per_step": 8,
        "samples_per_prompt": 16,
        "max_new_tokens": 16,
        "learning_rate": 2e-5,
        "eval_problems": 80,
        "eval_samples": 4,
        "eval_every": 10,
    }
    task = str(out / "curriculum.toml")
    return rung.train(model=model, task=task, steps=steps, out=out / "run", **{**mine, **settings})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/curriculum"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    main(args.model, args.out, args.steps, threads=args.threads)
