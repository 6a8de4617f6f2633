"""Training: policy, critic, update rules, the loop."""
