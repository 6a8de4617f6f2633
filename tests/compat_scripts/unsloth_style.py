"""The settings of the notebooks: Adam's betas, warm-up as a ratio, cosine, 8-bit optimizer, a model object."""

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
    learning_rate=5e-6, adam_beta1=0.9, adam_beta2=0.99, weight_decay=0.1, warmup_ratio=0.1, lr_scheduler_type="cosine",
    optim="paged_adamw_8bit", logging_steps=1, gradient_accumulation_steps=1, max_prompt_length=256, save_steps=250,
    max_grad_norm=0.1, report_to="none",
)

model = AutoModelForCausalLM.from_pretrained(MODEL)
tokenizer = AutoTokenizer.from_pretrained(MODEL)
tokenizer.pad_token = tokenizer.eos_token
trainer = GRPOTrainer(model=model, processing_class=tokenizer, reward_funcs=[reward_len], args=args, train_dataset=dataset)
trainer.train()
model.save_pretrained("saved")
tokenizer.save_pretrained("saved")
