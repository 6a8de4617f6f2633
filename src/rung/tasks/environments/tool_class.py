"""A class in TRL's form as an environment: `reset(**row)`, public methods are tools, `get_reward()` if it has one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from rung.errors import InputError
from rung.records import Completion, Group, Message, Prompt, Step, Task
from rung.tasks.environments import tools
from rung.tasks.environments.protocol import Closes, Environment, Observes, Staged, Stateful, reward_of
from rung.tasks.environments.wrapper import Wrapper
from rung.tasks.rewards.coroutines import settled

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

    @cached_property
    def described(self) -> str:
        """Of one instance, made for that alone."""
        return tools.describe(list(methods(self.factory()).values()))

    def session(self, task: Task) -> ToolSession:
        return ToolSession(task, self.factory())

    def score(self, group: Group) -> list[dict[str, float]]:
        instances = [completion.session.instance for completion in group.completions]
        own = hasattr(instances[0], "get_reward")
        judged = self.environment.score(_as_trl(group)) if self.judged or not own else [{} for _ in instances]
        if not own:
            return judged
        name = type(instances[0]).__name__
        return [{**parts, name: _reward(x)} for parts, x in zip(judged, instances, strict=True)]


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
        except Exception as error:
            name = type(self.instance).__name__
            raise InputError(
                f"{name}.reset for problem {self.task.id!r} raised {type(error).__name__}: {error}"
            ) from error
        self.told = told or ""
        return _with_more(self.task.prompt, self.told)

    def step(self, completion: Completion) -> Step:
        calls = tools.parse(completion.text)
        known = methods(self.instance)
        messages: list[Message] = []
        for call in calls:
            worked, text = tools.run(known, call)
            self.counters["calls"] += 1
            self.counters["failures"] += not worked
            if isinstance(self.task.prompt, str):  # no template that would mark it
                text = f"\n<tool_response>\n{text}\n</tool_response>\n"
            messages.append({"role": "tool", "name": call.name, "content": text})
        return Step(messages, done=not calls)

    def close(self) -> None:
        if isinstance(self.instance, Closes):
            self.instance.close()


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


def _reward(instance: Any) -> float:
    return reward_of(settled(instance.get_reward()), f"{type(instance).__name__}.get_reward()")


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
