"""From problems to a Batch: sample the answers, score them, and lay rewards and tokens out for the maths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice

import torch

from rung.errors import InputError
from rung.maths.credit import EQUAL, outcome_to_token
from rung.parts import Data
from rung.records import Batch, Completion, Group, Rollout, SamplingLaw, Scored, State, Task, Tokens
from rung.rollout.model import Model
from rung.rollout.sampler import Sampler
from rung.tasks.environment import Environment, Stepwise

Phase = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Collected:
    """One step's answers three times: for people (`scored`, row by row), for the maths (`batch`), for the model (`tokens`).

    sampled: answer tokens that the step has cost, those of discarded and of greedy answers included.
    """

    scored: list[Scored]
    batch: Batch
    tokens: Tokens
    sampled: int
    counters: dict[str, float] = field(default_factory=dict)


@dataclass
class Collector:
    """Draws `prompts` problems a step without repeating one before all were seen, and `samples` answers to each."""

    env: Environment
    model: Model
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
        if self.prompts > len(self.env):
            raise InputError(
                f"prompts_per_step is {self.prompts}, but the task has only {len(self.env)} training problems, and a step "
                f"must not hold the same problem twice. Use --prompts-per-step {len(self.env)} or fewer."
            )

    def collect(self, step: int, state: State) -> Collected:
        """The answers of one step. Dynamic sampling draws further problems in place of those without a signal."""
        chosen: list[tuple[Task, list[Scored]]] = []
        dull: list[tuple[Task, list[Scored]]] = []
        problems = self._problems(step)
        rounds = 0
        while tasks := [self.env[i] for i in islice(problems, self.prompts - len(chosen))]:
            scored = self._answers(tasks, seed=_mix(self.seed, step, rounds))
            fresh = list(zip(tasks, scored, strict=True))
            chosen += [x for x in fresh if differs(x[1])]
            dull += [x for x in fresh if not differs(x[1])]
            rounds += 1
            if rounds > self.data.resample:
                break
        drawn = len(chosen) + len(dull)
        sampled = sum(len(row.rollout.tokens) for _, group in chosen + dull for row in group)
        chosen += dull[: self.prompts - len(chosen)]
        rows = [row for _, group in chosen for row in group]
        greedy = self._greedy([task for task, _ in chosen]) if self.greedy else None
        sampled += sum(len(row.rollout.tokens) for row in greedy or ())
        counters = {"sampling/rounds": float(rounds), "sampling/prompts_drawn": float(drawn)}
        extract = getattr(self.env, "extract", None)
        if extract is not None:  # no answer found is another failure than a wrong answer
            found = [extract(r.task, Completion(r.text, r.rollout.stop, r.rollout.tokens)) is not None for r in rows]
            counters["completions/no_answer_ratio"] = 1 - sum(found) / len(found)
        rewards = None if greedy is None else [row.reward for row in greedy]
        return self._layout(chosen, rows, rewards, state, sampled, counters)

    def _problems(self, step: int) -> Iterator[int]:
        """This step's problems, then those for resampling, none twice: a shuffled walk that depends on (seed, step) only."""
        n, at = len(self.env), step * self.prompts
        epoch, inside = divmod(at, n - n % self.prompts)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(_mix(self.seed, epoch, 7)))
        return (int(order[(inside + i) % n]) for i in range(n))

    def _answers(self, tasks: Sequence[Task], seed: int) -> list[list[Scored]]:
        with self.phase("sample"):
            prompts = [encode(self.model, task, self.law.max_new_tokens) for task in tasks]
            rollouts = self.sampler.sample(prompts, self.law, self.samples, seed)
        with self.phase("reward"):
            groups = [rollouts[i : i + self.samples] for i in range(0, len(rollouts), self.samples)]
            return [score(self.env, self.model, t, g, self.law, self.data) for t, g in zip(tasks, groups, strict=True)]

    def _greedy(self, tasks: Sequence[Task]) -> list[Scored]:
        """The greedy answer to each problem, for its reward R(x, y); these answers never enter the loss."""
        law = SamplingLaw(temperature=0.0, max_new_tokens=self.law.max_new_tokens)
        with self.phase("sample"):
            prompts = [encode(self.model, task, law.max_new_tokens) for task in tasks]
            rollouts = self.sampler.sample(prompts, law, 1, 0)
        with self.phase("reward"):
            rows = [score(self.env, self.model, t, [r], law, self.data) for t, r in zip(tasks, rollouts, strict=True)]
        return [row[0] for row in rows]

    def _layout(
        self,
        chosen: list[tuple[Task, list[Scored]]],
        rows: list[Scored],
        greedy: list[float] | None,
        state: State,
        sampled: int,
        counters: dict[str, float],
    ) -> Collected:
        device = self.model.device
        rollouts = [row.rollout for row in rows]
        group_B = torch.arange(len(chosen), device=device).repeat_interleave(self.samples)
        length_B = torch.tensor([len(r.tokens) for r in rollouts], device=device)
        T = max(int(length_B.max()), 1)
        mask_BT = _stack([r.actions or (True,) * len(r.tokens) for r in rollouts], T, torch.bool, device)
        logp_BT = _stack([r.logp for r in rollouts], T, torch.float32, device)
        reward_B = torch.tensor([row.reward for row in rows], device=device)
        valid_B = reward_B.isfinite() & mask_BT.any(1)
        truncated_B = torch.tensor([r.stop == "length" for r in rollouts], device=device)
        reward_BT = outcome_to_token(reward_B.nan_to_num(0.0), mask_BT)
        step_end_BT = None
        if self.steps and isinstance(self.env, Stepwise):
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
            behavior_logp_BT=logp_BT,
            old_logp_BT=logp_BT,
            greedy_B=None if greedy is None else torch.tensor(greedy, device=device)[group_B],
            step_end_BT=step_end_BT,
            state=state,
        )
        tokens = Tokens(
            prompts=[torch.tensor(group[0].rollout.prompt, device=device) for _, group in chosen],
            tokens_BT=_stack([r.tokens for r in rollouts], T, torch.long, device),
            mask_BT=mask_BT,
            length_B=length_B,
            group_B=group_B,
        )
        return Collected(rows, batch, tokens, sampled, counters)

    def _steps(self, row: Scored) -> list[tuple[int, float]]:
        """(index of the token that ends a step, its reward) for one answer."""
        assert isinstance(self.env, Stepwise)
        ids = row.rollout.tokens
        read = [len(self.model.decode(ids[: t + 1])) for t in range(len(ids))]
        ends = self.env.steps(row.task, Completion(row.text, row.rollout.stop, ids))
        return [(next(t for t, n in enumerate(read) if n >= at), reward) for at, reward in ends]


