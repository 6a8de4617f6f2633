"""Where transformers fails on a model: whether its files are the cause, known by looking at them and by a sound one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from rung.errors import InputError
from rung.network.place import Place, unusable

SAID = 400  # characters of another library's message


@contextmanager
def reading(name: str, where: Place, verb: str = "loaded") -> Iterator[None]:
    """Inside, transformers reads the model: what is the fault of its name or its files is refused, all else goes on as it is."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        why = _why(error, where)
        if why is None:
            raise
        raise InputError(f"model {name!r} could not be {verb}: {why}") from error


def refuse_missing(name: str, info: Mapping[str, Any]) -> None:
    """Refuse weights that are not in the files: transformers would make them up, at random."""
    lacking = sorted(map(str, info.get("missing_keys", ())))
    if lacking:
        more = f" and {len(lacking) - 3:,} more" if len(lacking) > 3 else ""
        raise InputError(
            f"model {name!r}: its files lack the weights {', '.join(lacking[:3])}{more}, which would be random numbers. Bring the "
            "whole model back from a copy, or fetch it again."
        )


def _why(error: Exception, where: Place) -> str | None:
    """None: the cause is another one, or not known."""
    if isinstance(error, OSError | ValueError | ImportError) and (said := unusable(error)):
        return said
    source = Path(str(where.model["pretrained_model_name_or_path"]))
    ours = isinstance(error, MemoryError) or (isinstance(error, ImportError) and error.name is not None)
    if ours or not source.is_dir():
        return None
    if isinstance(error, OSError):  # of the operating system
        at = Path(str(error.filename or ""))
        return f"{at} cannot be read ({error.strerror})." if at.is_relative_to(source) else None
    copy = "Bring it back from a copy, or fetch the model again."
    for folder in dict.fromkeys((source, Path(str(where.tokenizer["pretrained_model_name_or_path"])), *where.adapters)):
        if (file := _unreadable(folder)) is not None:
            return f"{file} is damaged. {copy}"
    if where.adapters or not _sound_one_is_read():
        return None
    said = " ".join(f"{type(error).__name__}: {error}".split())[:SAID]
    return f"its files make transformers {transformers.__version__} fail ({said}), so they are damaged, or not for it. {copy}"


def _unreadable(folder: Path) -> str | None:
    """The first of a model's files that is not what its name says, and why."""
    for file in sorted(folder.glob("*.json")):
        try:
            if not isinstance(json.loads(file.read_text(encoding="utf-8")), dict):
                return f"{file} (no JSON object)"
            if file.name == "tokenizer.json":
                Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001  what tokenizers raises has no class of its own; it is said
            return f"{file} ({' '.join(str(error).split())[:SAID]})"
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{file} ({error})"
    return None


def _sound_one_is_read() -> bool:
    """Whether the readers take a model that is whole: then what they refuse is at fault, and not they."""
    words = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    shape = dict.fromkeys(
        ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"), 2
    )
    try:
        with tempfile.TemporaryDirectory(prefix="rung-scratch-") as folder:
            PreTrainedTokenizerFast(tokenizer_object=words, eos_token="b").save_pretrained(folder)
            AutoModelForCausalLM.from_config(
                LlamaConfig(**shape, bos_token_id=None, eos_token_id=None)
            ).save_pretrained(folder)
            AutoTokenizer.from_pretrained(folder)
            AutoConfig.from_pretrained(folder)
            AutoModelForCausalLM.from_pretrained(folder)
    except Exception:  # noqa: BLE001  whatever it is: not this model's files
        return False
    return True
