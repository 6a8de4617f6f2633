"""An environment whose methods are tools."""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=12,

)

chats = dataset.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})


class Counter:
    def reset(self, **kwargs):
        self.count = 0
        return "w3"

    def add(self, step: int) -> str:
        """
        Counts on.

        Args:
            step: By how much.
        """
        self.count += step
        return str(self.count)


def reward(environments, **kwargs):
    return [float(environment.count) for environment in environments]


trainer = GRPOTrainer(
    model=MODEL, reward_funcs=reward, args=args, train_dataset=chats, environment_factory=Counter
)
trainer.train()
