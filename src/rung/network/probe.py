"""A few tokens on which a way to run a model is compared with the model's own plain forward.

    gap at a position = (E_{y ~ p} (log p(y) - log q(y))^2)^(1/2)   in nats, of the distributions of the next token

p from the model's forward over whole rows of one length, without padding and without memory; q from the way. What is tried
is what a run does: prompts of different lengths, two answers to each, one token after another, rows taken out in
between; and the gradient of a loss with respect to the embedded tokens. In bfloat16 rounding is as large as some
mistakes, so the distributions of a model of low precision are compared in float32 (float32.py), and roughly as it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rung.kernels import attention
from rung.kernels.attention import packed_attention
from rung.kernels.llama_step import LlamaStep
from rung.maths.logprob import distribution
from rung.maths.products import is_plain
from rung.network.float32 import exact, is_low
from rung.network.forward import predicting_logits, predicting_states
from rung.network.streams import PackedStream, begin
from rung.records import Tokens

if TYPE_CHECKING:
    from rung.network.model import Model

PROMPTS, LENGTH, SAMPLES = (2, 3), 5, 2  # tokens of each prompt, of every row; answers to each prompt
KEPT = 1  # the row that stays after two tokens: the first prompt loses one of its answers, the other both
MANY = 1 << 20  # rows for which no weight is copied
MOST, SHARE, LEAST = 1e-3, 0.03, 1e-5  # of a gap: MOST nats, or SHARE of what the context changes where that is less
COARSE = 0.5  # the mean gap in low precision, in nats
SLOPE = {False: 1e-3, True: 0.5}  # relative error of the gradient, by whether the precision is low


@dataclass(frozen=True)
class Probe:
    """Rows of random tokens, int[B, LENGTH] in main memory, and what the model's own forward says of them.

    logp: its log-probabilities, float32[B, LENGTH, V].  slope: the gradient of `_loss` with respect to the embedded tokens,
    summed over where a token stands, [tokens, D].  plain: its logits are its head's, and the head is W x + b.
    bound: of a gap, in nats.
    """

    rows: Tensor
    logp: Tensor
    slope: Tensor
    plain: bool
    bound: float

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        return [tuple(self.rows[i * SAMPLES, :n].tolist()) for i, n in enumerate(PROMPTS)]


def reference(model: Model) -> Probe:
    """The model's own plain forward on the rows of the probe."""
    rows = _rows(len(model.hf.get_input_embeddings().weight))
    row_n, at_n = _scored(rows)

    def forward() -> Tensor:
        return model.hf(input_ids=rows.to(model.device), use_cache=False).logits  # type: ignore[no-any-return]

    with torch.enable_grad(), _embedded(model.hf) as seen, _headed(model.hf) as heads:
        logits = forward()
        slope = _slope(_loss(logits.float().log_softmax(-1)[row_n, at_n], rows), seen, rows)
    head = model.hf.get_output_embeddings()
    plain = is_plain(head) and bool(heads) and torch.equal(heads[-1].float(), logits.detach().float())
    if is_low(model.hf):
        with torch.no_grad(), exact(model.hf):
            logits = forward()
    logp = logits.detach().float().log_softmax(-1)
    first = torch.arange(0, len(rows), SAMPLES)  # these answers begin as their prompts do: what the context changes
    changed = float(_gaps(logp[first, torch.tensor(PROMPTS)], logp[first, 0]).max())
    return Probe(rows, logp, slope, plain, max(LEAST, min(MOST, SHARE * changed)))


def trained(model: Model, probe: Probe) -> str:
    """The trainer's way to the distributions at all answer tokens: what is wrong with it, or nothing."""
    tokens, low = _tokens(probe.rows), is_low(model.hf)

    def forward() -> Tensor:
        if not model.packs:
            return predicting_logits(model, tokens)[0].float().log_softmax(-1)
        weight, bias = model.head
        return distribution(predicting_states(model, tokens)[0], weight, bias=bias)

    with torch.enable_grad(), _embedded(model.hf) as seen, _watched() as windows:
        logp = forward()
        slope = _slope(_loss(logp, probe.rows), seen, probe.rows)
    if model.packs and (wrong := _misnamed(model.hf, windows)):
        return wrong
    error = float((slope - probe.slope).norm() / probe.slope.norm().clamp(min=1e-30))
    if not error <= SLOPE[low]:
        return f"the gradient is {error:.2g} of its norm off"
    if low:
        with torch.no_grad(), exact(model.hf):
            logp = forward()
    return _verdict(_gaps(probe.logp[_scored(probe.rows)], logp.detach()).max(), probe.bound)


