"""`rung data`: what a task's rows become: prompts as the model reads them, golds, the verifier, lengths, what does not fit.

Without --model nothing is known of tokens, and lengths are in characters; with it its tokenizer and chat template are read,
and none of its weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from rung.errors import InputError, setting
from rung.io.files import to_json
from rung.io.held_out import too_few
from rung.io.tables import refuse_target, say_verdict, show, write_document
from rung.io.terminal import counted, say, say_notes
from rung.records import Prompt, Task
from rung.settings.flags import Data
from rung.settings.shared import Problems
from rung.tasks.environments.protocol import Conversational, Environment, Splits, judge_of
from rung.tasks.problems import problems_of
from rung.tasks.sources.mixture_text import is_mixture
from rung.tasks.sources.rows import is_path
from rung.tasks.verify.golds import LEFT_OUT
from rung.tasks.verify.probes import gold_of

if TYPE_CHECKING:
    from rung.text import Codec

MOST = 5_000  # problems of a side that are looked at, evenly spaced
JUDGES_ASKED = 64  # problems that are asked who judges their answers
SHOWN = 600  # characters of a prompt


@dataclass(frozen=True)
class Side:
    """What one side's problems are like. lengths: of prompts, in `unit`, shortest first."""

    name: str
    problems: int
    looked_at: int
    lengths: Sequence[int]
    repeated: int
    without_gold: int
    too_long: int

    def at(self, share: float) -> int | None:
        return self.lengths[round(share * (len(self.lengths) - 1))] if self.lengths else None


@dataclass(frozen=True)
class Inspection:
    """What `rung data` found. read: the prompt as the model reads it, text or the decoded tokens."""

    splits: Splits
    judge: str
    unit: str
    room: int | None  # tokens of the model's context that a prompt may take
    sides: Sequence[Side]
    read: Sequence[tuple[Task, str, str | None]]

    @property
    def words(self) -> str:
        """The verdict."""
        train, held_out = self.sides
        said = f"{counted(train.problems, 'problem')} to train on, {held_out.problems:,} held out; {self.judge}"
        faults = []
        if not train.problems or not held_out.problems:
            faults.append(f"the {'training' if not train.problems else 'held-out'} side is empty")
        if long := train.too_long + held_out.too_long:
            faults.append(
                f"{counted(long, 'prompt')} leave{'s' * (long == 1)} the model no room for an answer "
                f"of {self.splits.max_new_tokens} tokens"
            )
        if any(note.endswith(LEFT_OUT) for note in self.splits.notes):
            faults.append("some gold answers can be equalled by no answer (`rung train` wants them mended or dropped)")
        if train.repeated and train.looked_at == train.problems:
            faults.append(
                f"{counted(train.repeated, 'training problem')} repeat{'s' * (train.repeated == 1)} another one's prompt"
            )
        if bare := train.without_gold + held_out.without_gold:
            faults.append(f"{counted(bare, 'problem')} {'has' if bare == 1 else 'have'} no gold answer")
        if few := too_few(held_out.problems):
            faults.append(few)
        unread = (
            f" Whether a model reads it was not looked at: {setting('model', 'starter')}." if self.room is None else ""
        )
        return (
            f"{self.splits.name}: {said}. "
            + (f"But {', and '.join(faults)}." if faults else "Nothing is in the way.")
            + unread
        )


def run_data(args: Data) -> int:
    """Look, and print or write what was found; exit status 0."""
    refuse_target(args.json)
    found = inspect(args)
    if args.json is not None:
        write_document(to_json(as_json(found), indent=1) + "\n", args.json)
    if args.json == "-":
        return 0
    say_verdict(found.words)
    say_notes(found.splits.notes)
    columns = ("", *(side.name for side in found.sides))
    show("", columns, [[name, *values] for name, *values in _table(found)])
    for task, text, gold in found.read[: args.problems]:
        cut = text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text) - SHOWN} characters more)"
        say(f"--- {task.id}\n{cut}\n--- gold: {gold if gold is not None else 'none'}\n")
    return 0


