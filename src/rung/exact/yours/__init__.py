"""The audit for functions of other people: a loss or an advantage function goes through the same small worlds.

checks       What a check says of a function, and the rows that checks look at.
edges        What happens where there is nothing to learn: rows that are masked whole, equal rewards, a reference that is far away.
invariances  What may change nothing, and what happens where there is nothing to learn.
measure      The exact expected gradient of an opaque function: every batch of a small world is handed to it, one by one.
ratios       What an importance ratio or a KL of an opaque function is: read off its gradient, token by token.
reasons      Why an opaque function's gradient bends: what would straighten it, and what it leaves out.
signature    What a function may ask for, by name: ours, or the one that other projects use.
steps        The rows of an optimizer step as an opaque function sees them, and its gradient at their logits.
verdict      `rung audit --of FILE.py:NAME`: is the gradient of a loss of your own, from any trainer, the policy gradient?
"""
