"""The loop and what learns in it.

answers       Answers as rows for files and for people.
callbacks     Objects that listen to a run: called after each step, evaluation and checkpoint, and able to end it.
checkpoint    What a checkpoint holds, written and read in one place.
config        The settings of a run: one frozen dataclass, written by flags, a TOML file or Python, and stored with the run.
critic        The critic: V(s_t), the return still to come, read where the model predicts token t. Its head starts at zero.
defaults      Defaults that the user did not set.
drawn         Answers kept on disk, some at a time, until a checkpoint holds the step that they belong to.
evaluation    Held-out problems, with a confidence interval: the same problems, law and seed before and after.
guests        Code of the user's in this process (rewards, environments): what it leaves behind is put back, or ends there.
health        Failing loudly: what goes wrong is said while it trains, with its likely cause and what to do.
held_out      The evaluations of one run.
learner       One training step, the story of the project in order: rewards -> credit -> objective -> update -> what happened.
loop          `rung train`: from settings to a run. Evaluate, then sample -> score -> learn for some steps, evaluate again, save.
memory_watch  The largest memory in use during each phase of a step, without touching what others measure of this process.
metrics       What a step reports. Names follow TRL where the quantity is the same; docs/metrics.md defines each.
micro         How much goes through the model at once: half as much where memory runs out, which changes no result.
needs         What a part of a recipe may need, and what prepares it: one name, one entry. Names that are not here are refused.
next_steps    What a run tells its user to type next: commands that work as printed, or Python where only Python has what they need.
optimizer     The optimizer: AdamW on float32 masters, whatever the model computes in.
policy        The policy: what the model says about a batch's tokens, with gradient.
ranks         The processes that take a step together: whose rows are whose, and what is a sum over all of them.
resume        Going on with a run. Everything is as the run has it; what is given besides may change and is written down.
saving        When a run is saved: by the clock or by steps, at its end, and on the way out of any other end.
seen          What signs of trouble are read from: a run's rows so far, and what is known beside them.
setup         From settings to a run's parts: everything is checked here, cheapest first, before anything is written.
signs         How what goes wrong in a training shows in its metrics. health.py names each of these signs.
together      Settings that do not go together, refused before anything is loaded.
work          What an update rule works with: one batch in micro-batches, and their gradients.
"""
