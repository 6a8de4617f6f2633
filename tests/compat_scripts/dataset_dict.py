"""Rows that datasets has cut, mapped and shuffled."""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,

)

parts = dataset.train_test_split(test_size=0.25, seed=0).map(lambda row: {"gold": row["answer"]})
trainer = GRPOTrainer(
    MODEL, [reward_len], args, train_dataset=parts["train"].select(range(8)).shuffle(seed=42), eval_dataset=parts["test"]
)
trainer.train()
