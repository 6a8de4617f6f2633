"""Conversations with an environment: the model's turns and what it is told between them, as one growing row of tokens.

Tokens are only ever appended. What the model said stays exactly what was sampled; an observation is encoded once, when
it comes. All conversations of a step advance together, so each turn is one batch for the sampler. Observation tokens
are marked (`Rollout.actions`): they have log-probability 0, no entropy, no credit and no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypeVar

from rung.errors import InputError, setting
from rung.records import Completion, Episode, Message, Prompt, Rollout, SamplingLaw, Step, StopReason, Task
from rung.rollout.draws import Draws
from rung.rollout.phases import Phase
from rung.rollout.sampler import Sampler, keeping
from rung.tasks.environments.protocol import Begins, Counts, Session, Waits, reward_of
from rung.tasks.rewards.deadline import DEADLINE, Late, Up, outcome, start, within
from rung.text import Codec, begun, inside

T = TypeVar("T")
MARK = "rung-answer"  # stands for an answer where only what the template writes after it is wanted


@dataclass
class Talk:
    """One conversation while it is held."""

    task: Task
    session: Session
    opening: Prompt = ""
    prompt: tuple[int, ...] = ()
    tokens: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    entropy: list[float] | None = field(default_factory=list)  # None: a turn came without
    actions: list[bool] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    rewards: list[tuple[int, float]] = field(default_factory=list)
    stops: list[StopReason] = field(default_factory=list)
    said: tuple[int, ...] = ()  # the newest turn's tokens
    cut: Literal["", "turns", "tokens"] = ""
    over: bool = False
    version: int = 0
    read: int | None = 0  # None: a turn came without

    def room(self, law: SamplingLaw, context: int) -> int:
        """Tokens that the model's next turn may have."""
        left = [law.max_new_tokens - sum(self.actions), min(context, law.max_total_tokens or context) - self.length]
        return max(0, min([*left, law.max_turn_tokens or left[0]]))

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.tokens)

    def hear(self, rollout: Rollout, room: int) -> None:
        """The model's turn, cut to `room` tokens: a prefix of a sampled answer is drawn from the same law."""
        self.said = rollout.tokens[:room]
        stop: StopReason = rollout.stop if len(rollout.tokens) <= room else "length"
        self.tokens += self.said
        self.logp += rollout.logp[:room]
        if self.entropy is None or rollout.entropy is None:
            self.entropy = None
        else:
            self.entropy += rollout.entropy[:room]
        self.actions += [True] * len(self.said)
        self.stops.append(stop)
        self.version = rollout.version
        self.read = None if self.read is None or rollout.read is None else self.read + rollout.read
        if stop != "stop":
            self.over, self.cut = True, "tokens"

    def told(self, ids: Sequence[int]) -> None:
        self.tokens += ids
        self.logp += [0.0] * len(ids)
        if self.entropy is not None:
            self.entropy += [0.0] * len(ids)
        self.actions += [False] * len(ids)

    def rollout(self) -> Rollout:
        n = len(self.tokens)
        while n and not self.actions[n - 1]:  # an observation that nobody answered says nothing
            n -= 1
        stop: StopReason = "length" if self.cut else (self.stops[-1] if self.stops else "abort")
        return Rollout(
            self.prompt, tuple(self.tokens[:n]), tuple(self.logp[:n]),
            None if self.entropy is None else tuple(self.entropy[:n]), stop, self.version, tuple(self.actions[:n]), self.read,
        )  # fmt: skip

    def text(self, codec: Codec) -> str:
        """The newest turn; the first one goes on from what the opening has begun."""
        return (begun(self.opening) if len(self.stops) <= 1 else "") + codec.decode(self.said)

    def completion(self, codec: Codec) -> Completion:
        stop = self.rollout().stop
        first = len(_messages(self.opening)) - inside(self.opening)
        return Completion(self.text(codec), stop, tuple(self.tokens), tuple(self.messages), self.session, first)

    def episode(self) -> Episode:
        counters = dict(self.session.counters) if isinstance(self.session, Counts) else {}
        return Episode(tuple(self.messages), tuple(self.rewards), tuple(self.stops), self.cut, counters)


def converse(
    codec: Codec, sampler: Sampler, law: SamplingLaw, talks: Sequence[Talk], samples: int, draws: Draws, phase: Phase
) -> None:
    """Hold all conversations to their ends. `talks` come task by task, `samples` of each, and a row of `draws` is one's own."""
    with phase("reward"):
        for i in range(0, len(talks), samples):
            _open(codec, law, talks[i : i + samples])
    with keeping(sampler) as keeper:
        _turns(codec, keeper, law, talks, samples, draws, phase)


def _turns(
    codec: Codec, sampler: Sampler, law: SamplingLaw, talks: Sequence[Talk], samples: int, draws: Draws, phase: Phase
) -> None:
    for turn in range(law.max_turns):
        places = [i for i, talk in enumerate(talks) if not talk.over]
        live = [talks[i] for i in places]
        if not live:
            return
        rooms = [talk.room(law, codec.context) for talk in live]
        with phase("sample"):
            now = replace(law, max_new_tokens=max(rooms))
            if turn == 0:  # answers to one prompt share its prefill
                rollouts = sampler.sample([t.prompt for t in talks[::samples]], now, draws)
            else:
                told = [(*t.prompt, *t.tokens) for t in live]
                rollouts = sampler.sample(told, now, draws.turn(turn).part(places))
        with phase("reward"):
            for talk, rollout, room in zip(live, rollouts, rooms, strict=True):
                talk.hear(rollout, room)
            said = [(talk, completion) for talk in live if (completion := _said(codec, talk)) is not None]
            asked = [(talk, outcome(partial(_asked, talk, completion))) for talk, completion in said]
            steps = [(talk, outcome(partial(_ended, talk, step))) for talk, step in asked]
            for talk, step in steps:  # all have ended, whatever one of them raises
                _told(codec, law, talk, step(), last=turn + 1 == law.max_turns)


