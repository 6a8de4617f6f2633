"""REFUSED: top_entropy_quantile"""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
    loss_type="sapo", top_entropy_quantile=0.2,
)

trainer = GRPOTrainer(
    model=MODEL, reward_funcs=reward_len, args=args, train_dataset=dataset, rollout_func=lambda prompts, trainer: {}
)
trainer.train()
