"""Where problems come from.

arithmetic  Chained arithmetic modulo 10, left to right: prompt `4*7*2-4*2+2=`, full trace `8>6>2>4>6#6`, reward on the 6 alone.
columns     Which columns of rows are the prompt, the answer and the choices, in the forms that data sets come in.
dataset     Rows with a prompt and an answer as a task. Training and evaluation rows never share a prompt.
given       What Python gives as an object where the command line gives a name.
gym         Any reasoning-gym dataset as a task, with training and evaluation problems that are disjoint by construction.
gym_guard   Wrong answers that reasoning-gym's own scorers pay in full (version 0.1.25), and what must hold besides their verdict.
gym_score   reasoning-gym's own score of one answer, in a worker process: its sympy scorers may hang. Imports nothing of rung.
hub         Rows of Hugging Face datasets: `hf:NAME`, from the hub or its cache, or a directory made by `save_to_disk`.
mixture       Several environments as one, in given ratios; a curriculum changes the ratios after some steps or at some accuracy.
mixture_text  A mixture as the user writes it: tasks with weights, or a .toml file with settings for each part, and stages.
rows        Rows from JSON, JSONL, CSV and Parquet files, each with the place it came from, so that errors can name file and line.
wording     Words around a task's problems: a template for plain text, a user's message of it, a system message before it.
"""