def encode(model: Model, task: Task, max_new_tokens: int) -> list[int]:
    """The prompt's tokens. A prompt that leaves no room for the answer is refused, never cut."""
    ids = model.encode(task.prompt)
    if len(ids) + max_new_tokens > model.context:
        raise InputError(
            f"problem {task.id!r}: its prompt has {len(ids)} tokens and the answer may have {max_new_tokens}, but the model's "
            f"context holds {model.context}. Shorten the prompt, lower --max-new-tokens, or use a model with a longer context."
        )
    return ids


def score(
    env: Environment, model: Model, task: Task, rollouts: Sequence[Rollout], law: SamplingLaw, data: Data
) -> list[Scored]:
    """Rewards of all answers to one task; `reward` is the sum of the finite ones, NaN if there is none."""
    completions = [Completion(model.decode(r.tokens), r.stop, r.tokens) for r in rollouts]
    rewards = env.score(Group(task, completions))
    if len(rewards) != len(completions):
        raise InputError(
            f"the verifier of {type(env).__name__} returned {len(rewards)} rewards for {len(completions)} answers to problem "
            f"{task.id!r}. It must return one dict of rewards per answer, in order."
        )
    out = []
    for rollout, completion, parts in zip(rollouts, completions, rewards, strict=True):
        named = dict(parts)
        finite = [x for x in named.values() if math.isfinite(x)]
        if data.overlong is not None:
            named["overlong"] = data.overlong(len(rollout.tokens), law.max_new_tokens)
        total = sum(finite) + named.get("overlong", 0.0) if finite else math.nan
        out.append(Scored(task, rollout, completion.text, named, total))
    return out


def differs(group: Sequence[Scored]) -> bool:
    """Whether the answers to one problem earned different rewards, that is, whether there is anything to learn."""
    rewards = [x.reward for x in group if math.isfinite(x.reward)]
    return bool(rewards) and max(rewards) - min(rewards) > EQUAL


def _stack(rows: Sequence[Sequence[float]], width: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Rows of different lengths, right-padded with zeros."""
    return torch.tensor([list(r) + [0] * (width - len(r)) for r in rows], dtype=dtype, device=device)


def _mix(*numbers: int) -> int:
    """One seed out of several numbers; neighbors give unrelated seeds."""
    x = 0x9E3779B97F4A7C15
    for n in numbers:
        x = (x ^ (n + 0x9E3779B97F4A7C15)) * 0xBF58476D1CE4E5B9 % (1 << 64)
        x ^= x >> 31
    return x >> 1
