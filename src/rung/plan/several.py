"""`rung plan --cluster ray`: a step of several processes here, or of planned GPUs, by side, and what to change first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rung.errors import InputError, setting
from rung.io.tables import cell, say_verdict, show, write_json
from rung.io.terminal import say_notes
from rung.plan import estimate
from rung.plan.here import Here
from rung.plan.machines import A_MACHINE, gpu
from rung.plan.memory import GIB, Workload
from rung.plan.planned import Planned
from rung.plan.shapes import planned_model, prompt_tokens
from rung.plan.spread import STALE, Forecast, changes, corrected
from rung.recipes import Recipe
from rung.rollout.samplers import SAMPLERS, USUAL
from rung.settings.cluster import Cluster, counted
from rung.training import defaults
from rung.training.config import TrainConfig
from rung.training.evaluation import answers_per_problem
from rung.training.setup import settle

__all__ = ["A_MACHINE", "Asked", "run_several"]
MOST = 3  # changes that are named
NEVER_RUN = "planned from data sheets, never run on such a cluster (docs/scale.md, How it scales)"


@dataclass(frozen=True)
class Asked:
    """What the command was given beside the settings of a run.

    gpu: which kind, or None for this machine.  gpus: how many; of this machine, its GPUs, or its cores where it has none.
    refuse: raises where `rung train` refuses to learn so, or has no place for it.
    """

    config: TrainConfig
    answer_tokens: float | None
    json_to: str | None
    gpu: str | None
    gpus: int
    refuse: Callable[[Recipe, Cluster], None]


def run_several(asked: Asked) -> int:
    """The command: a table of parts, or of the best split for each bound on staleness."""
    given = asked.config.cluster_options
    if asked.gpu is None:
        crew, now = here(asked)
        return _one(now, asked, crew.plan.notes)
    cluster, notes = planned(asked)
    spread = asked.config.spread()
    asked.refuse(corrected(cluster.recipe, spread.staleness)[0], spread)
    if {"learners", "samplers"} <= set(given):
        asked.refuse(cluster.recipe, spread)
        _refuse_shared(spread, asked.gpus)
        now = Forecast(cluster, spread, {})
        if not cluster.fits(spread):
            raise _fits_nowhere(asked, cluster, spread)
        return _one(now, asked, (*notes, NEVER_RUN))
    return _splits(cluster, asked, notes)


def _one(now: Forecast, asked: Asked, notes: tuple[str, ...]) -> int:
    say_notes(notes)
    say_verdict(verdict(now), asked.json_to)
    columns = ("part", "what", "estimate", "unit")
    show(f"plan: {asked.config.recipe} on {asked.config.model}, {now.spread.said}", columns, rows(now), asked.json_to)
    return 0


def _splits(crew: Planned, asked: Asked, notes: tuple[str, ...]) -> int:
    """The best split of the GPUs for each bound on staleness."""
    given = asked.config.cluster_options
    stale = (given["staleness"],) if "staleness" in given else STALE
    found = [crew.splits(s, given.get("learners"), given.get("samplers")) for s in stale]
    fitting = [one for one in found if one is not None]
    if not fitting:
        raise _fits_nowhere(asked, crew, None)
    say_notes((*notes, NEVER_RUN))
    best = min(fitting, key=lambda one: (round(one.seconds, 1), one.spread.staleness))
    a, b = best.sides
    say_verdict(
        f"{crew.gpus} x {crew.gpu.name}: about {best.seconds:.3g} s a step with {best.said}: sampling takes {a:.3g} s, "
        f"learning {b:.3g} s; the longest part is `{best.bottleneck}`.",
        asked.json_to,
    )
    found_rows = [split_row(one) for one in fitting]
    if asked.json_to is not None:
        write_json(SPLIT, found_rows, asked.json_to)
    if asked.json_to != "-":
        turned = [[name, *(cell(row[i]) for row in found_rows)] for i, name in enumerate(SPLIT) if i]
        columns = ("", *(f"staleness {row[0]}" for row in found_rows))
        show(f"plan: {asked.config.recipe} on {asked.config.model}", columns, turned)
    return 0


SPLIT = (
    "staleness", "learners", "samplers", "step, s", "sampling, s", "learning, s", "samplers draw", "learners learn",
    "longest part", "learner, GB", "sampler, GB", "settings",
)  # fmt: skip


def split_row(one: Forecast) -> tuple[Any, ...]:
    s, (draw, learn) = one.spread, one.busy
    sizes = (one.crew.learner_bytes(s) / 1e9, one.crew.sampler_bytes(s) / 1e9)
    more = {name: value for name, value in one.settings.items() if not name.startswith("cluster.")}
    said = " ".join(setting(name, value) for name, value in more.items())
    seconds = map(_digits, (one.seconds, *one.sides))
    shares = f"{draw:.0%}", f"{learn:.0%}"
    return s.staleness, s.learners, s.samplers, *seconds, *shares, one.bottleneck, *map(_digits, sizes), said


def _digits(x: float) -> float:
    return round(x, 1) if x >= 10 else float(f"{x:.3g}")


def rows(now: Forecast) -> list[tuple[str, str, Any, str]]:
    """Part, what, estimate, unit."""
    a, b = now.sides
    draw, learn = now.busy
    counts = {"draw": counted(now.spread.samplers, "sampler"), "learn": counted(now.spread.learners, "learner")}

    def stages(part: str, side: tuple[Any, ...]) -> list[tuple[str, str, Any, str]]:
        return [
            (part, f"{s.name} ({counts[s.name]})" if s.name in counts else s.name, round(s.seconds, 3), "s")
            for s in side
            if s.seconds
        ]

    out = [
        *stages("sampling", now.drawing), ("sampling", "all of it", round(a, 3), "s"),
        *stages("learning", now.learning), ("learning", "all of it", round(b, 3), "s"),
        ("step", f"with a staleness of {now.spread.staleness}", round(now.seconds, 3), "s"),
        ("step", "share in which samplers draw", f"{draw:.0%}", ""),
        ("step", "share in which learners learn", f"{learn:.0%}", ""),
        ("memory", "a learner", round(now.crew.learner_bytes(now.spread) / GIB, 3), "GiB"),
        ("memory", "a sampler", round(now.crew.sampler_bytes(now.spread) / GIB, 3), "GiB"),
    ]  # fmt: skip
    out += [("change", one.said, round(one.seconds, 3), "s a step") for one in changes(now)[:MOST]]
    return out


def verdict(now: Forecast) -> str:
    a, b = now.sides
    larger = "sampling" if a > b else "learning"
    how = "the two sides take turns" if not now.spread.staleness else f"{larger} is what takes"
    better = changes(now)
    first = f" First try {better[0].said}: {better[0].seconds:.3g} s." if better else ""
    return (
        f"about {now.seconds:.3g} s a step: sampling {a:.3g} s, learning {b:.3g} s, and {how}; the longest part is "
        f"`{now.bottleneck}`.{first}"
    )


# -- this machine --------------------------------------------------------------------------------------------------
def here(asked: Asked) -> tuple[Here, Forecast]:
    """Raises: InputError: `rung train` would refuse it."""
    config, spread = asked.config, asked.config.spread()
    asked.refuse(config.build_recipe(), spread)
    threads = config.threads or spread.threads(asked.gpus)
    found = estimate.plan(replace(config, threads=threads), asked.answer_tokens)
    if found.timings is None:
        raise InputError(
            f"{found.notes[-1]}, so {setting('cluster', 'ray')} is not planned with it. Leave {setting('cluster')} out for "
            "its memory."
        )
    crew = Here(found, found.timings, config.build_recipe(), asked.gpus, threads)
    if not crew.fits(spread) and not config.ignore_memory:
        need, has = crew.total_bytes(spread) / GIB, found.room.limit / GIB
        raise InputError(
            f"{spread.said} would need about {need:.3g} GiB, and the {found.room.where} is {has:.3g} GiB. Give fewer, or lower "
            f"{setting('activation_gib')}; {setting('ignore_memory', True)} plans them all the same."
        )
    return crew, Forecast(crew, spread, {})


# -- GPUs ----------------------------------------------------------------------------------------------------------
def planned(asked: Asked) -> tuple[Planned, tuple[str, ...]]:
    """The cluster that is asked for, and notes on what was chosen.

    Raises:
        InputError: no such GPU or model, or settings that `rung train` refuses too.
    """
    assert asked.gpu is not None
    kind, given = gpu(asked.gpu), asked.config
    if given.dtype == "auto":
        given = replace(given, dtype="float32" if given.build_recipe().update.cost().float32 else "bfloat16")
    model = planned_model(given)
    config, recipe, splits = settle(replace(given, sampler=USUAL))  # another one need not be installed here
    if model.codec is not None:
        model.codec = model.codec.writing(config)
        config, splits = defaults.by_model(given, config, splits, model.codec)
    assert config.prompts_per_step and config.max_new_tokens
    mean, longest = prompt_tokens(model.codec, splits.train)
    samples = answers_per_problem(config.eval_samples, config.eval_problems, len(splits.eval))
    work = Workload(
        config.prompts_per_step, config.samples_per_prompt, mean, longest,
        min(asked.answer_tokens or config.max_new_tokens, config.max_new_tokens), config.max_new_tokens,
        min(config.eval_problems, len(splits.eval)) * samples, SAMPLERS[given.sampler].at_once,
    )  # fmt: skip
    return Planned(kind, asked.gpus, replace(config, sampler=given.sampler), recipe, model, work), splits.notes


def _refuse_shared(spread: Cluster, gpus: int) -> None:
    if spread.learners + spread.samplers > max(gpus, 2):
        raise InputError(
            f"{spread.said} are more than {counted(gpus, 'GPU')}, of which each would take one. Give "
            f"{setting('gpus', spread.learners + spread.samplers)}, or fewer of them."
        )


def _fits_nowhere(asked: Asked, crew: Planned, spread: Cluster | None) -> InputError:
    what = f"as {spread.said}" if spread else f"in any split of {counted(crew.gpus, 'GPU')}"
    return InputError(f"{asked.config.model} does not fit {what}: {crew.why_not(spread)}.")
