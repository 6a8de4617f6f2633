"""`rung plan`: memory and time of a run, estimated before anything is loaded.

Time comes from counts and from a rehearsal. The counts of work (equations below) over the measured rate of matrix
products give a bound that no code can beat; the rehearsal gives what ours takes. Answers that end early, and rows
of zero-variance groups, make the real step cheaper than an estimate at the full length: --answer-tokens says how long they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from rung.io.tables import say_verdict, show
from rung.io.terminal import say_notes, span
from rung.kernels.device import choose
from rung.maths.logprob import CHUNK_ELEMENTS, keeps
from rung.plan import fit, judging
from rung.plan.memory import DTYPES, GIB, Need, Shape, Workload, sketch
from rung.plan.rehearsal import BUSY, Line, Rates, Timings, busy, crowding, machine_rates, rehearse
from rung.recipes import Recipe
from rung.rollout.samplers import USUAL
from rung.tasks.environments.protocol import Environment
from rung.training import defaults
from rung.training.checkpoint import kept
from rung.training.config import TrainConfig
from rung.training.setup import locate, settle

OPTIMIZER_PASSES = 18  # reads and writes of one float32 number per weight in clipping and AdamW
ANSWER_SECONDS = 1.5e-4  # Python around one answer: its problem's text to tokens, its tokens to lists, its row to drop
STEP_SECONDS = 0.025  # Python around an optimizer step: objective, metrics, clipping; both matter to a tiny model only
NOW = "as busy as this machine is now"
LONGEST = 2  # longest over mean answer of a step: 3 at the start of the starter's training, 2.1 after five steps, 1.3 at its end


# -- work in floating-point operations -----------------------------------------------------------------------------
def trunk_flops(s: Shape, tokens: float, context: float) -> float:
    """2 n N + 4 n c layers H D_h: products of n tokens with N trunk weights, attention to c keys on average."""
    return 2 * tokens * s.products + 4 * tokens * context * s.layers * s.heads * s.head_dim


def head_flops(s: Shape, tokens: float) -> float:
    """2 n V D."""
    return 2 * tokens * s.V * s.D


def sampling_flops(s: Shape, w: Workload) -> float:
    """Prefill of P prompts, then B L tokens through trunk and head; each prompt once per group."""
    answers = w.P * w.G * w.answer
    prefill = trunk_flops(s, w.read, w.prompt / 2)
    return prefill + trunk_flops(s, answers, w.prompt + w.answer / 2) + head_flops(s, answers + w.P)


def scoring_flops(s: Shape, w: Workload, *, head: bool) -> float:
    """A forward of every prompt once and every answer, and of the head on the answers."""
    trunk = trunk_flops(s, w.fed, w.prompt + w.answer / 2)
    return trunk + (head_flops(s, w.P * w.G * w.answer) if head else 0.0)


def update_flops(s: Shape, w: Workload) -> float:
    """3 x trunk + 3 or 4 x head: forward, two products backward."""
    return 3 * scoring_flops(s, w, head=False) + head_products(s, w) * head_flops(s, w.P * w.G * w.answer)


def head_products(s: Shape, w: Workload) -> int:
    """Of the head in an update: 4 where a micro-batch has so many scored tokens that their logits are computed twice."""
    scored = w.P * w.G * w.answer * min(1.0, s.micro_tokens / w.fed)
    return 3 if keeps(math.ceil(scored), s.V) else 4


# -- seconds by phase ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class PhaseCost:
    """flops: work in matrix products.  seconds: the estimate."""

    name: str
    flops: float
    seconds: float


def decode_seconds(decode: Line, w: Workload, rows: int) -> float:
    """base x steps + each x (tokens of all answers); as many steps as the longest answer has tokens, taken as 2 L, at most T."""
    calls = math.ceil(w.P * w.G / rows)
    steps = min(w.T, LONGEST * w.answer)
    return calls * decode.base * steps + decode.each * w.P * w.G * w.answer


def own_passes(recipe: Recipe, s: Shape) -> float:
    """Passes of the policy over a batch, without gradient, for log pi_old: where a part needs it, or the precision does."""
    low = s.width < 4
    first = "old_logp" in recipe.needs or (low and "ref_logp" in recipe.needs)
    later = 1 - 1 / recipe.update.cost().minibatches if low else 0.0
    return first + later


def phases(s: Shape, w: Workload, recipe: Recipe, t: Timings, rates: Rates) -> list[PhaseCost]:
    """What one training step does, in order."""
    own, s = own_passes(recipe, s), s.at_work(recipe)
    needs, scored = recipe.needs, w.P * w.G * w.answer
    rows = min(w.P * w.G, w.at_once)
    chunk = max(1, CHUNK_ELEMENTS // s.V)
    whole = math.ceil(w.fed / s.micro_tokens)  # micro-batches of a pass without gradient
    forward = t.forward.base * whole + t.forward.each * w.fed

    def trunk(minibatches: int) -> float:
        """A pass with gradient in so many minibatches, each of one micro-batch or more, and the embedding's gradient, which
        is as large as the embedding: zeros, then a sum."""
        parts = max(whole, minibatches)
        return t.update.base * parts + t.update.each * w.fed + parts * 12 * s.V * s.D / rates.stream

    products = head_products(s, w)

    def head(minibatches: int) -> float:  # rehearsed with few tokens, which take three products
        return t.head.base * max(math.ceil(scored / chunk), whole, minibatches) + t.head.each * scored * products / 3

    adam = STEP_SECONDS + 4 * OPTIMIZER_PASSES * s.trainable / rates.stream

    sample = t.prefill(w.read) + decode_seconds(t.decode, w, rows) + ANSWER_SECONDS * w.P * w.G
    out = [PhaseCost("sample", sampling_flops(s, w), sample)]
    if "greedy" in needs:
        one = replace(w, G=1)
        out.append(PhaseCost("sample (greedy)", sampling_flops(s, one), decode_seconds(t.decode, one, w.P)))
    for share, name in ((own, "old log-probabilities"), (float("ref_logp" in needs), "reference")):
        if share:
            out.append(PhaseCost(name, share * scoring_flops(s, w, head=True), share * (forward + head(1) / products)))
    if (critic := recipe.credit.learns()) is not None:
        passes, minibatches = (1, 1) if critic.shared else (critic.epochs, critic.minibatches)
        fit_flops = 3 * passes * scoring_flops(s, w, head=False)
        seconds = forward + passes * (trunk(minibatches) + minibatches * adam)
        out.append(PhaseCost("critic", scoring_flops(s, w, head=False) + fit_flops, seconds))
    cost = recipe.update.cost()
    # a product with the curvature goes back through a forward and its backward: about two passes over its tokens
    whole_passes = cost.passes + 2 * cost.products * min(1.0, (cost.curved or w.fed) / w.fed)
    flops = whole_passes * update_flops(s, w) + cost.forwards * scoring_flops(s, w, head=True)
    seconds = whole_passes * (trunk(cost.minibatches) + head(cost.minibatches)) + cost.forwards * (
        forward + head(1) / products
    )
    seconds += cost.passes * cost.minibatches * adam * cost.adamw
    return [*out, PhaseCost("update", flops, seconds)]


Refuse = Callable[[Recipe, Environment], None]


# -- the plan ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Plan:
    """Memory and seconds of a run on a machine with nothing else to do, and what they were computed from.

    crowding: how many times as long what was timed took, by the clock, beside what else ran.  judging: of an answer.
    """

    config: TrainConfig
    shape: Shape
    work: Workload
    need: Need
    room: fit.Room
    rates: Rates
    phases: list[PhaseCost]
    evaluation: float
    notes: tuple[str, ...] = ()
    timings: Timings | None = None  # None: this kind of model is not rehearsed
    crowding: float = 1.0
    judging: float = 0.0

    @property
    def step_seconds(self) -> float:
        return sum(p.seconds for p in self.phases)

    @property
    def steps(self) -> int:
        """Of the run; where a budget of tokens ends it, as many as answers of the expected length make."""
        assert self.config.steps is not None
        if self.config.tokens is None:
            return self.config.steps
        return min(self.config.steps, math.ceil(self.config.tokens / (self.work.P * self.work.G * self.work.answer)))

    @property
    def run_seconds(self) -> float:
        """All steps and evaluations; loading and checkpoints are not in it, nor judges other than the task's verifiers."""
        evaluations = 2 + self.config.evaluations_within(self.steps, self.work.eval_rows)
        return self.steps * self.step_seconds + evaluations * self.evaluation


