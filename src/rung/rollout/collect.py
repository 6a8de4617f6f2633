"""From problems to a Batch: sample the answers, score them, and lay rewards and tokens out for the maths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice

import torch

from rung.errors import InputError, setting
from rung.maths.returns import EQUAL, outcome_to_token
from rung.parts import Data
from rung.records import Batch, Completion, Episode, SamplingLaw, Scored, State, Task, Tokens
from rung.rollout.ask import Phase, ask, encode, score
from rung.rollout.draws import Draws, mix
from rung.rollout.sampler import Sampler
from rung.rollout.walk import Walk
from rung.tasks.environments.protocol import (
    Conversational,
    Counts,
    Environment,
    Extracts,
    Observes,
    Staged,
    Stepwise,
)
from rung.text import Codec, begun

__all__ = ["Collected", "Collector", "Phase", "differs", "encode", "score"]


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
    phase: Phase = lambda name: nullcontext()

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
        """The answers of one step. Dynamic sampling draws further problems in place of those without a signal."""
        stage = self.env.begin_step(step) if isinstance(self.env, Staged) else {}  # it chooses this step's problems
        chosen: list[tuple[Task, list[Scored]]] = []
        dull: list[tuple[Task, list[Scored]]] = []
        too_long: list[Task] = []
        problems = self._fitting(step, too_long)
        rounds = 0
        while tasks := list(islice(problems, self.prompts - len(chosen))):
            scored = self._answers(tasks, seed=mix(self.seed, step, rounds))
            fresh = list(zip(tasks, scored, strict=True))
            chosen += [x for x in fresh if differs(x[1])]
            dull += [x for x in fresh if not differs(x[1])]
            rounds += 1
            if rounds > self.data.resample:
                break
        if not rounds:
            encode(self.codec, too_long[0], self.law.max_new_tokens)  # refuses, and says why
        drawn = len(chosen) + len(dull)
        sampled = sum(row.rollout.sampled for _, group in chosen + dull for row in group)
        chosen += dull[: self.prompts - len(chosen)]
        rows = [row for _, group in chosen for row in group]
        greedy = self._greedy([task for task, _ in chosen]) if self.greedy else None
        sampled += sum(row.rollout.sampled for row in greedy or ())
        counters = {"sampling/rounds": float(rounds), "sampling/prompts_drawn": float(drawn), **stage}
        counters["sampling/prompts_too_long"] = float(len(too_long))
        if isinstance(self.env, Extracts):  # no answer found is another failure than a wrong answer
            found = [self.env.extract(r.task, Completion(r.text, r.rollout.stop, r.rollout.tokens)) for r in rows]
            counters["completions/no_answer_ratio"] = found.count(None) / len(found)
            counters["rewards/any_answer"] = self._any_answer(rows, found)
        if isinstance(self.env, Counts):
            counters |= {f"rewards/{name}": float(number) for name, number in self.env.counters.items()}
        rewards = None if greedy is None else [row.reward for row in greedy]
        return self._layout(chosen, rows, rewards, state, sampled, counters)

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

    def _answers(self, tasks: Sequence[Task], seed: int) -> list[list[Scored]]:
        """Training answers, of which a curriculum is told what they earned; those of a greedy baseline are not among them."""
        groups = self._ask(tasks, self.law, self.samples, seed)
        if isinstance(self.env, Observes):
            self.env.observe(tasks, [[row.task_reward for row in group] for group in groups])
        return groups

    def _greedy(self, tasks: Sequence[Task]) -> list[Scored]:
        """The greedy answer to each problem, for its reward R(x, y); these answers never enter the loss."""
        law = replace(self.law, temperature=0.0, top_p=1.0, top_k=0)
        return [row[0] for row in self._ask(tasks, law, 1, 0)]

    def _ask(self, tasks: Sequence[Task], law: SamplingLaw, samples: int, seed: int) -> list[list[Scored]]:
        draws = Draws.whole(seed, len(tasks) * samples)
        return ask(self.env, self.codec, self.sampler, law, tasks, draws, data=self.data, phase=self.phase)

    def _layout(
        self,
        chosen: list[tuple[Task, list[Scored]]],
        rows: list[Scored],
        greedy: list[float] | None,
        state: State,
        sampled: int,
        counters: dict[str, float],
    ) -> Collected:
        rollouts = [row.rollout for row in rows]
        group_B = torch.arange(len(chosen)).repeat_interleave(self.samples)
        length_B = torch.tensor([len(r.tokens) for r in rollouts])
        T = max(int(length_B.max()), 1)
        mask_BT = _stack([r.actions or (True,) * len(r.tokens) for r in rollouts], T, torch.bool)
        logp_BT = _stack([r.logp for r in rollouts], T, torch.float32)
        reward_B = torch.tensor([row.reward for row in rows], dtype=torch.float64)
        valid_B = reward_B.isfinite() & mask_BT.any(1)
        truncated_B = torch.tensor([r.stop == "length" for r in rollouts])
        reward_BT = outcome_to_token(reward_B.nan_to_num(0.0), mask_BT)
        step_end_BT = None
        for b, row in enumerate(rows):  # what a turn earned lies on its last token, the rest on the answer's last
            if row.episode is not None and math.isfinite(row.reward):
                _spread(reward_BT[b], mask_BT[b], row.episode)
        if self.steps and isinstance(self.env, Conversational):
            step_end_BT = outcome_to_token(torch.ones_like(reward_B), mask_BT) > 0
            for b, row in enumerate(rows):
                for t, _ in row.episode.rewards if row.episode else ():
                    step_end_BT[b, t] = True
        elif self.steps and isinstance(self.env, Stepwise):
            step_end_BT = outcome_to_token(torch.ones_like(reward_B), mask_BT) > 0
            for b, row in enumerate(rows):
                for t, r in self._steps(row):
                    step_end_BT[b, t] = True
                    reward_BT[b, t] += r
        batch = Batch(
            reward_BT=reward_BT,
            mask_BT=mask_BT,
            group_B=group_B,
            valid_B=valid_B,
            keep_B=~truncated_B if self.data.drop_truncated else torch.ones_like(truncated_B),
            truncated_B=truncated_B,
            right_B=torch.tensor([row.task_reward > 0 for row in rows]),
            behavior_logp_BT=logp_BT,
            old_logp_BT=logp_BT,
            greedy_B=None if greedy is None else torch.tensor(greedy, dtype=torch.float64)[group_B],
            step_end_BT=step_end_BT,
            dull_B=self._dull(chosen),
            state=state,
            same_numbers=self.sampler.same_numbers,
            tokens=Tokens(
                prompts=[torch.tensor(group[0].rollout.prompt) for _, group in chosen],
                tokens_BT=_stack([r.tokens for r in rollouts], T, torch.long),
                mask_BT=mask_BT,
                length_B=length_B,
                group_B=group_B,
            ),
        )
        return Collected(rows, batch, sampled, counters)

    def _dull(self, chosen: list[tuple[Task, list[Scored]]]) -> torch.Tensor | None:
        """The rows that dynamic sampling would have replaced, had it found others."""
        if not self.data.resample:
            return None
        dull_P = torch.tensor([not differs(group) for _, group in chosen])
        return dull_P.repeat_interleave(self.samples)

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


def _spread(reward_T: torch.Tensor, mask_T: torch.Tensor, episode: Episode) -> None:
    """Move each turn's reward from the answer's last token to the turn's."""
    last = int(mask_T.nonzero()[-1]) if mask_T.any() else 0
    for t, reward in episode.rewards:
        if t != last:
            reward_T[last] -= reward
            reward_T[t] += reward


def _stack(rows: Sequence[Sequence[float]], width: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of different lengths, right-padded with zeros."""
    return torch.tensor([list(r) + [0] * (width - len(r)) for r in rows], dtype=dtype)
