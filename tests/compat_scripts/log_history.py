"""What was logged, read after the training."""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
    logging_steps=1, disable_tqdm=True, log_level="info",
)

trainer = GRPOTrainer(model=MODEL, reward_funcs=reward_len, args=args, train_dataset=dataset)
result = trainer.train()
rewards = [log["reward"] for log in trainer.state.log_history if "reward" in log]
assert len(rewards) == 1 and any("rewards/reward_len/mean" in log for log in trainer.state.log_history)
trainer.log_metrics("train", result.metrics)
trainer.save_metrics("train", result.metrics)
trainer.save_state()
print(trainer.args.to_dict()["logging_steps"], trainer.accelerator.is_main_process)
