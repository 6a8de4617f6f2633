"""From words on a command line to settings, and help.

arguments   From words to settings.
completion  `rung completion SHELL`.
help        `rung COMMAND --help`.
"""
