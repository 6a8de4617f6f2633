"""A recipe in a YAML file."""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, TrlParser

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


with open("config.yaml", "w") as file:
    file.write("output_dir: out\nmax_steps: 1\nper_device_train_batch_size: 4\nnum_generations: 4\n")
    file.write("max_completion_length: 8\nlearning_rate: 5.0e-6\nbf16: false\nreport_to: [none]\n")
    file.write("reward_weights: [0.5]\nscale_rewards: false\nenv:\n  SOME_TOKEN: x\n")
(training_args,) = TrlParser(GRPOConfig).parse_args_and_config(["--config", "config.yaml", "--beta", "0.01"])
assert training_args.learning_rate == 5e-6 and training_args.beta == 0.01 and os.environ["SOME_TOKEN"] == "x"
trainer = GRPOTrainer(model=MODEL, reward_funcs=[reward_len], args=training_args, train_dataset=dataset)
trainer.train()
