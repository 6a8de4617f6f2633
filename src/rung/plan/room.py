"""Why a planned cluster has no room for a run, in words: which process lacks it, and what would give it."""

from __future__ import annotations

from dataclasses import replace

from rung.errors import setting
from rung.plan.planned import Planned
from rung.rollout.vllm_sampler import CUDA_SHARE
from rung.settings.cluster import Cluster, counted

MOST = 4096  # processes of a kind that are thought of


def why_not(crew: Planned, learners: int | None = None, samplers: int | None = None) -> str:
    """Why no split fits, and what would help. learners, samplers: of those with so many alone."""
    if crew.weights > (crew.vllm if crew.paged else crew.usable):
        return _model_too_large(crew)
    half = (
        f"; or give {setting('dtype', 'bfloat16')}, with which it fits" if _half_fits(crew, learners, samplers) else ""
    )
    return f"{_too_tight(crew, learners, samplers)}{half}"


def _half_fits(crew: Planned, learners: int | None, samplers: int | None) -> bool:
    """Whether weights of two bytes would do, in some split of the same GPUs; a rule that moves them itself wants four."""
    if crew.config.dtype != "float32" or crew.config.updates_in_float32(crew.recipe):
        return False
    half, most = replace(crew, config=replace(crew.config, dtype="bfloat16")), max(crew.gpus, 2)
    splits = ((n, samplers or min(most - n, crew.work.P)) for n in ([learners] if learners else range(1, most)))
    return any(cut.fits(Cluster(n, m)) for n, m in splits if 0 < m <= most - n for cut in half.cuts)


def _too_tight(crew: Planned, learners: int | None, samplers: int | None) -> str:
    """Of a model that a GPU holds: which process does not fit."""
    n = learners or (1 if crew.alone else max(crew.gpus - (samplers or 1), 1))
    m = samplers or min(max(crew.gpus - (learners or 1), 1), crew.work.P)
    if crew.sampler_bytes(Cluster(1, m)) > crew.usable:
        return _sampler_too_large(crew, m)
    least = min(crew.cuts, key=lambda cut: cut.learner_bytes(Cluster(n, 1)))
    if least.learner_bytes(Cluster(n, 1)) > crew.usable:
        return _learner_too_large(least, n)
    if learners and samplers and least.fits(Cluster(n, m)):
        words = " ".join(setting(name, value) for name, value in least.settings.items())
        now, then = (gb(cut.learner_bytes(Cluster(n, 1))) for cut in (crew, least))
        return f"a learner would need {now}, and {_has(crew)}. Give {words}: then it needs {then}"
    if crew.gpus == 1:
        both = least.learner_bytes(Cluster(1, 1)) + crew.sampler_bytes(Cluster(1, 1))
        return f"a learner and a sampler need {gb(both)} together, and {_has(crew)}. Take two GPUs"
    n, m = least_learners(crew) or n, least_samplers(crew) or m
    return (
        f"a learner fits from {counted(n, 'learner')} on, and a sampler from {counted(m, 'sampler')} on, so that it takes "
        f"{n + m} GPUs. Give {setting('gpus', n + m)}, or a GPU of more memory"
    )


def gb(size: float) -> str:
    return f"{size / 1e9:.0f} GB"


def _has(crew: Planned) -> str:
    return f"of {crew.gpu.name} {gb(crew.usable)} are planned with"


def _model_too_large(crew: Planned) -> str:
    half = f"{setting('dtype', 'bfloat16')}, which is half of it, " if crew.shape.width == 4 else ""
    part = "" if crew.gpus > 1 else f" in {CUDA_SHARE:.0%} of it"
    beside = f", and vllm once more{part}" if crew.paged else ""
    return (
        f"a sampler holds the whole model on one GPU ({gb(crew.weights)} of weights{beside}), and {_has(crew)}; "
        f"{setting('cluster', 'ray')} divides no model over several. Take {half}a GPU of more memory or a smaller model, or "
        "carry the recipe into a trainer whose samplers divide theirs (`rung export`)"
    )


def _sampler_too_large(crew: Planned, m: int) -> str:
    """What would make it fit, each alone and tried by the same count."""
    work, now = crew.work, Cluster(1, m)
    tries = {
        f"{setting('sampler', 'vllm')}, which holds as many as there is room for": replace(
            crew, config=replace(crew.config, sampler="vllm")
        ),
        f"a lower {setting('max_new_tokens')}": replace(crew, work=replace(work, T=1, answer=1)),
        f"a lower {setting('prompts_per_step')}": replace(crew, work=replace(work, P=1)),
        f"a lower {setting('eval_problems')}": replace(crew, work=replace(work, eval_rows=1)),
    }
    helps = [words for words, other in tries.items() if other.sampler_bytes(now) <= crew.usable]
    if enough := least_samplers(crew):
        helps.insert(0, f"{enough} samplers instead of {m}{_with_gpus(crew, least_learners(crew), enough)}")
    what = (
        "the model, vllm's copy of it and one answer"
        if crew.paged
        else "the model and the answers that it draws together"
    )
    return (
        f"a sampler needs {gb(crew.sampler_bytes(now))} for {what}, and {_has(crew)}. Take "
        f"{', '.join([*helps, 'a GPU of more memory'])}, or a smaller model"
    )


def _learner_too_large(least: Planned, n: int) -> str:
    """least: cut so that its learners need the least."""
    enough = least_learners(least)
    m = least_samplers(replace(least, gpus=max(least.gpus, 2)))
    more = f"{enough} learners instead of {n}{_with_gpus(least, enough, m)}, " if enough else ""
    return (
        f"a learner needs at least {gb(least.learner_bytes(Cluster(n, 1)))} (it loads the whole model, and that of a reference or "
        f"critic beside it, before it deals them out), and {_has(least)}. Take {more}a GPU of more memory, a smaller model, or a "
        "recipe without these"
    )


def _with_gpus(crew: Planned, learners: int | None, samplers: int | None) -> str:
    """How many GPUs as few of both as fit take, where there are fewer. None: none fit."""
    return f" ({setting('gpus', n)})" if learners and samplers and (n := learners + samplers) > crew.gpus else ""


def least_samplers(crew: Planned) -> int | None:
    """As few as fit; None: not even one for each problem does."""
    return next((m for m in range(1, crew.work.P + 1) if crew.sampler_bytes(Cluster(1, m)) <= crew.usable), None)


def least_learners(crew: Planned) -> int | None:
    """As few as fit in some cut; None: not even very many do."""

    def fits(n: int) -> bool:
        return any(cut.learner_bytes(Cluster(n, 1)) <= crew.usable for cut in crew.cuts)

    most = 1 if crew.alone else MOST
    return next(filter(fits, range(1, most + 1)), None) if fits(most) else None
