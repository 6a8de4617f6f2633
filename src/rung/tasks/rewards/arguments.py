"""What a reward function is given: the keyword arguments that TRL's GRPOTrainer passes, as far as they exist here.

prompts          one per answer: text, or messages
completions      one per answer: text for text prompts; for chat prompts the messages after the prompt: one assistant
                 message, or of a conversation all of them, tool calls and tool replies included
completion_ids   the tokens of each
environments     the environment's instance of each conversation
trainer_state    with `global_step`, counted from 0, and nothing else
COLUMN           every column of the row, one value per answer
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rung.errors import InputError, unknown
from rung.records import Completion, Group
from rung.tasks.environments.tool_class import ToolSession

# What TRL passes besides, or only sometimes: why it is missing.
MISSING = {
    "environments": "there is none: the answers are no conversations. Give an environment's class (docs/environments.md).",
    "log_extra": "rung keeps no such columns. Give the parameter the default None.",
    "log_metric": "rung logs rewards, and nothing for them. Give the parameter the default None.",
}


@dataclass
class Progress:
    """What `trainer_state` tells a reward function."""

    global_step: int = 0

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"trainer_state.{name} is not given by rung, only trainer_state.global_step")


def arguments(
    function: Callable[..., Any], group: Group, progress: Progress, where: str
) -> tuple[list[Any], dict[str, Any]]:
    """(positional, named): of what is offered all that the function names, or all if it takes **kwargs."""
    offered = offer(group, progress)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # written in C, without a signature
        return [], offered
    positional: list[Any] = []
    named, given = {}, set()
    for p in parameters:
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            continue
        if p.name not in offered:
            if p.default is p.empty:
                raise _missing(p.name, offered, where)
        elif p.kind is p.POSITIONAL_ONLY and len(positional) == parameters.index(p):
            positional.append(offered[p.name])
            given.add(p.name)
        elif p.kind is not p.POSITIONAL_ONLY:
            named[p.name] = offered[p.name]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        named |= {name: value for name, value in offered.items() if name not in given}
    return positional, named


def offer(group: Group, progress: Progress) -> dict[str, Any]:
    """Everything that a function may ask for, by name."""
    prompt, said = group.task.prompt, group.completions
    offered: dict[str, Any] = {column: [value] * len(said) for column, value in group.task.data.items()}
    offered |= {
        "prompts": [prompt if isinstance(prompt, str) else [dict(m) for m in prompt] for _ in said],
        "completions": [_messages(c) for c in said],
        "completion_ids": [list(c.tokens) for c in said],
        "trainer_state": progress,
    }
    if isinstance(prompt, str):
        offered["completions"] = ["".join(m["content"] for m in _messages(c)) for c in said]
    if any(c.session is not None for c in said):
        offered["environments"] = [
            c.session.instance if isinstance(c.session, ToolSession) else c.session for c in said
        ]
    return offered


def _messages(c: Completion) -> list[dict[str, Any]]:
    """What came after the prompt, up to what the model said last: TRL takes back a tool's reply that nobody answered."""
    said = [dict(m) for m in c.messages[c.prompt_messages :]]
    while said and said[-1]["role"] != "assistant":
        said.pop()
    return said or [{"role": "assistant", "content": c.text}]


def _missing(name: str, offered: dict[str, Any], where: str) -> InputError:
    if name in MISSING:
        return InputError(f"{where} asks for {name!r}, but {MISSING[name]}")
    return unknown(f"argument of {where}:", name, offered, more=" The task has no such column.")


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside functools.partial."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def name_of(function: Callable[..., Any]) -> str:
    """What rewards of the function are reported as: its name, or its class's."""
    inner = plain(function)
    return str(getattr(inner, "__name__", type(inner).__name__))
