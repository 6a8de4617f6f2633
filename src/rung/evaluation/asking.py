"""`rung ask`: questions to a run's model and to the one that it began with, once or in turn, side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rung.errors import InputError, unknown
from rung.evaluation.interview import Interview, Reply
from rung.io.files import to_json
from rung.io.tables import refuse_target, write_document
from rung.io.terminal import clean, make_rich, say, say_notes
from rung.rollout.question import Answer
from rung.rollout.samplers import SAMPLERS
from rung.settings.flags import Ask

SURE = ((0.9, "green"), (0.5, "yellow"), (0.0, "red"))  # colors of a token's probability, from above
SIDE_BY_SIDE = 60  # columns that two answers need beside each other


def run_ask(args: Ask) -> int:
    """Ask what was given, or else line by line what is typed; print or write the answers."""
    refuse_target(args.json)
    talk, names = interview(args)
    if talk.missing:
        say_notes([f"what the run began with cannot be asked: {talk.missing}"])
    said = []
    for question in args.questions or typed():
        try:
            reply = talk.ask(
                question, args.samples, temperature=args.temperature, max_new_tokens=args.max_new_tokens, seed=args.seed,
                probabilities=args.probabilities, sampler=args.sampler,
            )  # fmt: skip
        except InputError as error:
            if args.questions:
                raise
            say(f"rung: {error}", sys.stderr)  # a question that is too long does not end the conversation
            continue
        said.append(as_json(reply, names))
        if args.json != "-":
            show(reply, names)
    if args.json is not None:
        write_document(to_json(said, indent=1) + "\n", args.json)
    return 0


def interview(args: Ask) -> tuple[Interview, tuple[str, str]]:
    """The models that are asked, and what their answers are headed by: (the one beside it, the one that was named)."""
    if args.compare == args.model:
        raise InputError(f"--compare names {args.compare} itself. Name another run or model, or leave it out.")
    if args.sampler not in SAMPLERS:
        raise unknown("sampler", args.sampler, SAMPLERS)
    SAMPLERS[args.sampler].usable()
    talk = replace(Interview.of(args.model, before=args.compare is None, device=args.device), alone=True)
    if args.compare is None:
        return talk, ("before", "now") if talk.before is not None else ("", Path(args.model).name)
    other = Interview.of(args.compare, before=False, device=args.device)
    return replace(talk, before=other.now), (args.compare, args.model)


def typed() -> Iterator[str]:
    """What the user types, a question a line, until an empty line or the end; of a file or pipe, its lines."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
        return
    _edit_lines()
    print("ask a question; an empty line or Ctrl-D ends", file=sys.stderr)
    while True:
        try:
            question = input("? ")
        except EOFError:
            print(file=sys.stderr)
            return
        if not question.strip():
            return
        yield question


def _edit_lines() -> None:
    """Arrow keys and earlier questions, where Python has readline."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return


def as_json(reply: Reply, names: tuple[str, str]) -> dict[str, Any]:
    """A question and its answers, by the names of their models."""
    pairs = zip(names, (reply.before, reply.now), strict=True)
    return {"question": reply.question} | {name: [_plain(a) for a in said] for name, said in pairs if said}


def _plain(answer: Answer) -> dict[str, Any]:
    tokens = [{"text": token.text, "p": token.p} for token in answer.tokens]
    return {"text": answer.text, "stop": answer.stop} | ({"tokens": tokens} if tokens else {})


def show(reply: Reply, names: tuple[str, str]) -> None:
    """The answers side by side, or below each other in a narrow terminal."""
    console = make_rich(sys.stdout)
    console.print(Text(clean(reply.question, console.encoding, lines=True), "bold"), soft_wrap=True)
    sides = [(name, said) for name, said in zip(names, (reply.before, reply.now), strict=True) if said]
    if len(sides) == 2 and console.width >= SIDE_BY_SIDE:
        table = Table(box=SIMPLE_HEAD, expand=True, padding=(0, 1), pad_edge=False)
        for name, _ in sides:
            table.add_column(Text(clean(name, console.encoding)), ratio=1, overflow="fold")
        for row in zip(*(said for _, said in sides), strict=True):
            table.add_row(*(written(answer, console.encoding) for answer in row))
        console.print(table)
        return
    for name, said in sides:
        console.print(Text(clean(name, console.encoding), "dim"))
        for answer in said:
            console.print(written(answer, console.encoding))
    console.print()


def written(answer: Answer, encoding: str) -> Text:
    """The answer; with probabilities each token stands in front of its own: 4(0.98) *(0.99) 7(1.00)."""
    cut = Text(" [cut at the limit of tokens]", "yellow") if answer.stop == "length" else Text()
    if not answer.tokens:
        return Text(clean(answer.text.strip(), encoding, lines=True)).append_text(cut)
    out = Text()
    for token in answer.tokens:
        color = next(color for least, color in SURE if token.p >= least)
        shown = clean(token.text, encoding).replace(" ", "\u2423" if encoding.lower().startswith("utf") else "_")
        out.append(shown, "bold").append(f"({token.p:.2f}) ", color)
    return out.append_text(cut)
