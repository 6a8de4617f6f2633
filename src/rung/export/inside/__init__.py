"""What runs inside another trainer: rung's parts, called with its tensors. The modules of `rung export` import it.

Nothing here imports a target: a generated module does, and hands over what it needs.

flat   A batch as trainers hand it to a registered function: rewards, masks and prompts of all rows, without a model.
skyrl  A recipe's advantages and policy loss with the arguments of SkyRL's registered functions.
trl    What makes a GRPOTrainer of TRL's one whose advantages and loss are those of a recipe.
verl   A recipe's advantages and policy loss with the arguments of verl's registered functions.
"""
