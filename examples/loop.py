"""One whole training from top to bottom: what rung.train("dr_grpo") does to the starter, to the bit, with no loop class.

    python examples/loop.py --steps 20
"""

import argparse
from dataclasses import replace
from itertools import islice

import torch

from rung.maths.assess import assess
from rung.maths.objective import count, objective
from rung.models import starter
from rung.network.model import load
from rung.recipes import DR_GRPO
from rung.records import SamplingLaw
from rung.rollout.ask import score
from rung.rollout.draws import Draws, mix
from rung.rollout.layout import layout
from rung.rollout.torch_sampler import TorchSampler
from rung.rollout.walk import Walk
from rung.tasks.problems import load_problems
from rung.training.policy import Policy


def main(steps: int = 100, prompts: int = 32, samples: int = 8, learning_rate: float = 4e-4, seed: int = 0):
    recipe, task = DR_GRPO, load_problems("chained_arithmetic")
    law = SamplingLaw(max_new_tokens=task.max_new_tokens)
    model = load(str(starter.path()))
    policy, sampler, weights = Policy(model), TorchSampler(model), list(model.hf.parameters())
    adam = torch.optim.AdamW(weights, learning_rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, foreach=True)
    walk, state = Walk(len(task.train), prompts, seed), recipe.initial_state()

    for step in range(steps):
        # Problems, and `samples` answers to each: tokens with their log-probabilities under the policy.
        problems = [task.train[i] for i in islice(walk.problems(step), prompts)]
        asked = [model.codec.encode(problem.prompt) for problem in problems]
        rollouts = sampler.sample(asked, law, Draws.whole(mix(seed, step, 0), prompts * samples))

        # Rewards: the task judges the answers to one problem at a time.
        groups = [
            score(task.train, model.codec, problem, rollouts[i * samples : (i + 1) * samples], law, recipe.data)
            for i, problem in enumerate(problems)
        ]

        # Credit: A = normalize(credit(r)), one number a token. Rows without any stay out of the model.
        assessed = assess(recipe, layout(groups, state))
        total = count(assessed.batch, law.max_new_tokens)  # the denominators, over the whole step
        batch = assessed.batch.rows(assessed.active)

        # Objective: J is maximized, so the optimizer, which descends, is given -J.
        scores = policy.score(batch.spoken)
        batch = replace(batch, old_logp_BT=scores.logp_BT.detach())  # the policy that answered is the policy of now
        (-objective(recipe, batch, scores, batch.adv_BT, total)).backward()

        # Step: the gradient clipped to norm 1, then Adam.
        norm = torch.stack([w.grad.norm() for w in weights]).norm()
        for w in weights:
            w.grad.mul_(min(1.0, 1.0 / (float(norm) + 1e-12)))
        adam.step()
        adam.zero_grad()
        reward = sum(row.reward for group in groups for row in group) / (prompts * samples)
        print(f"step {step + 1:3}  reward {reward:.3f}  gradient norm {float(norm):.3f}")
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    main(parser.parse_args().steps)
