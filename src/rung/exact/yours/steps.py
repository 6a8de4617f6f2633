"""The rows of an optimizer step as an opaque function sees them, and its gradient at their logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rung.errors import InputError
from rung.exact.world import F64, Condition, Scene, World, scene
from rung.exact.yours.signature import ROWS, Yours
from rung.maths.returns import group_sum
from rung.recipes import REINFORCE, VALUE_BASELINE


@dataclass(frozen=True)
class Rows:
    """A step's rows. x: by the names of signature.ROWS, and "logits"."""

    x: dict[str, Tensor]
    max_tokens: int
    temperature: float = 1.0

    def __len__(self) -> int:
        return len(self.x["mask"])

    def take(self, index: Any) -> Rows:
        return replace(self, x={k: v[index] for k, v in self.x.items()})

    def put(self, **x: Tensor) -> Rows:
        return replace(self, x={**self.x, **x})

    def cast(self, dtype: torch.dtype) -> Rows:
        return replace(self, x={k: v.to(dtype) if v.is_floating_point() else v for k, v in self.x.items()})

    def totals(self, micro_batches: int = 1) -> dict[str, Any]:
        """What is said of the whole step."""
        mask_BT = self.x["mask"]
        step = SimpleNamespace(**{k: v for k, v in self.x.items() if k != "logits"}, max_tokens=self.max_tokens)
        return {
            "total_tokens": int(mask_BT.sum()),
            "total_sequences": len(mask_BT),
            "micro_batches": micro_batches,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "step": step,
        }


class Stage:
    """A scene as rows: every cell (prompt, answer) with what a function may ask for."""

    def __init__(self, scene: Scene) -> None:
        self.scene, w, t = scene, scene.world, scene.tree
        T = scene.condition.scored_temperature
        critic = scene.rows(VALUE_BASELINE)
        assert critic.value_BT is not None
        self.group_C = critic.group_B
        mask_CT, state_CT = critic.mask_BT, t.state_AT.repeat(w.prompts, 1)
        self.state_CT = state_CT + self.group_C[:, None] * w.states
        self.logits_PSV = scene.logits(scene.theta)
        blank = torch.full((), -torch.tensor(float(w.vocabulary)).log().item(), dtype=F64)

        def logp(theta: Tensor) -> Tensor:
            return torch.where(mask_CT, scene.logp(scene.law(theta, T)).flatten(0, 1), blank)

        reward_CT = critic.reward_BT
        self.cells = Rows(
            {
                "logits": self.logits_PSV.flatten(0, 1)[self.state_CT].masked_fill(~mask_CT[..., None], 0.0),
                "old_logp": logp(scene.old if scene.condition.sampler_kl else scene.behavior),
                "behavior_logp": logp(scene.behavior),
                "ref_logp": logp(scene.ref),
                "rewards": reward_CT.sum(1),
                "reward_BT": reward_CT,
                "values": critic.value_BT,
                "greedy_rewards": scene.greedy(REINFORCE),
                "mask": mask_CT,
                "tokens": t.token_AT.repeat(w.prompts, 1),
                "truncated": critic.truncated_B,
            },
            w.horizon,
            T,
        )

    def step(self, cells_B: Tensor, group_B: Tensor) -> Rows:
        """The rows of some cells, with advantages that are exact: each answer against the others to its prompt."""
        rows = self.cells.take(cells_B)
        return rewarded(rows.put(groups=group_B), rows.x["rewards"])

    @cached_property
    def jacobian(self) -> Tensor:
        """d logits / d theta: [P S, V, D]."""
        whole: Tensor = torch.func.jacrev(self.scene.logits)(self.scene.theta)
        return whole.flatten(0, 1)


@lru_cache(maxsize=16)
def stage(world: World, condition: Condition) -> Stage:
    """Kept, because functions share them."""
    return Stage(scene(world, condition))


def rewarded(rows: Rows, reward_B: Tensor) -> Rows:
    """The rows with these rewards at their last tokens, and leave-one-out advantages: A = R - mean of the others."""
    x, mask_BT = rows.x, rows.x["mask"]
    n_B, sum_B = (group_sum(v, x["groups"])[x["groups"]] for v in (torch.ones_like(reward_B), reward_B))
    adv_B = (n_B * reward_B - sum_B) / (n_B - 1).clamp(min=1)
    if not torch.equal(reward_B, x["rewards"]):
        last_BT = torch.arange(mask_BT.shape[1]) == mask_BT.sum(1, keepdim=True) - 1
        rows = rows.put(rewards=reward_B, reward_BT=reward_B[:, None] * last_BT)
    return rows.put(advantages_B=adv_B, advantages=adv_B[:, None] * mask_BT, index=x["groups"])


