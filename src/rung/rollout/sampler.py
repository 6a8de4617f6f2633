"""The embedded sampler: draws answers from any Hugging Face causal model that lives in this process.

Each prompt is prefilled once, whatever the number of its answers; all answers of a step decode as one batch;
finished answers leave it. Tokens in, tokens out: nothing is decoded to text and encoded again. Each token comes with
its log-probability under the very law it was drawn from, and each answer with the reason why it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rung.kernels.attention import packed_attention
from rung.kernels.device import fetch, send
from rung.kernels.packed_weights import packed_weights
from rung.maths.logprob import NEVER
from rung.network.model import Model
from rung.network.streams import begin, steps
from rung.records import Rollout, SamplingLaw, StopReason

COMPACT_BELOW = 0.8  # drop finished rows once fewer than this share of the batch is alive
LOOK_EVERY = 8  # tokens between two looks at which rows are alive, on a device that would have to be waited for


class Sampler(Protocol):
    """Draws `samples` answers to each prompt; rollouts come prompt by prompt. `load` takes new weights."""

    def sample(self, prompts: Sequence[Sequence[int]], law: SamplingLaw, samples: int, seed: int) -> list[Rollout]: ...

    def load(self, weights: object, version: int) -> None: ...


@dataclass
class TorchSampler:
    """Samples from the model that is being trained: same weights, so `load` only counts the version."""

    model: Model
    version: int = 0
    max_batch: int = 512  # answers decoded at once

    def load(self, weights: object, version: int) -> None:
        self.version = version

    @torch.no_grad()
    def sample(self, prompts: Sequence[Sequence[int]], law: SamplingLaw, samples: int, seed: int) -> list[Rollout]:
        """`samples` answers to each prompt (token ids), under `law`. The same seed draws the same answers."""
        if law.temperature < 0 or not 0 < law.top_p <= 1:
            raise ValueError(f"temperature must be >= 0 and top_p in (0, 1], got {law}")
        generator = torch.Generator().manual_seed(seed)
        chance_TB = torch.rand(law.max_new_tokens, len(prompts) * samples, generator=generator)
        chance_TPG = chance_TB.view(len(chance_TB), len(prompts), samples)
        out: dict[int, list[Rollout]] = {}
        for part in self._parts(prompts, samples):
            hf, rows = self.model.hf, len(part) * samples
            own = packed_attention(hf) if self.model.decodes == "packed" else nullcontext()
            with packed_weights(hf.get_output_embeddings() if steps(self.model) else hf, rows), own:
                chance = chance_TPG[:, part].flatten(1).to(self.model.device)
                rollouts = self._decode([tuple(prompts[i]) for i in part], law, samples, chance)
            out |= {i: rollouts[n * samples : (n + 1) * samples] for n, i in enumerate(part)}
        return [rollout for i in range(len(prompts)) for rollout in out[i]]

    def _parts(self, prompts: Sequence[Sequence[int]], samples: int) -> list[list[int]]:
        """Numbers of prompts that decode together: as many as fit, and of one length where the model needs that."""
        size = max(1, self.max_batch // samples)
        alike: dict[int, list[int]] = {}
        for i, prompt in enumerate(prompts):
            alike.setdefault(len(prompt) if self.model.decodes == "even" else 0, []).append(i)
        return [group[i : i + size] for group in alike.values() for i in range(0, len(group), size)]

    def _decode(
        self, prompts: list[tuple[int, ...]], law: SamplingLaw, samples: int, chance_TB: Tensor
    ) -> list[Rollout]:
        B, T, device = chance_TB.shape[1], law.max_new_tokens, chance_TB.device
        look = 1 if device.type == "cpu" else LOOK_EVERY
        stream = begin(self.model, prompts, samples, T)
        tokens_BT = torch.zeros(B, T, dtype=torch.long, device=device)
        logp_BT, entropy_BT = torch.zeros(2, B, T, device=device)
        length_B = torch.zeros(B, dtype=torch.long, device=device)
        alive_B = torch.ones(B, dtype=torch.bool, device=device)
        ends = torch.tensor(sorted(self.model.codec.end_ids))
        ends, row_R = send(device, ends, torch.arange(B))  # rows still in the batch
        logits_RV = stream.first()
        for t in range(T):
            token_R, logp_BT[row_R, t], entropy_BT[row_R, t] = draw(logits_RV, law, chance_TB[t, row_R])
            tokens_BT[row_R, t] = token_R
            alive_R = alive_B[row_R]  # what a row says after its end is of no account
            length_B[row_R] += alive_R
            alive_B[row_R] = alive_R = alive_R & ~torch.isin(token_R, ends)
            if t + 1 == T:
                break
            if (t + 1) % look == 0:
                keep = alive_R.cpu().nonzero()[:, 0]
                if len(keep) == 0:
                    break
                if self.model.compacts and len(keep) < COMPACT_BELOW * len(row_R):
                    (keep_R,) = send(device, keep)
                    stream.keep(keep)
                    row_R, token_R = row_R[keep_R], token_R[keep_R]
            logits_RV = stream.next(token_R)
        return self._rollouts(prompts, samples, *fetch(tokens_BT, logp_BT, entropy_BT, length_B, alive_B))

    def _rollouts(self, prompts: list[tuple[int, ...]], samples: int, *columns: Tensor) -> list[Rollout]:
        """columns: token, log-probability and entropy [B, T], length [B], whether it never ended [B]."""
        out = []
        for b, (tokens, logp, entropy, n, alive) in enumerate(zip(*(x.tolist() for x in columns), strict=True)):
            stop: StopReason = "length" if alive else "stop"
            cut = (tuple(tokens[:n]), tuple(logp[:n]), tuple(entropy[:n]))
            out.append(Rollout(prompts[b // samples], *cut, stop=stop, version=self.version))
        return out


def draw(logits_BV: Tensor, law: SamplingLaw, chance_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse-CDF sampling: the first token whose cumulative probability exceeds `chance` in [0, 1).

    Returns token int[B], its log-probability under the law, and the law's entropy in nats, float32[B] each.
    At temperature 0 the law is a point: the largest logit, log-probability and entropy 0.
    """
    if law.temperature == 0:
        token_B = logits_BV.argmax(-1)
        return token_B, torch.zeros_like(chance_B), torch.zeros_like(chance_B)
    z_BV = logits_BV.float() if law.temperature == 1 else logits_BV.float() / law.temperature
    z_BV = truncate(z_BV, law)
    z_BV = (z_BV - z_BV.amax(-1, keepdim=True)).clamp_(min=NEVER)
    e_BV = z_BV.exp()
    cumulative_BV = e_BV.cumsum(-1)
    total_B = cumulative_BV[:, -1]
    aim_B = (chance_B * total_B).minimum(total_B * (1 - 1e-7))
    token_B = torch.searchsorted(cumulative_BV, aim_B[:, None], right=True)[:, 0].clamp(max=z_BV.shape[-1] - 1)
    norm_B = e_BV.sum(-1)
    entropy_B = norm_B.log() - e_BV.mul_(z_BV).sum(-1) / norm_B
    return token_B, z_BV.gather(-1, token_B[:, None])[:, 0] - norm_B.log(), entropy_B


def truncate(logits_BV: Tensor, law: SamplingLaw) -> Tensor:
    """-inf outside the top-k and the smallest set of probability top-p; log_softmax of it renormalizes."""
    if law.top_k:
        least = logits_BV.topk(min(law.top_k, logits_BV.shape[-1]), -1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least, -torch.inf)
    if law.top_p < 1:
        ordered, order = logits_BV.sort(-1, descending=True)
        p = ordered.softmax(-1)
        outside = p.cumsum(-1) - p >= law.top_p
        logits_BV = logits_BV.masked_fill(outside.gather(-1, order.argsort(-1)), -torch.inf)
    return logits_BV
