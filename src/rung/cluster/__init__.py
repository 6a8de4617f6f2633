"""One run on several processes: actors of Ray draw the answers and learn, by the same loop.

Learners run the same code on the whole step's answers; the model of each sees the rows of its own. On CPUs they talk by gloo, on
GPUs the weights travel by NCCL. Ray is imported only where a run asks for it (`--cluster ray`).

start       The engine of a run: this process, or actors of Ray with a cluster begun or joined for them.
engine      A run's parts in other processes: what there must be room for, the actors, and the loop's learner, sampler and collector
room        What a run on several processes needs, and the refusal of what a cluster has no room for.
connect     A cluster of Ray for a run: the one of RAY_ADDRESS, else a new one on this machine that ends with the run.
places      Where the processes of a run stand: each on a GPU or core of its own, or a learner and a sampler on one, in turn.
order       What an actor is told: which model to build, on which settings, as the driver's own would be built.
actors      What runs in the other processes: one that draws answers, and one that learns, alone or as one of several.
weights     Weights on their way between processes: names and plain arrays, which Ray's store holds once a machine.
pool        The samplers of a run as one: a step's prompts dealt out over them, and lost work given to the next one that is free.
remote      The learner as the loop sees it, while other processes learn: whatever dies among them is made good without a trace.
ahead       The answers of coming steps, drawn while the learner is at this one: sampling and learning side by side.
pieces      Answers in pieces, each drawn by newer weights than the one before.
group       The processes that share a step, over torch.distributed: whose rows are whose, sums, and weights dealt out.
learner     The learner of several processes: `LocalLearner`, its weights dealt out over all of them.
checkpoint  What a dealt out learner keeps, written by every process in its parts, and read by any number of processes.
vector      A vector of all trained parameters, of which every process holds the part that belongs to its parts of the weights.
work        An update rule's work where weights are dealt out: vectors in parts, and the curvature on whole weights.
"""