@torch.no_grad()
def decoded(model: Model, probe: Probe) -> str:
    """The sampler's way behind the prompts and two more tokens, rows taken out in between: what is wrong, or nothing.

    Where the model takes `short_steps`, the last token takes `LlamaStep`.
    """
    with _watched() as windows:
        gaps = _decode(model, probe)
    if model.decodes == "packed" and (wrong := _misnamed(model.hf, windows)):
        return wrong
    if not is_low(model.hf):
        return _verdict(gaps.max(), probe.bound)
    with exact(model.hf):
        return _verdict(gaps.mean(), COARSE) or _verdict(
            _decode(replace(model, short_steps=False), probe).max(), probe.bound
        )


@torch.no_grad()
def goes_on(model: Model, probe: Probe) -> str:
    """The sampler's way from the prompts, which it remembers, to the rows' ends: what is wrong, or nothing.

    Of one row a token of the prompt is taken as unknown, as if the row went on otherwise from there.
    """
    if model.decodes not in ("packed", "cache"):
        return "it remembers more than keys and values"
    with (
        exact(model.hf) if is_low(model.hf) else nullcontext(),
        packed_attention(model.hf) if model.decodes == "packed" else nullcontext(),
    ):
        return _go_on(replace(model, short_steps=False, keeps=True), probe)


def _go_on(model: Model, probe: Probe) -> str:
    read = begin(model, probe.prompts, SAMPLES, LENGTH)
    read.first()
    pasts = read.pasts(range(len(probe.rows)), [0] * len(probe.rows))
    if not all(past.length for past in pasts):
        return "it remembers more than keys and values"
    pasts[1].length -= 1
    length = torch.tensor([LENGTH, LENGTH - 1] * len(PROMPTS))
    rows = [tuple(row[:n].tolist()) for row, n in zip(probe.rows, length.tolist(), strict=True)]
    logits = begin(model, rows, 1, LENGTH, pasts).first()
    return _verdict(_gaps(probe.logp[torch.arange(len(rows)), length - 1], logits).max(), probe.bound)


@contextmanager
def _watched() -> Iterator[dict[int, int | None]]:
    """The window that each layer names where it runs with our attention inside this block."""
    told: dict[int, int | None] = {}

    def watch(module: Any, *tensors: Any, **more: Any) -> tuple[Tensor, None]:
        told[module.layer_idx] = more.get("sliding_window")
        return attention.interface(module, *tensors, **more)

    AttentionInterface.register(attention.NAME, watch)
    try:
        yield told
    finally:
        AttentionInterface.register(attention.NAME, attention.interface)


def _misnamed(hf: Any, windows: dict[int, int | None]) -> str:
    """What is wrong with the layers that ran with our attention and the windows that they named to it.

    All layers of the model's own memory must be among them, hold keys and values alone, and have these windows: on a few
    tokens neither a wide window nor a state that says little yet would be seen.
    """
    for i, mine in enumerate(DynamicCache(config=hf.config).layers):
        if type(mine).__name__ == "DummyLayer":  # (of transformers 5.20 and newer) of layers that remember nothing
            continue
        if type(mine) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return f"layer {i} remembers more than keys and values ({type(mine).__name__})"
        if i not in windows:
            return f"the attention of layer {i} cannot be replaced"
        if windows[i] != getattr(mine, "sliding_window", None):
            return f"layer {i} names the window {windows[i]}, its memory another"
    return "" if windows else "no attention can be replaced"


def _verdict(gap: Tensor, bound: float) -> str:
    return "" if float(gap) <= bound else f"log-probabilities are {float(gap):.2g} nats off"  # NaN is off


