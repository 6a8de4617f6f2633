"""TRL's names for a script that is being ported: `from rung.compat import GRPOConfig, GRPOTrainer`.

Each argument is translated into a setting or a part of a recipe, noted where it differs, or refused by name (fields.py);
docs/port_from_trl.md lists them.

config     TRL's GRPOConfig and RLOOConfig as settings of rung.train and parts of a recipe.
fields     What becomes of the arguments of TRL 1.16's configs and trainers that are not translated. Each name stands once.
listeners  transformers' TrainerCallback objects as listeners of a run, and the state that TRL's trainer shows.
lora       PEFT's LoraConfig, and models that PEFT has put an adapter into, as settings of rung.train.
objective  What the arguments of TRL's losses become as parts of a recipe, and where TRL computes something else by the same words.
overridden Methods of TRL's trainer that a subclass defines: which of them are called here.
rewards    The reward functions of `trl.rewards`, by what they are documented to do.
rows       TRL's data sets and reward functions as problems: rows with a prompt, judged by several functions with weights.
scripts    What TRL's scripts read their command line with: TrlParser, ModelConfig, ScriptArguments and what is made of them.
trainer    TRL's GRPOTrainer and RLOOTrainer: rows, reward functions and an adapter as a run of rung's.
"""

from rung.compat.config import GRPOConfig, RLOOConfig
from rung.compat.scripts import (
    ModelConfig,
    ScriptArguments,
    TrlParser,
    get_kbit_device_map,
    get_peft_config,
    get_quantization_config,
)
from rung.compat.trainer import GRPOTrainer, RLOOTrainer

__all__ = [
    "GRPOConfig",
    "GRPOTrainer",
    "ModelConfig",
    "RLOOConfig",
    "RLOOTrainer",
    "ScriptArguments",
    "TrlParser",
    "get_kbit_device_map",
    "get_peft_config",
    "get_quantization_config",
]
