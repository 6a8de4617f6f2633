"""What can be set: types and ranges, shared fields, flags, overrides. Nothing here needs torch.

calls      What Python may call: a call that does not fit is one sentence that names the argument.
documents  YAML and JSON as people write them: a name that stands twice in one table is refused, for one of the two would be lost.
elsewhere  The flags of `rung export` and `rung import`: recipes in other trainers.
experiments  The flags of `rung why`, `rung ladder` and `rung variance`: recipes side by side. They are read without torch.
flags      The flags of the other commands but `train` and `plan`; not beside their code, so that they are read without torch.
cluster    Where a run is computed: in this process, or by actors of Ray. Nothing here needs torch or Ray.
overrides  Changes to a recipe's fields, as flags say them (kl.coef) and as tables do (kl = {coef = ...}); nothing here needs torch.
paths      A path as its user gave it: ~ and ~NAME stand for homes, wherever it was written; the one place that reads them.
ranges     What a field may hold: its type and its range, said once beside the field and checked whenever a record is made.
recipe_names  Names of recipes as their files write them: recipes bring torch, and a misspelt name is refused before.
speedrun   The flags of `rung speedrun`: the settings that are timed, and over how many seeds.
shared     The settings that commands share: which problems are asked and who judges them, and which weights are trained.
toml       TOML text as tables; what would take hours to read is refused before.
"""
