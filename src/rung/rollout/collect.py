"""One step's answers: draw problems, sample answers to them, score them, and lay them out as a Batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from rung.errors import InputError, setting
from rung.maths.returns import EQUAL
from rung.parts import Data
from rung.records import Batch, Completion, SamplingLaw, Scored, State, Task
from rung.rollout.ask import ask, encode
from rung.rollout.draws import Draws, mix
from rung.rollout.layout import StepEnds, layout
from rung.rollout.phases import Phase, untold
from rung.rollout.sampler import Sampler
from rung.rollout.walk import Walk
from rung.tasks.environments.protocol import (
    Conversational,
    Counts,
    Environment,
    Extracts,
    Observes,
    Staged,
    Stateful,
    Stepwise,
)
from rung.text import Codec, begun


@dataclass(frozen=True)
class Collected:
    """One step's answers twice: for people (`scored`, row by row), and for the maths and the model (`batch`).

    All of it in main memory: rewards and advantages are counted there, in float64, whatever the device can do.

    sampled: answer tokens that the step has cost, those of discarded and of greedy answers included.
    """

    scored: list[Scored]
    batch: Batch
    sampled: int
    counters: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Posed:
    """A step's problems, before anything is said to them. too_long: those that were passed over.  told: of a curriculum."""

    problems: Iterator[Task]
    too_long: list[Task]
    told: dict[str, float]


