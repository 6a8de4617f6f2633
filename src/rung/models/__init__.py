"""Models that come with rung, or with a Python package.

starter/  The starter: a language model of 85 thousand parameters that guesses more often than it thinks.
smollm2   SmolLM2-135M-Instruct from its PyPI wheel: a real pretrained model wherever pip works.
"""