def inspect(args: Data) -> Inspection:
    """The task as a run would have it, looked at problem by problem."""
    splits = problems_of(_lenient(args))
    if isinstance(splits.train, Conversational):
        raise InputError(
            f"{splits.name} is held in conversations, which begin only when a model answers. See docs/environments.md."
        )
    codec = None if args.model is None else _codec(args.model, args)
    if codec is not None:
        splits = _as_trained(splits, codec)
    room = None if codec is None else codec.context - splits.max_new_tokens

    def length(prompt: Prompt) -> int:
        return len(plain(prompt)) if codec is None else len(codec.encode(prompt))

    sides = [look(name, env, length, room) for name, env in (("training", splits.train), ("held out", splits.eval))]
    judge = judged_by(splits.train)
    first = [splits.train[i] for i in range(min(args.problems, len(splits.train)))]
    read = [
        (t, plain(t.prompt) if codec is None else codec.whole(codec.encode(t.prompt)), gold_of(splits.train, t))
        for t in first
    ]
    return Inspection(splits, judge, "characters" if codec is None else "tokens", room, sides, read)


def _as_trained(splits: Splits, codec: Codec) -> Splits:
    """With the answers' limit that a run would have, and what it would say of the prompts' letters."""
    from rung.training.defaults import shortened
    from rung.training.setup import unread_letters

    unread = unread_letters(codec, splits.train, splits.eval)
    splits = shortened(splits, codec)
    return splits if unread is None else replace(splits, notes=(*splits.notes, unread))


def _lenient(args: Data) -> Data:
    """Golds that no answer can equal are left out and told, and not refused: this is where one comes to see them."""
    rows = args.task == "gsm8k" or args.task.startswith("hf:") or (is_path(args.task) and not is_mixture(args.task))
    if not rows or args.environment is not None:
        return args
    return replace(args, task_options={"drop_unverifiable": True, **args.task_options})


def look(name: str, env: Environment, length: Callable[[Prompt], int], room: int | None) -> Side:
    """Every problem of a side, or MOST of them evenly spaced."""
    step = max(1, -(-len(env) // MOST))
    tasks = [env[i] for i in range(0, len(env), step)]
    lengths = sorted(length(task.prompt) for task in tasks)
    times = Counter(plain(task.prompt) for task in tasks)
    return Side(
        name, len(env), len(tasks), lengths, sum(n - 1 for n in times.values()),
        sum(judge_of(env, task).needs_gold and gold_of(env, task) is None for task in tasks),
        0 if room is None else sum(n > room for n in lengths),
    )  # fmt: skip


def judged_by(env: Environment) -> str:
    """Who judges the answers to the first problems, in words: of a mixture they may be several."""
    tasks = [env[i] for i in range(min(JUDGES_ASKED, len(env)))]
    return "; ".join(dict.fromkeys(judge_of(env, task).words for task in tasks))


def _codec(name: str, asked: Problems) -> Codec:
    """The model's, without its weights."""
    from rung.plan.memory import sketch
    from rung.training.setup import locate

    return sketch(locate(name), "float32").codec.writing(asked)


def plain(prompt: Prompt) -> str:
    """The prompt as text; of messages each with its role."""
    return prompt if isinstance(prompt, str) else "\n".join(f"[{m['role']}] {m['content']}" for m in prompt)


def _table(found: Inspection) -> list[tuple[Any, ...]]:
    def row(name: str, value: Callable[[Side], Any]) -> tuple[Any, ...]:
        return (name, *(value(side) for side in found.sides))

    rows = [row("problems", lambda s: s.problems)]
    if any(side.looked_at < side.problems for side in found.sides):
        rows.append(row("looked at", lambda s: s.looked_at))
    rows += [
        row(f"shortest prompt, {found.unit}", lambda s: s.at(0.0)),
        row("median", lambda s: median(s.lengths) if s.lengths else None),
        row("95 % are no longer than", lambda s: s.at(0.95)),
        row("longest", lambda s: s.at(1.0)),
        row("repeated prompts", lambda s: s.repeated),
    ]
    if found.room is not None:
        longer = f"longer than {found.room}: " if found.room > 0 else ""
        rows.append(row(f"{longer}no room for an answer", lambda s: s.too_long))
    return rows


def as_json(found: Inspection) -> dict[str, Any]:
    """Everything that is printed."""
    sides = [
        {
            "side": s.name, "problems": s.problems, "looked_at": s.looked_at, "shortest": s.at(0.0), "longest": s.at(1.0),
            "median": median(s.lengths) if s.lengths else None, "at_95": s.at(0.95), "repeated": s.repeated,
            "without_gold": s.without_gold, "too_long": s.too_long,
        }
        for s in found.sides
    ]  # fmt: skip
    first = [{"id": task.id, "prompt": text, "gold": gold} for task, text, gold in found.read]
    return {
        "verdict": found.words, "task": found.splits.name, "judge": found.judge, "unit": found.unit, "sides": sides,
        "max_new_tokens": found.splits.max_new_tokens, "notes": list(found.splits.notes), "first": first,
    }  # fmt: skip
