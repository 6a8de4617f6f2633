"""What a function may ask for, by name: ours, or the one that other projects use.

Whatever else a function takes must have a default, which it keeps. Shapes: B answers, T positions, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rung.errors import InputError, unknown
from rung.tasks.rewards.python_file import folder_of, line_of

NAMES: dict[str, tuple[str, tuple[str, ...]]] = {  # ours: (what it is, names that other projects use)
    "logp": (
        "[B,T] log-probability of each token now, with gradient",
        ("log_probs", "log_prob", "logprobs", "logps", "new_logprobs", "new_log_probs", "per_token_logps",
         "action_log_probs", "policy_logprobs", "curr_logprobs", "target_logprobs"),
    ),
    "logits": ("[B,T,V] what logp is made of, with gradient, before any temperature", ()),
    "old_logp": (
        "[B,T] the same when the batch was drawn",
        ("old_log_probs", "old_log_prob", "old_logprobs", "old_logps", "old_per_token_logps",
         "old_action_log_probs", "prev_logprobs"),
    ),
    "behavior_logp": (
        "[B,T] as the sampler reported it",
        ("behavior_logprobs", "rollout_log_probs", "rollout_logprobs", "sampling_logprobs", "sampling_per_token_logps",
         "inference_logprobs", "generation_logprobs", "vllm_logprobs"),
    ),
    "ref_logp": (
        "[B,T] of the reference policy",
        ("ref_log_probs", "ref_log_prob", "ref_logprobs", "ref_logps", "ref_per_token_logps", "ref_action_log_probs",
         "base_action_log_probs", "reference_logprobs"),
    ),
    "rewards": ("[B] of whole answers", ("reward", "outcome_rewards", "sequence_rewards")),
    "reward_BT": ("[B,T] of each token", ("token_level_rewards", "token_rewards", "rewards_BT")),
    "advantages": ("[B,T]", ("advantage", "adv", "advs", "adv_BT")),
    "advantages_B": ("[B] one per answer", ("sequence_advantages", "adv_B")),
    "values": ("[B,T] V of the state before each token, exact", ("value_BT", "old_values")),
    "greedy_rewards": ("[B] reward of the greedy answer to the row's prompt", ("reward_baselines", "greedy_B")),
    "mask": (
        "[B,T] True on sampled tokens, the end token included",
        ("response_mask", "completion_mask", "action_mask", "loss_mask", "response_masks", "mask_BT"),
    ),
    "tokens": ("[B,T] ids; 0 ends an answer, and pads", ("token_ids", "completion_ids", "responses")),
    "groups": ("[B] which prompt the row answers, 0, 1, ...", ("group", "group_ids", "group_id", "group_B")),
    "index": ("[B] the same as a NumPy array of texts", ("uid", "uids")),
    "truncated": ("[B] True where the token limit cut the answer", ("truncated_B", "is_truncated")),
    "total_tokens": (
        "tokens of the whole optimizer step", ("num_items_in_batch", "batch_num_tokens", "global_num_tokens", "num_tokens")),
    "total_sequences": ("answers of the whole optimizer step", ("global_batch_size", "num_sequences", "total_rows")),
    "max_tokens": (
        "the sampling limit", ("max_new_tokens", "max_completion_length", "max_response_length", "generate_max_length", "horizon")),
    "micro_batches": (
        "into how many the step is split",
        ("gradient_accumulation_steps", "gradient_accumulation", "num_micro_batches", "accumulation_steps")),
    "group_size": ("answers to each prompt, the rows of a prompt side by side", ("num_generations", "n_samples", "G")),
    "temperature": ("at which the answers were drawn", ()),
    "step": ("the whole optimizer step: an object with all of the above but logp and logits", ("whole_step",)),
}  # fmt: skip
ROWS = (
    "old_logp",
    "behavior_logp",
    "ref_logp",
    "rewards",
    "reward_BT",
    "advantages",
    "advantages_B",
    "values",
    "greedy_rewards",
    "mask",
    "tokens",
    "groups",
    "index",
    "truncated",
)
TOTALS = ("total_tokens", "total_sequences", "micro_batches", "step")
OURS = {alias: name for name, (_, others) in NAMES.items() for alias in (name, *others)}
MASKS = (torch.bool, torch.float64, torch.int64)


class Raised(InputError):
    """The function raised an error of its own, which is the cause of this one."""


@dataclass(frozen=True)
class Yours:
    """A function of somebody else's. kind: a "loss" to minimize, or "advantages"."""

    function: Callable[..., Any]
    kind: Literal["loss", "advantages"] = "loss"
    mask: torch.dtype = torch.bool

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InputError(
                f"{self.function!r:.80} cannot be called. Give a function, such as f(logp, rewards, mask)."
            )
        if isinstance(self.function, type):
            raise InputError(
                f"{self.name} is a class, which makes an object and gives no {self.kind}. Give one that is made: {self.name}(...)."
            )
        _ = self.asks

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    @cached_property
    def asks(self) -> dict[str, str]:
        """Its parameters that a world can give, each with our name for it."""
        out, twice = dict[str, str](), dict[str, str]()
        for p in self._parameters:
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                continue
            ours = OURS.get(p.name)
            if ours is None and p.default is p.empty:
                raise unknown(
                    f"input {p.name!r} of {self.name}, which a small world cannot give:",
                    p.name,
                    OURS,
                    more=" Rename it, give it a default, or wrap the function.",
                )
            if ours is not None and p.kind is p.POSITIONAL_ONLY:
                raise InputError(f"{self.name} takes {p.name} by position only. Remove the / from its signature.")
            if ours in twice:
                both = f"{twice[ours]} and {p.name}"
                raise InputError(f"{self.name} asks for {both}, which are one thing: {NAMES[ours][0]}. Drop one.")
            if ours is not None:
                out[p.name] = twice[ours] = ours
                twice[ours] = p.name
        wrong = {"loss": (), "advantages": ("advantages", "advantages_B", "logits")}[self.kind]
        for name, ours in out.items():
            if ours in wrong:
                raise InputError(
                    f"{self.name} is to give advantages and asks for {name}. Audit it as a loss, or drop it."
                )
        if self.kind == "loss" and not {"logp", "logits"} & set(out.values()):
            raise InputError(
                f"{self.name} asks for {', '.join(out) or self._nothing}: without logp or logits there is nothing to "
                "differentiate. Let it take logp, or audit it as an advantage function."
            )
        return out

    @property
    def _nothing(self) -> str:
        words = [str(p) for p in self._parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return f"nothing by name ({', '.join(words)} may be anything)" if words else "nothing"

    @property
    def _parameters(self) -> list[inspect.Parameter]:
        """Of a module of torch's those of its forward, for what calls that takes anything."""
        called = self.function.forward if isinstance(self.function, torch.nn.Module) else self.function
        try:
            return list(inspect.signature(called).parameters.values())
        except ValueError as error:  # written in C
            raise InputError(
                f"{self.name} does not say what it takes ({error}). Wrap it in a function of your own."
            ) from error

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.asks.values())

    def __call__(self, given: Mapping[str, Any]) -> Tensor:
        """What it returns: the first of a tuple, as a tensor."""
        inputs = {theirs: self._as_asked(ours, given[ours]) for theirs, ours in self.asks.items()}
        try:
            out = self.function(**inputs)
        except (Exception, SystemExit) as error:
            line = line_of(error, folder_of(self.function))
            shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in inputs.items() if isinstance(v, Tensor))
            raise Raised(
                f"{self.name} raised {type(error).__name__}: {error}. {line} It was given {shapes}."
            ) from error
        out = out[0] if isinstance(out, tuple) and out else out
        if not isinstance(out, Tensor):
            raise InputError(
                f"{self.name} returned {type(out).__name__}. Return a tensor ({self._wanted}), or a tuple that begins with it."
            )
        B, T = given["mask"].shape
        if tuple(out.shape) not in self._shapes(B, T):
            hint = " advantages are [B,T]: ask for advantages_B to get [B]." if "advantages" in self.needs else ""
            got = f"the shape {list(out.shape)} for {B} answers of {T} positions"
            raise InputError(f"{self.name} returned {got}. Return {self._wanted}.{hint}")
        return out

    @property
    def _wanted(self) -> str:
        return "a scalar, or [B,T]" if self.kind == "loss" else "[B], [B,1] or [B,T]"

    def _shapes(self, B: int, T: int) -> tuple[tuple[int, ...], ...]:
        return ((), (1,), (B, T)) if self.kind == "loss" else ((B,), (B, 1), (B, T))

    def _as_asked(self, ours: str, x: Any) -> Any:
        if ours == "mask":
            return x.to(self.mask)
        if ours == "index":
            return np.array([f"prompt {int(g)}" for g in x], dtype=object)
        return x.clone() if isinstance(x, Tensor) and not x.requires_grad else x

    def settled(self, given: Mapping[str, Any]) -> Yours:
        """With the kind of mask that it works with, and refused where two calls differ."""
        fits = [m for m in MASKS if "mask" not in self.needs or _works(Yours(self.function, self.kind, m), given)]
        me = Yours(self.function, self.kind, (fits or [torch.bool])[0])
        first, second = me(given), me(given)
        if not torch.equal(first.nan_to_num(7.0), second.nan_to_num(7.0)):
            raise InputError(
                f"{self.name} gave {first.flatten()[0]:.6g} and {second.flatten()[0]:.6g} for the same inputs: it is stochastic, "
                "or remembers calls. Take the randomness out (dropout, sampling), or fix its seed inside."
            )
        return me


def _works(f: Yours, given: Mapping[str, Any]) -> bool:
    """Whether a kind of mask suits; what else is wrong shows itself when the last kind fails too."""
    try:
        f(given)
    except InputError:
        return False
    return True
