"""Models that come with rung, or with a Python package.

starter/  A tiny model that guesses more often than it thinks, and the module that made it.
smollm2   SmolLM2-135M-Instruct from its PyPI wheel: a real pretrained model wherever pip works.
"""
