"""Settings of the engine."""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
    torch_compile=True, use_liger_kernel=True, dataloader_num_workers=4, dataloader_pin_memory=False, ddp_timeout=60,
    ddp_find_unused_parameters=False, torch_empty_cache_steps=4, average_tokens_across_devices=True, use_cpu=True,
    full_determinism=True, data_seed=3, seed=3407, do_train=True, push_to_hub=False, hub_model_id="me/model",
)

trainer = GRPOTrainer(model=MODEL, reward_funcs=reward_len, args=args, train_dataset=dataset)
trainer.train()