def _decode(model: Model, probe: Probe) -> Tensor:
    gaps = []
    parts = [[i] for i in range(len(PROMPTS))] if model.decodes == "even" else [list(range(len(PROMPTS)))]
    with packed_attention(model.hf) if model.decodes == "packed" else nullcontext():
        for part in parts:
            row = torch.tensor([i * SAMPLES + s for i in part for s in range(SAMPLES)])
            at = torch.tensor(PROMPTS)[row // SAMPLES]
            stream = begin(replace(model, short_steps=False), [probe.prompts[i] for i in part], SAMPLES, LENGTH)
            gaps.append(_gaps(probe.logp[row, at - 1], stream.first()))
            gaps.append(_gaps(probe.logp[row, at], stream.next(probe.rows[row, at].to(model.device))))
            if model.compacts and KEPT in row:
                stays = (row == KEPT).nonzero()[:, 0]
                stream.keep(stays)
                row, at = row[stays], at[stays]
            if model.short_steps and isinstance(stream, PackedStream):
                stream.step = LlamaStep(model.hf, MANY)
            gaps.append(_gaps(probe.logp[row, at + 1], stream.next(probe.rows[row, at + 1].to(model.device))))
    return torch.cat(gaps)


# -- rows, and what is read from them ------------------------------------------------------------------------------
def _rows(vocabulary: int) -> Tensor:
    """Random tokens; both answers to a prompt follow the same tokens, and the first of them begins as its prompt does."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(vocabulary, (len(PROMPTS) * SAMPLES, LENGTH), generator=generator)
    for i, n in enumerate(PROMPTS):
        rows[i * SAMPLES : (i + 1) * SAMPLES, :n] = rows[i * SAMPLES, :n]
        rows[i * SAMPLES, n] = rows[i * SAMPLES, 0]
    return rows


def _tokens(rows: Tensor) -> Tokens:
    """The rows as a step's record: what stands behind each prompt are the answers."""
    n_B = torch.tensor(PROMPTS).repeat_interleave(SAMPLES)
    wide = torch.nn.utils.rnn.pad_sequence([r[n:] for r, n in zip(rows, n_B.tolist(), strict=True)], batch_first=True)
    length_B = LENGTH - n_B
    prompts = [rows[i * SAMPLES, :n] for i, n in enumerate(PROMPTS)]
    group_B = torch.arange(len(PROMPTS)).repeat_interleave(SAMPLES)
    return Tokens(prompts, wide, torch.arange(wide.shape[1]) < length_B[:, None], length_B, group_B)


def _scored(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Row and position at which each answer token is predicted."""
    row_n, t_n = _tokens(rows).mask_BT.nonzero(as_tuple=True)
    return row_n, torch.tensor(PROMPTS)[row_n // SAMPLES] + t_n - 1


def _loss(logp_nV: Tensor, rows: Tensor) -> Tensor:
    """A weighted sum of the answers' log-probabilities, the weights of both signs."""
    tokens = _tokens(rows)
    target = tokens.tokens_BT[tokens.mask_BT].to(logp_nV.device)
    weight = torch.linspace(-1.0, 1.5, len(target), device=logp_nV.device)
    return (weight * logp_nV.gather(-1, target[:, None])[:, 0]).sum()


@contextmanager
def _embedded(hf: Any) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Token ids and their embeddings, cut off from the weights, as they go into the model inside this block."""
    seen: list[tuple[Tensor, Tensor]] = []

    def cut(module: torch.nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        seen.append((args[0], out.detach().requires_grad_()))
        return seen[-1][1].clone()  # some models scale it in place

    handle = hf.get_input_embeddings().register_forward_hook(cut)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def _headed(hf: Any) -> Iterator[list[Tensor]]:
    """What the head itself gives inside this block."""
    seen: list[Tensor] = []
    handle = hf.get_output_embeddings().register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    try:
        yield seen
    finally:
        handle.remove()


def _slope(loss: Tensor, seen: list[tuple[Tensor, Tensor]], rows: Tensor) -> Tensor:
    """The gradient of the loss with respect to the embedded tokens, summed over where a token stands: [tokens, D]."""
    known = torch.cat([rows.flatten(), rows.new_zeros(1)]).unique().to(loss.device)  # 0: padding
    out = torch.zeros(len(known), seen[0][1].shape[-1], device=loss.device)
    for (ids, _), grad in zip(seen, torch.autograd.grad(loss, [x for _, x in seen]), strict=True):
        out.index_add_(0, torch.searchsorted(known, ids.flatten()), grad.flatten(0, -2).float())
    return out


def _gaps(logp_nV: Tensor, logits_nV: Tensor) -> Tensor:
    """(E_{y ~ p} (log p - log q)^2)^(1/2) for each row of two distributions, given as log p and as logits of q."""
    p, apart = logp_nV.exp(), logp_nV - logits_nV.float().log_softmax(-1)
    return torch.where(p > 0, p * apart**2, 0.0).sum(-1).sqrt()
