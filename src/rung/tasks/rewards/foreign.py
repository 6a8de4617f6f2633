"""Reward functions written for other projects: known by their parameters' names, and called as those projects call them.

    verl      compute_score(data_source, solution_str, ground_truth, extra_info=None)   one answer: a number, or a dict
              with "score"; data_source and extra_info are the row's, the ground truth its reward_model.ground_truth,
              its ground_truth, or its answer
    OpenRLHF  reward_func(queries, prompts, labels)   all answers to a problem: numbers, or a dict with "rewards"; a query is
              a prompt with an answer behind it, a label the row's label, or its answer

Both hand over text. Messages are joined by their contents, for no template of a model is known here.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from rung.errors import InputError, setting, unknown
from rung.records import Group, Prompt
from rung.tasks.sources.columns import lookup

VERL = ("data_source", "solution_str", "ground_truth")
OPENRLHF = ("queries", "prompts", "labels")
MISSING = object()


def form_of(function: Callable[..., Any], columns: Sequence[str]) -> Callable[..., Any] | None:
    """How the function wants to be called, if it is one of another project; columns of its parameters' names make it ours."""
    try:
        names = set(inspect.signature(function).parameters)
    except ValueError:  # written in C, without a signature
        return None
    for wanted, form in ((VERL, verl), (OPENRLHF, openrlhf)):
        if set(wanted) <= names and not set(wanted) <= {*columns, "prompts", "completions"}:
            return form
    return None


def verl(function: Callable[..., Any], group: Group, gold: str | None, task: str, where: str) -> Any:
    """One call an answer, at the same time where the function is a coroutine's."""
    row = group.task.data
    known = {
        "data_source": row.get("data_source", task),
        "ground_truth": _first(row, ("reward_model.ground_truth", "ground_truth"), gold, where),
        "extra_info": row.get("extra_info"),
    }
    parameters = inspect.signature(function).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {name: value for name, value in known.items() if every or name in parameters}
    values = [function(solution_str=c.text, **given) for c in group.completions]
    if any(inspect.isawaitable(value) for value in values):
        return _together(values, where)
    return [_score(value, where) for value in values]


async def _together(values: Sequence[Awaitable[Any]], where: str) -> list[Any]:
    return [_score(value, where) for value in await asyncio.gather(*values)]


def _score(value: Any, where: str) -> Any:
    """A number; "score" of a dict, in older versions "reward"; the first of several."""
    if isinstance(value, dict):
        name = next((name for name in ("score", "reward") if name in value), None)
        if name is None:
            raise InputError(f'{where} returned a dict with {", ".join(map(str, value))}, and verl reads its "score".')
        return value[name]
    return value[0] if isinstance(value, list | tuple) and value else value


def openrlhf(function: Callable[..., Any], group: Group, gold: str | None, task: str, where: str) -> Any:
    """One call for all answers to the problem."""
    n, prompt = len(group.completions), _text(group.task.prompt)
    label = _first(group.task.data, ("label", "labels"), gold, where)
    values = function(queries=[prompt + c.text for c in group.completions], prompts=[prompt] * n, labels=[label] * n)
    if inspect.isawaitable(values):
        return _later(values, where)
    return _rewards(values, where)


async def _later(values: Awaitable[Any], where: str) -> Any:
    return _rewards(await values, where)


def _rewards(values: Any, where: str) -> Any:
    if isinstance(values, dict):
        if "rewards" not in values:
            raise InputError(f'{where} returned a dict with {", ".join(values)}, and OpenRLHF reads its "rewards".')
        return values["rewards"]
    return values


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(m["content"] for m in prompt) + "\n"


def _first(row: Any, names: Sequence[str], gold: str | None, where: str) -> Any:
    """The first of these columns that the row has, else its gold answer."""
    for name in names:
        value = lookup(row, name, MISSING)
        if value is not MISSING:
            return value
    if gold is None:
        raise unknown(
            f"column for {where}:", names[0], row, more=f" Name the right one with {setting('answer_column')}."
        )
    return gold
