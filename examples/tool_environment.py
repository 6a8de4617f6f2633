"""Tools: the public methods of a class are what the model may call, one instance for each conversation.

python examples/tool_environment.py --model MODEL
rung train dr_grpo --model MODEL --task rows.jsonl --environment examples/tool_environment.py:Shop --max-turns 4   # the same
"""

import argparse
import json
from pathlib import Path

import rung

PRICES = {"pen": 3, "book": 12, "lamp": 25, "chair": 48}


class Shop:
    """A price list that only the tool knows."""

    def reset(self, item: str, **row) -> None:
        self.item, self.offer = item, None

    def price(self, item: str) -> int:
        """The price of an item.

        Args:
            item: its name
        """
        return PRICES[item]

    def pay(self, amount: int) -> str:
        """Pay for the item.

        Args:
            amount: how much to pay
        """
        self.offer = amount
        return "thank you"

    def get_reward(self) -> float:
        return float(self.offer == PRICES[self.item])


def main(model: str, out: Path, steps: int = 60, **settings):
    rows = out / "rows.jsonl"
    lines = []
    for i in range(16):  # different prompts, so that some are held out
        item = list(PRICES)[i % 4]
        prompt = [{"role": "user", "content": f"Customer {i} wants a {item}. Pay its exact price."}]
        lines.append(json.dumps({"prompt": prompt, "item": item}))
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {"prompts_per_step": 4, "max_turns": 4, **settings}
    environment = f"{__file__}:Shop"
    return rung.train(model=model, task=str(rows), environment=environment, steps=steps, out=out / "run", **settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/tool_environment"))
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    main(args.model, args.out)
