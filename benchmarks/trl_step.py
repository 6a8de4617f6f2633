"""One GRPO iteration of TRL's GRPOTrainer, timed by phase: the other side of the speed comparison.

An iteration is P prompts x G sampled answers of exactly T tokens (end tokens are held back), one reward each, and ONE
optimizer step on all of them: beta 0, one pass, AdamW. It prints one JSON line. Needs `pip install trl`, which
is no dependency of rung. What is set in TRL's favour, always: no gradient checkpointing (its default recomputes the
forward), no logging, no checkpoints, no shuffling, no entropy bonus. `--best` adds what can be tuned from outside
without touching its code: oneDNN for fp32 matrix products and a malloc that keeps its pages.

    python benchmarks/trl_step.py --model PATH --dtype fp32 --steps 3 [--best]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Word problems of 70 to 84 tokens with SmolLM2's chat template and its default system prompt.
PROMPTS = (
    (
        "A farmer has {a} rows of {b} apple trees. Each tree gives {c} baskets of apples in autumn, and he keeps {d} "
        "of all the baskets. How many baskets can he sell?"
    ),
    (
        "Mia reads {a} pages on every school day and {b} pages on each day of the weekend. How many pages has she read "
        "after {c} full weeks and {d} more school days? Think step by step."
    ),
    (
        "A bus starts with {a} people. At the first stop {b} get off and {c} get on; at the second stop {d} people "
        "leave. How many people are on the bus now? Show each stop on its own line."
    ),
    (
        "A shop sells pens for {a} coins and books for {b} coins each. Tom buys {c} pens and {d} books, and he pays "
        "with a note of one thousand coins. How many coins does he get back? Think step by step."
    ),
)
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
MALLOC = {  # glibc: keep freed pages instead of returning them to the system at every step
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


def prompts(count: int) -> list[str]:
    """The same `count` problems on every machine and in every system."""
    numbers = [{"a": 12 + i % 7, "b": 3 + i % 5, "c": 2 + i % 6, "d": 4 + i % 3} for i in range(count)]
    return [PROMPTS[i % len(PROMPTS)].format(**row) for i, row in enumerate(numbers)]


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Any cheap reward that differs within a group: without differences there would be no gradient to compute."""
    return [sum(token % 7 == 0 for token in ids) / len(ids) for ids in completion_ids]


def done(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def now(device: str) -> float:
    """Seconds, once the device has done what it was given."""
    done(device)
    return time.perf_counter()


def peak_gb(device: str) -> float:
    """The most that PyTorch held of a GPU's memory, or that the process held of main memory."""
    if device == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated() / 1e9, 3)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3)


