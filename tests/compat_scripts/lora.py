"""An adapter by its config, with dropout."""

import os

from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
    learning_rate=1e-4, gradient_checkpointing=True,
)

peft_config = LoraConfig(
    r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], lora_dropout=0.05, bias="none", task_type="CAUSAL_LM"
)
trainer = GRPOTrainer(
    model=MODEL, reward_funcs=reward_len, args=args, train_dataset=dataset, peft_config=peft_config
)
trainer.train()
trainer.save_model("adapter")
assert os.path.exists("adapter/adapter_config.json")