def plan(config: TrainConfig, answer_tokens: float | None = None, refuse: Refuse = lambda recipe, env: None) -> Plan:
    """Plan the run of `config`; answer_tokens: the answers' expected mean length, None: all at the limit.

    refuse: what else may be wrong with the recipe and its problems, asked before anything is timed.

    Raises:
        InputError: the settings are refused by `rung train` too, or the run cannot fit into memory.
    """
    given = config
    config, recipe, splits = settle(given)
    refuse(recipe, splits.train)
    model = sketch(locate(config.model), config.dtype, trust_remote_code=config.trust_remote_code)
    model.codec = model.codec.writing(config)
    config, splits = defaults.by_model(given, config, splits, model.codec)
    shape = Shape.of(model, config)
    work = Workload.of(config, model.codec, (splits.train, splits.eval), answer_tokens)
    on = choose(config.device)
    room, need = fit.room(on), fit.estimate(config, recipe, model, work, on)
    if not config.ignore_memory and config.cluster == "local":
        fit.refuse(config, recipe, model, work, on, room)
    judged = judging.judging(splits.train)
    rates = machine_rates(shape, DTYPES[config.dtype], on)
    timings = rehearse(model, shape, work, DTYPES[config.dtype], on)
    other = f"sampling is timed with the torch sampler, and {config.sampler} draws at another pace"
    said = [judging.untold(splits.train, judged), _told_anew(on) if config.sampler == USUAL else other]
    times, notes = crowding(), (*splits.notes, *filter(None, said))
    if timings is None:
        slow = "the time of a step is not estimated: this kind of model runs by its own forward, which is not rehearsed"
        return Plan(config, shape, work, need, room, rates, [], 0.0, (*notes, slow))
    if (wide := shape.at_work(recipe)) is not shape and (learning := rehearse(model, wide, work, torch.float32, on)):
        timings = replace(learning, decode=timings.decode, prefill=timings.prefill)
    step = [*phases(shape, work, recipe, timings, rates), *_judged(judged, work)]
    held_out = replace(work, P=work.eval_rows, G=1)
    rows = min(work.eval_rows, work.at_once)
    evaluation = timings.prefill(held_out.read) + decode_seconds(timings.decode, held_out, rows)
    evaluation += (ANSWER_SECONDS + (judged or 0.0)) * work.eval_rows
    notes, rates = (*notes, *filter(None, [busy(times)])), rates.reached((x.flops, x.seconds) for x in step)
    return Plan(config, shape, work, need, room, rates, step, evaluation, notes, timings, times, judged or 0.0)


