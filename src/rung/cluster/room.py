"""What a run on several processes needs, and the refusal of what a cluster has no room for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rung.cluster.connect import Capacity
from rung.errors import InputError, setting
from rung.kernels.device import CPU, choose
from rung.plan.fit import estimate, resident_bytes
from rung.plan.memory import GIB, Need, Workload, sketch
from rung.recipes import Recipe
from rung.rollout.samplers import SAMPLERS, USUAL
from rung.settings.cluster import PIECES, Cluster, counted
from rung.tasks.environments.protocol import Conversational, Environment, Observes, Splits
from rung.training.config import TrainConfig


@dataclass(frozen=True)
class Demand:
    """Bytes. process: of Python and its libraries.  weights: of the model.  learner: of one of `learners`; sampler: of one."""

    process: float
    weights: float
    learner: float
    sampler: float

    @classmethod
    def of(cls, config: TrainConfig, recipe: Recipe, where: str, splits: Splits) -> Demand:
        """Weights and what the optimizer keeps are dealt out over the learners; what a backward keeps is each one's own."""
        model = sketch(where, config.dtype, trust_remote_code=config.trust_remote_code)
        model.codec = model.codec.writing(config)
        work = Workload.of(config, model.codec, (splits.train, splits.eval))
        whole: Need = estimate(replace(config, device=config.here), recipe, model, work, CPU)
        process = float(resident_bytes())
        weights = whole.held["weights"]
        held = sum(whole.held.values()) - whole.held["Python and libraries"]
        learner = process + held / config.spread().learners + sum(whole.updating.values())
        return cls(process, weights, learner, process + weights + sum(whole.sampling.values()))

    def total(self, spread: Cluster) -> float:
        """This process with its model, the store with the weights of every version under way, and all actors."""
        own = self.process + self.weights * (2 + spread.staleness)
        return own + spread.learners * self.learner + spread.samplers * self.sampler


def refuse_staleness(recipe: Recipe, spread: Cluster) -> None:
    """Answers of older weights are another distribution's: without a weight that repairs it, each step is biased."""
    if spread.staleness and "old_logp" not in recipe.correction.needs:
        raise InputError(
            f"{setting('cluster.staleness', spread.staleness)} learns from answers of older weights, and recipe {recipe.name!r} "
            "takes them for its own: its ratio compares with the policy at the update's beginning, not with the one that drew. "
            f"Correct for it, with {setting('recipe.correction', 'TokenTIS')} or another part of correction, or leave "
            f"{setting('cluster.staleness', 0)}."
        )


def refuse_masters(config: TrainConfig, recipe: Recipe, spread: Cluster) -> None:
    """FSDP deals out weights of the precision that they came in, and keeps no others."""
    if spread.learners > 1 and config.dtype == "bfloat16" and config.updates_in_float32(recipe):
        raise InputError(
            f"recipe {recipe.name!r} moves the weights by itself, by steps that bfloat16 would swallow: it needs float32 masters, "
            f"and {spread.said} keep none beside the weights that they share. Use {setting('dtype', 'float32')}, "
            f"{setting('cluster.learners', 1)}, or an adapter ({setting('lora_rank', 8)})."
        )


def refuse_model(config: TrainConfig, where: str, joined: bool) -> None:
    """What the sampler cannot run, before an actor would say so. joined: what kind of devices others have is not known here."""
    if config.sampler != USUAL:
        model = sketch(where, config.dtype, trust_remote_code=config.trust_remote_code)
        cpu = not joined and choose(config.device).type == "cpu"
        SAMPLERS[config.sampler].suits(model, bool(config.lora_rank), cpu)


def refuse_pieces(recipe: Recipe, spread: Cluster, env: Environment) -> None:
    """Answers of several versions: where there are several, and where a step's problems are known before others' answers."""
    if spread.partial is None:
        return
    asked = setting("cluster.partial", spread.partial)
    if spread.staleness < PIECES:
        raise InputError(
            f"{asked} lets an answer go on by the weights of the next update, and with "
            f"{setting('cluster.staleness', spread.staleness)} no others than its first are there before it is learned from. Give "
            f"{setting('cluster.staleness', PIECES)} or more, or leave {setting('cluster.partial')} out."
        )
    if isinstance(env, Conversational):
        raise InputError(
            f"{asked} is for answers to one prompt: a conversation's sessions would have to wait in the middle of a turn while "
            f"others begin. Leave it out, or take another {setting('task')}."
        )
    curriculum = isinstance(env, Observes)
    if curriculum or recipe.data.resample:
        why = "the task chooses problems by" if curriculum else f"recipe {recipe.name!r} draws others after"
        other = "take another task" if curriculum else f"give {setting('recipe.data.resample', 0)}"
        raise InputError(
            f"{asked} begins a step's problems before the answers of the steps before are whole, and {why} what those earned. "
            f"Leave it out, or {other}."
        )


def refuse_too_many(spread: Cluster, has: Capacity, device: str) -> None:
    """More learners, or more samplers, than there are GPUs or cores: those of one kind work at the same time."""
    gpus = has.gpus if device != "cpu" else 0
    have, kind = (gpus, "GPU") if gpus else (has.cpus, "core")
    where = f"the cluster of {counted(has.machines, 'machine')}" if has.joined else "this machine"
    for name, what in (("learners", "learner"), ("samplers", "sampler")):
        n = getattr(spread, name)
        if n > have:
            raise InputError(
                f"{setting(f'cluster.{name}', n)}: {where} has {counted(have, kind)}, and each {what} takes one. Give at most "
                f"{setting(f'cluster.{name}', have)}, or add machines."
            )


def refuse_too_much(config: TrainConfig, demand: Demand, has: Capacity) -> None:
    """More memory than all machines have together. Which process goes where is for Ray to say, so no single one is looked at."""
    spread = config.spread()
    total = demand.total(spread)
    on_gpus = has.gpus and config.device != "cpu"  # what a learner holds lies there, and their memory is not known here
    if config.ignore_memory or on_gpus or total <= has.memory:
        return
    gib = [f"{x / GIB:.3g}" for x in (total, demand.learner, demand.sampler, has.memory)]
    raise InputError(
        f"{spread.said} would need about {gib[0]} GiB ({gib[1]} GiB each learner, {gib[2]} GiB each sampler), and there are "
        f"{gib[3]} GiB. Give fewer, lower {setting('activation_gib')}, or use more machines; {setting('ignore_memory', True)} "
        "starts the run all the same."
    )
