"""The same step, taken by several processes: weights, gradients and optimizer dealt out over them by FSDP2.

Every process runs the same code on the whole step's answers; its model sees the rows of its own. On CPUs the processes talk
by gloo, on GPUs the weights travel by NCCL.

group    The processes that share a step, over torch.distributed: whose rows are whose, sums, and weights dealt out.
learner  The learner of several processes: `LocalLearner`, its weights dealt out over all of them.
"""
