"""`rung plan --cluster ray`: a step of several processes here, or of planned GPUs, by side, and what to change first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rung.errors import InputError, setting
from rung.io.tables import cell, say_verdict, show, write_json
from rung.io.terminal import say_notes
from rung.kernels.device import choose
from rung.plan import estimate, judging
from rung.plan.estimate import NOW
from rung.plan.here import Here
from rung.plan.machines import A_MACHINE, gpu
from rung.plan.memory import GIB, Workload, mean_answer
from rung.plan.planned import Planned
from rung.plan.rehearsal import BUSY
from rung.plan.room import why_not
from rung.plan.shapes import assumed, planned_model, prompt_tokens
from rung.plan.spread import GAIN, STALE, Forecast, changes, corrected
from rung.recipes import Recipe
from rung.rollout.samplers import SAMPLERS, USUAL
from rung.settings.cluster import PIECES, Cluster, counted
from rung.tasks.environments.protocol import Environment
from rung.training import defaults
from rung.training.config import TrainConfig
from rung.training.evaluation import answers_per_problem
from rung.training.micro import USUAL_GIB
from rung.training.setup import settle

__all__ = ["A_MACHINE", "Asked", "run_several"]
MOST = 3  # changes that are named
NEVER_RUN = "planned from data sheets, never run on such a cluster (docs/scale.md, How it scales)"


@dataclass(frozen=True)
class Asked:
    """What the command was given beside the settings of a run.

    gpu: which kind, or None for this machine.  gpus: how many; of this machine, its GPUs, or its cores where it has none.
    counted: somebody said how many; else they are as many as one machine has.
    refuse: raises where `rung train` refuses to learn so from these problems, or has no place for it.
    """

    config: TrainConfig
    answer_tokens: float | None
    json_to: str | None
    gpu: str | None
    gpus: int
    refuse: Callable[[Recipe, Cluster, Environment], None]
    counted: bool = True

    @property
    def title(self) -> str:
        return f"plan: {self.config.recipe} on {self.config.model}"


def run_several(asked: Asked) -> int:
    """The command: a table of parts, or of the best split for each bound on staleness."""
    given = asked.config.cluster_options
    if asked.gpu is None:
        crew, now = here(asked)
        return _one(now, asked, crew.plan.notes, crew.plan.crowding)
    _refuse_shared(asked)
    cluster, notes = planned(asked)
    spread = asked.config.spread()
    if {"learners", "samplers"} <= set(given):
        now = Forecast(cluster, spread, {})
        if not cluster.fits(spread):
            raise _fits_nowhere(asked, cluster)
        return _one(now, asked, (*notes, *idle(cluster, spread, f"{spread.said} are asked for"), NEVER_RUN))
    return _splits(cluster, asked, notes)


def _one(now: Forecast, asked: Asked, notes: tuple[str, ...], crowding: float = 1.0) -> int:
    say_notes(notes)
    say_verdict(verdict(now, crowding), asked.json_to)
    columns = ("part", "what", "estimate", "unit")
    found = rows(now, crowding)
    if asked.gpu is None:
        found.append(estimate.crowded(crowding)[:4])
    show(f"{asked.title}, {now.spread.said}", columns, found, asked.json_to)
    return 0


def _splits(crew: Planned, asked: Asked, notes: tuple[str, ...]) -> int:
    """The best split of the GPUs for each bound on staleness."""
    given = asked.config.cluster_options
    own = asked.config.spread()
    found = [crew.splits(replace(own, staleness=s), given.get("learners"), given.get("samplers")) for s in stale(given)]
    fitting = [one for one in found if one is not None]
    if not fitting:
        raise _fits_nowhere(asked, crew)
    best = min(fitting, key=lambda one: (round(one.seconds, 1), one.spread.staleness))
    a, b = best.sides
    little = f"with all of them a step is less than {100 * (1 - GAIN):.0f} % shorter"
    say_notes((*notes, *idle(crew, best.spread, little), NEVER_RUN))
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
        show(asked.title, columns, turned)
    return 0


def idle(crew: Planned, spread: Cluster, why: str) -> list[str]:
    """What is said where a split leaves GPUs of the cluster unused."""
    left = crew.gpus - spread.learners - spread.samplers
    return [f"{left} of {counted(crew.gpus, 'GPU')} {'stays' if left == 1 else 'stay'} idle: {why}"] if left > 0 else []


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


def rows(now: Forecast, crowding: float = 1.0) -> list[tuple[str, str, Any, str]]:
    """Part, what, estimate, unit. crowding: as of a Plan."""
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
        *[("step", NOW, round(now.seconds * crowding, 3), "s")] * (crowding >= BUSY),
        *[("step", "updates that a token is behind, on average", round(now.behind, 2), "")] * bool(now.spread.partial),
        ("step", "share in which samplers draw", f"{draw:.0%}", ""),
        ("step", "share in which learners learn", f"{learn:.0%}", ""),
        ("memory", "a learner", round(now.crew.learner_bytes(now.spread) / GIB, 3), "GiB"),
        ("memory", "a sampler", round(now.crew.sampler_bytes(now.spread) / GIB, 3), "GiB"),
    ]  # fmt: skip
    out += [("change", one.said, round(one.seconds, 3), "s a step") for one in changes(now)[:MOST]]
    return out


def verdict(now: Forecast, crowding: float = 1.0) -> str:
    a, b = now.sides
    takes = f"about {now.seconds:.3g} s a step"
    if crowding >= BUSY:
        takes += f" if this machine does nothing else, and about {now.seconds * crowding:.3g} s {NOW}"
    larger = "sampling" if a > b else "learning"
    how = "the two sides take turns" if not now.spread.staleness else f"{larger} is what takes"
    better = changes(now)
    first = f" First try {better[0].said}: {better[0].seconds:.3g} s." if better else ""
    return f"{takes}: sampling {a:.3g} s, learning {b:.3g} s, and {how}; the longest part is `{now.bottleneck}`.{first}"


# -- this machine --------------------------------------------------------------------------------------------------
def here(asked: Asked) -> tuple[Here, Forecast]:
    """Raises: InputError: `rung train` would refuse it."""
    config, spread = asked.config, asked.config.spread()
    threads = config.threads or spread.threads(asked.gpus)
    found = estimate.plan(
        replace(config, threads=threads), asked.answer_tokens, lambda recipe, env: asked.refuse(recipe, spread, env)
    )
    if found.timings is None:
        raise InputError(
            f"{found.notes[-1]}, so {setting('cluster', 'ray')} is not planned with it. Leave {setting('cluster')} out for "
            "its memory."
        )
    gpus = choose(config.device).type == "cuda"
    crew = Here(found, found.timings, config.build_recipe(), asked.gpus, threads, gpus)
    if not crew.fits(spread) and not config.ignore_memory:
        who, need = crew.fullest(spread)
        fewer = "Give fewer, or lower" if not gpus and spread.learners + spread.samplers > 2 else "Lower"
        raise InputError(
            f"{who} would need about {need / GIB:.3g} GiB, and the {found.room.where} is {found.room.limit / GIB:.3g} GiB. {fewer} "
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
        wide = given.updates_in_float32(given.build_recipe())
        given = replace(given, dtype="float32" if wide else "bfloat16")
    if given.activation_gib is None:
        given = replace(given, activation_gib=USUAL_GIB)
    model = planned_model(given)
    made = assumed(given)
    config, recipe, splits = settle(replace(given, sampler=USUAL), made)  # another one need not be installed here
    _refuse_planned(asked, recipe, splits.train)
    SAMPLERS[given.sampler].suits(model, bool(given.lora_rank), False)
    if model.codec is not None:
        model.codec = model.codec.writing(config)
        config, splits = defaults.by_model(given, config, splits, model.codec)
    assert config.prompts_per_step and config.max_new_tokens
    mean, longest = prompt_tokens(model.codec, splits.train)
    samples = answers_per_problem(config.eval_samples, config.eval_problems, len(splits.eval))
    work = Workload(
        config.prompts_per_step, config.samples_per_prompt, mean, longest,
        mean_answer(asked.answer_tokens, config.max_new_tokens), config.max_new_tokens,
        min(config.eval_problems, len(splits.eval)) * samples, SAMPLERS[given.sampler].at_once,
    )  # fmt: skip
    judged = judging.judging(splits.train) if made is None else None
    said = judging.untold(splits.train, judged) if made is None else _assumed(work)
    notes = (*splits.notes, *filter(None, [said]))
    return Planned(kind, asked.gpus, replace(config, sampler=given.sampler), recipe, model, work, judged or 0.0), notes


def _assumed(w: Workload) -> str:
    return (
        f"no {setting('task')} is given, so prompts of {w.prompt:.0f} tokens are planned, {w.eval_rows} answers of an evaluation, "
        f"and answers of {w.answer:.0f} tokens, {w.T} at most; with {setting('task')} FILE your problems are counted"
    )


def _refuse_planned(asked: Asked, recipe: Recipe, env: Environment) -> None:
    """As `rung train` would refuse the split; where splits are tried, with what they bring themselves."""
    given, spread = asked.config.cluster_options, asked.config.spread()
    if not {"learners", "samplers"} <= set(given):
        spread = replace(spread, staleness=stale(given)[0])
        recipe, _ = corrected(recipe, spread.staleness)
    asked.refuse(recipe, spread, env)


def stale(given: Mapping[str, Any]) -> Sequence[int]:
    """Bounds that are tried: the one that is given, or all that may be."""
    if "staleness" in given:
        return [given["staleness"]]
    return [s for s in STALE if s >= PIECES or "partial" not in given]


def _refuse_shared(asked: Asked) -> None:
    """More processes than GPUs. A single one is planned with a learner and a sampler on it, in turn."""
    given, gpus, spread = asked.config.cluster_options, asked.gpus, asked.config.spread()
    n, m, most = spread.learners, spread.samplers, max(asked.gpus, 2)
    if n + m <= most:
        return
    have, enough = counted(gpus, "GPU"), f"{setting('gpus', n + m)} or more"
    each = "and here each process is planned on a GPU of its own (`rung train` lets a learner and a sampler share one)"
    if {"learners", "samplers"} <= set(given):
        raise InputError(f"{spread.said} are more than {have}, {each}. Give {enough}, or fewer of them.")
    asks, other, name = (n, "sampler", "learners") if "learners" in given else (m, "learner", "samplers")
    leaves = f"is more than {have}" if asks > gpus else f"leaves none of {have} for a {other}"
    raise InputError(
        f"{setting(f'cluster.{name}', asks)} {leaves}, {each}. Give {enough}, or {setting(f'cluster.{name}', most - 1)} at most."
    )


def _fits_nowhere(asked: Asked, crew: Planned) -> InputError:
    """What was given of learners and samplers, and why there is no room for it, in one sentence."""
    given = {
        f"cluster.{name}": n for name, n in asked.config.cluster_options.items() if name in ("learners", "samplers")
    }
    what = f"with {' '.join(setting(name, n) for name, n in given.items())} on" if given else "in any split of"
    why = why_not(crew, given.get("cluster.learners"), given.get("cluster.samplers"))
    have = counted(crew.gpus, "GPU") + ("" if asked.counted else f" (of one machine; {setting('gpus')} says how many)")
    return InputError(f"{asked.config.model} does not fit {what} {have}: {why}.")
