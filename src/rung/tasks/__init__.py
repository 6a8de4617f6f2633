"""Problems and who judges them. Works without torch.

environments/  What a task is, and conversations with one.
rewards/       Rewards from the user's functions, other projects' functions, and judges.
sandbox/       Work that must not harm: processes of their own, with deadlines and limits.
sources/       Where problems come from.
verify/        Is an answer right?
registry       From a task's name, as the user types it, to its training and evaluation problems.
"""
