"""How the model is to be loaded, and names of logs."""

import os

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
    model_init_kwargs={"torch_dtype": torch.bfloat16, "attn_implementation": "flash_attention_2", "use_cache": False},
    run_name="first", logging_dir="logs", logging_strategy="steps", logging_first_step=True,
)

trainer = GRPOTrainer(model=MODEL, reward_funcs=reward_len, args=args, train_dataset=dataset)
trainer.train()
