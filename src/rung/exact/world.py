"""Small token worlds in which every answer can be written down: rewards, policies, and what a batch of rows is made of.

Token 0 ends an answer; an answer that reaches the horizon without it is truncated. A `World` is its size and a seed,
a `Condition` says which laws drew and score the answers, a `Scene` holds the numbers of both. Everything is float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

import torch
from torch import Tensor

from rung.errors import InputError
from rung.exact import tiny
from rung.exact.needs import PREPARED
from rung.io.terminal import span
from rung.maths.logprob import entropy_of, full_kl
from rung.maths.returns import outcome_to_token, reward_to_go, total_return
from rung.recipes import Recipe
from rung.records import Batch, State

SECONDS_PER_ROW = 4e-6  # of one evaluation, where a recipe's parts let batches stand side by side
SECONDS_PER_BATCH = 5e-4  # where its credit or normalization looks at the whole batch: one by one
LONGEST = 600.0  # seconds that an evaluation may take before the world is refused
F64 = torch.float64


@dataclass(frozen=True)
class World:
    """vocabulary V (0 = end), horizon H, P prompts, G samples per prompt; every batch of B = P G answers is enumerated.

    reward: "binary" (0 or 1 for an answer), "real" (a number for an answer), "dense" (one per token, plus an outcome).
    """

    vocabulary: int = 3
    horizon: int = 3
    prompts: int = 1
    samples: int = 2
    reward: Literal["binary", "real", "dense"] = "dense"
    policy: tiny.Kind = "mlp"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.vocabulary < 2 or min(self.horizon, self.prompts, self.samples) < 1:
            raise InputError(
                f"{self}: nothing to enumerate. Use a vocabulary of 2 or more (0 is the end token), and a horizon, prompts "
                "and samples of 1 or more."
            )
        if self.horizon * math.log10(self.vocabulary) > 100 or self.log10_batches > 100:
            raise InputError(
                f"{self}: more than 10^100 answers or batches, which no time is long enough to enumerate. Use a smaller "
                "horizon, vocabulary, number of prompts or of samples (3, 3, 2 and 2 take seconds)."
            )
        if self.seconds > LONGEST:
            raise InputError(
                f"this world is too large to enumerate: vocabulary {self.vocabulary} and horizon {self.horizon} give "
                f"{self.answers:,} answers to a prompt, {self.prompts} prompts with {self.samples} samples each give "
                f"{self.batches:.3g} batches, about {span(self.seconds)} for one expected gradient. Use a smaller "
                "horizon, vocabulary, number of prompts or of samples (3, 3, 2 and 2 take seconds)."
            )

    @property
    def states(self) -> int:
        return sum((self.vocabulary - 1) ** t for t in range(self.horizon))

    @property
    def answers(self) -> int:
        """A: those that end, one per state, and those that reach the horizon."""
        return self.states + int((self.vocabulary - 1) ** self.horizon)

    @property
    def log10_batches(self) -> float:
        """Like `batches`, for worlds where that is too long a number to work out."""
        A, G = float(self.answers), float(self.samples)
        return self.prompts * (math.lgamma(A + G) - math.lgamma(G + 1) - math.lgamma(A)) / math.log(10)

    @property
    def batches(self) -> int:
        """Unordered groups, one per prompt."""
        return int(math.comb(self.answers + self.samples - 1, self.samples) ** self.prompts)

    @property
    def seconds(self) -> float:
        """About how long one expected gradient takes at most."""
        return self.batches * (SECONDS_PER_BATCH + SECONDS_PER_ROW * self.prompts * self.samples)


@dataclass(frozen=True)
class Condition:
    """Which laws drew and score the answers. KLs are per answer, in nats, and reached by moving in a fixed direction.

    old_kl: KL(pi_old || pi), so that the batch belongs to an older policy; 0 is on-policy.
    sampler_kl: KL(mu || pi_old): the sampler drew from mu, the trainer's own log-probabilities are those of pi_old.
    staleness: updates that the sampler has not seen: steps along the true gradient, of KL(new || before) = step_kl each.
    critic: V exact under the law that drew the answers, or "wrong": random numbers.
    temperature: the answers are drawn at this one; scored_temperature: every log-probability is of that one.
    """

    name: str = "on-policy"
    old_kl: float = 0.0
    sampler_kl: float = 0.0
    staleness: int = 0
    step_kl: float = 0.01
    critic: Literal["exact", "wrong"] = "exact"
    temperature: float = 1.0
    scored_temperature: float = 1.0


@dataclass(frozen=True)
class Tree:
    """Every answer of a world: token, mask and the index of the state before each token [A, T]; length, truncated [A]."""

    prefixes: tuple[tuple[int, ...], ...]
    token_AT: Tensor
    mask_AT: Tensor
    state_AT: Tensor
    length_A: Tensor
    truncated_A: Tensor


@lru_cache(maxsize=64)
def tree(vocabulary: int, horizon: int) -> Tree:
    letters = range(1, vocabulary)
    prefixes = tuple(p for t in range(horizon) for p in itertools.product(letters, repeat=t))
    whole = [(*p, 0) for p in prefixes] + list(itertools.product(letters, repeat=horizon))
    index = {p: s for s, p in enumerate(prefixes)}
    token_AT, state_AT = torch.zeros(2, len(whole), horizon, dtype=torch.long)
    length_A = torch.tensor([len(y) for y in whole])
    for a, y in enumerate(whole):
        token_AT[a, : len(y)] = torch.tensor(y)
        state_AT[a, : len(y)] = torch.tensor([index[y[:t]] for t in range(len(y))])
    return Tree(
        prefixes=prefixes,
        token_AT=token_AT,
        mask_AT=torch.arange(horizon) < length_A[:, None],
        state_AT=state_AT,
        length_A=length_A,
        truncated_A=torch.tensor([y[-1] != 0 for y in whole]),
    )


class Scene:
    """A world under a condition, in numbers. A cell is one (prompt, answer), numbered p A + a: the rows of all batches.

    theta, old, behavior, ref: parameters of pi, pi_old, mu and the reference.
    """

    CHANNELS = ("logp", "entropy", "ref_kl", "old_kl")

    def __init__(self, world: World, condition: Condition) -> None:
        self.world, self.condition = world, condition
        self.advantages: dict[Hashable, Tensor] = {}  # what the oracle has worked out already
        self.tree = tree(world.vocabulary, world.horizon)
        size, self.logits = tiny.build(world.policy, world.prompts, self.tree.prefixes, world.vocabulary)
        self._random = torch.Generator().manual_seed(world.seed)
        self.theta = 0.7 * self._normal(size)
        self.ref = self.theta + 0.3 * self._normal(size)
        drift, gap = self._normal(size), self._normal(size)
        self.reward_PAT = self._rewards()
        self.wrong_PS, self.wrong_PA = (
            self._normal(world.prompts, world.states),
            self._normal(world.prompts, world.answers),
        )
        self.old = self._at_kl(self.theta, drift, condition.old_kl)
        self.behavior = self._at_kl(self.old, gap, condition.sampler_kl)
        for _ in range(condition.staleness):
            self.old = self.theta = self._at_kl(self.theta, self.true_gradient(Recipe(name="plain")), condition.step_kl)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random, dtype=F64)

    def _rewards(self) -> Tensor:
        w, mask_AT = self.world, self.tree.mask_AT
        score_PA = self._normal(w.prompts, w.answers)
        table_PSV = self._normal(w.prompts, w.states, w.vocabulary)
        outcome_PA = score_PA
        if w.reward != "real":
            # prompts get harder: the first is solved by every second answer or so, the next by fewer
            bar_P = 0.3 + 0.8 * torch.arange(w.prompts, dtype=F64)
            outcome_PA = (score_PA >= torch.minimum(bar_P, score_PA.max(1).values)[:, None]).to(F64)
        reward_PAT = torch.stack([outcome_to_token(outcome_A, mask_AT) for outcome_A in outcome_PA])
        if w.reward == "dense":
            reward_PAT = reward_PAT + table_PSV[:, self.tree.state_AT, self.tree.token_AT] * mask_AT
        return reward_PAT

    # -- laws -------------------------------------------------------------------------------------------------------
    def law(self, theta: Tensor, temperature: float = 1.0) -> Tensor:
        """log softmax(logits / temperature) of every state: [P, S, V]."""
        return (self.logits(theta) / temperature).log_softmax(-1)

    def logp(self, law_PSV: Tensor) -> Tensor:
        """log-probability of each token of each answer, 0 off the mask: [P, A, T]."""
        t = self.tree
        return law_PSV[:, t.state_AT, t.token_AT].masked_fill(~t.mask_AT, 0.0)

    def at_states(self, x_PS: Tensor) -> Tensor:
        """A number of the state before each token: [P, A, T]."""
        return x_PS[:, self.tree.state_AT] * self.tree.mask_AT

    def kl(self, theta: Tensor, other: Tensor) -> float:
        """KL(theta || other) between whole answers, the mean over prompts."""
        p, q = (self.logp(self.law(x)).sum(-1) for x in (theta, other))
        return float((p.exp() * (p - q)).sum(1).mean())

    def _at_kl(self, base: Tensor, direction: Tensor, target: float) -> Tensor:
        """base + s direction with KL(it || base) = target, by bisection."""
        low, high = 0.0, 1.0
        if target <= 0:
            return base
        while self.kl(base + high * direction, base) < target:
            low, high = high, 2 * high
            if high > 1e6:
                raise InputError(f"no policy at a KL of {target} in this world. Use a smaller one, such as 0.05.")
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.kl(base + middle * direction, base) < target else (low, middle)
        return base + low * direction

    @cached_property
    def prob_PA(self) -> Tensor:
        """With what probability the sampler draws each answer."""
        return self.logp(self.law(self.behavior, self.condition.temperature)).sum(-1).exp()

    # -- what the policy says, with gradient ------------------------------------------------------------------------
    def scores(self, theta: Tensor) -> Tensor:
        """log pi, entropy, KL(pi || ref) and KL(old || pi) at each token of each cell: [4, P A, T]."""
        T = self.condition.scored_temperature
        law = self.law(theta, T)
        ref, old = self.law(self.ref, T), self.law(self.old, T)
        per_state = (entropy_of(law), full_kl(law, ref), full_kl(old, law))
        columns = [self.logp(law), *(self.at_states(x_PS) for x_PS in per_state)]
        return torch.stack(columns).flatten(1, 2)

    @cached_property
    def score_values(self) -> Tensor:
        return self.scores(self.theta).detach()

    @cached_property
    def jacobian(self) -> Tensor:
        """d scores / d theta: [4, P A T, D]."""
        whole: Tensor = torch.func.jacrev(self.scores)(self.theta)
        return whole.flatten(1, 2)

    # -- rows -------------------------------------------------------------------------------------------------------
    def rows(self, recipe: Recipe) -> Batch:
        """Every cell as a row, `group_B` its prompt, with all that the recipe's parts need."""
        t, P = self.tree, self.world.prompts
        reward_BT = (self.reward_PAT + self.overlong(recipe)).flatten(0, 1)
        mask_BT, truncated_B = t.mask_AT.repeat(P, 1), t.truncated_A.repeat(P)
        scored = self.condition.scored_temperature
        behavior, old = (self.logp(self.law(x, scored)).flatten(0, 1) for x in (self.behavior, self.old))
        batch = Batch(
            reward_BT=reward_BT,
            mask_BT=mask_BT,
            group_B=torch.arange(P).repeat_interleave(self.world.answers),
            valid_B=torch.ones_like(truncated_B),
            keep_B=~truncated_B if recipe.data.drop_truncated else torch.ones_like(truncated_B),
            truncated_B=truncated_B,
            right_B=(self.reward_PAT.sum(-1) > 0).flatten(),
            behavior_logp_BT=behavior,
            old_logp_BT=old if self.condition.sampler_kl or self.condition.staleness else behavior,
            state=self.state(recipe),
        )
        for need in [name for name in PREPARED if name in recipe.needs]:
            batch = PREPARED[need](self, recipe, batch)
        return batch

    def state(self, recipe: Recipe) -> State:
        """The recipe's own start, with a moving average of a few batches in it."""
        return replace(recipe.initial_state(), mean=0.2, mean_updates=5)

    def overlong(self, recipe: Recipe) -> Tensor:
        """The recipe's length penalty at the last token of each answer: [A, T]."""
        penalty, t = recipe.data.overlong, self.tree
        each = [0.0 if penalty is None else penalty(int(n), self.world.horizon) for n in t.length_A]
        return outcome_to_token(torch.tensor(each, dtype=F64), t.mask_AT)

    def greedy(self, recipe: Recipe) -> Tensor:
        """Reward of the argmax-decoded answer to each cell's prompt: [P A]."""
        best_PS = self.law(self.behavior).argmax(-1)
        total_PA = (self.reward_PAT + self.overlong(recipe)).sum(-1)
        follows_PA = (best_PS[:, self.tree.state_AT] == self.tree.token_AT) | ~self.tree.mask_AT
        return total_PA[follows_PA.all(-1)].repeat_interleave(self.world.answers)

    def with_values(self, recipe: Recipe, batch: Batch) -> Batch:
        """V(s) = E[reward still to come | s] under the law that draws, of the reward that the critic is trained on; or noise."""
        P, A, S = self.world.prompts, self.world.answers, self.world.states
        if self.condition.critic == "wrong":
            return replace(
                batch, value_BT=self.at_states(self.wrong_PS).flatten(0, 1), bootstrap_B=self.wrong_PA.flatten()
            )
        earned_BT = recipe.kl.shape_reward(batch).reward_BT
        R_PAT = reward_to_go(earned_BT, batch.mask_BT, recipe.credit.discount).view(P, A, -1)
        state, seen = self.tree.state_AT[self.tree.mask_AT], self.tree.mask_AT
        total, weight = torch.zeros(2, P, S, dtype=F64)
        for p in range(P):  # an answer passes through its states: condition on each
            prob_AT = self.prob_PA[p][:, None].expand_as(seen)
            total[p].index_add_(0, state, (prob_AT * R_PAT[p])[seen])
            weight[p].index_add_(0, state, prob_AT[seen])
        V_BT = self.at_states(total / weight).flatten(0, 1)
        return replace(batch, value_BT=V_BT, bootstrap_B=torch.zeros(P * A, dtype=F64))

    # -- the truth --------------------------------------------------------------------------------------------------
    def objective(self, theta: Tensor, recipe: Recipe, gamma: float = 1.0) -> Tensor:
        """mean_x sum_y pi(y) (R(y) - beta log pi(y) / pi_ref(y)): what the recipe means to maximize, with gradient.

        pi is the law that is sampled (at the sampling temperature); R holds the recipe's length penalty.
        """
        T = self.condition.temperature
        mask_AT = self.tree.mask_AT
        R_PA = torch.stack([total_return(r_AT, mask_AT, gamma) for r_AT in self.reward_PAT + self.overlong(recipe)])
        logp_PA = self.logp(self.law(theta, T)).sum(-1)
        kl_PA = logp_PA - self.logp(self.law(self.ref, T)).sum(-1)
        return (logp_PA.exp() * (R_PA - recipe.kl.coef * kl_PA)).sum(1).mean()

    def true_gradient(self, recipe: Recipe, gamma: float = 1.0) -> Tensor:
        theta = self.theta.clone().requires_grad_()
        return torch.autograd.grad(self.objective(theta, recipe, gamma), theta)[0]


@lru_cache(maxsize=32)
def scene(world: World, condition: Condition) -> Scene:
    """The numbers of a world under a condition; kept, because recipes share them."""
    return Scene(world, condition)
