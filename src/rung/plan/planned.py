"""A cluster of GPUs that nobody has measured: what each process does and holds there, from data sheets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

from rung.network.model import Model
from rung.plan import scale
from rung.plan.estimate import PhaseCost, phases
from rung.plan.machines import A_MACHINE, Gpu
from rung.plan.memory import Need, Shape, Workload, activation_bytes, head_bytes, mask_bytes, need
from rung.plan.pipeline import Stage
from rung.plan.rehearsal import Line, Rates, Timings
from rung.plan.spread import GAIN, Forecast, best, corrected, shifted
from rung.recipes import Recipe
from rung.rollout.samplers import SAMPLERS, USUAL
from rung.rollout.vllm_sampler import ALONE, CUDA_SHARE, share
from rung.settings.cluster import Cluster
from rung.training import needs
from rung.training.config import TrainConfig
from rung.training.micro import kept_gib

NOTHING = Line(0.0, 0.0)
UNTIMED = Timings(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
GIBS = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0)  # of activations that are tried
FILLED = ALONE  # of a GPU's memory that is planned with: the rest is a context, fragments, and what the estimate misses
RECOMPUTED = 4 / 3  # of a backward's products, where the forward is computed again


@dataclass(frozen=True)
class Planned:
    """gpus: all that there are. Learners and samplers each take one. work: of a whole step.  judging: seconds of an answer here."""

    gpu: Gpu
    gpus: int
    config: TrainConfig
    recipe: Recipe
    model: Model = field(repr=False)
    work: Workload
    judging: float = 0.0

    @property
    def places(self) -> float:
        """Processes that compute at once: as many as there are, or one of a learner and a sampler on a single GPU."""
        return 1 if self.gpus == 1 else math.inf

    @cached_property
    def shape(self) -> Shape:
        return Shape.of(self.model, self.config)

    @cached_property
    def cuts(self) -> list[Planned]:
        """The same with other micro-batches, the modest ones first: that as it is, more activations, and recomputed ones."""
        gibs = sorted({kept_gib(self.config), *(gib for gib in GIBS if gib > kept_gib(self.config))})
        again = (False, True) if not self.config.gradient_checkpointing else (True,)
        changed = [replace(self.config, activation_gib=g, gradient_checkpointing=c) for c in again for g in gibs]
        return [replace(self, config=config) for config in changed]

    @property
    def settings(self) -> dict[str, object]:
        """How its backward is cut."""
        found: dict[str, object] = {"activation_gib": kept_gib(self.config)}
        return found | ({"gradient_checkpointing": True} if self.config.gradient_checkpointing else {})

    def cut(self, spread: Cluster, settings: dict[str, object]) -> Forecast | None:
        """This spread in the micro-batches that take the least time; None: none fits."""
        return best(Forecast(cut, spread, {**settings, **cut.settings}) for cut in self.cuts if cut.fits(spread))

    def splits(self, spread: Cluster, learners: int | None = None, samplers: int | None = None) -> Forecast | None:
        """The best split of the GPUs, with a correction where answers are stale; None: none fits.

        spread: whose staleness and pieces it has.  learners, samplers: of those with so many alone. What makes a step no
        shorter is left out, a machine at a time.
        """
        recipe, more = corrected(self.recipe, spread.staleness)
        crew, pieces = replace(self, recipe=recipe), {"cluster.partial": spread.partial} if spread.partial else {}

        def tried(splits: Iterable[tuple[int, int]]) -> Iterator[Forecast]:
            for n, m in splits:
                own = {"cluster.learners": n, "cluster.samplers": m, "cluster.staleness": spread.staleness}
                fits = n + m <= max(self.gpus, 2)
                one = crew.cut(replace(spread, learners=n, samplers=m), {**own, **pieces, **more}) if fits else None
                if one is not None:
                    yield one

        every = [learners] if learners else range(1, max(self.gpus, 2))
        least = best(tried((n, samplers or min(max(self.gpus - n, 1), self.work.P)) for n in every))
        if least is None:
            return None
        n, m = least.spread.learners, least.spread.samplers
        fewer = [] if learners else [(k, m) for k in range(n % A_MACHINE or A_MACHINE, n, A_MACHINE)]
        fewer += [] if samplers else [(n, k) for k in range(m % A_MACHINE or A_MACHINE, m, A_MACHINE)]
        enough = (one for one in tried(fewer) if one.seconds <= least.seconds / GAIN)
        return min(enough, key=lambda one: one.spread.learners + one.spread.samplers, default=least)

    def others(self, spread: Cluster) -> Iterator[Forecast]:
        """Micro-batches cut otherwise; answers one step old; a GPU given to the other side; answers not written; bfloat16."""
        cut = self.cut(spread, {})
        if cut is not None:
            yield cut
        if not spread.staleness:
            recipe, more = corrected(self.recipe, 1)
            yield Forecast(replace(self, recipe=recipe), replace(spread, staleness=1), {"cluster.staleness": 1, **more})
        for other in shifted(spread, self.gpus):
            if other.learners + other.samplers <= self.gpus:
                yield Forecast(self, other, {"cluster.learners": other.learners, "cluster.samplers": other.samplers})
        if self.config.save_rollouts:
            yield Forecast(
                replace(self, config=replace(self.config, save_rollouts=False)), spread, {"save_rollouts": False}
            )
        if self.config.dtype == "float32" and not self.config.updates_in_float32(self.recipe):
            yield Forecast(replace(self, config=replace(self.config, dtype="bfloat16")), spread, {"dtype": "bfloat16"})

    # -- seconds ----------------------------------------------------------------------------------------------------
    @cached_property
    def flops(self) -> list[PhaseCost]:
        return phases(self.shape, self.work, self.recipe, UNTIMED, Rates(1.0, math.inf))

    def decoder(self, samplers: int) -> scale.Decoder:
        layer = scale.LAYER["vllm" if self.paged else "torch"]
        alike = replace(self.shape, micro_tokens=0, checkpoints=False)  # of all cuts, so that each is worked out once
        return scale.Decoder(alike, self.gpu, self.at_once(samplers), self.paged, layer)

    def drawing(self, spread: Cluster) -> tuple[Stage, ...]:
        """The sampling side of a step: weights arrive, answers are drawn, one process judges them."""
        n, m, d = spread.learners, spread.samplers, self.decoder(spread.samplers)
        seconds = scale.sampling_seconds(d, self.work, m)
        if "greedy" in self.recipe.needs:
            seconds += scale.sampling_seconds(d, replace(self.work, G=1), m)
        load = scale.load_seconds(self.shape, n, m, self.gpu) if spread.staleness else 0.0
        rows = math.ceil(self.work.P / m) * self.work.G
        again = scale.going_on(self.work, rows, spread.partial, spread.staleness) if spread.partial else []
        return (
            Stage("load weights", load, m),
            Stage("draw", seconds, m),
            Stage("read again", sum(d.prefill(k, length) for k, length in again), m),
            Stage("judge", scale.driver_seconds(self.work, self.judging)),
        )

    def learning(self, spread: Cluster) -> tuple[Stage, ...]:
        """The learning side of a step: the update, weights on their way out, and the answers written by one process."""
        n, m = spread.learners, spread.samplers
        sync = scale.gather_seconds(self.shape, n, m, self.gpu)
        load = 0.0 if spread.staleness else scale.load_seconds(self.shape, n, m, self.gpu)
        written = scale.written_seconds(self.work) if self.config.save_rollouts else 0.0
        return (
            Stage("learn", sum(self.passes(n)), n), Stage("gather weights", sync, n), Stage("load weights", load, m),
            Stage("write answers", written),
        )  # fmt: skip

    def passes(self, learners: int) -> list[float]:
        """Seconds of each pass over the answers, and of the optimizer's steps."""
        s, cost, out = self.shape, self.recipe.update.cost(), list[float]()
        wide = s.at_work(self.recipe).width
        for phase in self.flops:
            if phase.name.startswith("sample"):
                continue
            flops, traffic = self.pass_work(phase, learners)
            peak = self.gpu.peak(s.width if phase.name == "critic" else wide)
            out.append(scale.pass_seconds(flops, traffic, learners, peak))
        updates = cost.passes * cost.minibatches * cost.adamw
        return [*out, updates * scale.optimizer_seconds(s, learners, self.gpu)]

    def pass_work(self, phase: PhaseCost, learners: int) -> tuple[float, float]:
        """(FLOP of all learners, seconds in which weights travel) of one kind of pass."""
        s, cost, gradient = self.shape, self.recipe.update.cost(), phase.name in ("update", "critic")
        parts = scale.micro_batches(self.work, learners, s.micro_tokens * (1 if gradient else 4))
        if gradient:
            parts = cost.passes * max(parts, cost.minibatches)
        traffic = scale.traffic_seconds(s, parts, learners, self.gpu, gradient=gradient)
        return phase.flops * (RECOMPUTED if gradient and s.checkpoints else 1.0), traffic

    def behind(self, spread: Cluster) -> float:
        return scale.behind(self.work, spread.staleness, spread.partial)

    # -- bytes ------------------------------------------------------------------------------------------------------
    @property
    def paged(self) -> bool:
        """Whether a sampler is vllm, which has a part of the GPU for its own copy of the model, keys and values."""
        return self.config.sampler != USUAL

    @property
    def vllm(self) -> float:
        """Bytes of that part."""
        return self.gpu.memory * share(self.weights, self.gpu.memory, alone=self.gpus > 1)

    def at_once(self, samplers: int) -> float:
        """Answers that a sampler decodes together: as many as its kind does, and as vllm's pages hold."""
        most = SAMPLERS[self.config.sampler].at_once
        if not self.paged:
            return most
        each = scale.token_bytes(self.shape) * (self.work.prompt + self.work.answer)
        return max(min(most, (self.vllm - self.weights) / each), 1.0)

    @property
    def weights(self) -> float:
        return float(self.shape.parameters * self.shape.width)

    def sampler_bytes(self, spread: Cluster) -> float:
        """The whole model, and the keys and values of what it decodes together; vllm: beside the model its part of the GPU,
        which holds another one and at least one answer."""
        m = spread.samplers
        own = replace(self.work, P=math.ceil(self.work.P / m), eval_rows=math.ceil(self.work.eval_rows / m))
        if not self.paged:
            return self.weights + sum(need(self.shape, own, self.recipe, 0, cpu=False).sampling.values())
        least = self.weights + scale.token_bytes(self.shape) * (own.longest + own.T)
        if self.gpus > 1:
            return max(self.usable, self.weights + least)
        return self.weights + max(self.vllm, least / CUDA_SHARE)

    def learner_bytes(self, spread: Cluster) -> float:
        return learner_bytes(self.shape, self.work, self.recipe, spread.learners)

    @property
    def alone(self) -> bool:
        """Whether one learner must do, as several are refused (cluster/room.py)."""
        return self.shape.at_work(self.recipe) is not self.shape

    def fits(self, spread: Cluster) -> bool:
        if self.alone and spread.learners > 1:
            return False
        learner, sampler = self.learner_bytes(spread), self.sampler_bytes(spread)
        return (max(learner, sampler) if self.gpus > 1 else learner + sampler) <= self.usable

    @property
    def usable(self) -> float:
        return FILLED * self.gpu.memory


