"""Memory and time of a run, before anything is loaded.

estimate   `rung plan`: memory and time of a run, estimated before anything is loaded.
fit        Does a run fit into the memory of this machine? If not it is refused before anything is loaded, with what would help.
memory     What a run will hold in memory, from the model's configuration alone.
rehearsal  How fast this machine is at this model's sizes.
judging    Seconds in which the task's own verifier judges an answer, from answers that are there before any of a model's.
several    `rung plan --cluster ray`: a step of several processes here, or of planned GPUs, by side, and what to change first.
spread     A run over several processes, foretold: seconds of a step by side, what bounds it, and which spread takes the least.
pipeline   When each step is drawn and learned from, by the bound on staleness: simulated, as cluster/ahead.py schedules it.
here       Several processes on this machine: what each does and holds, from the rehearsal's timings (rehearsal.py).
planned    A cluster of GPUs that nobody has measured: what each process does and holds there, from data sheets.
room       Why a planned cluster has no room for a run, in words: which process lacks it, and what would give it.
scale      A step's seconds on many GPUs, each by its own equation, from data sheets and a few shares that programs get of them.
machines   Accelerators that a cluster may be planned with, as their makers' data sheets have them.
shapes     Which model a cluster is planned for: one of a few by name, a configuration alone, or any that can be trained.
"""