@dataclass(frozen=True)
class Pair:
    """What is audited: an advantage function, a loss, or both. Without a loss: -sum A log pi / answers of the step.

    equal_rows: its trainer makes micro-batches of equal numbers of answers only.
    """

    loss: Yours | None = None
    advantages: Yours | None = None
    equal_rows: bool = False

    @property
    def name(self) -> str:
        return " with ".join(f.name for f in (self.loss, self.advantages) if f is not None)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(f.needs for f in (self.loss, self.advantages) if f is not None))

    @property
    def counts(self) -> bool:
        """Whether the loss divides by totals of the step, so that micro-batches are summed."""
        return self.loss is None or bool(self.loss.needs & {"total_tokens", "total_sequences", "micro_batches", "step"})

    @property
    def masks(self) -> bool:
        """Whether the loss is told where answers end."""
        return self.loss is None or bool(self.loss.needs & {"mask", "tokens", "step"})

    def settled(self, rows: Rows) -> Pair:
        """With each function settled on these rows, the loss on the advantages that are made."""
        adv = self.advantages and self.advantages.settled(
            _given(rows, rows.totals(), self.advantages) | {"logp": rows.x["old_logp"]}
        )
        first = replace(self, advantages=adv)
        if self.loss is None:
            return first
        rows = first.assess(rows)
        leaf = rows.x["logits"].clone().requires_grad_()
        return replace(
            first,
            loss=self.loss.settled(
                _given(rows, rows.totals(), self.loss) | {"logp": logp_of(rows, leaf), "logits": leaf}
            ),
        )

    def assess(self, rows: Rows) -> Rows:
        """The rows with the advantages of the function, where there is one."""
        if self.advantages is None:
            return rows
        given = _given(rows, rows.totals(), self.advantages)
        adv = self.advantages({**given, "logp": logp_of(rows, rows.x["logits"]).detach()})
        adv_BT = adv[:, None] if adv.ndim == 1 else adv
        adv_BT = (adv_BT.detach() * rows.x["mask"]).to(rows.x["logits"].dtype)
        return rows.put(advantages=adv_BT, advantages_B=adv_BT[:, 0])

    def __call__(self, rows: Rows, totals: dict[str, Any] | None = None) -> tuple[float, Tensor]:
        """The loss of rows that are assessed, and its gradient at their logits [B, T, V]."""
        totals = rows.totals() if totals is None else totals
        leaf_BTV = rows.x["logits"].clone().requires_grad_()
        logp_BT, mask_BT = logp_of(rows, leaf_BTV), rows.x["mask"]
        if self.loss is None:
            loss = -(rows.x["advantages"] * logp_BT).masked_fill(~mask_BT, 0.0).sum() / totals["total_sequences"]
        else:
            if not self.masks:
                logp_BT = logp_BT.masked_fill(~mask_BT, 0.0)
            out = self.loss({**_given(rows, totals, self.loss), "logp": logp_BT, "logits": leaf_BTV})
            over = totals["total_sequences"] if self.counts else len(rows)
            loss = out.masked_fill(~mask_BT, 0.0).sum() / over if out.ndim == 2 else out.sum()
            if not loss.requires_grad:
                raise InputError(
                    f"{self.loss.name} returned a loss without a gradient: logp was detached, or is not used (.detach(), .item(), "
                    ".data, torch.no_grad, a NumPy detour). Let it depend on logp with its gradient."
                )
        (pull,) = torch.autograd.grad(loss, leaf_BTV, allow_unused=True, materialize_grads=True)
        return float(loss.detach()), pull


def _given(rows: Rows, totals: dict[str, Any], f: Yours) -> dict[str, Any]:
    size = int(torch.bincount(rows.x["groups"]).max()) if len(rows) else 0
    row = {k: rows.x[k] for k in ROWS}
    if "mask" not in f.needs and "tokens" not in f.needs and "step" not in f.needs:
        row = {k: v.masked_fill(~rows.x["mask"], 0.0) if k.endswith("_logp") else v for k, v in row.items()}
    return {**row, **totals, "group_size": size}


def logp_of(rows: Rows, logits_BTV: Tensor) -> Tensor:
    """log softmax(logits / temperature) of the tokens."""
    logp_BTV = (logits_BTV / rows.temperature).log_softmax(-1)
    return logp_BTV.gather(-1, rows.x["tokens"][..., None])[..., 0]