@cache
def learner_bytes(s: Shape, w: Workload, recipe: Recipe, learners: int) -> float:
    """max(W copies, (held + gradients) / N + gathered + activations + head): when it loads, and when it learns.

    A learner loads the whole model, and copies it for a reference or critic, before any is dealt out. gathered: two layers
    whole and their gradients, one in use and one on its way, and the embeddings.
    """
    whole: Need = need(s, w, recipe, 0, cpu=False)
    held = sum(whole.held.values())
    if learners == 1:
        return held + sum(whole.updating.values())
    copies = 1 + needs.reference(recipe.needs) + (recipe.credit.learns() is not None)
    gradients = s.trainable * (4 if s.adapter else s.width)
    tables = s.V * s.D * (2 if s.parameters - s.products > 1.5 * s.V * s.D else 1)
    gathered = (2 * s.products / s.layers + tables) * (2 * s.width + 4)
    tokens = min(w.P * (w.prompt + w.G * w.T) / learners, s.micro_tokens)
    rows = max(1.0, tokens / (w.prompt / w.G + w.T))
    kept = activation_bytes(s, max(tokens, w.prompt + w.T), rows * (w.longest + w.T)) + mask_bytes(
        s, rows, w.T, w.longest + w.T
    )
    learning = (held + gradients) / learners + gathered + kept + head_bytes(s, rows * w.T)
    return max(copies * s.parameters * s.width, learning)
