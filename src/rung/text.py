"""Between text and tokens: what a tokenizer cannot read, how a chat template begins an answer, and an answer as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, TemplateError, meta
from transformers import PreTrainedTokenizerBase

from rung.advice import command
from rung.errors import InputError, unknown
from rung.records import Message, Prompt

FEW = 64  # a vocabulary of this size is listed in full
OURS = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}  # not the user's


def to_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    """Text -> token ids. Letters for which the tokenizer has neither a token nor a stand-in are refused by name."""
    try:
        return list(tokenizer(text, add_special_tokens=special)["input_ids"])
    except Exception as error:  # what tokenizers raise has no class of its own; another cause goes on as it is
        letters = [c for c in dict.fromkeys(text) if not _has_token(tokenizer, c)]
        if not letters:
            raise
        known = f" It knows only {' '.join(sorted(tokenizer.get_vocab()))}." if len(tokenizer) <= FEW else ""
        raise InputError(
            f"the model's tokenizer ({tokenizer.name_or_path or type(tokenizer).__name__}) has no token for {listed(letters)} "
            f"in {_short(text)!r}.{known} Use a task that this model can read, or {a_model_that_reads()}."
        ) from error


def a_model_that_reads() -> str:
    """One that knows every letter and has a chat template."""
    return f"a model that reads any text and chats, such as --model smollm2 (`{command('smollm2')}` fetches it)"


def refuse_chat(tokenizer: PreTrainedTokenizerBase, chat: bool | None, system: str | None) -> None:
    """Refuse flags that make messages of problems, for a model that has no form for messages."""
    flag = "--system" if system is not None else "--chat" if chat else None
    if flag is not None and not tokenizer.chat_template:
        raise InputError(
            f"{flag} makes messages of the problems, but this model's tokenizer has no chat template. Leave it out, or use "
            f"{a_model_that_reads()}."
        )


def _has_token(tokenizer: PreTrainedTokenizerBase, letter: str) -> bool:
    try:
        tokenizer(letter, add_special_tokens=False)
    except Exception:  # noqa: BLE001  as above: asked only after the whole text has failed
        return False
    return True


def unread(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Pieces of the text that the tokenizer replaces by its token for the unknown."""
    unk = tokenizer.unk_token_id
    if unk is None or not tokenizer.is_fast or str(tokenizer.unk_token) in text:
        return []
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pieces = [text[a:b] for i, (a, b) in zip(found["input_ids"], found["offset_mapping"], strict=True) if i == unk]
    return list(dict.fromkeys(pieces))


def listed(pieces: Sequence[object], most: int = 8) -> str:
    """'a', 'b' and 5 more."""
    more = f" and {len(pieces) - most} more" if len(pieces) > most else ""
    return ", ".join(repr(x) for x in pieces[:most]) + more


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def inside(prompt: Prompt) -> bool:
    """Whether the prompt's last message is the assistant's: the model goes on in it, and no turn is opened."""
    return not isinstance(prompt, str) and bool(prompt) and prompt[-1]["role"] == "assistant"


def begun(prompt: Prompt) -> str:
    """What the prompt has already said for the model. The answer that is judged is this and what the model adds."""
    return prompt[-1]["content"] if inside(prompt) else ""  # type: ignore[index]


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], options: Mapping[str, Any], *, answer: bool
) -> str:
    """Messages as the chat template writes them; with `answer`, up to where the model goes on.

    After a user's message a turn of the assistant is opened; a last message by the assistant stays open.
    """
    dicts = [dict(m) for m in messages]
    goes_on = answer and inside(dicts)
    ends: dict[str, Any] = {"continue_final_message": True} if goes_on else {"add_generation_prompt": answer}
    try:
        return str(tokenizer.apply_chat_template(dicts, tokenize=False, **ends, **options))
    except TemplateError as error:
        roles = ", ".join(dict.fromkeys(m["role"] for m in dicts))
        raise InputError(f"the model's chat template refuses messages of the roles {roles}: {error}") from error
    except ValueError as error:
        if not goes_on or "continue_final_message" not in str(error):
            raise
        raise InputError(
            "the prompt ends with a message by the assistant, which the model should continue, but its chat template changes "
            f"or drops that message ({_short(dicts[-1]['content'])!r}). End the prompt with the user's message."
        ) from error


def check_options(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> None:
    """Refuse an argument that the chat template does not read: it would change nothing."""
    if not options:
        return
    template = tokenizer.chat_template
    if not template:
        raise InputError(
            f"--template-options.{next(iter(options))}: this model's tokenizer has no chat template that could read it. "
            "Leave it out."
        )
    read = _variables(template)
    for name in options:
        if name not in read:
            raise unknown("argument of the model's chat template", name, read or {"none at all"})


def _variables(template: str) -> set[str]:
    """Names that the template reads and that are not handed to it anyway."""
    plain = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)  # transformers' own marks
    names = meta.find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain))
    return {name for name in names if name not in OURS and not name.endswith("_token")}


def to_text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], ends: frozenset[int]) -> str:
    """An answer as verifiers, rewards, tools and people read it.

    Only what frames the answer is dropped: padding and begin tokens in front, end tokens and padding behind. Special
    tokens inside stay, for <think>, <answer> and <tool_call> are special tokens of many tokenizers.
    """
    pad, bos = getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "bos_token_id", None)
    first, last = 0, len(tokens)
    while last and (tokens[last - 1] in ends or tokens[last - 1] == pad):
        last -= 1
    while first < last and tokens[first] in (pad, bos):
        first += 1
    return str(tokenizer.decode(list(tokens[first:last]), skip_special_tokens=False))
