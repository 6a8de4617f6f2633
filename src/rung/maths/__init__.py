"""The mathematics: tensors in, tensors out, no model and no file. The equation is each docstring's first line.

aggregate   Aggregate: mask -> weights, J = sum_bt w_bt gain_bt. Denominators come from Totals, never from the rows at hand.
assess      What a step's answers are worth, A = normalize(credit(r)), and what the recipe remembers of them.
correction  Correction: a detached weight c_bt from the sampler's policy mu to the trainer's old policy pi_old.
credit      Credit: which token earned what. Rewards in, advantages out; every part is A_bt = (return - baseline).
kl          KL: how far the policy is from the reference (u = log pi - log pi_ref) or from the old policy.
logprob     Log-probabilities and entropy of given tokens, in bounded memory.
natural     The natural-gradient step of TRPO: maximize g.x subject to x'Fx/2 <= max_kl, then a line search on the true KL.
normalize   Normalization of advantages over the whole optimizer batch, after credit and before the objective.
objective   The one objective of which every recipe is an instance. J is maximized: the minus sign stands in training/work.py.
products    Large float32 products through oneDNN, on CPUs where that is faster than what PyTorch would call.
ratio       Ratio: how far the policy has moved from the one that the batch belongs to, as a log-ratio per token.
returns     What an answer earned: returns over its tokens, sums over a group, and whether rewards differ at all. In float64.
surrogate   Surrogate: the gain per token, a function of log-ratio and advantage, to be MAXIMIZED.
update      Update rules: how the gradient of J becomes new parameters. A rule runs itself on a `Work`, and says what that costs.
value       Learned value: estimators of the advantage that use a critic V, and the critic's own loss.
wide        float64, where the device has it. Apple's MPS does not: what is counted there is counted in float32.
"""
