"""Is rung's gradient the gradient? Packed, prompts shared, chunked head: against the plain padded forward and backward.

    python benchmarks/gradient.py --model PATH

The same batch (answers of different lengths, weights of both signs), grad of sum_bt w_bt log p_bt over all parameters.
`error` is ||ours - plain|| / ||plain||. In low precision both are compared with the plain way in float32 on the same
weights: `error` is ours, `plain_error` that of the plain way in low precision. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor

from generation import encoded
from rung.network import model as models
from rung.records import Tokens
from rung.training.policy import Policy
from trl_step import DTYPES


def batch(model: models.Model, prompts: int, samples: int, longest: int) -> tuple[Tokens, Tensor]:
    """Answers of random tokens, from 1 to `longest` of them, and a weight for each token."""
    generator = torch.Generator().manual_seed(0)
    B = prompts * samples
    length_B = torch.randint(1, longest + 1, (B,), generator=generator)
    length_B[0] = longest
    tokens_BT = torch.randint(0, model.hf.config.get_text_config().vocab_size, (B, longest), generator=generator)
    mask_BT = torch.arange(longest) < length_B[:, None]
    rows = [torch.tensor(row) for row in encoded(model, prompts)]
    tokens = Tokens(rows, tokens_BT, mask_BT, length_B, torch.arange(B) // samples)
    return tokens, torch.randn(B, longest, generator=generator) * mask_BT / B


def plain(model: models.Model, tokens: Tokens, weight_BT: Tensor) -> None:
    """One right-padded row per answer through the model's own forward, log_softmax over all positions, backward."""
    rows = [
        torch.cat([tokens.prompts[int(g)], row[: int(n)]])
        for g, row, n in zip(tokens.group_B, tokens.tokens_BT, tokens.length_B, strict=True)
    ]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    seen = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    log_p = model.hf(input_ids=ids, attention_mask=seen, use_cache=False).logits[:, :-1].float().log_softmax(-1)
    logp = log_p.gather(-1, ids[:, 1:, None])[..., 0]
    total = torch.zeros(())
    for b, (g, n) in enumerate(zip(tokens.group_B.tolist(), tokens.length_B.tolist(), strict=True)):
        start = len(tokens.prompts[g]) - 1
        total = total + (weight_BT[b, :n] * logp[b, start : start + n]).sum()
    total.backward()


def gradient(model: models.Model) -> dict[str, Tensor]:
    grads = {n: p.grad.float().clone() for n, p in model.hf.named_parameters() if p.grad is not None}
    model.hf.zero_grad()
    return grads


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", required=True)
    flags.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    flags.add_argument("--prompts", type=int, default=2)
    flags.add_argument("--samples", type=int, default=4)
    flags.add_argument("--tokens", type=int, default=48, help="of the longest answer")
    flags.add_argument("--threads", type=int, default=0)
    args = flags.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = models.load(args.model, dtype=getattr(torch, DTYPES[args.dtype]))
    tokens, weight_BT = batch(model, args.prompts, args.samples, args.tokens)
    (Policy(model).score(tokens).logp_BT * weight_BT).sum().backward()
    ours = gradient(model)
    low = None
    if args.dtype != "fp32":
        plain(model, tokens, weight_BT)
        low = gradient(model)
        model.hf.float()
    plain(model, tokens, weight_BT)
    exact = gradient(model)
    assert ours.keys() == exact.keys()
    by_name = {n: error({n: ours[n]}, exact) for n in exact}
    worst = max(by_name, key=lambda n: by_name[n])
    found = {"error": error(ours, exact), "worst": worst, "worst_error": by_name[worst], "packed": model.packs}
    if low is not None:
        found["plain_error"] = error(low, exact)
    print(
        json.dumps({**found, "tokens": int(tokens.length_B.sum()), "parameters": sum(g.numel() for g in ours.values())})
    )


def error(some: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """||some - exact|| / ||exact||."""
    apart, norm = (
        torch.stack([x.norm() for x in tensors]).norm()
        for tensors in ([some[n] - exact[n] for n in some], [exact[n] for n in some])
    )
    return float(apart / norm.clamp(min=1e-30))


if __name__ == "__main__":
    main()