def _told_anew(on: torch.device) -> str | None:
    """A sentence where decoding is faster than it is rehearsed."""
    if on.type != "cuda":
        return None
    return (
        "sampling is rehearsed kernel by kernel; a run repeats its steps by a CUDA graph, in a third to a quarter of the time "
        "where models are small (docs/performance.md)"
    )


def _judged(seconds: float | None, w: Workload) -> list[PhaseCost]:
    """P G answers, by the task's own verifier."""
    return [] if seconds is None else [PhaseCost("judge", 0.0, seconds * w.P * w.G)]


def _times(p: Plan) -> list[tuple[str, str, float, str, float | None]]:
    """Rows of seconds; none where they are not estimated."""
    if not p.phases:
        return []
    products = sum(x.flops for x in p.phases) / p.rates.gemm
    run = f"{p.steps} steps and evaluations"
    rows = [
        *[("step", x.name, _digits(x.seconds), "s", _digits(x.flops / p.rates.gemm)) for x in p.phases],
        ("step", "whole step", _digits(p.step_seconds), "s", _digits(products)),
        ("run", "evaluation", _digits(p.evaluation), "s", None),
        ("run", run, _digits(p.run_seconds), "s", None),
    ]
    if p.crowding >= BUSY:
        rows.append(("step", f"whole step, {NOW}", _digits(p.step_seconds * p.crowding), "s", None))
        rows.append(("run", f"{run}, {NOW}", _digits(p.run_seconds * p.crowding), "s", None))
    return [*rows, crowded(p.crowding)]


