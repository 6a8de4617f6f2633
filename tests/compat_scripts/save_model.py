"""The model saved where TRL puts it, loaded and asked."""

import os

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
    save_strategy="no", save_safetensors=True,
)

trainer = GRPOTrainer(model=MODEL, reward_funcs=reward_len, args=args, train_dataset=dataset)
trainer.train()

trainer.save_model(args.output_dir)
trainer.processing_class.save_pretrained(args.output_dir)
model = AutoModelForCausalLM.from_pretrained(args.output_dir)
ids = AutoTokenizer.from_pretrained(args.output_dir)("w1", return_tensors="pt").input_ids
model.generate(ids, max_new_tokens=2)
assert trainer.model.config.model_type == model.config.model_type
