"""LoRA on a larger model: bfloat16 weights stay as they are, a small float32 adapter learns.

python examples/lora.py --model MODEL
rung train grpo --model MODEL --task chain_sum --lora-rank 16 --dtype bfloat16 --gradient-checkpointing    # the same
"""

import argparse
from pathlib import Path

import rung


def main(model: str, out: Path, steps: int = 60, **settings):
    settings = {"task": "chain_sum", "lora_rank": 16, "dtype": "bfloat16", "gradient_checkpointing": True, **settings}
    run = rung.train(recipe="grpo", model=model, steps=steps, out=out / "run", **settings)
    print(
        f"the adapter: {max((run.path / 'checkpoints').iterdir())} (peft.PeftModel.from_pretrained loads it onto {model})"
    )
    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/lora"))
    args = parser.parse_args()
    main(args.model, args.out)
