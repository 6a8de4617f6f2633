"""Rewards from the user's functions, other projects' functions, and judges.

arguments    What a reward function is given: the keyword arguments that TRL's GRPOTrainer passes, as far as they exist here.
coroutines   Coroutines of the user, run to their end on one event loop, so that what they have bound to it stays of use.
deadline     A call of the user's with an end: one that hangs is given up, by name, and Ctrl-C ends it at once.
foreign      Reward functions written for other projects: known by their parameters' names, and called as those projects call them.
functions    A reward function with TRL's signature as the judge of any task: f(prompts, completions, **columns) -> floats.
judge        A language model as the judge: a reward from any server that speaks OpenAI's chat completions.
python_file  Objects from Python files of the user: FILE.py:NAME, read as `python FILE.py` would read it.
"""
