"""What a decoding step consists of, by rows: milliseconds of the step, and of its linear layers by PyTorch's profiler.

    python benchmarks/decoding.py --model MODEL --groups 1x8 4x8 16x8

The model defaults to SmolLM2 from the cache. A group PxG is P prompts of 76 tokens with G answers each.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from render import markdown
from rung.kernels.attention import packed_attention
from rung.kernels.packed_weights import packed_weights
from rung.models import smollm2
from rung.network import model as models
from rung.network.streams import PackedStream

LINEAR = ("mkldnn::_linear_pointwise", "aten::mm", "aten::addmm")
TIMED, PROFILED = 10, 3


@torch.no_grad()
def step(model: models.Model, prompts: int, samples: int) -> tuple[float, float]:
    """(seconds of a step, seconds of its products with weights)."""
    rows = prompts * samples
    with packed_weights(model.hf.get_output_embeddings(), rows), packed_attention(model.hf):
        stream = PackedStream(
            model, [tuple(range(100 + p, 176 + p)) for p in range(prompts)], samples, TIMED + PROFILED + 2
        )
        stream.first()
        token_B = torch.randint(100, 4000, (rows,))
        seconds = []
        for _ in range(TIMED + 2):
            start = time.perf_counter()
            stream.next(token_B)
            seconds.append(time.perf_counter() - start)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(PROFILED):
                stream.next(token_B)
    products = sum(e.self_cpu_time_total for e in seen.key_averages() if e.key in LINEAR)
    return median(seconds[2:]), products / PROFILED / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: SmolLM2 from the cache")
    parser.add_argument("--groups", nargs="+", default=["1x8", "4x8", "16x8"], help="PxG")
    args = parser.parse_args()
    model = models.load(args.model or str(smollm2.path() or sys.exit("run `make smollm2` once, or give --model")))
    lines: list[list[object]] = []
    for group in args.groups:
        prompts, samples = map(int, group.split("x"))
        whole, products = step(model, prompts, samples)
        lines.append([prompts * samples, f"{1e3 * whole:.0f}", f"{1e3 * products:.0f}", f"{whole / products:.1f}"])
    print(markdown("A decoding step", ["rows", "step, ms", "products, ms", "step / products"], lines))


if __name__ == "__main__":
    main()
