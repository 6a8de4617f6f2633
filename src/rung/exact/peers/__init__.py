"""Adapters to the losses of other projects: their own code, in one version each, through the audit of `exact/yours`.

areal_1_0    AReaL 1.0: `PPOActor._compute_advantages`, and `grpo_loss_fn` as its `_ppo_update` and its engines call it.
compare      Is a peer one of our recipes? Batch by batch, the two gradients at the logits are laid side by side.
controls     The instrument tests itself before it says anything of others: for every check, a function that must fail it.
field        All algorithms of a project, one after the other: what each computes, and which recipe of ours it is.
liger_0_8    Liger-Kernel 0.8: its chunked GRPO loss, which is plain PyTorch, on a CPU.
openrlhf_0_11  OpenRLHF 0.11: its `PolicyLoss`, under the counts that it makes of a step, and its experience maker's advantages.
ours         Our recipes as functions of somebody else's, which ask by name for what their parts need.
page         docs/field.md: a table for each project, in words, with the command that reproduces each line.
peer         What an adapter says of a project: its algorithms as functions of ours, by name, and what could not be run.
polgrad_0_2  polgrad 0.2: the ten algorithms of its registry, as its entries and their notes put the pieces together.
registry     Which projects have an adapter, and one of their algorithms by name: trl:dapo.
skyrl_0_3    SkyRL 0.3: the estimators and policy losses of its registries, scaled by its own loss reductions.
stand_ins    Stand-ins for packages that a peer imports and a CPU does not need (ray, vllm, flash_attn, ...).
swift_4_6    ms-swift 4.6: GRPOTrainer's own `_compute_advantages` and `_compute_loss_and_metrics` on a bare self.
tinker_0_6   tinker-cookbook 0.6: its advantages and its KL penalty, from trajectories to the data that it sends to Tinker's server.
trl_1_16     TRL 1.16: GRPOTrainer and RLOOTrainer, their own methods on a bare self.
verl_0_9     verl 0.9: every registered estimator through its `compute_advantage`, every policy loss through its `ppo_loss`.
"""
