"""Small worlds in which every answer is enumerated: what a recipe's gradient is on average, and why.

audit     `rung audit`: is a recipe's gradient, on average over every batch of a small world, the policy gradient? If not, why?
causes    Why an expected gradient bends: each part of a recipe is swapped for one that is known to be exact, one at a time.
estimate  What a recipe does on average against what it should do: bias, direction and variance.
needs     What parts need, prepared exactly for enumerated worlds, by the names of recipe_rules.NEEDS. One name, one entry.
oracle    The exact expected gradient of a recipe: every batch of a small world, weighed by its probability.
tiny      Tiny policies over a tree of tokens: a flat float64 vector of parameters in, the logits of every state out.
world     Small token worlds in which every answer can be written down: rewards, policies, and what a batch of rows is made of.
"""
