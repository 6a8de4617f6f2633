"""Epochs, a checkpoint and an evaluation each."""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", per_device_train_batch_size=32, num_generations=4, max_completion_length=8,
    num_train_epochs=1, save_strategy="epoch", save_total_limit=2, eval_strategy="epoch", save_only_model=True,
    overwrite_output_dir=True,
)

trainer = GRPOTrainer(model=MODEL, reward_funcs=reward_len, args=args, train_dataset=dataset, eval_dataset=dataset)
trainer.train()
assert trainer.state.global_step == 2 and trainer.state.epoch == 1.0
