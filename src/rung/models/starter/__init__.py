"""The starter: a language model of 85 thousand parameters that guesses more often than it thinks.

It is a normal Hugging Face checkpoint in this package's data; `rung.models.starter.make` is the module that made it.

make  Makes the starter from a seed: clean traces until the model can calculate, then a messy teacher that spoils it.
"""

from pathlib import Path


def path() -> Path:
    """The directory of the stored checkpoint; AutoModelForCausalLM and AutoTokenizer load it without a network."""
    return Path(__file__).parent / "checkpoint"
