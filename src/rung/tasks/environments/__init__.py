"""What a task is, and conversations with one.

named           What an environment's name stands for: a TRL class over the task's rows, a gymnasium environment.
protocol        What a task is: data, sessions and scoring. A single-turn task writes `__len__`, `__getitem__` and `score`.
text_gymnasium  A gymnasium environment whose actions and observations are text.
tool_class      A class in TRL's form as an environment: `reset(**row)`, public methods are tools, `get_reward()` if it has one.
tools           Tools that a model may call in its text.
wrapper         An environment around another one, with its abilities: each is passed on by a method that is written out.
"""
