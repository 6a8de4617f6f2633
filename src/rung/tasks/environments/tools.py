"""Tools that a model may call in its text: their description, the calls found in an answer, and what running one gives.

A call is a JSON object in a block, as Qwen's and Hermes' chat templates write it:

    <tool_call>
    {"name": "add", "arguments": {"a": 1, "b": 2}}
    </tool_call>

What the model writes is data: it is parsed as JSON, checked against the tool's signature, and never evaluated.
"""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rung.records import Message
from rung.tasks.rewards.deadline import Late, start, within

OPEN, CLOSE = "<tool_call>", "</tool_call>"
JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
SECONDS = 120.0  # that a call may take: then the model is told that nothing came back
LONGEST = 10_000  # characters of a call that are parsed at all


@dataclass(frozen=True)
class Call:
    """One call as the model wrote it; `error` says why it cannot be run."""

    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def parse(text: str) -> list[Call]:
    """The calls in an answer, in order. A block that is no call is one with an error."""
    calls = []
    for part in text.split(OPEN)[1:]:
        body, closed, _ = part.partition(CLOSE)
        calls.append(_call(body.strip()) if closed else Call(error=f"the block does not end with {CLOSE}"))
    return calls


def _call(body: str) -> Call:
    if len(body) > LONGEST:
        return Call(error=f"the call is longer than {LONGEST} characters")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        return Call(error=f"the call is not valid JSON: {error}")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return Call(error='a call is an object with "name" and "arguments"')
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        return Call(value["name"], error='"arguments" must be an object')
    return Call(value["name"], arguments)


def spoken(text: str) -> Message:
    """A turn as TRL gives it to reward functions: thoughts and calls apart from the content, which stays whole if a call is
    none."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    thought, closed, rest = text.partition("</think>")
    if closed and thought.lstrip().startswith("<think>"):
        message |= {"reasoning_content": thought.partition("<think>")[2].strip(), "content": rest.lstrip()}
    calls = parse(message["content"])
    if calls and not any(call.error for call in calls):
        named = [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]
        message["content"] = message["content"].partition(OPEN)[0].rstrip("\n")
        message["tool_calls"] = [{"type": "function", "function": function} for function in named]
    return message


def begin(tools: Mapping[str, Callable[..., Any]], call: Call, *, beside: bool) -> Callable[[], tuple[bool, str]]:
    """Begin a call; what comes back gives (whether it worked, what the model is told), as soon as that is known.

    A tool that is a coroutine's goes on by itself, any other is done now, or `beside` in a thread of its own. Nothing that a
    call or a tool does wrong raises.
    """
    error = call.error
    if error is None and call.name not in tools:
        error = f"there is no tool {call.name!r}; the tools are {', '.join(tools)}"
    if error is None:
        error = _misfit(tools[call.name], call.arguments)
    if error is not None:
        return partial(_failed, error)
    try:
        begun = within(SECONDS, lambda: start(partial(tools[call.name], **call.arguments), beside=beside))
    except Late as late:
        return partial(_failed, f"{call.name} has not answered within {late}")
    return partial(_ended, call.name, begun)


def _ended(name: str, result: Callable[[], Any]) -> tuple[bool, str]:
    try:
        value = within(SECONDS, result)
        return True, _whole(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    except Late as late:
        return _failed(f"{name} has not answered within {late}")
    except (Exception, SystemExit) as problem:  # noqa: BLE001  the tool's error is the model's to read
        return _failed(f"{type(problem).__name__}: {problem}")


def _failed(error: str) -> tuple[bool, str]:
    return False, _whole(json.dumps({"error": error}, ensure_ascii=False))


def _whole(text: str) -> str:
    """Without half characters, which no tokenizer takes: a model can have a tool repeat one (\"\\ud800\" in its call)."""
    return text.encode("utf-8", "replace").decode()


def _misfit(tool: Callable[..., Any], arguments: Mapping[str, Any]) -> str | None:
    """Why the arguments do not fit the tool's signature; None if they do."""
    try:
        inspect.signature(tool).bind(**arguments)
    except TypeError as error:
        return str(error)
    hints = _hints(tool)
    for name, value in arguments.items():
        wanted = _type(hints.get(name))
        if wanted is not None and not _fits(value, wanted):
            return f"argument {name!r} must be of type {JSON_TYPES[wanted]}, not {json.dumps(value)[:50]}"
    return None


def _fits(value: Any, wanted: type) -> bool:
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)


def _hints(tool: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(tool)
    except (NameError, TypeError):  # annotations that name what is not importable
        return {}


def _type(hint: Any) -> type | None:
    """The JSON-like Python type behind a plain annotation; None where there is none or it allows several."""
    hint = typing.get_origin(hint) or hint
    return hint if isinstance(hint, type) and hint in JSON_TYPES else None


def schema(tool: Callable[..., Any]) -> dict[str, Any]:
    """What a model is told about a tool: its name, first paragraph of its docstring, and arguments with their types."""
    doc = inspect.getdoc(tool) or ""
    hints, told = _hints(tool), _documented(doc)
    properties: dict[str, dict[str, str]] = {}
    required = []
    for name, parameter in inspect.signature(tool).parameters.items():
        kind = _type(hints.get(name))
        properties[name] = {
            **({"type": JSON_TYPES[kind]} if kind else {}),
            **({"description": told[name]} if name in told else {}),
        }
        if parameter.default is parameter.empty:
            required.append(name)
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": tool.__name__, "description": doc.split("\n\n")[0].strip(), "parameters": parameters}
    return {"type": "function", "function": function}


def _documented(doc: str) -> dict[str, str]:
    """Descriptions of arguments in a Google-style docstring."""
    _, found, rest = doc.partition("Args:")
    section = re.split(r"\n(?=\S)", rest)[0] if found else ""
    return {m[1]: m[2].strip() for m in re.finditer(r"^\s+(\w+)(?:\s*\([^)]*\))?:\s*(.+)$", section, re.MULTILINE)}


def describe(tools: Sequence[Callable[..., Any]]) -> str:
    """The instruction that goes before the conversation, in the words of Hermes' format."""
    listed = "\n".join(json.dumps(schema(tool), ensure_ascii=False) for tool in tools)
    return (
        f"You may call tools. Their descriptions:\n<tools>\n{listed}\n</tools>\n"
        f'To call one, write\n{OPEN}\n{{"name": NAME, "arguments": {{...}}}}\n{CLOSE}\n'
        "and its result comes back. An answer without a call is final."
    )
