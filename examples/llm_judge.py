"""A language model as the judge: any server that speaks OpenAI's chat completions pays the answers.

vllm serve Qwen/Qwen3-8B --port 8000                                            # or any other such server
python examples/llm_judge.py --model MODEL
rung train dr_grpo --model MODEL --task problems.jsonl --reward examples/llm_judge.py:helpful    # the same
"""

import argparse
import json
import os
from pathlib import Path

import rung
from rung.tasks.rewards.judge import Judge, out_of

helpful = Judge(
    os.environ.get("JUDGE_URL", "http://127.0.0.1:8000/v1"),
    os.environ.get("JUDGE_MODEL", "Qwen/Qwen3-8B"),
    "Question: {prompt}\n\nAnswer: {completion}\n\nWhat a good answer names: {names}\n\n"
    "How good is the answer, from 0 to 10? End with the number alone.",
    parse=out_of(10),
    name="helpful",
)
ROWS = [
    {"prompt": f"Why {question}? Answer in one sentence.", "names": names}
    for question, names in (
        ("is the sky blue", "short waves are scattered more"),
        ("does ice float", "ice is less dense than water"),
        ("do leaves fall in autumn", "less light, and water is saved"),
        ("does the moon have phases", "the angle to the sun changes"),
    )
]


def main(model: str, out: Path, steps: int = 60, **settings):
    problems = out / "problems.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    reward = f"{__file__}:helpful"
    run = rung.train(
        model=model, task=str(problems), chat=True, reward=reward, steps=steps, out=out / "run", **settings
    )
    print("the judge:", dict(helpful.counts))
    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/llm_judge"))
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    main(args.model, args.out)