class Clock:
    """Seconds per named phase since the last `take`."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = {}
        self.device = device

    def now(self) -> float:
        return now(self.device)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = self.now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - start

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return timed

    def take(self) -> dict[str, float]:
        taken, self.seconds = self.seconds, {}
        return taken


def parse() -> argparse.Namespace:
    flags = argparse.ArgumentParser(description="One GRPO iteration of TRL's GRPOTrainer, timed by phase.")
    flags.add_argument("--model", required=True, help="a Hugging Face checkpoint, as `rung smollm2` makes")
    flags.add_argument("--prompts", type=int, default=4)
    flags.add_argument("--samples", type=int, default=8, help="answers per prompt")
    flags.add_argument("--tokens", type=int, default=64, help="length of every answer")
    flags.add_argument("--steps", type=int, default=1, help="timed steps, after one warm-up step")
    flags.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="of weights and activations")
    flags.add_argument("--micro-batch", type=int, default=0, help="answers per backward; 0: all at once")
    flags.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's default")
    flags.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    flags.add_argument("--best", action="store_true", help="tuned: oneDNN for fp32 matmul, malloc settings")
    return flags.parse_args()


def build(args: argparse.Namespace, out: str, clock: Clock, finished: list[dict[str, float]]) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    answers = args.prompts * args.samples
    micro = args.micro_batch or answers
    if answers % micro:
        raise SystemExit(f"--micro-batch {micro} does not divide {answers} answers")
    settings = GRPOConfig(
        output_dir=out,
        max_steps=args.steps + 1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=answers // micro,  # = steps_per_generation: one optimizer step per generation
        num_generations=args.samples,
        max_completion_length=args.tokens,
        generation_kwargs={"min_new_tokens": args.tokens},
        num_iterations=1,
        beta=0.0,
        temperature=1.0,
        loss_type="grpo",
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        bf16=False,  # the weights themselves are in --dtype: faster than autocast over fp32 weights
        use_cpu=args.device == "cpu",
        model_init_kwargs={"dtype": DTYPES[args.dtype]},
        shuffle_dataset=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )

    class Steps(TrainerCallback):
        """A step lasts from its generation to the end of its optimizer update."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.take()
            self.start = clock.now()

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            self.optimizer = clock.now()

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            clock.seconds["backward"] += clock.now() - self.optimizer

        def on_step_end(self, *_: Any, **__: Any) -> None:
            total = clock.now() - self.start
            phases = clock.take()
            finished.append({**phases, "other": total - sum(phases.values()), "total": total})
            print(f"step {len(finished)} of {args.steps + 1}: {total:.1f} s", file=sys.stderr, flush=True)

    rows = [{"prompt": [{"role": "user", "content": text}]} for text in prompts(args.prompts)] * (args.steps + 1)
    trainer = GRPOTrainer(args.model, reward_funcs=reward, args=settings, train_dataset=Dataset.from_list(rows))
    trainer.remove_callback(PrinterCallback)  # it would write to standard output
    trainer.add_callback(Steps())
    trainer._generate_single_turn = clock.wrap("generate", trainer._generate_single_turn)
    trainer._get_per_token_logps_and_entropies = clock.wrap("forward", trainer._get_per_token_logps_and_entropies)
    trainer.accelerator.backward = clock.wrap("backward", trainer.accelerator.backward)
    return trainer


def main() -> None:
    args = parse()
    if args.best and any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.environ.update(MALLOC)  # malloc reads them when the process starts
        os.execv(sys.executable, [sys.executable, *sys.argv])
    import torch
    import transformers
    import trl

    transformers.logging.set_verbosity_error()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.best and args.dtype == "fp32":  # oneDNN instead of MKL; exact where the CPU has no AMX
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    clock, finished = Clock(args.device), list[dict[str, float]]()
    with tempfile.TemporaryDirectory() as out:
        trainer = build(args, out, clock, finished)
        lengths: list[int] = []
        inner = trainer._generate_single_turn

        def counted(*a: Any, **k: Any) -> Any:
            ids, logprobs = inner(*a, **k)
            lengths.extend(len(row) for row in ids)
            return ids, logprobs

        trainer._generate_single_turn = counted
        trainer.train()
    expected = args.prompts * args.samples * (args.steps + 1)
    if len(lengths) != expected or set(lengths) != {args.tokens} or len(finished) != args.steps + 1:
        raise SystemExit(
            f"not the agreed workload: {len(lengths)} answers (of {expected}), lengths {sorted(set(lengths))}"
        )
    timed = finished[1:]
    phases = {name: round(statistics.median(step[name] for step in timed), 3) for name in timed[0]}
    print(
        json.dumps(
            {
                "system": "trl",
                "version": trl.__version__,
                "dtype": args.dtype,
                "best": args.best,
                "seconds": phases.pop("total"),
                "phases": phases,
                "steps": [round(step["total"], 3) for step in timed],
                "tokens": args.prompts * args.samples * args.tokens,
                "prompts": args.prompts,
                "samples": args.samples,
                "new_tokens": args.tokens,
                "threads": torch.get_num_threads(),
                "peak_gb": peak_gb(args.device),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
