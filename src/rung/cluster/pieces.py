"""Answers in pieces, each drawn by newer weights than the one before: what is long goes on behind the next update.

    token j of an answer of step k is drawn by the weights of version  max(first, min(k - 1, k - S + floor(j / N)))

S: staleness.  N: `piece`.  first: the step that this process began with. No version is newer than k - 1, so that nothing waits for
the update before its own step, and sampling and learning stay side by side. Which version draws a token depends on its place alone,
so the run is the same whatever was quick or slow.

While version v is the newest, each step from v + 1 to v + S says what v draws of it, the next one first. A row goes on from its
prompt and its own tokens, which the new weights read anew: the keys of the old ones are of no use. Its random numbers are
those of its places, as if it had never paused.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from torch import Tensor

from rung.cluster.ahead import Ahead, Drawn, Order, telling
from rung.cluster.pool import At
from rung.records import Rollout, SamplingLaw, State, Task
from rung.rollout.ask import encode
from rung.rollout.collect import Posed
from rung.rollout.draws import Draws
from rung.tasks.environments.protocol import Staged


@dataclass
class Begun:
    """A step whose answers are under way. rollouts: as far as they are said; none before the first piece.

    position: where the problems stood after it.  start: when it began.
    """

    step: int
    posed: Posed
    state: State
    tasks: list[Task]
    prompts: list[list[int]]
    draws: Draws
    position: dict[str, Any]
    start: float
    told: Future[Drawn]
    rollouts: list[Rollout] = field(default_factory=list)


@dataclass(kw_only=True)
class Pieces(Ahead):
    """piece: tokens that one version draws of an answer before the next one goes on with it."""

    piece: int
    _open: list[Begun] = field(default_factory=list, init=False)

    def _fill(self, order: Order) -> None:
        for step, told in order.steps.items():
            with telling(told):
                if step == order.version:  # the first of this process, which is waited for
                    told.set_result(self._whole(step, order))
                else:
                    self._open.append(self._begin(step, order.state, told))
        under_way, self._open = self._open, []
        for begun in under_way:
            with telling(begun.told):
                self._go_on(begun, self.pool.at(order.version))
                if begun.step == order.version + 1:
                    begun.told.set_result(self._end(begun, self.pool.at(order.version)))
                else:
                    self._open.append(begun)

    def _begin(self, step: int, state: State, told: Future[Drawn]) -> Begun:
        start, posed = time.monotonic(), self._inner.pose(step)
        tasks = list(islice(posed.problems, self.prompts))
        prompts = [encode(self.codec, task, self.law.max_new_tokens) for task in tasks]
        draws = self._inner.draws(step, len(tasks))
        return Begun(step, posed, state, tasks, prompts, draws, self._inner.position(), start, told)

    def _go_on(self, begun: Begun, sampler: At) -> None:
        """What this version draws of a step's answers; each row that goes on has said as much as the others."""
        limit = self._limit(begun.step, sampler.version)
        if not begun.rollouts:
            begun.rollouts = sampler.sample(begun.prompts, replace(self.law, max_new_tokens=limit), begun.draws)
            return
        rows = [i for i, r in enumerate(begun.rollouts) if r.stop == "length" and len(r.tokens) < limit]
        if not rows:
            return
        said = len(begun.rollouts[rows[0]].tokens)
        known = [begun.rollouts[i].prompt + begun.rollouts[i].tokens for i in rows]
        draws = begun.draws.part(rows).behind(said)
        pieces = sampler.sample(known, replace(self.law, max_new_tokens=limit - said), draws)
        for i, piece in zip(rows, pieces, strict=True):
            begun.rollouts[i] = joined(begun.rollouts[i], piece)

    def _limit(self, step: int, version: int) -> int:
        """Tokens of an answer of this step that versions up to this one draw."""
        most = self.law.max_new_tokens
        return most if version >= step - 1 else min(most, (version - (step - self.staleness) + 1) * self.piece)

    def _end(self, begun: Begun, sampler: At) -> Drawn:
        """The answers are whole: scored and laid out."""
        if isinstance(self.env, Staged):  # others have begun since
            self.env.begin_step(begun.step)
        self._inner.sampler = Said(begun, sampler)
        posed = replace(begun.posed, problems=iter(begun.tasks))
        return self._drawn(self._inner.answer(begun.step, begun.state, posed), begun.position, begun.start)


@dataclass(frozen=True)
class Said:
    """A sampler that has drawn a step's answers; what else the step asks for, such as greedy ones, `other` draws."""

    begun: Begun
    other: At

    @property
    def same_numbers(self) -> bool:
        return self.other.same_numbers

    def sample(self, prompts: Sequence[Sequence[int]], law: SamplingLaw, draws: Draws) -> list[Rollout]:
        if draws != self.begun.draws:
            return self.other.sample(prompts, law, draws)
        assert list(prompts) == self.begun.prompts, "the problems that the step began with"
        return self.begun.rollouts

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        raise AssertionError("its weights are those of one version")


def joined(before: Rollout, piece: Rollout) -> Rollout:
    """What was said, and what went on behind it."""
    surely = before.entropy is not None and piece.entropy is not None
    read = None if before.read is None or piece.read is None else before.read + piece.read
    return replace(
        before,
        tokens=before.tokens + piece.tokens,
        logp=before.logp + piece.logp,
        entropy=(before.entropy or ()) + (piece.entropy or ()) if surely else None,
        stop=piece.stop,
        version=piece.version,
        read=read,
        versions=before.drawn_by + piece.drawn_by,
    )
