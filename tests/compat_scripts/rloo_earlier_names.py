"""RLOO in the words of PPO, as TRL had it before."""

import os

from datasets import Dataset
from transformers import AutoTokenizer
from trl import RLOOConfig, RLOOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = RLOOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, response_length=8, rloo_k=2, kl_coef=0.03, cliprange=0.2,
    num_ppo_epochs=1, temperature=0.7, local_rollout_forward_batch_size=2,
)
tokenizer = AutoTokenizer.from_pretrained(MODEL)
trainer = RLOOTrainer(config=args, policy=MODEL, tokenizer=tokenizer, reward_funcs=reward_len, train_dataset=dataset)
trainer.train()
