"""A reward function of your own, in TRL's form: one float per answer, or None where it cannot tell.

python examples/own_reward.py --model MODEL
rung train dr_grpo --model MODEL --task problems.jsonl --reward examples/own_reward.py:short_and_right    # the same
"""

import argparse
import json
from pathlib import Path

import rung


def short_and_right(prompts, completions, answer, **columns):
    """1 for the right answer, less a little for each word. `answer` is a column of the data."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [float(right in text.split()) - 0.01 * len(text.split()) for text, right in zip(texts, answer, strict=True)]


def main(model: str, out: Path, steps: int = 60, **settings):
    rows = [{"prompt": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(1, 10) for b in range(1, 10)]
    problems = out / "problems.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    reward = f"{__file__}:short_and_right"
    return rung.train(model=model, task=str(problems), reward=reward, steps=steps, out=out / "run", **settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/own_reward"))
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    main(args.model, args.out)
