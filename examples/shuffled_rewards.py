"""A control for any result: does the model learn from what its answers earn, or from being trained at all?

The answers to a problem are judged, then their rewards are dealt out among them at random. What a group earns stays as it
was, and so does the accuracy of an evaluation; what an answer earns no longer depends on what it says. A model that
improves nevertheless has not learned the task from its rewards (seen in Qwen: Shao et al. 2025, arXiv:2506.10947).

rung train dr_grpo --model smollm2 --task chain_sum --reward examples/shuffled_rewards.py:shuffled
"""

import random
import re


def shuffled(prompts, completions, answer, **columns):
    """1 for each answer whose last number is right, dealt out to the answers of the group at random."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    earned = [float(right(text, gold)) for text, gold in zip(texts, answer, strict=True)]
    random.Random("\n".join(texts)).shuffle(earned)  # the same answers are dealt the same rewards: runs can be repeated
    return earned


def right(text, gold):
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
    return bool(numbers) and float(numbers[-1]) == float(gold)
