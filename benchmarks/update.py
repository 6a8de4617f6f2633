"""The update of a GRPO step against its matrix products alone, and where the rest of its time goes.

    python benchmarks/update.py --threads 2

P prompts x G answers of T random tokens, no sampling, one AdamW step on all of them. `products` are the update's own linear
layers and head, forward and backward, each size at its best rate, measured alone in the same process: no code that
multiplies by these weights is faster. By operation: seconds of the processor in each operation of one update, in one
thread. Prints Markdown; two minutes on two quiet cores. With --threads 1 all seconds are the processor's.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from render import markdown
from rung.io.environment import describe_environment, keep_freed_memory
from rung.maths.products import large_products
from rung.models import smollm2
from rung.network import model as models
from rung.recipe_io import find
from rung.records import Rollout, SamplingLaw
from rung.rollout.collect import Collector
from rung.rollout.draws import Draws
from rung.training.learner import Hyper, LocalLearner
from rung_step import Problems
from trl_step import DTYPES

KINDS = {  # an operation belongs to the first of these that its name, or the shape of what it reads, has a part of
    "products of layers and head": (".mm.", ".addmm."),
    "softmax of the head and its gradient": ("vocabulary",),
    "attention": (".bmm.", "softmax", "scaled_dot"),
    "optimizer": ("_foreach",),
}
REST = "norms, gates, rotary, copies, sums of gradients"
TRIES = 8  # of a product by itself; the shortest counts
Size = tuple[int, int, int, torch.dtype]


class RandomTokens:
    """A sampler of random tokens: an update takes as long on them as on a model's own."""

    same_numbers = True

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def sample(self, prompts: Sequence[Sequence[int]], law: SamplingLaw, draws: Draws) -> list[Rollout]:
        dice, n, each = random.Random(0), law.max_new_tokens, draws.each(len(prompts))

        def one(prompt: Sequence[int]) -> Rollout:
            tokens = tuple(dice.randrange(self.vocabulary) for _ in range(n))
            return Rollout(tuple(prompt), tokens, (-10.0,) * n, None, "length")

        return [one(prompt) for prompt in prompts for _ in range(each)]

    def load(self, weights: Iterable[object], version: int) -> None:
        """It has none."""


class Operations(TorchDispatchMode):
    """Seconds of the processor by operation inside this block, and the sizes of its products."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.seconds: dict[str, float] = defaultdict(float)
        self.products: Counter[Size] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.process_time()
        out = func(*args, **(kwargs or {}))
        took = time.process_time() - start
        shapes = [x.shape for x in args if isinstance(x, torch.Tensor)]
        name = f"{func} vocabulary" if any(s[-1:] == (self.vocabulary,) and s[0] > 1 for s in shapes) else str(func)
        self.seconds[next((k for k, parts in KINDS.items() if any(p in name for p in parts)), REST)] += took
        if ".mm." in name:
            (n, k), m = args[0].shape, args[1].shape[1]
            self.products[n, k, m, args[0].dtype] += 1
        return out


def alone(size: Size) -> float:
    """Seconds of the product [n, k] x [k, m], the second matrix laid out as it is faster."""
    n, k, m, dtype = size
    a, b = torch.full((n, k), 0.5, dtype=dtype), torch.full((k, m), 0.5, dtype=dtype)
    turned = b.T.contiguous().T
    with torch.no_grad(), large_products(b):
        return min(timed(lambda m=matrix: a @ m) for _ in range(TRIES) for matrix in (b, turned))


def step_of(args: argparse.Namespace, model: models.Model) -> Callable[[], None]:
    """One training step on answers that are there already."""
    recipe, law = find("dr_grpo"), SamplingLaw(max_new_tokens=args.tokens)
    sampler = RandomTokens(model.hf.config.get_text_config().vocab_size)
    learner = LocalLearner(recipe, model, Hyper(max_new_tokens=args.tokens))
    problems, (P, G) = Problems(args.prompts), (args.prompts, args.samples)
    collected = Collector(problems, model.codec, sampler, law, recipe.data, P, G, 0).collect(0, learner.state)

    def step() -> None:
        assert learner.step(collected).metrics["update/steps"] == 1

    return step


def measure(args: argparse.Namespace, dtype: str) -> dict[str, Any]:
    model = models.load(args.model, dtype=getattr(torch, DTYPES[dtype]))
    vocabulary, step = model.hf.config.get_text_config().vocab_size, step_of(args, model)
    step()
    seconds = [timed(step)]
    torch.set_num_threads(1)
    with Operations(vocabulary) as seen:
        start = time.process_time()
        step()
        between = time.process_time() - start - sum(seen.seconds.values())
    torch.set_num_threads(args.threads)
    bound = sum(times * alone(size) for size, times in seen.products.items())
    seconds += [timed(step) for _ in range(args.rounds - 1)]
    flops = sum(2 * n * k * m * times for (n, k, m, _), times in seen.products.items())
    inside = {**seen.seconds, "between the operations": between}
    return {"dtype": DTYPES[dtype], "seconds": min(seconds), "bound": bound, "flops": flops, "inside": inside}


def timed(call: Callable[[], object]) -> float:
    """Seconds; in one thread those of the processor, so that what else runs here counts less."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", help="a Hugging Face checkpoint; default: SmolLM2 from the cache")
    flags.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    flags.add_argument("--prompts", type=int, default=4)
    flags.add_argument("--samples", type=int, default=8, help="answers per prompt")
    flags.add_argument("--tokens", type=int, default=64, help="length of every answer")
    flags.add_argument("--rounds", type=int, default=2, help="timed updates, the faster of which counts")
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = flags.parse_args()
    keep_freed_memory()  # as `rung train` does
    torch.set_num_threads(args.threads)
    args.model = args.model or str(smollm2.path() or sys.exit("run `make smollm2` once, or give --model"))
    found = [measure(args, dtype) for dtype in args.dtypes]
    title = f"Update of {args.prompts} x {args.samples} x {args.tokens}, {args.threads} threads, {describe_environment()['cpu']}"
    heads = ["precision", "products alone, s", "at GFLOP/s", "update, s", "update / products"]
    print(markdown(title, heads, [row(x) for x in found]), end="\n\n")
    kinds = [*KINDS, REST, "between the operations"]
    lines = [[kind, *(share(x["inside"], kind) for x in found)] for kind in kinds]
    print(markdown("Seconds of the processor, one thread", ["operations", *(x["dtype"] for x in found)], lines))


def row(x: dict[str, Any]) -> list[object]:
    rate, ratio = x["flops"] / x["bound"] / 1e9, x["seconds"] / x["bound"]
    return [x["dtype"], f"{x['bound']:.2f}", f"{rate:.0f}", f"{x['seconds']:.2f}", f"{ratio:.2f}"]


def share(inside: dict[str, float], kind: str) -> str:
    return f"{inside.get(kind, 0.0):.2f} ({inside.get(kind, 0.0) / sum(inside.values()):.0%})"


if __name__ == "__main__":
    main()