@dataclass
class Collector:
    """Draws `prompts` problems a step without repeating one before all were seen, and `samples` answers to each.

    walk: where it stands among the problems; saved with every checkpoint.
    """

    env: Environment
    codec: Codec
    sampler: Sampler
    law: SamplingLaw
    data: Data
    prompts: int
    samples: int
    seed: int
    greedy: bool = False
    steps: bool = False  # rewards of reasoning steps, where the task has them
    phase: Phase = untold

    def __post_init__(self) -> None:
        if not len(self.env):
            raise InputError("the task has no training problems, so there is nothing to draw from. Give more rows.")
        if self.prompts > len(self.env):
            raise InputError(
                f"prompts_per_step is {self.prompts}, but the task has only {len(self.env)} training problems, and a step "
                f"must not hold the same problem twice. Use {setting('prompts_per_step', len(self.env))} or fewer."
            )
        self.walk = Walk(len(self.env), self.prompts, self.seed)

    def collect(self, step: int, state: State) -> Collected:
        """The answers of one step: problems drawn, answers sampled and scored, rows laid out."""
        return self.answer(step, state, self.pose(step))

    def pose(self, step: int) -> Posed:
        """The problems of one step, drawn as they are asked for."""
        told = self.env.begin_step(step) if isinstance(self.env, Staged) else {}  # it chooses this step's problems
        too_long: list[Task] = []
        return Posed(self._fitting(step, too_long), too_long, told)

    def answer(self, step: int, state: State, posed: Posed) -> Collected:
        """Answers to these problems, sampled and scored, rows laid out."""
        chosen, counters, sampled = self._draw(step, posed)
        groups = [group for _, group in chosen]
        rows = [row for group in groups for row in group]
        greedy = self._greedy([task for task, _ in chosen]) if self.greedy else None
        batch = layout(
            groups,
            state,
            same_numbers=self.sampler.same_numbers,
            drop_truncated=self.data.drop_truncated,
            greedy=None if greedy is None else [row.reward for row in greedy],
            dull=[not differs(group) for group in groups] if self.data.resample else None,
            ends=self._ends() if self.steps else None,
        )
        sampled += sum(row.rollout.sampled for row in greedy or ())
        return Collected(rows, batch, sampled, {**counters, **posed.told, **self._counted(rows)})

    def position(self) -> dict[str, Any]:
        """Where it stands among the problems, as plain data for a checkpoint."""
        curriculum = copy.deepcopy(self.env.state_dict()) if isinstance(self.env, Stateful) else {}
        return {"walk": self.walk.state_dict(), "curriculum": curriculum}

    def draws(self, step: int, prompts: int, rounds: int = 0) -> Draws:
        """The random numbers of the answers to so many of a step's prompts, in each round of dynamic sampling."""
        return Draws.whole(mix(self.seed, step, rounds), prompts * self.samples)

    def _draw(self, step: int, posed: Posed) -> tuple[list[tuple[Task, list[Scored]]], dict[str, float], int]:
        """Problems with their answers, counts, and the tokens that these cost.

        Dynamic sampling draws further problems in place of zero-variance groups.
        """
        chosen: list[tuple[Task, list[Scored]]] = []
        dull: list[tuple[Task, list[Scored]]] = []
        rounds = 0
        while tasks := list(islice(posed.problems, self.prompts - len(chosen))):
            scored = self._answers(tasks, self.draws(step, len(tasks), rounds))
            fresh = list(zip(tasks, scored, strict=True))
            chosen += [x for x in fresh if differs(x[1])]
            dull += [x for x in fresh if not differs(x[1])]
            rounds += 1
            if rounds > self.data.resample:
                break
        if not rounds:
            encode(self.codec, posed.too_long[0], self.law.max_new_tokens)  # refuses, and says why
        sampled = sum(row.rollout.sampled for _, group in chosen + dull for row in group)
        counters = {
            "sampling/rounds": float(rounds),
            "sampling/prompts_drawn": float(len(chosen) + len(dull)),
            "sampling/prompts_too_long": float(len(posed.too_long)),
        }
        return chosen + dull[: self.prompts - len(chosen)], counters, sampled

    def _counted(self, rows: list[Scored]) -> dict[str, float]:
        """What the environment tells beside rewards."""
        counters: dict[str, float] = {}
        if isinstance(self.env, Extracts):  # no answer found is another failure than a wrong answer
            found = [self.env.extract(r.task, Completion(r.text, r.rollout.stop, r.rollout.tokens)) for r in rows]
            counters["completions/no_answer_ratio"] = found.count(None) / len(found)
            counters["rewards/any_answer"] = self._any_answer(rows, found)
        if isinstance(self.env, Counts):
            counters |= {f"rewards/{name}": float(number) for name, number in self.env.counters.items()}
        return counters

    def _any_answer(self, rows: list[Scored], found: list[str | None]) -> float:
        """Share of the prompts all of whose answers earn the same, above 0, though the final answers differ."""
        starts = range(0, len(rows), self.samples)
        groups = [(rows[i : i + self.samples], {*found[i : i + self.samples]}) for i in starts]
        alike = [not differs(g) and g[0].task_reward > 0 and len(answers) > 1 for g, answers in groups]
        return sum(alike) / len(alike)

    def _fitting(self, step: int, too_long: list[Task]) -> Iterator[Task]:
        """The step's problems whose prompts leave room for an answer; the others are counted, never cut."""
        talks = isinstance(self.env, Conversational)
        for i in self.walk.problems(step):
            task = self.env[i]
            if talks or self.codec.room(task.prompt) >= self.law.max_new_tokens:
                yield task
            else:
                too_long.append(task)

    def _answers(self, tasks: Sequence[Task], draws: Draws) -> list[list[Scored]]:
        """Training answers, of which a curriculum is told what they earned; those of a greedy baseline are not among them."""
        groups = self._ask(tasks, self.law, draws)
        if isinstance(self.env, Observes):
            self.env.observe(tasks, [[row.task_reward for row in group] for group in groups])
        return groups

    def _greedy(self, tasks: Sequence[Task]) -> list[Scored]:
        """The greedy answer to each problem, for its reward R(x, y); these answers never enter the loss."""
        law = replace(self.law, temperature=0.0, top_p=1.0, top_k=0)
        return [row[0] for row in self._ask(tasks, law, Draws.whole(0, len(tasks)))]

    def _ask(self, tasks: Sequence[Task], law: SamplingLaw, draws: Draws) -> list[list[Scored]]:
        return ask(self.env, self.codec, self.sampler, law, tasks, draws, data=self.data, phase=self.phase)

    def _ends(self) -> StepEnds | None:
        """How to find where an answer's steps end: a conversation's turns, whose rewards it has already, or the task's own."""
        if isinstance(self.env, Conversational):
            return lambda row: [(t, 0.0) for t, _ in row.episode.rewards] if row.episode else []
        return self._steps if isinstance(self.env, Stepwise) else None

    def _steps(self, row: Scored) -> list[tuple[int, float]]:
        """(index of the token that ends a step, its reward) for one answer."""
        assert isinstance(self.env, Stepwise)
        ids = row.rollout.tokens
        said = len(begun(row.task.prompt))
        read = [said + len(self.codec.decode(ids[: t + 1])) for t in range(len(ids))]
        ends = self.env.steps(row.task, Completion(row.text, row.rollout.stop, ids))
        return [(next(t for t, n in enumerate(read) if n >= at), reward) for at, reward in ends]


def differs(group: Sequence[Scored]) -> bool:
    """Whether the task paid the answers to one problem differently, that is, whether there is anything to learn.

    A penalty for length is no such difference (DAPO, arXiv:2503.14476, filters on accuracy).
    """
    rewards = [x.task_reward for x in group if math.isfinite(x.task_reward)]
    return bool(rewards) and max(rewards) - min(rewards) > EQUAL * max(map(abs, rewards))
