"""How likely is each result of a worked answer, if all before it is right? By kind of problem, for several ways of working.

    python benchmarks/worked.py smollm2

What a policy never says earns nothing: before any training this tells which working is within a model's reach. Training problems
of two digits; worked examples stand before each as turns of a conversation, in one message, or in the system's. `copied` is the
probability of everything else in the answer: numbers that are copied, signs, white space, its end.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import mean

import torch
from transformers import DynamicCache

from render import markdown
from rung.evaluation.models import resolve
from rung.network import model as models
from rung.records import Message
from rung.tasks import registry

Problem = tuple[int, str, int]
KINDS = ("sum", "difference", "below zero")
SHOWN: Sequence[Problem] = ((35, "+", 48), (62, "-", 28), (28, "-", 63), (74, "+", 13), (86, "-", 51), (47, "-", 93))
RESULT = re.compile(r"(?:= |=|so )(-?\d+)")


def value(a: int, op: str, b: int) -> int:
    return a + b if op == "+" else a - b


def direct(a: int, op: str, b: int) -> str:
    return f"{a} {op} {b} = {value(a, op, b)}"


def tens_first(a: int, op: str, b: int) -> str:
    """62 - 20 = 42, 42 - 8 = 34; the larger number first."""
    if op == "-" and a < b:
        return f"{b} is larger. {tens_first(b, op, a)}, so {a - b}"
    between = value(a, op, b // 10 * 10)
    return f"{a} {op} {b // 10 * 10} = {between}, {between} {op} {b % 10} = {value(a, op, b)}"


def borrowed(a: int, op: str, b: int) -> str:
    """50 - 20 = 30, 12 - 8 = 4, 30 + 4 = 34; the larger number first."""
    if op == "-" and a < b:
        return f"{b} is larger. {borrowed(b, op, a)}, so {a - b}"
    x, y, c, d = a // 10 * 10, b // 10 * 10, a % 10, b % 10
    if op == "-" and c < d:
        x, c = x - 10, c + 10
    tens, ones = value(x, op, y), value(c, op, d)
    return f"{x} {op} {y} = {tens}, {c} {op} {d} = {ones}, {tens} + {ones} = {tens + ones}"


def counted_up(a: int, op: str, b: int) -> str:
    """28 + 2 = 30, 30 + 32 = 62, 2 + 32 = 34; the larger number first."""
    if op == "+":
        return tens_first(a, op, b)
    if a < b:
        return f"{b} is larger. {counted_up(b, op, a)}, so {a - b}"
    up = -b % 10
    if up == 0 or b + up > a:
        return f"{b} + {a - b} = {a}, so {a - b}"
    return f"{b} + {up} = {b + up}, {b + up} + {a - b - up} = {a}, {up} + {a - b - up} = {a - b}"


def signed(a: int, op: str, b: int) -> str:
    """60 - 20 = 40, 2 - 8 = -6, 40 - 6 = 34."""
    tens, ones = value(a // 10 * 10, op, b // 10 * 10), value(a % 10, op, b % 10)
    both = f"{tens} {'-' if ones < 0 else '+'} {abs(ones)} = {tens + ones}"
    return f"{a // 10 * 10} {op} {b // 10 * 10} = {tens}, {a % 10} {op} {b % 10} = {ones}, {both}"


def digits(a: int, op: str, b: int) -> str:
    """6 - 2 = 4, 2 - 8 = -6, 40 - 6 = 34, on three lines."""
    tens, ones = value(a // 10, op, b // 10), value(a % 10, op, b % 10)
    both = f"{10 * tens} {'-' if ones < 0 else '+'} {abs(ones)} = {10 * tens + ones}"
    return f"{a // 10} {op} {b // 10} = {tens}\n{a % 10} {op} {b % 10} = {ones}\n{both}"


WAYS: Sequence[Callable[[int, str, int], str]] = (direct, tens_first, borrowed, counted_up, signed, digits)


def turns(way: Callable[[int, str, int], str], asked: Problem) -> list[Message]:
    shown = [turn for x in SHOWN for turn in (("user", "{} {} {} =".format(*x)), ("assistant", way(*x)))]
    return [{"role": role, "content": text} for role, text in (*shown, ("user", "{} {} {} =".format(*asked)))]


def one_message(way: Callable[[int, str, int], str], asked: Problem) -> list[Message]:
    lines = ["{} {} {}: ".format(*x) + way(*x) for x in SHOWN]
    return [{"role": "user", "content": "\n".join((*lines, "{} {} {}:".format(*asked)))}]


def problems(count: int) -> dict[str, list[Problem]]:
    """The first of each kind, each once."""
    env, found, i = registry.load("chain_sum", options={"min_digits": 2, "max_digits": 2}).train, defaultdict(list), 0
    while min(len(found[kind]) for kind in KINDS) < count:
        a, op, b = env[i].data["question"].partition(": ")[2].rstrip(" =").split()
        asked, i = (int(a), op, int(b)), i + 1
        kind = KINDS[0] if op == "+" else KINDS[1 + (int(a) < int(b))]
        if len(found[kind]) < count and asked not in found[kind]:
            found[kind].append(asked)
    return found


@torch.no_grad()
def measure(model: models.Model, prompts: Sequence[list[int]], said: Sequence[str]) -> list[tuple[list[float], float]]:
    """(log-probability of each result, of all else) of a worked answer behind each prompt; what these share is read once."""
    shared = next(n for n, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1)
    cache, found = DynamicCache(), []
    model.hf(torch.tensor([prompts[0][:shared]]), past_key_values=cache)
    for prompt, text in zip(prompts, said, strict=True):
        ids = [*model.codec.ids(text), int(model.codec.tokenizer.eos_token_id)]
        logits = model.hf(torch.tensor([[*prompt[shared:], *ids]]), past_key_values=cache).logits[0, -len(ids) - 1 : -1]
        cache.crop(shared - cache.get_seq_length())
        logp = logits.float().log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()
        found.append(divided(text, [model.codec.tokenizer.decode([i]) for i in ids[:-1]], logp))
    return found


def divided(text: str, tokens: Sequence[str], logp: Sequence[float]) -> tuple[list[float], float]:
    """(sum over each result's tokens, over all others and the end)."""
    spans = [m.span(1) for m in RESULT.finditer(text)]
    results, rest, at = [0.0] * len(spans), logp[-1], 0
    for token, x in zip(tokens, logp, strict=False):
        inside = [n for n, (start, end) in enumerate(spans) if at < end and at + len(token) > start]
        if inside:
            results[inside[0]] += x
        else:
            rest += x
        at += len(token)
    return results, rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--problems", type=int, default=30, help="of each kind")
    args = parser.parse_args()
    model = models.load(resolve(args.model)[0], dtype=torch.bfloat16)
    asked, lines = problems(args.problems), []
    for way, placed in [*((way, turns) for way in WAYS), (direct, one_message)]:
        row: list[object] = [way.__name__, placed.__name__]
        flat = [x for kind in KINDS for x in asked[kind]]
        found = measure(model, [model.codec.encode(placed(way, x)) for x in flat], [way(*x) for x in flat])
        for k in range(len(KINDS)):
            part = found[k * args.problems : (k + 1) * args.problems]
            most = max(len(results) for results, _ in part)
            means = [mean(math.exp(results[n]) for results, _ in part if n < len(results)) for n in range(most)]
            row.append(f"{', '.join(f'{x:.2g}' for x in means)} | {mean(math.exp(rest) for _, rest in part):.2g}")
        lines.append(row)
    print(markdown("Probability of each result | of all else", ["way", "shown in", *KINDS], lines))


if __name__ == "__main__":
    main()
