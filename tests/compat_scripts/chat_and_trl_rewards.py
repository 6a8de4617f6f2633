"""Messages, judged by the rewards that TRL brings."""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import (
    accuracy_reward,
    get_cosine_scaled_reward,
    get_repetition_penalty_reward,
    get_soft_overlong_punishment,
    think_format_reward,
)

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


dataset = Dataset.from_list(
    [{"prompt": [{"role": "system", "content": "w1"}, {"role": "user", "content": f"w{i}"}], "solution": f"\\boxed{{{i}}}"}
     for i in range(16)]
)
args = GRPOConfig(output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8)
trainer = GRPOTrainer(
    model=MODEL,
    reward_funcs=[
        accuracy_reward, think_format_reward, get_soft_overlong_punishment(8, 4), get_repetition_penalty_reward(2),
        get_cosine_scaled_reward(8),
    ],
    args=args,
    train_dataset=dataset,
)
trainer.train()
