"""One of two data-parallel ranks: `python two_ranks.py RANK FOLDER`, run by test_propositions_ranks.py.

Every rank knows the rewards of the whole step, and has some of the rows. What it reports, and what rank 0 found for the
whole step alone, goes into FOLDER/RANK.pt.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

import rung.parts as p
from rung.maths.credit import outcome_to_token
from rung.maths.objective import count
from rung.network.model import Model
from rung.recipe_io import all_recipes
from rung.recipes import Recipe
from rung.records import Batch, State, Tokens, Totals
from rung.training.metrics import Drift
from rung.training.micro import Micro
from rung.training.needs import frozen
from rung.training.optimizer import MasterAdamW
from rung.training.policy import Policy
from rung.training.work import Work

RANKS = {"unequal": [[0, 1, 4], [2, 3, 5]], "one has nothing in the loss": [[0, 1, 2, 4], [3, 5]]}
LENGTHS, KEPT_OUT, MAX_TOKENS = [1, 2, 5, 4, 1, 3], [3, 5], 6
EVERYTHING = {
    "entropy": 0.01,
    "imitation": 0.1,
    "kl": p.RatioK3(0.1),
    "trust": p.OldKL(coef=0.5),
    "credit": p.GroupMean(),
}
AGGREGATES = [p.SequenceSum(), p.SequenceMean(), p.TokenMean(), p.FixedBudget(), p.PromptMean()]
RECIPES = [
    *(
        Recipe(name=type(a).__name__, ratio=p.TokenRatio(), surrogate=p.Clip(), aggregate=a, **EVERYTHING)
        for a in AGGREGATES
    ),
    *(all_recipes()[name] for name in ("ppo", "dr_grpo")),
]
CASES = [("unequal", r) for r in RECIPES] + [
    ("one has nothing in the loss", r) for r in RECIPES if r.name in ("TokenMean", "ppo")
]


def policy() -> Policy:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    return Policy(Model(LlamaForCausalLM(config).eval(), None, True), 0.8)  # type: ignore[arg-type]


def tokens() -> Tokens:
    length_B = torch.tensor(LENGTHS)
    answer_BT = torch.randint(3, 11, (6, 5), generator=torch.Generator().manual_seed(3))
    return Tokens(
        prompts=[torch.tensor([1, 5, 6]), torch.tensor([1, 7, 8, 9])], tokens_BT=answer_BT,
        mask_BT=torch.arange(5) < length_B[:, None], length_B=length_B, group_B=torch.tensor([0, 1, 0, 1, 0, 1]),
    )  # fmt: skip


def whole_step(actor: Policy) -> Batch:
    """Six answers to two prompts: old and reference log-probabilities near the policy's, two rows kept out of the loss."""
    t, g = tokens(), torch.Generator().manual_seed(5)
    now_BT = actor.score(t).logp_BT.detach()
    old_BT, ref_BT = (torch.where(t.mask_BT, now_BT + 0.2 * torch.randn(6, 5, generator=g), 0.0) for _ in range(2))
    flag = torch.ones(6, dtype=torch.bool)
    return Batch(
        reward_BT=outcome_to_token(torch.tensor([1.0, 0.0, -0.5, 1.0, 0.3, 0.2]), t.mask_BT), mask_BT=t.mask_BT,
        group_B=t.group_B, valid_B=flag, keep_B=~torch.isin(torch.arange(6), torch.tensor(KEPT_OUT)), truncated_B=~flag,
        right_B=torch.tensor([True, False, False, True, True, True]),
        behavior_logp_BT=old_BT, old_logp_BT=old_BT, ref_logp_BT=ref_BT, value_BT=0.3 * torch.randn(6, 5, generator=g),
        state=State(kl_coef=0.1, trust_coef=0.5), tokens=t,
    )  # fmt: skip


def gathered(total: Totals) -> Totals:
    """The denominators of the whole step, from each rank's own: every count is a sum."""
    assert total.prompt_tokens_P is not None
    prompts_P = torch.zeros(2, dtype=torch.long)
    prompts_P[: len(total.prompt_tokens_P)] = total.prompt_tokens_P
    counts = torch.cat([torch.tensor([total.tokens, total.sequences, total.right_tokens]), prompts_P])
    dist.all_reduce(counts)
    n, rows, right = counts[:3].tolist()
    return replace(total, tokens=n, sequences=rows, right_tokens=right, prompt_tokens_P=counts[3:])


def gradient(recipe: Recipe, rows: list[int], total: Totals | None) -> tuple[list[torch.Tensor], Policy, Drift, Totals]:
    """grad J of some rows, in micro-batches, by the functions of the update; `total` None: counted over these rows."""
    actor = policy()
    shaped = recipe.kl.shape_reward(whole_step(actor))
    shaped = replace(shaped, adv_BT=recipe.normalize(recipe.credit(shaped), shaped.mask_BT))
    active = torch.tensor([r for r in rows if r not in KEPT_OUT], dtype=torch.long)
    own = count(shaped.rows(torch.tensor(rows)), MAX_TOKENS)
    work = Work(recipe, actor, shaped, active, MAX_TOKENS, Micro(12))
    for part in frozen(work, list(work.parts(active))) if len(active) else []:
        J, scores = work.J(part, total or own)
        (-J).backward()
        work.drift.add(recipe, part.batch, scores)
    found = [x.grad if x.grad is not None else torch.zeros_like(x) for x in actor.model.hf.parameters()]
    return found, actor, work.drift, own


def stepped(actor: Policy, grads: list[torch.Tensor]) -> torch.Tensor:
    parameters = list(actor.model.hf.parameters())
    for x, g in zip(parameters, grads, strict=True):
        x.grad = g.clone()
    MasterAdamW(parameters, 1e-3).step(clip_norm=0.1)
    return flat(parameters)


def flat(tensors) -> torch.Tensor:
    return torch.cat([x.detach().reshape(-1) for x in tensors])


def one(recipe: Recipe, rows: list[int]) -> dict[str, torch.Tensor]:
    """Ranks together, ranks with denominators of their own, and the whole step alone."""
    _, _, _, own = gradient(recipe, rows, None)
    total = gathered(own)
    shared, actor, drift, _ = gradient(recipe, rows, total)
    local, _, _, _ = gradient(recipe, rows, None)
    for g in shared:
        dist.all_reduce(g)
    for g in local:
        dist.all_reduce(g)  # the usual mistake: every rank's own mean, averaged
        g /= dist.get_world_size()
    whole, alone, all_drift, _ = gradient(recipe, list(range(6)), None)
    sums = (
        torch.tensor([[row["tokens"], row["old_kl"]] for row in drift.rows()], dtype=torch.float64).view(-1, 2).sum(0)
    )
    own_kl = sums[1] / sums[0].clamp(min=1)
    dist.all_reduce(sums)
    return {
        "together": flat(shared), "own denominators": flat(local), "whole": flat(whole),
        "weights": stepped(actor, shared), "weights of the whole": stepped(alone, whole),
        "own kl": own_kl, "kl": sums[1] / sums[0], "kl of the whole": torch.tensor(all_drift.old_kl()),
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    found = {(rows, recipe.name): one(recipe, RANKS[rows][rank]) for rows, recipe in CASES}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
