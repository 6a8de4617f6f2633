"""Many runs, made once and compared: the ladder, why, variance.

curves           Curves over seeds: one grid of tokens, the mean, and an interval at each point.
ladder           `rung ladder`.
runs             Training runs that are made once: a store of run directories, keyed by everything that their result depends on.
shuffled         A control: rewards that do not depend on what was said, though each group earns what it earned.
speedrun         `rung speedrun`: how soon a language model calculates.
speedrun_row     What `rung speedrun` prints: a table of its seeds, and the line for docs/speedrun.md.
variance         Gradient noise at a frozen policy: many batches, one gradient each per recipe, and how much those differ.
variance_frozen  `rung variance`: how noisy each recipe's gradient is on the user's model and task, the policy held still.
why              `rung why RECIPE`: the experiment in which the parent fails, parent against child over seeds, and what it shows.
why_exact        Where a recipe's expected gradient takes the answers of a small world.
why_experiments  The experiments of `rung why`.
why_picture      The one picture of `rung why`: the curves of parent and child, and the measure of every seed side by side.
workers          Processes that train runs side by side and end with us, whatever ends us.
"""
