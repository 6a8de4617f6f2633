"""Text and tokens: the only place where one becomes the other, by a model's tokenizer and its chat template."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, TemplateError, meta

from rung.advice import command
from rung.errors import InputError, setting, unknown
from rung.records import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rung.settings.shared import Problems

FEW = 64  # a vocabulary of this size is listed in full
OURS = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}  # not the user's


@dataclass(frozen=True)
class Codec:
    """Prompts to tokens and answers to text, for one model. Who draws, scores or shows answers needs no more of it.

    end_ids: every token that ends an answer.  vocabulary: tokens that the model has embeddings for.  context: tokens of
    the longest row.  options: arguments of the chat template.
    """

    tokenizer: PreTrainedTokenizerBase
    end_ids: frozenset[int]
    vocabulary: int
    context: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chats(self) -> bool:
        """Whether there is a chat template."""
        return bool(self.tokenizer.chat_template)

    def using(self, options: Mapping[str, Any]) -> Codec:
        """The same with these arguments of the chat template (enable_thinking=False); refuses those that it does not read."""
        _refuse_options(self.tokenizer, options)
        return replace(self, options=dict(options))

    def writing(self, asked: Problems) -> Codec:
        """The same, writing prompts as these settings ask for; what the model has no form for is refused by its flag."""
        form = setting("system") if asked.system is not None else setting("chat", True) if asked.chat else None
        if form is not None and not self.chats:
            raise InputError(
                f"{form} makes messages of the problems, but this model's tokenizer has no chat template. Leave it out, or "
                f"use {a_model_that_reads()}."
            )
        return self.using(asked.template_options)

    # -- to tokens
    def encode(self, prompt: Prompt) -> list[int]:
        """Prompt -> token ids: the only place where a chat template is applied, and at most one BOS stands in front."""
        bos = self.tokenizer.bos_token_id
        if isinstance(prompt, str):
            ids = self.ids(prompt, special=True)
            if ids and ids[-1] in self.end_ids and len(ids) > 1:  # tokenizers that close a sequence by themselves
                ids = ids[:-1]
        else:
            ids = self.ids(self.render(prompt, answer=True))
        return ids[1:] if bos is not None and ids[:2] == [bos] * 2 else ids

    def room(self, prompt: Prompt) -> int:
        """Tokens that the context has left behind the prompt."""
        return self.context - len(self.encode(prompt))

    def ids(self, words: str, *, special: bool = False) -> list[int]:
        """Text -> token ids that the model has embeddings for."""
        ids = _to_ids(self.tokenizer, words, special=special)
        if beyond := sorted({i for i in ids if i >= self.vocabulary}):
            names = listed([str(x) for x in self.tokenizer.convert_ids_to_tokens(beyond)])
            raise InputError(
                f"the tokenizer gives {names} the ids {listed(beyond)}, but the model's embedding has only {self.vocabulary} "
                "rows. Resize the embedding (resize_token_embeddings) and save the model, or use its own tokenizer."
            )
        return ids

    def render(self, messages: Sequence[Message], *, answer: bool) -> str:
        """Messages as the chat template writes them; with `answer`, up to where the model goes on.

        After a user's message a turn of the assistant is opened; a last message by the assistant stays open.
        """
        if not self.chats:
            raise InputError(
                "the task's prompts are chat messages, but this model's tokenizer has no chat template. "
                f"Use a task whose prompts are plain text, or {a_model_that_reads()}."
            )
        dicts = [dict(m) for m in messages]
        goes_on = answer and inside(dicts)
        ends: dict[str, Any] = {"continue_final_message": True} if goes_on else {"add_generation_prompt": answer}
        try:
            return str(self.tokenizer.apply_chat_template(dicts, tokenize=False, **ends, **self.options))
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

    def unread(self, prompt: Prompt) -> list[str]:
        """Pieces of the prompt that the tokenizer replaces by its token for the unknown."""
        tok, text = self.tokenizer, prompt if isinstance(prompt, str) else self.render(prompt, answer=True)
        unk = tok.unk_token_id
        if unk is None or not tok.is_fast or str(tok.unk_token) in text:
            return []
        found = tok(text, add_special_tokens=False, return_offsets_mapping=True)
        pieces = [text[a:b] for i, (a, b) in zip(found["input_ids"], found["offset_mapping"], strict=True) if i == unk]
        return list(dict.fromkeys(pieces))

    # -- to text
    def decode(self, tokens: Sequence[int]) -> str:
        """An answer as verifiers, rewards, tools and people read it.

        Only what frames the answer is dropped: padding and begin tokens in front, end tokens and padding behind. Special
        tokens inside stay, for <think>, <answer> and <tool_call> are special tokens of many tokenizers.
        """
        pad, bos = getattr(self.tokenizer, "pad_token_id", None), getattr(self.tokenizer, "bos_token_id", None)
        first, last = 0, len(tokens)
        while last and (tokens[last - 1] in self.end_ids or tokens[last - 1] == pad):
            last -= 1
        while first < last and tokens[first] in (pad, bos):
            first += 1
        return self.whole(tokens[first:last])

    def whole(self, tokens: Sequence[int]) -> str:
        """Every token as text, those that frame a prompt or an answer too."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def save(self, directory: str | Path) -> None:
        """Beside a model that is saved in this directory."""
        self.tokenizer.save_pretrained(directory)


