"""How likely is the right result once an answer has begun as "62 - 28 ="? By kind of problem, before any sampling.

    python benchmarks/likelihood.py smollm2 --digits 2

What a policy never says earns nothing, so this is what reinforcement learning has to start from. Held-out problems of
chain_sum; for each kind the mean probability of the right result's digits, that of a minus sign in their place, and how often
greedy decoding says the right result.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from statistics import mean

import torch

from render import markdown
from rung.evaluation.models import resolve
from rung.network import model as models
from rung.tasks import registry


@torch.no_grad()
def measure(model: models.Model, question: str, problem: str, result: str) -> tuple[float, float, float]:
    """(probability of the result, of a minus sign, whether greedy decoding says it) after `problem =`."""
    encode = model.codec.tokenizer.encode
    begun = [
        *model.codec.encode([{"role": "user", "content": question}]),
        *encode(f"{problem} =", add_special_tokens=False),
    ]
    said = encode(f" {result}", add_special_tokens=False)
    logits = model.hf(torch.tensor([[*begun, *said]])).logits[0, len(begun) - 1 : -1].float()
    right = logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None]).sum().exp()
    minus = logits[0].softmax(-1)[encode(" -", add_special_tokens=False)[0]]
    return float(right), float(minus), float(logits.argmax(-1).tolist() == said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--digits", type=int, default=2)
    parser.add_argument("--problems", type=int, default=100)
    args = parser.parse_args()
    model = models.load(resolve(args.model)[0])
    env = registry.load("chain_sum", options={"min_digits": args.digits, "max_digits": args.digits}).eval
    rows = defaultdict(list)
    for i in range(min(args.problems, len(env))):
        task = env[i]
        question, gold = task.data["question"], str(task.data["answer"])
        problem = question.partition(": ")[2].rstrip(" =")
        kind = "sum" if "+" in problem else "below zero" if gold.startswith("-") else "difference"
        rows[kind].append(measure(model, question, problem, gold))
    lines: list[list[object]] = []
    for kind, found in rows.items():
        right, minus, greedy = (mean(column) for column in zip(*found, strict=True))
        lines.append([kind, len(found), f"{right:.2g}", f"{minus:.2g}", f"{greedy:.2f}"])
    print(markdown("The right result", ["kind", "problems", "P(right)", "P(minus)", "greedy"], lines))


if __name__ == "__main__":
    main()
