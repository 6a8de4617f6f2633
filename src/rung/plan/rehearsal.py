"""How fast this machine is at this model's sizes: a few of its layers, with made-up weights, run the real sampler and update.

Nothing is read from disk. Rates of matrix products and of memory alone would miss what an implementation adds to
them, so both are measured: the rates give the bound that no code can beat, the rehearsal what ours takes.

What is timed on a CPU counts by its own seconds on a core, which run only while it does: so much as the clock shows besides,
others had the core. On a GPU there is the clock alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from rung.kernels.attention import Layout
from rung.kernels.llama_step import fits
from rung.maths.logprob import CHUNK_ELEMENTS, token_logprob
from rung.network.forward import predicting_states
from rung.network.model import Model
from rung.network.streams import PackedStream
from rung.network.ways import settle
from rung.plan.memory import Shape, Workload
from rung.records import SamplingLaw, Tokens
from rung.rollout.draws import Draws
from rung.rollout.samplers import make_sampler

CACHE_BYTES = 100 << 20  # weights that decoding must come past, so that they are read from memory and not from a cache
PROBE_FLOPS = 1e10  # work of one call of a probe, about: a tenth of a second on a core
LEAST, MOST = 3, 9  # calls that are timed; more than LEAST only where they take less than SHORT
SHORT = 0.2  # seconds together
BUSY = (
    1.5  # by the clock, half of the calls took this many times their own seconds: something else runs on this machine
)
timed: list[Took] = []  # of what this rehearsal has timed: the median by the clock, and the shortest
STREAM_ELEMENTS = 1 << 24  # 64 MiB of float32


@dataclass(frozen=True)
class Took:
    """Seconds. clock: between two looks at it.  own: of this thread on a core; on a GPU the clock's: no thread counts its work."""

    clock: float
    own: float

    def __sub__(self, other: Took) -> Took:
        return Took(self.clock - other.clock, self.own - other.own)


@dataclass(frozen=True)
class Rates:
    """gemm: FLOP/s of a product at the model's own sizes.  stream: bytes/s of reading one long array and writing another."""

    gemm: float
    stream: float

    def reached(self, work: Iterable[tuple[float, float]]) -> Rates:
        """max(gemm, FLOP / seconds of each work): what some code reaches, no bound is below."""
        return replace(self, gemm=max([self.gemm, *(flops / seconds for flops, seconds in work if seconds > 0)]))


@dataclass(frozen=True)
class Line:
    """seconds(n) = base + n each, through two measured points."""

    base: float
    each: float

    def __call__(self, n: float) -> float:
        return self.base + n * self.each

    @classmethod
    def through(cls, small: tuple[float, float], large: tuple[float, float]) -> Line:
        """Neither part is negative: noise between two close points must not turn a cost into a gain."""
        (m, a), (n, b) = small, large
        each = min(max((b - a) / (n - m), 0.0), b / n) if n > m else b / n
        return cls(max(b - each * n, 0.0), each)

    def times(self, factor: float) -> Line:
        return Line(self.base * factor, self.each * factor)

    def plus(self, other: Line) -> Line:
        return Line(self.base + other.base, self.each + other.each)


@dataclass(frozen=True)
class Timings:
    """Seconds. decode: a step with n rows, head and draw included.  prefill: n prompt tokens.  forward, update: n tokens
    of a micro-batch through the trunk, without and with gradient.  head: n scored tokens of a chunk, with gradient."""

    decode: Line
    prefill: Line
    forward: Line
    update: Line
    head: Line


def machine_rates(s: Shape, dtype: torch.dtype, on: torch.device) -> Rates:
    """A product [n, D] x [D, F], the one that the model makes most; and a long copy.

    On a CPU threads x the product's rate on one: of several, one that waits for another's turn on a core counts on.
    """
    timed.clear()
    n = int(min(max(PROBE_FLOPS / (4 * s.D * s.F), 64), 4096))
    x, weight = (torch.full(size, 0.5, dtype=dtype, device=on) for size in ((n, s.D), (s.F, s.D)))
    with torch.no_grad(), _one_thread(on) as threads:
        seconds = _best(lambda: torch.nn.functional.linear(x, weight), on)
    a, b = (torch.full((STREAM_ELEMENTS,), 1.0, device=on) for _ in range(2))
    return Rates(threads * 2 * n * s.D * s.F / seconds, 8 * STREAM_ELEMENTS / _best(lambda: b.copy_(a), on))


