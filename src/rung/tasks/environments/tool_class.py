"""A class in TRL's form as an environment: `reset(**row)`, public methods are tools, `get_reward()` if it has one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from rung.errors import InputError
from rung.records import Completion, Group, Message, Prompt, Step, Task
from rung.tasks.environments import tools
from rung.tasks.environments.protocol import Closes, Environment, Observes, Staged, Stateful, Waits, reward_of
from rung.tasks.environments.wrapper import Wrapper
from rung.tasks.rewards.coroutines import is_async
from rung.tasks.rewards.deadline import DEADLINE, Late, start, within


@runtime_checkable
class Rewards(Protocol):
    """An instance that pays for its own conversation."""

    def get_reward(self) -> Any: ...


NOT_TOOLS = ("reset", "get_reward", "close")


@dataclass(frozen=True)
class ToolTask(Task):
    """A problem whose prompt describes the tools; `asked` is the row's own prompt."""

    asked: Prompt = ""


@dataclass(frozen=True)
class ToolEnvironment(Wrapper):
    """The problems of `environment` (rows), answered with the help of an instance of `factory` per conversation.

    The reward is the instance's `get_reward()`; with `judged`, or if the class has none, what the problems' own verifier or
    reward function says about the last turn comes to it.
    """

    environment: Environment
    factory: Callable[[], Any]
    judged: bool = False
    passes_on: ClassVar[Sequence[type]] = (Staged, Observes, Stateful)  # a curriculum among the rows

    def own(self, task: Task) -> Task:
        return Task(task.id, task.asked, task.data) if isinstance(task, ToolTask) else task

    def __getitem__(self, index: int) -> Task:
        task = super().__getitem__(index)
        return ToolTask(task.id, _with_tools(task.prompt, self.described), task.data, task.prompt)

    @property
    def described(self) -> str:
        return self._about[0]

    @property
    def waits(self) -> bool | Literal["in order"]:
        """Whether all that pays the answers waits for others: the class's get_reward, and what judges besides."""
        asked = [self._about[1]] if self._about[1] is not None else []
        if self.judged or not asked:
            asked.append(self.environment.waits if isinstance(self.environment, Waits) else False)
        return all(asked) and ("in order" if all(x == "in order" for x in asked) else True)

    @cached_property
    def _about(self) -> tuple[str, bool | Literal["in order"] | None]:
        """What its tools are, and whether its get_reward waits, None if it has none: of one instance, made for that alone."""
        made = self.factory()
        described = tools.describe(list(methods(made).values()))
        if not isinstance(made, Rewards):
            return described, None
        return described, (isinstance(made, Waits) and made.waits) or (
            "in order" if is_async(made.get_reward) else False
        )

    def session(self, task: Task) -> ToolSession:
        return ToolSession(task, self.factory())

    def score(self, group: Group) -> list[dict[str, float]]:
        instances = [completion.session.instance for completion in group.completions]
        own = isinstance(instances[0], Rewards)
        judged = self.environment.score(_as_trl(group)) if self.judged or not own else [{} for _ in instances]
        if not own:
            return judged
        name = type(instances[0]).__name__
        try:
            paid = within(
                DEADLINE, lambda: [ended() for ended in [start(x.get_reward, beside=_waits(x)) for x in instances]]
            )
        except Late as late:
            raise InputError(
                f"{name}.get_reward for problem {group.task.id!r} has not answered within {late}. Mend what it waits for, or let "
                "it give up by itself."
            ) from late
        return [{**parts, name: reward_of(x, f"{name}.get_reward()")} for parts, x in zip(judged, paid, strict=True)]


@dataclass
class ToolSession:
    """One conversation with one instance. A turn without a call ends it."""

    task: Task
    instance: Any
    counters: dict[str, float] = field(default_factory=lambda: {"calls": 0.0, "failures": 0.0})
    told: str = ""

    @property
    def asked(self) -> Prompt:
        """The row's own prompt, without the tools."""
        return self.task.asked if isinstance(self.task, ToolTask) else self.task.prompt

    def reset(self) -> Prompt:
        row = {**self.task.data, "prompt": self.asked}
        parameters = inspect.signature(self.instance.reset).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            row = {name: value for name, value in row.items() if name in parameters}
        try:
            told = self.instance.reset(**row)
        except (Exception, SystemExit) as error:
            name = type(self.instance).__name__
            raise InputError(
                f"{name}.reset for problem {self.task.id!r} raised {type(error).__name__}: {error}"
            ) from error
        self.told = told or ""
        return _with_more(self.task.prompt, self.told)

    def step(self, completion: Completion) -> Step:
        return self.begin(completion)()

    def begin(self, completion: Completion) -> Callable[[], Step]:
        """Begin all calls of a turn in their order; what comes back waits for those that wait, and tells what came of each."""
        calls, known = tools.parse(completion.text), methods(self.instance)
        asked = [tools.begin(known, call, beside=_waits(self.instance)) for call in calls]
        return lambda: self._told(calls, [ended() for ended in asked])

    def _told(self, calls: Sequence[tools.Call], ended: Sequence[tuple[bool, str]]) -> Step:
        messages: list[Message] = []
        for call, (worked, text) in zip(calls, ended, strict=True):
            self.counters["calls"] += 1
            self.counters["failures"] += not worked
            if isinstance(self.task.prompt, str):  # no template that would mark it
                text = f"\n<tool_response>\n{text}\n</tool_response>\n"
            messages.append({"role": "tool", "name": call.name, "content": text})
        return Step(messages, done=not calls)

    def close(self) -> None:
        if isinstance(self.instance, Closes):
            self.instance.close()


def _waits(instance: Any) -> bool:
    """Whether the class says that its methods wait for others, without being coroutines."""
    return isinstance(instance, Waits) and bool(instance.waits)


def methods(instance: Any) -> Mapping[str, Callable[..., Any]]:
    """The tools of an instance: its public methods in the order of their definition."""
    names = dict.fromkeys(n for cls in reversed(type(instance).__mro__) for n in vars(cls))
    public = [n for n in names if not n.startswith("_") and n not in NOT_TOOLS]
    return {n: f for n in public if inspect.ismethod(f := getattr(instance, n)) or inspect.isfunction(f)}


def _as_trl(group: Group) -> Group:
    """The same for a reward function: the prompt with what reset() told and without the tools, and tool calls as such."""
    session: ToolSession = group.completions[0].session
    task = replace(group.task, prompt=_with_more(session.asked, session.told))
    said = [
        replace(c, messages=[tools.spoken(m["content"]) if m["role"] == "assistant" else m for m in c.messages])
        for c in group.completions
    ]
    return Group(task, said if not isinstance(task.prompt, str) else group.completions)


def _with_tools(prompt: Prompt, text: str) -> Prompt:
    """In the system message, which is made if there is none."""
    if isinstance(prompt, str):
        return f"{text}\n\n{prompt}"
    first, rest = (prompt[0], prompt[1:]) if prompt[0]["role"] == "system" else (None, prompt)
    return [{"role": "system", "content": f"{first['content']}\n\n{text}" if first else text}, *rest]


def _with_more(prompt: Prompt, told: str) -> Prompt:
    """What reset() returns belongs to the last message."""
    if isinstance(prompt, str):
        return prompt + told
    return [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + told}]
