"""From problems to scored answers: one prompt and one answer, or a conversation with the environment.

Whoever wants answers scored (training, evaluation, a greedy baseline) asks here, so that all of them mean the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from rung.errors import InputError, setting
from rung.maths.returns import EQUAL
from rung.parts import Data
from rung.records import Completion, Group, Rollout, SamplingLaw, Scored, Task
from rung.rollout.conversation import Talk, converse
from rung.rollout.draws import Draws
from rung.rollout.phases import Phase, untold
from rung.rollout.sampler import Sampler
from rung.tasks.environments.protocol import Closes, Conversational, Environment, Waits
from rung.tasks.rewards.deadline import side_by_side
from rung.text import Codec, begun


def ask(
    env: Environment,
    codec: Codec,
    sampler: Sampler,
    law: SamplingLaw,
    tasks: Sequence[Task],
    draws: Draws,
    *,
    data: Data = Data(),  # noqa: B008  frozen
    phase: Phase = untold,
) -> list[list[Scored]]:
    """Scored answers, a row of `draws` each, task by task."""
    samples = draws.each(len(tasks))
    if isinstance(env, Conversational):
        with _talks(env, tasks, samples) as held:  # side by side, a batch for each turn of all of them
            converse(codec, sampler, law, held, samples, draws, phase)
            with phase("reward"):
                return _scored(env, codec, law, tasks, held, samples, data)
    with phase("sample"):
        prompts = [encode(codec, task, law.max_new_tokens) for task in tasks]
        rollouts = sampler.sample(prompts, law, draws)
    with phase("reward"):
        groups = [rollouts[i : i + samples] for i in range(0, len(rollouts), samples)]
        said = [_completions(codec, task, group) for task, group in zip(tasks, groups, strict=True)]
        rewards = _judged(env, [Group(*each) for each in zip(tasks, said, strict=True)])
        return [_rows(*each, law, data) for each in zip(tasks, groups, said, rewards, strict=True)]


def encode(codec: Codec, task: Task, max_new_tokens: int) -> list[int]:
    """The prompt's tokens. A prompt that leaves no room for the answer is refused, never cut."""
    ids = codec.encode(task.prompt)
    if len(ids) + max_new_tokens > codec.context:
        raise InputError(
            f"problem {task.id!r}: its prompt has {len(ids)} tokens and the answer may have {max_new_tokens}, but the model's "
            f"context holds {codec.context}. Shorten the prompt, lower {setting('max_new_tokens')}, or use a model with a "
            "longer context."
        )
    return ids


def score(
    env: Environment, codec: Codec, task: Task, rollouts: Sequence[Rollout], law: SamplingLaw, data: Data
) -> list[Scored]:
    """Rewards of all answers to one task; `reward` is the sum of the finite ones, NaN if there is none."""
    said = _completions(codec, task, rollouts)
    return _rows(task, rollouts, said, _rewards(env, Group(task, said)), law, data)


def _completions(codec: Codec, task: Task, rollouts: Sequence[Rollout]) -> list[Completion]:
    before = begun(task.prompt)
    return [Completion(before + codec.decode(r.tokens), r.stop, r.tokens) for r in rollouts]


def _rows(
    task: Task, rollouts: Sequence[Rollout], said: Sequence[Completion], rewards: Sequence[dict[str, float]],
    law: SamplingLaw, data: Data,
) -> list[Scored]:  # fmt: skip
    out = []
    for rollout, completion, parts in zip(rollouts, said, rewards, strict=True):
        named = dict(parts)
        total, earned = _total(named, rollout, law, data)
        out.append(Scored(task, rollout, completion.text, named, total, earned=earned))
    return out


def _judged(env: Environment, groups: Sequence[Group]) -> list[list[dict[str, float]]]:
    """The rewards of all groups: of all at once where the environment waits for others, such as a judge elsewhere."""
    waits = isinstance(env, Waits) and env.waits
    if not waits:
        return [_rewards(env, group) for group in groups]
    return side_by_side([partial(_rewards, env, group) for group in groups], in_order=waits == "in order")


def _rewards(env: Environment, group: Group) -> list[dict[str, float]]:
    rewards = env.score(group)
    if len(rewards) != len(group.completions):
        raise InputError(
            f"the verifier of {type(env).__name__} returned {len(rewards)} rewards for {len(group.completions)} answers to problem "
            f"{group.task.id!r}. It must return one dict of rewards per answer, in order."
        )
    return rewards


def _total(named: dict[str, float], rollout: Rollout, law: SamplingLaw, data: Data) -> tuple[float, float]:
    """(reward, what the task pays of it): the sum of the finite rewards, NaN if there is none.

    An overlong answer's fine is added to `named` and to the first. What is left where rewards cancel but for their float
    residue (.1 + .2 - .3) is 0.
    """
    finite = [x for x in named.values() if math.isfinite(x)]
    fine = 0.0
    if data.overlong is not None:
        fine = named["overlong"] = data.overlong(rollout.sampled, law.max_new_tokens)
    if not finite:
        return math.nan, math.nan
    earned = sum(finite)
    if abs(earned) <= EQUAL * sum(map(abs, finite)):
        earned = 0.0
    return earned + fine, earned


def _scored(
    env: Conversational,
    codec: Codec,
    law: SamplingLaw,
    tasks: Sequence[Task],
    held: Sequence[Talk],
    samples: int,
    data: Data,
) -> list[list[Scored]]:
    out = []
    paid = any(reward for talk in held for _, reward in talk.rewards)
    groups = [held[i : i + samples] for i in range(0, len(held), samples)]
    completions = [[talk.completion(codec) for talk in group] for group in groups]
    judged = _judged(env, [Group(*each) for each in zip(tasks, completions, strict=True)])
    for task, group, heard, rewards in zip(tasks, groups, completions, judged, strict=True):
        rows = []
        for talk, said, parts in zip(group, heard, rewards, strict=True):
            named = dict(parts)
            unknown = bool(named) and not any(math.isfinite(x) for x in named.values())
            if paid or not named:
                named["turns"] = sum(reward for _, reward in talk.rewards)
            rollout = talk.rollout()
            total, earned = (math.nan, math.nan) if unknown else _total(named, rollout, law, data)
            rows.append(Scored(task, rollout, said.text, named, total, talk.episode(), earned))
        out.append(rows)
    return out


@contextmanager
def _talks(env: Conversational, tasks: Sequence[Task], samples: int) -> Iterator[list[Talk]]:
    """`samples` conversations about each task. Whatever ends them, every session that was made is closed."""
    held: list[Talk] = []
    try:
        for task in tasks:
            for _ in range(samples):
                held.append(Talk(task, env.session(task)))  # noqa: PERF401  those made before one that fails are closed
        yield held
    except BaseException as error:
        _close(held, error)
        raise
    _close(held, None)


def _close(held: Sequence[Talk], cause: BaseException | None) -> None:
    """Close all sessions, also behind one that cannot be closed. What ended the conversations stays the error that is raised."""
    failed: InputError | None = None
    for talk in held:
        try:
            if isinstance(talk.session, Closes):
                talk.session.close()
        except (Exception, SystemExit) as error:  # noqa: BLE001  raised below, or noted on what came first
            said = f"{type(talk.session).__name__}.close for problem {talk.task.id!r} raised {type(error).__name__}: {error}."
            if cause is not None:
                cause.add_note(said)
            elif failed is None:
                failed = InputError(f"{said} Closing a session must not fail.")
                failed.__cause__ = error
    if failed is not None:
        raise failed
