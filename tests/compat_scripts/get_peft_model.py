"""A model object that PEFT has put an adapter into."""

import os

from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
    learning_rate=1e-4,
)

model = AutoModelForCausalLM.from_pretrained(MODEL)
model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_rslora=True))
model.print_trainable_parameters()
tokenizer = AutoTokenizer.from_pretrained(MODEL)
trainer = GRPOTrainer(model=model, processing_class=tokenizer, reward_funcs=reward_len, args=args, train_dataset=dataset)
trainer.train()
