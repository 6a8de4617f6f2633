"""One frozen record per arrow: Task -> Rollout -> Scored -> Batch -> advantages -> J -> metrics.

Shape letters, everywhere in the project: B sequences (answers), T answer positions, P prompts, G answers per
prompt, V vocabulary. Nothing here computes; every field says its shape and its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Message = Mapping[str, Any]  # {"role": ..., "content": ...}, texts; "tool_calls" too where a reward function reads it
Prompt = str | Sequence[Message]  # plain text, or messages for the chat template
StopReason = Literal["stop", "length", "abort"]  # an end token; the token limit; nothing could be sampled


@dataclass(frozen=True)
class Task:
    """One problem. `id` is unique within its environment; `data` is the row that the verifier reads."""

    id: str
    prompt: Prompt
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """One answer as text, for verifiers. `stop == "length"` means that the answer was cut by the token limit.

    Of a conversation, `text` is what the model said last (what it was told is no answer of its), `tokens` and `messages`
    are all of it, the first `prompt_messages` being the prompt, and `session` is the session that it was held with.
    """

    text: str
    stop: StopReason = "stop"
    tokens: tuple[int, ...] = ()
    messages: Sequence[Message] = ()
    session: Any = None
    prompt_messages: int = 0


@dataclass(frozen=True)
class Group:
    """All answers to one task, as `Environment.score` sees them."""

    task: Task
    completions: Sequence[Completion]


@dataclass(frozen=True)
class Step:
    """What an environment session answers to a completion: messages to append, whether it ended, a reward."""

    messages: Sequence[Message]
    done: bool
    reward: float = 0.0


@dataclass(frozen=True)
class SamplingLaw:
    """The distribution that answers are drawn from: log_softmax(logits / temperature), cut to top-p / top-k.

    `top_p == 1` and `top_k == 0` mean the full vocabulary; `temperature == 0` means greedy. Training samples the full law
    (all else is refused), so that its temperature is all that the trainer has to score with.

    max_new_tokens: tokens that the model may say to one problem, in all turns together.
    max_turns, max_turn_tokens, max_total_tokens: of a conversation: the model's turns; its tokens in one of them (None: no
        other limit); prompt, answers and observations together (None: the model's context).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 64
    max_turns: int = 8
    max_turn_tokens: int | None = None
    max_total_tokens: int | None = None

    @property
    def is_full(self) -> bool:
        return self.top_p >= 1.0 and self.top_k == 0


@dataclass(frozen=True)
class Rollout:
    """One sampled answer, token for token.

    tokens:  sampled ids, the end token included; observation tokens too where `actions` is given.
    logp:    log mu(y_t | x, y_<t) under the SamplingLaw, one float a token.
    entropy: entropy in nats of the law at each token; None: the sampler does not say.
    stop:    from the sampler, never guessed from token ids.
    version: how many updates the sampling weights had seen; of several, the last ones.
    actions: True where the policy sampled the token; None means all of them.
    read:    tokens that the sampler read before those that it drew: of a prompt that several answers share at the first of
             them, of a conversation in all its turns; None: it does not say.
    versions: the version that drew each token, where several did; None: `version` all of them.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logp: tuple[float, ...]
    entropy: tuple[float, ...] | None
    stop: StopReason
    version: int = 0
    actions: tuple[bool, ...] | None = None
    read: int | None = None
    versions: tuple[int, ...] | None = None

    @property
    def drawn_by(self) -> tuple[int, ...]:
        """The version that drew each token."""
        return (self.version,) * len(self.tokens) if self.versions is None else self.versions

    @property
    def sampled(self) -> int:
        """How many of the tokens are the model's own."""
        return len(self.tokens) if self.actions is None else sum(self.actions)


@dataclass(frozen=True)
class Episode:
    """What a conversation adds to its rollout.

    messages: prompt, answers and observations in order.
    rewards:  (index of the last token of a turn, the reward that the environment gave for it).
    stops:    why each turn of the model ended.
    cut:      what ended the conversation before the environment did: "turns", "tokens", or "".
    counters: what the session counted, such as tool calls.
    """

    messages: Sequence[Message]
    rewards: Sequence[tuple[int, float]]
    stops: Sequence[StopReason]
    cut: Literal["", "turns", "tokens"] = ""
    counters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """A rollout with its rewards. `reward` is their (weighted) sum, NaN when the verifier could not tell.

    earned: the part of `reward` that the task pays, without a penalty for length; None: all of it.
    """

    task: Task
    rollout: Rollout
    text: str
    rewards: Mapping[str, float]
    reward: float
    episode: Episode | None = None
    earned: float | None = None

    @property
    def task_reward(self) -> float:
        return self.reward if self.earned is None else self.earned


@dataclass(frozen=True)
class Totals:
    """Denominators: counts over the WHOLE optimizer step (all micro-batches, all ranks), before any backward.

    Rows that are kept out of the loss still count here, so that dropping one row never makes the others larger.
    """

    tokens: int  # action tokens of all rows
    sequences: int  # rows
    max_tokens: int  # the sampling limit `max_new_tokens`: a constant, never the padded width
    prompt_tokens_P: Tensor | None = None  # int[P]: action tokens per group id, for PromptMean
    right_tokens: int = 0  # action tokens of the right answers, for the imitation term


@dataclass(frozen=True)
class State:
    """What an algorithm remembers from one optimizer step to the next; saved with every checkpoint."""

    mean: float = 0.0  # moving average of the reward before debiasing, b_k
    mean_updates: int = 0  # k, the number of batches in it
    kl_coef: float = 0.0  # beta, weight of the KL to the reference policy
    trust_coef: float = 0.0  # beta_old, weight of KL(old || new)


@dataclass(frozen=True)
class Tokens:
    """What the model reads of a batch; the maths reads the rest of it. Each prompt stands once, whatever its group's size.

    prompts    one int[Lp] per group, in the order of the group ids.
    tokens_BT  int[B, T]: the answers, right-padded with anything.
    mask_BT    bool[B, T]: tokens that the policy sampled; these are scored.
    length_B   int[B]: tokens of the answer, observations included.
    group_B    int[B]: the prompt of each row, its place among `prompts`.
    """

    prompts: Sequence[Tensor]
    tokens_BT: Tensor
    mask_BT: Tensor
    length_B: Tensor
    group_B: Tensor

    def rows(self, index: Any) -> Tokens:
        """The same record for some of the rows, with the prompts that they need, as wide as the longest of them."""
        used_P, group_B = self.group_B[index].unique(return_inverse=True)
        length_B = self.length_B[index]
        T = int(length_B.max()) if len(length_B) else 0
        return Tokens(
            prompts=[self.prompts[int(g)] for g in used_P],
            tokens_BT=self.tokens_BT[index, :T],
            mask_BT=self.mask_BT[index, :T],
            length_B=length_B,
            group_B=group_B,
        )


@dataclass(frozen=True)
class Batch:
    """One optimizer step's answers, right-padded to T. Optional fields exist only if a part's `needs` names them.

    All of it lies in main memory; training brings micro-batches of it to the model's device, but for their tokens.

    reward_BT    float64: the reward of each action; an outcome reward lies on the last action token.
    mask_BT      bool:  True on sampled tokens, the end token included; False on padding and observations.
    group_B      int:   index of the prompt that the row answers, 0..P-1; rows of a group may lie anywhere.
    valid_B      bool:  the row has an action and a finite reward, so it may enter statistics and loss.
    keep_B       bool:  the row may enter the loss (False: overlong filter); says nothing about statistics.
    zero_variance_B       bool:  dynamic sampling found no difference in what the task pays and nothing to put in the row's place:
                        no advantage, though a penalty for length may differ. None: nothing was filtered.
    truncated_B  bool:  the answer was cut by the token limit.
    right_B      bool:  what the task itself pays for the answer, before any KL or length penalty, is above 0. None: not
                        known, so that nothing is imitated.
    behavior_logp_BT    log mu, as reported by the sampler that drew the tokens.
    old_logp_BT         log pi_old, the trainer's own before the update. Collected as the sampler reported it; the update puts
                        its own numbers there: at the first optimizer step always, so that every ratio is 1, at later
                        ones where the two are not the same numbers (training/work.py).
    same_numbers  old_logp_BT is what the trainer computes, but for float32's rounding: so said the sampler that drew it.
    tokens       what the model reads of the same rows; None: nobody drew them (exact/), and the maths reads no tokens.
    adv_BT       the advantages, once they are worked out.
    target_BT    what a critic is regressed on, once it is worked out.
    """

    reward_BT: Tensor
    mask_BT: Tensor
    group_B: Tensor
    valid_B: Tensor
    keep_B: Tensor
    truncated_B: Tensor
    behavior_logp_BT: Tensor
    old_logp_BT: Tensor
    ref_logp_BT: Tensor | None = None
    value_BT: Tensor | None = None
    bootstrap_B: Tensor | None = None  # V(s_L) of truncated rows, where they are bootstrapped
    right_B: Tensor | None = None
    greedy_B: Tensor | None = None  # reward of the greedy answer to the row's prompt
    step_end_BT: Tensor | None = None  # bool: a reasoning step ends here; None: one step, the whole answer
    zero_variance_B: Tensor | None = None
    state: State = State()
    same_numbers: bool = True
    tokens: Tokens | None = None
    adv_BT: Tensor | None = None
    target_BT: Tensor | None = None

    def rows(self, index: Any) -> Batch:
        """The same record for some of the rows, as wide as the longest of them where there are tokens.

        index: a slice, a mask or row numbers. Group ids stay those of the step, as Totals counts them.
        """
        cut = {f.name: v[index] for f in fields(self) if hasattr(v := getattr(self, f.name), "shape")}
        if self.tokens is None:
            return replace(self, **cut)
        tokens = self.tokens.rows(index)
        T = tokens.tokens_BT.shape[1]
        return replace(self, **{k: v[:, :T] if v.ndim == 2 else v for k, v in cut.items()}, tokens=tokens)

    @property
    def spoken(self) -> Tokens:
        """The tokens of a batch that a model has drawn."""
        assert self.tokens is not None, "no model has drawn this batch"
        return self.tokens

    @property
    def loss_mask_BT(self) -> Tensor:
        """m~ = m * valid * keep: the tokens that may enter the loss."""
        return self.mask_BT & (self.valid_B & self.keep_B)[:, None]


@dataclass(frozen=True)
class Scores:
    """What the model being trained says about a batch's tokens, with gradient. float[B, T] each.

    logp_BT      log pi(y_t | x, y_<t) under the SamplingLaw.
    entropy_BT   entropy in nats of that distribution.
    ref_kl_BT    KL(pi || pi_ref) over the full vocabulary, where a part needs it.
    old_kl_BT    KL(pi_old || pi) over the full vocabulary, where a part needs it.
    """

    logp_BT: Tensor
    entropy_BT: Tensor | None = None
    ref_kl_BT: Tensor | None = None
    old_kl_BT: Tensor | None = None


@dataclass(frozen=True)
class StepResult:
    """What one training step did with its answers.

    metrics    names of docs/metrics.md.
    adv_BT     the advantage of each token.
    ratio_BT   pi / pi_old of each token in the last pass over the batch, NaN where it was kept out of the update; None where
               the batch served one update only, which sees no ratio.
    clip_BT    int8: whether its gradient was stopped there (0 no, 1 low, 2 high, 3 dual); None likewise.
    ref_logp_BT, value_BT    what reference and critic said of each token before the step; None without one.
    """

    metrics: dict[str, float]
    adv_BT: Tensor
    ratio_BT: Tensor | None = None
    clip_BT: Tensor | None = None
    ref_logp_BT: Tensor | None = None
    value_BT: Tensor | None = None
