"""Words around a task's problems: a template for plain text, a user's message of it, a system message before it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rung.errors import InputError, setting
from rung.records import Prompt, Task
from rung.settings.shared import Problems
from rung.tasks.environments.protocol import Conversational, Environment, Splits
from rung.tasks.environments.wrapper import Wrapper

SLOT = "{prompt}"
LOOKED_AT = 64  # problems of each side, before anything is said about all of them


@dataclass(frozen=True)
class Wording:
    """text -> template with the text in it -> one message of the user (chat, or system) -> a system message before it."""

    system: str | None = None
    chat: bool = False
    template: str | None = None

    def __post_init__(self) -> None:
        if self.template is not None and SLOT not in self.template:
            raise InputError(
                f"{setting('prompt_template', self.template)} has no place for the problem. Write {SLOT} where it belongs, as in "
                f"'Question: {SLOT} Answer:'."
            )

    def __bool__(self) -> bool:
        return self != Wording()

    def of(self, prompt: Prompt) -> Prompt:
        """The problem as it is asked."""
        if isinstance(prompt, str):
            text = prompt if self.template is None else self.template.replace(SLOT, prompt)
            if not (self.chat or self.system is not None):
                return text
            prompt = [{"role": "user", "content": text}]
        if self.system is None:
            return prompt
        rest = prompt[1:] if prompt and prompt[0]["role"] == "system" else prompt
        return [{"role": "system", "content": self.system}, *rest]


@dataclass(frozen=True)
class WordedTask(Task):
    """A problem in other words. `own`: the prompt as its environment wrote it."""

    own: Prompt = ""


class Worded(Wrapper):
    """The problems of an environment in other words; everything else is the environment's own.

    What judges an answer reads what the model read; what computes from the problem itself gets the problem itself.
    """

    def __init__(self, environment: Environment, wording: Wording) -> None:
        self.environment, self.wording = environment, wording

    def __getitem__(self, index: int) -> Task:
        task = super().__getitem__(index)
        return WordedTask(task.id, self.wording.of(task.prompt), task.data, task.prompt)

    def own(self, task: Task) -> Task:
        return Task(task.id, task.own, task.data) if isinstance(task, WordedTask) else task


def wording_of(settings: Problems) -> Wording:
    return Wording(settings.system, settings.chat is True, settings.prompt_template)


def worded(splits: Splits, wording: Wording) -> Splits:
    """The problems in these words, with a note that says what was done; words that would change nothing are refused."""
    if not wording:
        return splits
    if isinstance(splits.train, Conversational):
        raise refused(wording, splits.name)
    sides = (splits.train, splits.eval)
    first = [env[i] for env in sides for i in range(min(len(env), LOOKED_AT))]
    messages = next((task for task in first if not isinstance(task.prompt, str)), None)
    if wording.template is not None and messages is not None:
        raise InputError(
            f"{setting('prompt_template')} puts words around plain text, and {messages.id} is a list of messages. Leave it out; "
            f"{setting('task_options.instruction')} adds a sentence to rows of either kind."
        )
    if wording.chat and messages is not None and all(not isinstance(task.prompt, str) for task in first):
        raise InputError(
            f"{setting('chat', True)} has no use for {splits.name}, whose problems are messages already. Leave it out."
        )
    train, held_out = (Worded(env, wording) for env in sides)
    return replace(splits, train=train, eval=held_out, notes=(*splits.notes, _note(wording, first)))


def refused(wording: Wording, what: str) -> InputError:
    """Of an environment that asks in its own words."""
    name = "system" if wording.system is not None else "chat" if wording.chat else "prompt_template"
    return InputError(
        f"{setting(name)} has no use for the environment {what}, which says itself what is asked. Leave it out."
    )


def _note(wording: Wording, first: list[Task]) -> str:
    said = []
    if wording.template is not None:
        said.append(f"each problem stands in {wording.template!r}")
    if any(isinstance(task.prompt, str) for task in first) and (wording.chat or wording.system is not None):
        said.append("each problem of plain text is one message of the user")
    if wording.system is not None:
        own = any(not isinstance(t.prompt, str) and t.prompt and t.prompt[0]["role"] == "system" for t in first)
        said.append(
            f"the system message of {setting('system')} stands "
            + ("in place of the rows' own" if own else "before each")
        )
    return "; ".join(said)
