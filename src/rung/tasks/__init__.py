"""Problems and who judges them. Works without torch.

environments/  What a task is, and conversations with one.
rewards/       Rewards from the user's functions, other projects' functions, and judges.
sandbox/       Work that must not harm: processes of their own, with deadlines and limits.
sources/       Where problems come from.
verify/        Is an answer right?
problems       From settings to problems, the one way in: what a task's name stands for, or what an environment makes of it
registry       What a task's name stands for: built in, of reasoning-gym, rows in a file or on the hub, a mixture.
"""
