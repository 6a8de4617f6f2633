"""Evaluations before, while and after."""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
    eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=4, num_generations_eval=2, eval_on_start=True,
    metric_for_best_model="eval_reward", greater_is_better=True,
)

parts = dataset.train_test_split(test_size=0.25, seed=0)
trainer = GRPOTrainer(
    model=MODEL, reward_funcs=reward_len, args=args, train_dataset=parts["train"], eval_dataset=parts["test"]
)
before = trainer.evaluate()
trainer.train()
after = trainer.evaluate()
assert before["eval_reward"] <= 0 and "eval_reward" in after
