"""Several rewards with weights, columns, None and the trainer's state."""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
    reward_weights=[1.0, 0.5], remove_unused_columns=False,
)


def correct(prompts, completions, answer, trainer_state, **kwargs):
    assert trainer_state.global_step >= 0
    return [1.0 if a in c else None if len(c) > 20 else 0.0 for c, a in zip(completions, answer)]


trainer = GRPOTrainer(model=MODEL, reward_funcs=[correct, reward_len], args=args, train_dataset=dataset)
trainer.train()
