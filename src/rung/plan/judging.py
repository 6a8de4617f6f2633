"""Seconds in which the task's own verifier judges an answer, from answers that are there before any of a model's.

Nobody else's code is called for it: what a reward function of the user's, or another's judge, takes (and costs) is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from rung.records import Completion, Group, Task
from rung.tasks.environments.protocol import Environment, Judged, judge_of
from rung.tasks.verify.probes import right_answers

LOOKED_AT = 8  # problems


def judging(env: Environment) -> float | None:
    """Median over groups of seconds / answers; None: no verifier of ours judges, or no right answers are known.

    By the clock, since some judge in processes of their own. The first group begins those, and does not count.
    """
    found = list(_groups(env))
    taken = [_once(env, group) / len(group.completions) for group in [*found[:1], *found]]
    return median(taken[1:]) if taken else None


def untold(env: Environment, seconds: float | None) -> str | None:
    """A sentence where somebody judges whose time is not known."""
    if seconds is not None or not isinstance(env, Judged) or not len(env):
        return None
    return f"{judge_of(env, env[0]).words}: what that takes is not in the estimate"


def _groups(env: Environment) -> Iterator[Group]:
    """To each of the first problems its right answer and those of the others: different ones, each of which is judged."""
    tasks = [env[i] for i in range(min(len(env), LOOKED_AT))]
    said = [right_answers(env, task)[1][:1] for task in tasks if _by_verifier(env, task)]
    answers = [Completion(text) for forms in said for text in forms]
    if len(answers) == len(tasks):
        yield from (Group(task, answers) for task in tasks)


def _by_verifier(env: Environment, task: Task) -> bool:
    judge = judge_of(env, task)
    return judge.needs_gold or judge.reads == "programs"


def _once(env: Environment, group: Group) -> float:
    begun = time.perf_counter()
    env.score(group)
    return time.perf_counter() - begun
