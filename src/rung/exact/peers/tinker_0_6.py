"""tinker-cookbook 0.6: its advantages and its KL penalty, from trajectories to the data that it sends to Tinker's server.

The losses run on that server, whose code is not public. The client that scores answers under the reference is replaced.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rung.exact.peers.peer import Peer, Project, asking
from rung.exact.peers.stand_ins import stand_in_for

ABSENT = ("chz", "sniffio", "distro", "httpx_aiohttp", "blobfile")
ALONE = "each token is charged for its own log pi/ref alone, and not for those that it leads to"
LONGER = "log pi/ref of what follows, less the batch's mean times the tokens that follow, which pays a policy that drifts by length"


def project(version: str) -> Project:
    absent = stand_in_for(*ABSENT)
    return Project(
        name="tinker",
        package="tinker-cookbook",
        version=version,
        peers=(
            _peer("centered", "dr_grpo"),
            _peer("kl", "dr_grpo", 0.05, paper="kl_discount_factor is 0 by default", rest=ALONE),
            _peer("kl_discounted", "dr_grpo", 0.05, 1.0, rest=LONGER, issue="tinker-kl-prompt"),
        ),
        stood_in=f"{', '.join(absent)}; the client that scores answers under the reference",
        accumulation="its losses are sums over tokens, made on Tinker's server; here the mean over answers stands in for them",
        not_audited=(
            (
                "importance_sampling, ppo, cispo, dro, stable_reinforce",
                "run on Tinker's server, whose code is not public",
            ),
            ("custom losses of its recipes (DPO, distillation, forecasting)", "are no policy gradients of a reward"),
        ),
    )


def _peer(name: str, recipe: str, kl: float = 0.0, discount: float = 0.0, **said: Any) -> Peer:
    from tinker_cookbook.rl import data_processing, metrics

    def advantages(**x: Any) -> Tensor:
        order = [(x["groups"] == g).nonzero()[:, 0].tolist() for g in x["groups"].unique()]
        groups = [_group([_trajectory(x, row) for row in rows], x["rewards"][rows].tolist()) for rows in order]
        data, _ = data_processing.assemble_training_data(groups, data_processing.compute_advantages(groups))
        rows = [row for some in order for row in some]
        if kl:
            client = _Reference([x["ref_logp"][row] for row in rows])
            asyncio.run(metrics.incorporate_kl_penalty(data, client, kl, discount))
        out = torch.zeros(x["mask"].shape, dtype=torch.float64)
        for row, datum in zip(rows, data, strict=True):
            adv_T = datum.loss_fn_inputs["advantages"].to_torch()
            out[row, : len(adv_T)] = adv_T.double()
        return out

    asks = ["rewards", "mask", "tokens", "groups", *["old_logp", "ref_logp"] * bool(kl)]
    return Peer(name, recipe, None, asking(advantages, name, *asks), **said)


def _group(trajectories: list[Any], rewards: list[float]) -> Any:
    from tinker_cookbook.rl.types import TrajectoryGroup

    return TrajectoryGroup(trajectories, rewards, [{} for _ in rewards])


def _trajectory(x: dict[str, Any], row: int) -> Any:
    """The row after a prompt of one token: a step for each run of tokens that the policy said."""
    import tinker
    from tinker_cookbook.completers import TokensWithLogprobs
    from tinker_cookbook.rl.types import Trajectory, Transition

    said_T = x["mask"][row].bool().tolist()
    told, steps, t, last = [1], [], 0, max(t for t, said in enumerate(said_T) if said)
    while t <= last:
        start = t
        while t <= last and not said_T[t]:
            t += 1
        told = [*told, *x["tokens"][row, start:t].tolist()]
        start = t
        while t <= last and said_T[t]:
            t += 1
        words, logp = x["tokens"][row, start:t].tolist(), x.get("old_logp", x["tokens"])[row, start:t].tolist()
        steps.append(Transition(tinker.ModelInput.from_ints(told), TokensWithLogprobs(words, logp), 0.0, t > last))
        told = [*told, *words]
    return Trajectory(steps, tinker.ModelInput.from_ints(told))


class _Reference:
    """Scores the sequences in the order in which it is asked: their log-probabilities under the reference."""

    def __init__(self, logp: list[Tensor]) -> None:
        self.left = [row.tolist() for row in logp]

    def sample(self, prompt: Any, **_: Any) -> Any:
        scores = [None, *self.left.pop(0)][: prompt.length]

        async def answer() -> Any:
            return SimpleNamespace(prompt_logprobs=scores, prompt_cache_hit_tokens=0, sequences=[])

        return SimpleNamespace(coroutine=answer)