def _digits(seconds: float) -> float:
    """Four of them: a plan may be of milliseconds, or of weeks."""
    return float(f"{seconds:.4g}")


def crowded(times: float) -> tuple[str, str, float, str, None]:
    return ("machine", "beside what else runs, times as long", round(times, 2), "", None)


def checkpoint_bytes(s: Shape, recipe: Recipe) -> int:
    """Weights, or the adapter's alone, AdamW's two moments and the masters of low weights in float32; a critic or reference of
    its own comes on top."""
    masters = 4 * s.trainable * (s.width < 4 and not s.adapter)
    moments = 8 * s.trainable * recipe.update.cost().adamw
    return (4 * s.trainable if s.adapter else s.parameters * s.width) + moments + masters


def _stay(p: Plan) -> float | None:
    """GiB of all that is there at a time, the one that is written among them; None: it grows with the run."""
    there = kept(p.config)
    return round((there + 1) * checkpoint_bytes(p.shape, p.config.build_recipe()) / GIB, 3) if there else None


def run_plan(config: TrainConfig, answer_tokens: float | None, json_to: str | None) -> int:
    """The command: three tables, or all their rows as JSON."""
    p = plan(config, answer_tokens)
    say_notes(p.notes)
    rows = [
        *[("memory", f"{when}: {name}", round(size / GIB, 3), "GiB", None) for when, name, size in p.need.rows()],
        ("memory", "peak", round(p.need.peak / GIB, 3), "GiB", None),
        ("memory", p.room.where, round(p.room.limit / GIB, 3), "GiB", None),
        ("memory", "free now", round(p.room.free / GIB, 3), "GiB", None),
        *_times(p),
        ("disk", "a checkpoint", round(checkpoint_bytes(p.shape, p.config.build_recipe()) / GIB, 3), "GiB", None),
        ("disk", f"checkpoints that stay: {kept(p.config) or 'all'}", _stay(p), "GiB", None),
        ("model", "parameters", p.shape.parameters, "", None),
        ("model", "trained parameters", p.shape.trainable, "", None),
        ("model", "tokens of a micro-batch", p.shape.micro_tokens, "", None),
        ("work", "prompts x answers", f"{p.work.P} x {p.work.G}", "", None),
        ("work", "tokens of a prompt, of an answer", f"{p.work.prompt:.0f}, {p.work.answer:.0f}", "", None),
        ("work", "tokens that all prompts begin with", p.work.head, "", None),
        ("machine", "matrix products", round(p.rates.gemm / 1e9, 1), "GFLOP/s", None),
        ("machine", "memory, read and write", round(p.rates.stream / 1e9, 1), "GB/s", None),
    ]
    say_verdict(verdict_on(p), json_to)
    columns = ("part", "what", "estimate", "unit", "bound by products alone, s")
    show(f"plan: {p.config.recipe} on {p.config.model}", columns, rows, json_to)
    return 0


def verdict_on(p: Plan) -> str:
    """Whether the run fits, and how long it takes."""
    sizes = (size / GIB for size in (p.need.peak, p.room.limit, p.room.free))
    peak, limit, free = (f"{size:.2g}" if size < 10 else f"{size:.0f}" for size in sizes)
    time = f"about {span(p.run_seconds)} for {p.steps} steps" if p.phases else "its time is not estimated"
    if p.phases and p.crowding >= BUSY:
        time += f" if this machine does nothing else, and about {span(p.run_seconds * p.crowding)} {NOW}"
    if p.need.peak > p.room.limit:
        return f"does not fit: it needs {peak} GiB, and there are {limit}; if it did: {time}."
    if p.need.peak > p.room.free:
        return f"fits the machine, but not beside what else is running: {peak} of {limit} GiB, and {free} are free now; {time}."
    return f"fits: {peak} of {limit} GiB, {time}."
