"""TRL's names for a script that is being ported: `from rung.compat import GRPOConfig, GRPOTrainer`.

Each argument is translated into a setting or a part of a recipe, noted where it differs, or refused by name (fields.py);
docs/port_from_trl.md lists them.
"""

from rung.compat.config import GRPOConfig
from rung.compat.trainer import GRPOTrainer

__all__ = ["GRPOConfig", "GRPOTrainer"]
