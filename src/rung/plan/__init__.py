"""Memory and time of a run, before anything is loaded.

estimate   `rung plan`: memory and time of a run, estimated before anything is loaded.
fit        Does a run fit into the memory of this machine? If not it is refused before anything is loaded, with what would help.
memory     What a run will hold in memory, from the model's configuration alone.
rehearsal  How fast this machine is at this model's sizes.
"""