def _open(codec: Codec, law: SamplingLaw, group: Sequence[Talk]) -> None:
    """The first messages of all conversations about one task, which must be equal: their rewards are compared."""
    for talk in group:
        talk.opening = _theirs(talk, "reset", talk.session.reset)
        if talk.opening != group[0].opening:
            raise InputError(
                f"problem {talk.task.id!r}: two sessions of {type(talk.session).__name__} began with different messages, but "
                "answers are only comparable if they answer the same. Let reset() depend on the problem's row alone."
            )
        talk.messages = list(_messages(talk.opening))
    ids = tuple(codec.encode(group[0].opening))
    for talk in group:
        talk.prompt = ids
    if group[0].room(law, codec.context) < 1:
        raise InputError(
            f"problem {group[0].task.id!r}: its first messages have {len(ids)} tokens and leave no room for an answer. "
            f"Shorten them, raise {setting('max_total_tokens')}, or use a model with a longer context."
        )


def _said(codec: Codec, talk: Talk) -> Completion | None:
    """The model's newest turn, for the environment; None: it was cut in the middle and cannot be acted on."""
    text = talk.text(codec)
    if len(talk.stops) == 1 and inside(talk.opening):
        talk.messages.pop()
    talk.messages.append({"role": "assistant", "content": text})
    return None if talk.over else Completion(text, "stop", talk.said, tuple(talk.messages), talk.session)


def _asked(talk: Talk, completion: Completion) -> Callable[[], Step]:
    """Let the environment answer: what waits goes on by itself, anything else is done now, conversation by conversation."""
    session = talk.session
    if isinstance(session, Begins):
        return _theirs(talk, "step", partial(session.begin, completion))
    beside = isinstance(session, Waits) and bool(session.waits)
    return _theirs(talk, "step", lambda: start(lambda: session.step(completion), beside=beside))


def _ended(talk: Talk, asked: Callable[[], Callable[[], Step]]) -> Step:
    return _theirs(talk, "step", lambda: asked()())


def _told(codec: Codec, law: SamplingLaw, talk: Talk, step: Step, *, last: bool) -> None:
    """What the environment has answered to the model's newest turn."""
    talk.rewards.append((len(talk.tokens) - 1, reward_of(step.reward, f"the environment's step() for {talk.task.id}")))
    talk.messages += step.messages
    talk.over = step.done
    if step.done:
        return
    if last:
        talk.over, talk.cut = True, "turns"
        return
    if not step.messages:
        raise InputError(
            f"{type(talk.session).__name__}.step for problem {talk.task.id!r} gave no message and did not end the "
            "conversation, so the model has nothing to answer. Return a message or done=True."
        )
    talk.told(extension(codec, talk.opening, step.messages, talk.tokens[-1]))
    if talk.room(law, codec.context) < 1:
        talk.over, talk.cut = True, "tokens"


def _theirs(talk: Talk, method: str, call: Callable[[], T]) -> T:
    """What the environment answers: a run does not wait forever for one that hangs, and what it raises is said with its name."""
    what = f"{type(talk.session).__name__}.{method} for problem {talk.task.id!r}"
    try:
        return within(DEADLINE, call)
    except (InputError, KeyboardInterrupt, Up):
        raise
    except Late as error:
        raise InputError(
            f"{what} has not answered within {error}. Mend what it waits for, or let it give up by itself."
        ) from error
    except BaseException as error:
        raise InputError(
            f"{what} raised {type(error).__name__}: {error}. An environment must answer anything that a model may say; return a "
            "message that tells it what was wrong."
        ) from error


def extension(codec: Codec, opening: Prompt, observation: Sequence[Message], last: int) -> list[int]:
    """Tokens that carry `observation` after an answer that ended with token `last`, up to where the next answer begins.

    Of a chat template, only the text behind an answer is used: what stands before it is never encoded again, so a
    template may render earlier turns as it likes. That text must begin as it does when nothing follows. An end of turn
    that the model has said itself is not said twice.
    """
    if isinstance(opening, str):
        text = "".join(m["content"] for m in observation)
    else:
        mark = MARK
        while any(mark in m["content"] for m in (*opening, *observation)):
            mark += "-"
        before = opening[:-1] if inside(opening) else opening
        history = [*before, {"role": "assistant", "content": begun(opening) + mark}]
        try:
            whole = codec.render([*history, *observation], answer=True)
        except InputError:  # a template without the role "tool"
            whole = codec.render([*history, *_as_user(observation)], answer=True)
        _, found, text = whole.partition(mark)
        alone = codec.render(history, answer=False).partition(mark)[2]
        if not found or not text.startswith(alone.rstrip()):
            raise InputError(
                "the model's chat template changes or drops an answer once another message follows, so a conversation cannot "
                "be continued token by token. Use a template that only appends."
            )
    ids = codec.ids(text)
    return ids[1:] if ids and last in codec.end_ids and ids[0] in codec.end_ids else ids


def _as_user(observation: Sequence[Message]) -> list[Message]:
    """Tools' results as one user message, for templates that know no tools."""
    if all(m["role"] != "tool" for m in observation):
        return list(observation)
    parts = [
        f"<tool_response>\n{m['content']}\n</tool_response>" if m["role"] == "tool" else m["content"]
        for m in observation
    ]
    return [{"role": "user", "content": "\n".join(parts)}]


def _messages(prompt: Prompt) -> Sequence[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
