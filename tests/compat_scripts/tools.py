"""Functions as tools."""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=12,
    max_tool_calling_iterations=2,
)

chats = dataset.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})


def multiply(a: int, b: int) -> int:
    """
    Multiplies two integers.

    Args:
        a: The first integer.
        b: The second integer.
    """
    return a * b


def reward(completions, **kwargs):
    return [float(len(c[-1]["content"])) for c in completions]


trainer = GRPOTrainer(model=MODEL, reward_funcs=reward, args=args, train_dataset=chats, tools=[multiply])
trainer.train()