def end_tokens(*sources: Any) -> frozenset[int]:
    """Every end token that a model's configurations and its tokenizer name (eos_token_id)."""
    found: set[int] = set()
    for source in sources:
        value = getattr(source, "eos_token_id", None)
        found |= set(value if isinstance(value, list | tuple) else [value]) - {None}
    if not found:
        raise InputError(
            "the model names no end token (eos_token_id), so no answer could ever end. Set it in generation_config.json."
        )
    if odd := [x for x in found if type(x) is not int or abs(x) >= 2**31]:
        raise InputError(
            f"the model's end token (eos_token_id) {listed(odd)} is no token's id. Set it to a whole number in "
            "generation_config.json."
        )
    return frozenset(found)


def whole_by(file: Path) -> Callable[[Sequence[int]], str]:
    """`Codec.whole` by a tokenizer.json alone: nothing else of a model is read, and nothing of transformers loaded."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return lambda tokens: str(tokenizer.decode(list(tokens), skip_special_tokens=False))


def inside(prompt: Prompt) -> bool:
    """Whether the prompt's last message is the assistant's: the model goes on in it, and no turn is opened."""
    return not isinstance(prompt, str) and bool(prompt) and prompt[-1]["role"] == "assistant"


def begun(prompt: Prompt) -> str:
    """What the prompt has already said for the model. The answer that is judged is this and what the model adds."""
    return prompt[-1]["content"] if inside(prompt) else ""  # type: ignore[index]


def listed(pieces: Sequence[object], most: int = 8) -> str:
    """'a', 'b' and 5 more."""
    more = f" and {len(pieces) - most} more" if len(pieces) > most else ""
    return ", ".join(repr(x) for x in pieces[:most]) + more


# -- pieces --------------------------------------------------------------------------------------------------------
def _to_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
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
            f"in {_short(text)!r}.{known} Give a task or question in letters that this model knows, or {a_model_that_reads()}."
        ) from error


def a_model_that_reads() -> str:
    """One that knows every letter and has a chat template."""
    return f"a model that reads any text and chats, such as {setting('model', 'smollm2')} (`{command('smollm2')}` fetches it)"


def _has_token(tokenizer: PreTrainedTokenizerBase, letter: str) -> bool:
    try:
        tokenizer(letter, add_special_tokens=False)
    except Exception:  # noqa: BLE001  as above: asked only after the whole text has failed
        return False
    return True


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse_options(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> None:
    """Refuse an argument that the chat template does not read: it would change nothing."""
    if not options:
        return
    template = tokenizer.chat_template
    if not template:
        raise InputError(
            f"{setting('template_options.' + next(iter(options)))}: this model's tokenizer has no chat template that "
            "could read it. "
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
