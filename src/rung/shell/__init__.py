"""From words on a command line to settings, and help.

arguments   From words to settings.
commands    Every command: its flags, what it does, and what is imported before it while the terminal says so.
completion  `rung completion SHELL`.
help        `rung COMMAND --help`.
planning    `rung plan`: of one process here, of several, or of a cluster of GPUs that is only planned.
words       The words of a command line as the fields of a dataclass.
"""
