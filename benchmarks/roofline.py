"""What this machine can do at a model's own sizes, and the bound for each phase of a step that follows.

    python benchmarks/roofline.py --model PATH --dtype fp32 --cells 8x64

Rates of products [rows, in] x [in, out] for every weight of a layer and the head, at the rows of decoding and of
training, by torch's default (MKL) and from weights packed for oneDNN; bytes/s of reading and writing long arrays.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch

from generation import encoded
from rung.kernels.packed_weights import pack, packed_linear
from rung.plan.estimate import head_flops, sampling_flops, trunk_flops, update_flops
from rung.plan.memory import Shape, Workload, sketch
from rung.training.config import TrainConfig
from trl_step import DTYPES

TRAINING_ROWS = 768


def best(call: Callable[[], object], seconds: float = 0.4) -> float:
    """The shortest call within some time, after one that does not count."""
    call()
    seen: list[float] = []
    while sum(seen) < seconds:
        start = time.perf_counter()
        call()
        seen.append(time.perf_counter() - start)
    return min(seen)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", required=True)
    flags.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    flags.add_argument("--prompts", type=int, default=4)
    flags.add_argument("--cells", nargs="+", default=["8x64"], help="GxT")
    flags.add_argument("--threads", type=int, default=0)
    args = flags.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    name = DTYPES[args.dtype]
    model = sketch(args.model, name)
    shape = Shape.of(model, TrainConfig(dtype=name))
    sizes = sorted({tuple(m.weight.shape) for m in model.hf.modules() if isinstance(m, torch.nn.Linear)})
    rows = sorted({args.prompts * int(c.split("x")[0]) for c in args.cells} | {TRAINING_ROWS})
    rates = [rate(n, size, getattr(torch, name)) for n in rows for size in sizes]
    a, b = torch.ones(1 << 26), torch.ones(1 << 26)
    stream = 8 * len(a) / best(lambda: b.copy_(a))
    prompt = len(encoded(model, 1)[0])
    bounds = [bound(shape, args.prompts, cell, prompt, rates, stream) for cell in args.cells]
    print(json.dumps({"rates": rates, "stream_gb_s": round(stream / 1e9, 2), "bounds": bounds}))


def rate(rows: int, size: tuple[int, int], dtype: torch.dtype) -> dict[str, object]:
    """GFLOP/s of one product, in both settings; weights past the caches, as decoding meets them."""
    out, inside = size
    copies = max(1, (64 << 20) // (out * inside * dtype.itemsize)) if rows < TRAINING_ROWS else 1
    x = torch.full((rows, inside), 0.5, dtype=dtype)
    weights = [torch.full(size, 0.5, dtype=dtype) for _ in range(copies)]

    work = 2 * rows * out * inside * copies / 1e9
    with torch.no_grad():
        plain = work / best(lambda: [torch.nn.functional.linear(x, w) for w in weights])
        blocked = [pack(w, rows) for w in weights] if x.dtype == torch.float32 and x.device.type == "cpu" else []
        packed = work / best(lambda: [packed_linear(w, None, x) for w in blocked]) if blocked else 0.0
    return {"rows": rows, "size": size, "gflop_s": round(plain, 1), "packed_gflop_s": round(packed, 1)}


def bound(s: Shape, P: int, cell: str, prompt: int, rates: list[dict], stream: float) -> dict[str, object]:
    """Seconds that no code can beat: each phase's products at the best measured rate, and for decoding the reading of
    all weights at every token (half of what is read and written in a copy) where that takes longer."""
    G, T = map(int, cell.split("x"))
    w = Workload(P, G, prompt, prompt, T, T, 0)
    decode_gemm = max(max(r["gflop_s"], r["packed_gflop_s"]) for r in rates if r["rows"] == P * G) * 1e9
    train_gemm = max(max(r["gflop_s"], r["packed_gflop_s"]) for r in rates) * 1e9
    prefill = trunk_flops(s, P * prompt, prompt / 2) + head_flops(s, P)
    decode = sampling_flops(s, w) - prefill
    read = T * (s.products + s.V * s.D) * s.width / stream
    return {
        "cell": cell,
        "prefill_s": round(prefill / train_gemm, 3),
        "decode_s": round(max(decode / decode_gemm, read), 3),
        "decode_products_s": round(decode / decode_gemm, 3),
        "decode_weights_s": round(read, 3),
        "update_s": round(update_flops(s, w) / train_gemm, 3),
    }


if __name__ == "__main__":
    main()
