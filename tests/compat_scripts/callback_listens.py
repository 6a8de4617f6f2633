"""A callback that listens."""

import os

from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

MODEL = os.environ["MODEL"]
dataset = Dataset.from_list([{"prompt": f"w{i} w{i + 1}", "answer": f"w{i}"} for i in range(16)])


def reward_len(completions, **kwargs):
    return [-abs(4 - len(c)) / 4 for c in completions]


args = GRPOConfig(
    output_dir="out", max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
    logging_steps=1,
)

heard = []


class Printer(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        heard.append("begin")

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        heard.append(("log", state.global_step, logs["reward"], model.config.model_type))

    def on_step_end(self, args, state, control, **kwargs):
        heard.append(("step", state.global_step, args.logging_steps))
        return control

    def on_train_end(self, args, state, control, **kwargs):
        heard.append("end")


trainer = GRPOTrainer(model=MODEL, reward_funcs=reward_len, args=args, train_dataset=dataset, callbacks=[Printer])
trainer.train()
assert heard[0] == "begin" and heard[-1] == "end" and ("step", 1, 1) in heard and len(heard) == 4
