"""A script written for TRL: only the import and the dataset's last line differ (docs/port_from_trl.md).

python examples/from_trl.py --model MODEL
"""

import argparse

from rung.compat import GRPOConfig, GRPOTrainer  # was: from trl import GRPOConfig, GRPOTrainer


def reward_num_unique_letters(completions, **kwargs):
    """Many different letters."""
    contents = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [float(len(set(content))) for content in contents]


def main(model: str, out: str, **arguments):
    dataset = [{"prompt": f"Tell me about the number {i}."} for i in range(32)]
    settings = {"max_steps": 10, "num_generations": 4, "max_completion_length": 32, "learning_rate": 1e-5, **arguments}
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward_num_unique_letters,
        args=GRPOConfig(output_dir=out, **settings),
        train_dataset=dataset,
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", default="runs/from_trl")
    args = parser.parse_args()
    main(args.model, args.out)
