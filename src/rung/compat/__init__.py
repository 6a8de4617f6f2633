"""TRL's names for a script that is being ported: `from rung.compat import GRPOConfig, GRPOTrainer`.

Each argument is translated into a setting or a part of a recipe, noted where it differs, or refused by name (fields.py);
docs/port_from_trl.md lists them.
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
