"""What runs inside another trainer: rung's parts, called with its tensors. The modules of `rung export` import it.

Nothing here imports a target: a generated module does, and hands over what it needs.

trl    What makes a GRPOTrainer of TRL's one whose advantages and loss are those of a recipe.
"""
