"""Which model a cluster is planned for: one of a few by name, a configuration alone, or any that can be trained."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rung.errors import InputError, unknown
from rung.network.model import Model, quiet
from rung.plan.memory import DTYPES, sketch
from rung.records import Task
from rung.settings.paths import path_of
from rung.tasks.environments.protocol import Environment, Splits
from rung.tasks.problems import problems_of
from rung.tasks.sources.dataset import Rows
from rung.tasks.verify.verifiers import Numeric
from rung.text import Codec
from rung.training.config import TrainConfig, stored_settings
from rung.training.setup import locate

# As in their config.json on the Hugging Face hub.
NAMED: dict[str, dict[str, Any]] = {
    "qwen2.5-7b": {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    },
    "llama-3.1-70b": {
        "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    },
}  # fmt: skip
ASSUMED = "Work out this sum of two numbers and say what it comes to: 50 - 17 ="  # a prompt, where no task is given
TRAIN, HELD_OUT = 1 << 16, 47  # problems of each side, as the usual task has them
LETTERS = 4.0  # of a prompt a token, where there is no tokenizer to count with
LOOKED_AT = 128  # problems


def planned_model(config: TrainConfig) -> Model:
    """The model on the meta device. Where only its configuration is there, it has no codec.

    Raises:
        InputError: there is no such model, or its configuration cannot be read.
    """
    name = config.model.lower()
    place = path_of(config.model)
    if name in NAMED:
        return _bare(AutoConfig.for_model(**NAMED[name]), config)
    if place.is_file() or (
        place.is_dir() and not (place / "tokenizer_config.json").exists() and (place / "config.json").exists()
    ):
        try:
            return _bare(AutoConfig.from_pretrained(str(place)), config)
        except (ValueError, OSError) as error:
            raise InputError(
                f"the configuration in {place} cannot be read: {error}. Give a model's config.json, its directory, or one of "
                f"{', '.join(NAMED)}."
            ) from error
    if "/" not in name and not place.exists() and difflib.get_close_matches(name, NAMED, n=1, cutoff=0.6):
        raise unknown("model", config.model, NAMED, more=" Or give a config.json, or any model that can be trained.")
    return sketch(locate(config.model), config.dtype, trust_remote_code=config.trust_remote_code)


def _bare(read: Any, config: TrainConfig) -> Model:
    quiet()
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(read, dtype=DTYPES[config.dtype])
    return Model(hf, None)  # type: ignore[arg-type]


def assumed(config: TrainConfig) -> Splits | None:
    """As many short prompts as the usual task has, where nothing is said of problems; it is not loaded, and need not be installed.

    None: the settings, or the run that is the model, say which problems.
    """
    own = stored_settings(config.model)
    if (
        config.task
        or config.environment
        or config.reward
        or config.task_path
        or config.options()
        or own
        or config.small
    ):
        return None
    task = Task("assumed", [{"role": "user", "content": ASSUMED}], {"answer": "33"})
    train, held_out = (Rows("sums", [task] * n, Numeric()) for n in (TRAIN, HELD_OUT))
    return problems_of(config, {"task": Splits("sums", train, held_out)})


def prompt_tokens(codec: Codec | None, env: Environment) -> tuple[float, int]:
    """(mean, longest) of the first problems, by the tokenizer or a token for every four letters."""
    problems = [env[i] for i in range(min(len(env), LOOKED_AT))]
    if codec is not None:
        lengths = [len(codec.encode(task.prompt)) for task in problems]
    else:
        said = [
            p if isinstance(p, str) else "".join(str(m["content"]) for m in p) for p in (t.prompt for t in problems)
        ]
        lengths = [round(len(text) / LETTERS) + 1 for text in said]
    return sum(lengths) / len(lengths), max(lengths)
