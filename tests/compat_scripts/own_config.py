"""A config that inherits."""

import os
from dataclasses import dataclass, field

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]



@dataclass
class MyConfig(GRPOConfig):
    hint: str = field(default="w3", metadata={"help": "what to say first"})


args = MyConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8, hint="w4",
    lr_scheduler_type="cosine", logging_steps=2,
)
assert args.hint == "w4" and args.logging_steps == 2
trainer = GRPOTrainer(model=MODEL, reward_funcs=reward_len, args=args, train_dataset=dataset)
trainer.train()
