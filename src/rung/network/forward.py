"""What a model says about tokens that are known, with gradient: packed, or by its own forward on padded rows.

Packed, each prompt runs through the model once for all its answers and no padding does. A model that cannot be packed
runs padded through its own forward: same numbers, more work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rung.kernels.attention import Packed, packed_attention
from rung.kernels.device import send
from rung.network.streams import taken
from rung.records import Tokens

if TYPE_CHECKING:
    from rung.network.model import Model


def predicting_states(model: Model, tokens: Tokens, *more: Tensor) -> list[Tensor]:
    """The hidden state that predicts each scored token, in row-major order of `mask_BT`, [n, D]; then `more`, sent along."""
    row_n, t_n = tokens.mask_BT.nonzero(as_tuple=True)
    if not model.packs:
        own, (row_n, at_n), there = _padded(tokens, model.device, more)
        trunk = model.hf.get_decoder()
        return [trunk(**taken(trunk, own)).last_hidden_state[row_n, at_n], *there]
    fed = [row[: max(n - 1, 0)] for row, n in zip(tokens.tokens_BT, tokens.length_B.tolist(), strict=True)]
    packed = Packed(tokens.prompts, fed, tokens.group_B.tolist())
    # Token t of row b is predicted at its predecessor: the prompt's last token for t = 0, else answer token t - 1.
    before = torch.where(t_n == 0, packed.prompt_last[tokens.group_B[row_n]], packed.answer_start[row_n] + t_n - 1)
    before, *there = packed.place(model.device, before, *more)
    with packed_attention(model.hf):
        hidden = model.hidden(packed.ids, packed.positions, packed)[0]
    return [hidden.index_select(0, before), *there]


def predicting_logits(model: Model, tokens: Tokens, *more: Tensor) -> list[Tensor]:
    """Logits that predict each scored token, by the model's own padded forward: [n, V]; then `more`, sent along.

    The definition, and the fallback.
    """
    own, (row_n, at_n), there = _padded(tokens, model.device, more)
    return [model.hf(**taken(model.hf, own)).logits[row_n, at_n], *there]


def _padded(
    tokens: Tokens, device: torch.device, more: tuple[Tensor, ...]
) -> tuple[dict[str, Any], tuple[Tensor, Tensor], list[Tensor]]:
    """The model's arguments for prompts and answers, right-padded; where each scored token is predicted; `more`.

    An answer's last token predicts nothing that is scored, and is left out.
    """
    row_n, t_n = tokens.mask_BT.nonzero(as_tuple=True)
    prompt_of = [tokens.prompts[g] for g in tokens.group_B.tolist()]
    triples = zip(prompt_of, tokens.tokens_BT, tokens.length_B.tolist(), strict=True)
    rows = [torch.cat([p, row[: max(n - 1, 0)]]) for p, row, n in triples]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    seen = (torch.arange(ids.shape[1]) < torch.tensor([len(x) for x in rows])[:, None]).long()
    at_n = torch.tensor([len(p) for p in prompt_of])[row_n] + t_n - 1
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    ids, seen, positions, row_n, at_n, *there = send(device, ids, seen, positions, row_n, at_n, *more)
    own = {"input_ids": ids, "attention_mask": seen, "position_ids": positions, "use_cache": False}
    return own, (row_n, at_n), there
