"""A template of one's own and its arguments."""

import os

from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
    chat_template_kwargs={"enable_thinking": False}, temperature=0.9,
)

tokenizer = AutoTokenizer.from_pretrained(MODEL)
tokenizer.chat_template = (
    "{% for m in messages %}{{ m.content }} {% endfor %}{% if enable_thinking is defined and not enable_thinking %}w9 {% endif %}"
)
chats = dataset.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})


def reward(completions, answer, **kwargs):
    return [float(a in c[0]["content"]) for c, a in zip(completions, answer)]


trainer = GRPOTrainer(model=MODEL, reward_funcs=reward, args=args, train_dataset=chats, processing_class=tokenizer)
trainer.train()
