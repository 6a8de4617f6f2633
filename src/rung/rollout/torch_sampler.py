"""The embedded sampler: draws answers from any Hugging Face causal model that lives in this process.

Each prompt is prefilled once, whatever the number of its answers; all answers of a step decode as one batch;
finished answers leave it. Between the turns of conversations it can keep what it has read (`keeping`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rung.kernels.attention import packed_attention
from rung.kernels.continued import Past
from rung.kernels.device import fetch, send
from rung.kernels.packed_weights import packed_weights
from rung.network.model import Model
from rung.network.streams import Stream, begin, takes_short_steps
from rung.records import Rollout, SamplingLaw, StopReason
from rung.rollout.draws import Draws
from rung.rollout.kept import Kept
from rung.rollout.sampler import draw
from rung.rollout.samplers import SAMPLERS

COMPACT_BELOW = 0.8  # drop finished rows once fewer than this share of the batch is alive
LOOK_EVERY = 8  # tokens between two looks at which rows are alive, on a device that would have to be waited for


@dataclass
class TorchSampler:
    """Samples from the model that is being trained: same weights, so `load` only counts the version."""

    model: Model
    version: int = 0
    max_batch: int = SAMPLERS["torch"].at_once  # answers decoded at once
    kept: Kept | None = None  # of a conversation's rows, inside `keeping`

    @property
    def same_numbers(self) -> bool:
        """In low precision they are not: a batch of other shape rounds otherwise, by more than a ratio may be off."""
        return bool(self.model.hf.dtype == torch.float32)

    def load(self, weights: object, version: int) -> None:
        self.version = version

    @contextmanager
    def keeping(self) -> Iterator[TorchSampler]:
        """One that keeps keys and values of as many rows as decode at once, where the model's way allows it."""
        kept = Kept(self.max_batch)
        try:
            yield replace(self, kept=kept) if self.model.keeps else self
        finally:
            kept.only(())

    @torch.no_grad()
    def sample(self, prompts: Sequence[Sequence[int]], law: SamplingLaw, draws: Draws) -> list[Rollout]:
        if law.temperature < 0 or not 0 < law.top_p <= 1:
            raise ValueError(f"temperature must be >= 0 and top_p in (0, 1], got {law}")
        samples = draws.each(len(prompts))
        chance_TPG = draws.chance(law.max_new_tokens).view(law.max_new_tokens, len(prompts), samples)
        if self.kept is not None:
            self.kept.only(draws.rows)
        out: dict[int, list[Rollout]] = {}
        for part in self._parts(prompts, samples):
            hf = self.model.hf
            rows = [draws.rows[i * samples + s] for i in part for s in range(samples)]
            own = packed_attention(hf) if self.model.decodes == "packed" else nullcontext()
            with packed_weights(hf.get_output_embeddings() if takes_short_steps(self.model) else hf, len(rows)), own:
                chance = chance_TPG[:, part].flatten(1).to(self.model.device)
                rollouts = self._decode([tuple(prompts[i]) for i in part], law, rows, chance)
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
        self, prompts: list[tuple[int, ...]], law: SamplingLaw, rows: Sequence[int], chance_TB: Tensor
    ) -> list[Rollout]:
        """Answers, as many to each prompt. rows: their numbers in the step."""
        B, T, device = len(rows), law.max_new_tokens, chance_TB.device
        look = 1 if device.type == "cpu" else LOOK_EVERY
        samples = B // len(prompts)
        stream = begin(self.model, prompts, samples, T, self._pasts(prompts, rows))
        tokens_BT = torch.zeros(B, T, dtype=torch.long, device=device)
        logp_BT, entropy_BT = torch.zeros(2, B, T, device=device)
        length_B = torch.zeros(B, dtype=torch.long, device=device)
        alive_B = torch.ones(B, dtype=torch.bool, device=device)
        ends = torch.tensor(sorted(self.model.codec.end_ids))
        ends, row_R = send(device, ends, torch.arange(B))  # rows still in the batch
        logits_RV, left = stream.first(), dict[int, Past]()
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
                    left |= self._left(stream, row_R, length_B, t, ~alive_R)
                    stream.keep(keep)
                    row_R, token_R = row_R[keep_R], token_R[keep_R]
            logits_RV = stream.next(token_R)
        left |= self._left(stream, row_R, length_B, t, torch.ones_like(row_R, dtype=torch.bool))
        rollouts = self._rollouts(
            prompts, samples, stream.read, *fetch(tokens_BT, logp_BT, entropy_BT, length_B, alive_B)
        )
        for b, past in left.items():
            assert self.kept is not None
            self.kept.put(rows[b], rollouts[b].prompt + rollouts[b].tokens, past)
        return rollouts

    def _pasts(self, prompts: list[tuple[int, ...]], rows: Sequence[int]) -> list[Past]:
        """What is kept of each prompt's first tokens, where every prompt is one row's."""
        if self.kept is None or len(prompts) < len(rows):
            return []
        return [self.kept.take(row, prompt) for row, prompt in zip(rows, prompts, strict=True)]

    def _left(self, stream: Stream, row_R: Tensor, length_B: Tensor, fed: int, leaves_R: Tensor) -> dict[int, Past]:
        """What the model remembers of the rows that leave the batch, by their places; what was fed after an end is not."""
        if self.kept is None:
            return {}
        place_R, row_R, own_R = fetch(
            leaves_R.nonzero()[:, 0], row_R[leaves_R], length_B[row_R[leaves_R]].clamp(max=fed)
        )
        pasts = stream.pasts(place_R.tolist(), own_R.tolist())
        return dict(zip(row_R.tolist(), pasts, strict=True))

    def _rollouts(
        self, prompts: list[tuple[int, ...]], samples: int, read: Sequence[int], *columns: Tensor
    ) -> list[Rollout]:
        """columns: token, log-probability and entropy [B, T], length [B], whether it never ended [B]."""
        out = []
        for b, (tokens, logp, entropy, n, alive) in enumerate(zip(*(x.tolist() for x in columns), strict=True)):
            stop: StopReason = "length" if alive else "stop"
            cut = (tuple(tokens[:n]), tuple(logp[:n]), tuple(entropy[:n]))
            out.append(Rollout(prompts[b // samples], *cut, stop=stop, version=self.version, read=read[b]))
        return out
