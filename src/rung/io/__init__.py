"""What a run writes down, and what people are shown of it.

answers       Rows of answers as a run's files hold them (evaluations/, rollouts/): what each column is; other rows are damage.
checkpoints   Checkpoints of a run: whole or not there, each with the hash of every file in its COMPLETE marker
console       What a training run shows: a live view on a terminal, plain lines elsewhere, a summary at the end.
definitions   What every metric means: the table of metrics.md beside this file, which docs/metrics.md repeats word for word.
environment   Where a number came from: versions, commit, hardware, command line.
files         Files that a killed process cannot tear: another name, sync, rename. And JSON that is always valid.
held_out      How a run's evaluations are read from its metrics: as accuracies if all of them are, else as mean rewards.
hub           A trained model to the Hugging Face hub, with a card that says how it was trained and what it reached.
lock          The lock of a directory that one process writes, and the mark by which that process knows it again.
new_dir       Where a run may be written: an empty directory, or the next number of a name.
notebook      A run in a notebook: a small table and one curve as HTML, with nothing to load and the page's own colours.
origin        The files that a run's settings name: found from where it was started, and their hashes, to see that one was edited.
recipe_views  The ladder on the terminal: the tree of recipes, the assembled equation of one, the difference of two.
recorded      What a run wrote down, for Python: its metrics as a table, its answers step by step, read when they are asked for.
run_dir       One run is one directory: config, environment, metrics, rollouts, checkpoints. Nothing in it is ever overwritten.
shown         What people are shown of held-out problems: an evaluation in numbers, answers to one of them.
state         A nested structure as two files: tensors in state.safetensors, everything else in state.json. Nothing is pickled.
stopping      Signals that want the program to end (Ctrl-C, SIGTERM, SIGHUP).
summary       What a finished run says: before and after in numbers, three problems side by side, where it lies, what to try next.
tables        A table for people, or the same rows as JSON for programs.
terminal      What may reach a terminal: no control character of anybody's text, and no control sequence to what is none.
trackers      Live views of a running job: trackio, wandb, tensorboard behind one function. metrics.jsonl is written in any case.
view          The live view of a training run: laid out anew for the width and the height of each refresh.
waiting       One line on standard error while there is nothing else to show yet; on a terminal the first output takes its place.
"""
