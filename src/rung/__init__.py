"""Teach language models to reason with policy gradients: one ladder, from REINFORCE to Dr. GRPO.

    import rung
    run = rung.train(recipe="grpo", model="starter", steps=60)

`rung.recipes` is the file to open first.
"""

from rung import train

__all__ = ["train"]
