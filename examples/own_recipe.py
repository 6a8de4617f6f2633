"""A recipe of your own: Dr. GRPO with DAPO's higher clip and a little entropy, in six lines.

python examples/own_recipe.py --model MODEL
rung train dr_grpo --model MODEL --recipe.surrogate.high 0.28 --recipe.entropy 0.001    # the same
"""

import argparse
from dataclasses import replace
from pathlib import Path

import rung
import rung.parts as p
from rung.recipes import DR_GRPO

MINE = replace(
    DR_GRPO, name="mine", parent="dr_grpo", paper="none",
    why="Rare tokens that turn out well are held down by the same clip as bad ones: let them rise further.",
    surrogate=p.Clip(low=0.2, high=0.28),
    entropy=0.001)  # fmt: skip


def main(model: str, out: Path, steps: int = 60, **settings):
    return rung.train(recipe=MINE, model=model, steps=steps, out=out / "run", **settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="starter")
    parser.add_argument("--out", type=Path, default=Path("runs/own_recipe"))
    args = parser.parse_args()
    main(args.model, args.out)