def rehearse(sketch: Model, s: Shape, w: Workload, dtype: torch.dtype, on: torch.device) -> Timings | None:
    """Time the real code on a few layers of the model; what grows with depth is stretched to its full depth.

    None for a model that does not run packed: its time in the layers and besides cannot be told apart.
    """
    layer = max(s.products // s.layers, 1)
    deep, shallow = min(s.layers, max(2, CACHE_BYTES // (layer * s.width))), min(s.layers, 2)
    model = _packing(sketch, deep, dtype, on)
    if model is None:
        return None
    decode, prefill = _sampling(model, w, s.layers / deep)
    if shallow < deep:
        model = _few_layers(sketch, shallow, dtype, on)
    most = int(min(s.micro_tokens, w.fed, max(PROBE_FLOPS / (6 * layer * shallow), 64)))
    small, large = (_trunk(model, w, n) for n in (most // 4, most))
    stretch = s.layers / shallow
    return Timings(
        decode=decode,
        prefill=prefill,
        forward=Line.through((small[0], small[1]), (large[0], large[1])).times(stretch),
        update=Line.through((small[0], small[2]), (large[0], large[2])).times(stretch),
        head=_head(s, w, dtype, on),
    )


def crowding() -> float:
    """sum of medians by the clock / sum of the shortest: how many times as long all of this rehearsal took as alone."""
    return max(1.0, sum(t.clock for t in timed) / max(sum(t.own for t in timed), 1e-9))


def busy(times: float) -> str | None:
    """A sentence where what was timed took so many times as long as alone."""
    if times < BUSY:
        return None
    return (
        f"this machine is busy: what was timed took {times:.1f} times as long as alone. Seconds are of this machine with nothing "
        "else to do; beside what runs now, the run takes about so many times as long"
    )


@contextmanager
def _one_thread(on: torch.device) -> Iterator[int]:
    """Computes with one; how many there are without it. A GPU's threads are not these."""
    threads = torch.get_num_threads()
    if on.type != "cpu":
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


# -- pieces --------------------------------------------------------------------------------------------------------
def _packing(sketch: Model, layers: int, dtype: torch.dtype, on: torch.device) -> Model | None:
    """A few layers of the model, if they can be had alone and run packed."""
    try:
        model = _few_layers(sketch, layers, dtype, on)
        settle(model)
    except (ValueError, AttributeError, TypeError):  # a configuration that no number of layers can be taken from
        return None
    return replace(model, replays=False) if model.packs and model.decodes == "packed" else None  # no clock looks into a graph


def _few_layers(sketch: Model, layers: int, dtype: torch.dtype, on: torch.device) -> Model:
    """The same configuration with fewer layers and some numbers in every weight: which do not matter to a clock."""
    config = copy.deepcopy(sketch.hf.config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    with no_init_weights(), on:
        hf = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for (
            p
        ) in hf.parameters():  # no constant: the check of how a model is run needs answers that their context changes
            p.copy_(
                torch.arange(p.numel(), device=p.device).sin().view_as(p) * 0.05 if p.dim() > 1 else torch.ones_like(p)
            )
    hf.get_input_embeddings().requires_grad_(False)  # its gradient does not grow with depth
    few = replace(sketch, hf=hf.eval(), packs=True, decodes="packed", compacts=True, short_steps=fits(hf))
    return replace(few, codec=replace(few.codec, end_ids=frozenset({-1})))


def _sampling(model: Model, w: Workload, stretch: float) -> tuple[Line, Line]:
    """(a decoding step by rows, prefill by prompt tokens), from the sampler's own calls with 1 and a few new tokens."""
    length, context = max(round(w.prompt), 1), max(round(w.prompt + w.answer / 2), 1)  # the middle of an answer
    flops = 2 * sum(p.numel() for p in model.hf.parameters())  # a row's step, or a prompt's token
    rows = max(1, min(w.P * w.G, w.at_once, int(2 * PROBE_FLOPS / flops)))
    steps = 3 if rows * flops > PROBE_FLOPS / 10 else 8
    _sample(model, 1, context, 1, 2)  # once for nothing
    points = []
    for n in (max(rows // 4, 1), rows):
        prompts = 2 if n > w.G else 1
        samples = max(1, n // prompts)
        first, more = (_sample(model, prompts, context, samples, new) for new in (1, 1 + steps))
        trunk, rest = (max(b - a, 0.0) / steps for a, b in zip(first, more, strict=True))
        points.append((prompts * samples, trunk * stretch + rest))
    prompts = max(1, min(w.P, int(PROBE_FLOPS / (flops * length))))
    trunk, rest = _sample(model, prompts, length, 1, 1)
    return Line.through(points[0], points[1]), Line(rest * w.P / prompts, trunk * stretch / (prompts * length))


def _sample(model: Model, prompts: int, length: int, samples: int, new: int) -> tuple[float, float]:
    """Seconds of one call of the sampler, the shortest of a few: (inside the trunk, besides)."""
    sampler, law = make_sampler(model), SamplingLaw(max_new_tokens=new)
    apart = [x.tolist() for x in _apart(model, prompts, length)]
    seen: list[tuple[float, float]] = []

    def total() -> Took:
        with _clock(model) as inside:
            whole = _once(lambda: sampler.sample(apart, law, Draws.whole(0, prompts * samples)), model.device)
        seen.append((sum(inside), whole.own - sum(inside)))
        return whole

    _shortest(total)
    return min(seen, key=sum)


@contextmanager
def _clock(model: Model) -> Iterator[list[float]]:
    """Own seconds of the sampler in the model's layers, one number for each call."""
    plain, seconds = PackedStream.hidden, list[float]()

    def timed(stream: PackedStream, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        start = _now(model.device)
        out = plain(stream, ids, positions, layout)
        seconds.append((_now(model.device) - start).own)
        return out

    PackedStream.hidden = timed  # type: ignore[method-assign, assignment]
    try:
        yield seconds
    finally:
        PackedStream.hidden = plain  # type: ignore[method-assign]


def _trunk(model: Model, w: Workload, budget: int) -> tuple[int, float, float]:
    """(tokens fed, seconds of a forward, seconds of forward and backward) of a micro-batch of about `budget` tokens."""
    T, lp = max(round(w.answer), 1), max(round(w.prompt - w.head), 1)
    rows = max(1, round(budget / (lp / w.G + T)))
    group_B = torch.arange(rows) // w.G
    prompts = _apart(model, int(group_B[-1]) + 1, lp)
    tokens_BT = torch.ones(rows, T, dtype=torch.long)
    length_B = torch.full((rows,), T)
    tokens = Tokens(prompts, tokens_BT, tokens_BT > 0, length_B, group_B)

    def forward() -> None:
        with torch.no_grad():
            predicting_states(model, tokens)

    def both() -> None:
        predicting_states(model, tokens)[0].sum().backward()
        model.hf.zero_grad()

    return len(prompts) * lp + rows * (T - 1), _best(forward, model.device), _best(both, model.device)


def _apart(model: Model, prompts: int, length: int) -> list[Tensor]:
    """Prompts that differ from their first token on: what prompts share would run once for all."""
    return [
        torch.tensor([p % model.hf.config.get_text_config().vocab_size] + [1] * (length - 1)) for p in range(prompts)
    ]


def _head(s: Shape, w: Workload, dtype: torch.dtype, on: torch.device) -> Line:
    """Forward and backward of the head by scored tokens of a chunk."""
    weight = torch.full((s.V, s.D), 0.01, dtype=dtype, device=on, requires_grad=True)
    chunk = max(1, CHUNK_ELEMENTS // s.V)
    most = int(min(chunk, w.P * w.G * w.answer, max(PROBE_FLOPS / (8 * s.V * s.D), 8)))
    points = []
    for n in (max(most // 4, 1), most):
        hidden = torch.full((n, s.D), 0.01, dtype=dtype, device=on, requires_grad=True)
        target = torch.zeros(n, dtype=torch.long, device=on)

        def step(hidden: Tensor = hidden, target: Tensor = target) -> None:
            token_logprob(hidden, weight, target)[0].sum().backward()
            weight.grad = hidden.grad = None

        points.append((n, _best(step, on)))
    return Line.through(points[0], points[1])


def _now(on: torch.device) -> Took:
    if on.type == "cuda":
        torch.cuda.synchronize(on)
    clock = time.perf_counter()
    return Took(clock, time.thread_time() if on.type == "cpu" else clock)


def _once(call: Callable[[], object], on: torch.device) -> Took:
    start = _now(on)
    call()
    return _now(on) - start


def _best(call: Callable[[], object], on: torch.device) -> float:
    """The shortest of LEAST calls or more, after one that does not count: what else runs here only ever adds time."""
    call()
    return _shortest(lambda: _once(call, on))


def _shortest(time_it: Callable[[], Took]) -> float:
    """By its own seconds: of threads, the calling one computes as much as any other, or waits for them."""
    seen = [time_it() for _ in range(LEAST)]
    while len(seen) < MOST and sum(t.clock for t in seen) < SHORT:
        seen.append(time_it())
    own = min(t.own for t in seen)
    timed.append(Took(sorted(t.clock for t in seen)[len(seen) // 2], own))
    return own
