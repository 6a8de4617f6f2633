"""`rung plan`: of one process here, of several, or of a cluster of GPUs that is only planned.

torch is imported once the words have been read, while the terminal says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from rung.errors import InputError
from rung.io.waiting import load, waiting
from rung.settings.ranges import above, between, refuse
from rung.shell.arguments import literal, settings, take
from rung.training.config import TrainConfig

if TYPE_CHECKING:
    from rung.recipes import Recipe
    from rung.settings.cluster import Cluster
    from rung.tasks.environments.protocol import Environment


def plan(argv: list[str]) -> int:
    argv, json_to = take(argv, "--json")
    argv, answer = take(argv, "--answer-tokens")
    argv, gpu = take(argv, "--gpu")
    argv, gpus = take(argv, "--gpus")
    tokens = None if answer is None else literal(answer)
    if answer is not None:
        refuse(tokens, Annotated[float, above(0, "the expected mean length of an answer")], "--answer-tokens")
    if gpus is not None:
        refuse(literal(gpus), Annotated[int, between(1, 4096)], "--gpus")
        if gpu is None:
            raise InputError(f"--gpus {gpus} is how many GPUs a cluster has. Say which with --gpu, such as --gpu h100.")
    tokens = None if tokens is None else float(tokens)
    said = any(word.partition("=")[0] == "--cluster" for word in argv)
    config = settings(argv if gpu is None or said else [*argv, "--cluster", "ray"], "plan")
    if gpu is not None and config.cluster == "local":
        raise InputError(f"--gpu {gpu} plans a cluster, and --cluster local is one process. Leave one of them out.")
    load("rung.plan.estimate")
    waiting.end()
    from rung.io.environment import keep_freed_memory
    from rung.io.tables import refuse_target
    from rung.plan.estimate import run_plan

    refuse_target(json_to)
    keep_freed_memory()  # as the run itself will
    if config.cluster == "local":
        return run_plan(config, tokens, json_to)
    return _several(config, tokens, json_to, gpu, gpus)


def _several(config: TrainConfig, tokens: float | None, json_to: str | None, gpu: str | None, gpus: str | None) -> int:
    """The plan of several processes, of this machine or of so many GPUs of a kind."""
    from rung.cluster.connect import capacity_here
    from rung.cluster.room import refuse_masters, refuse_pieces, refuse_staleness, refuse_too_many
    from rung.plan.several import A_MACHINE, Asked, run_several

    spread, has = config.spread(), capacity_here()

    def refuse_all(recipe: Recipe, of: Cluster, env: Environment) -> None:
        refuse_staleness(recipe, of)
        refuse_pieces(recipe, of, env)
        refuse_masters(config, recipe, of)
        if gpu is None:
            refuse_too_many(of, has, config.device)

    places = has.gpus if config.device != "cpu" and has.gpus else has.cpus
    if gpu is not None:
        places = int(gpus) if gpus is not None else max(A_MACHINE, spread.learners + spread.samplers)
    return run_several(Asked(config, tokens, json_to, gpu, places, refuse_all, gpus is not None))
