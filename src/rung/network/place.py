"""Where a model lies: a directory, a GGUF file, an adapter's base, or a hub id. A path without a model is one message."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rung.advice import need
from rung.errors import InputError
from rung.settings.paths import path_of

ADAPTER = "adapter_config.json"
UNUSABLE = (  # parts of the messages in which transformers says what is wrong with a model
    *("does not recognize this architecture", "Unrecognized model", "Unrecognized configuration class"),
    *("trust_remote_code", "Couldn't instantiate the backend tokenizer", "GGUF"),
)


@dataclass(frozen=True)
class Place:
    """Arguments of `from_pretrained` for the model and for its tokenizer, and the adapters on it, the first one innermost."""

    model: dict[str, Any]
    tokenizer: dict[str, Any]
    adapters: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """Where all of it can be found again: a path or a hub id."""
        return str(self.adapters[-1]) if self.adapters else "/".join(str(x) for x in self.model.values())


def place(name: str) -> Place:
    """A directory, a GGUF file or a hub id; a path that is none of them is refused."""
    path = path_of(name)
    if path.suffix == ".gguf":
        return _gguf(path)
    if not path.exists():
        return _hub(name, path)
    if (path / ADAPTER).is_file():
        return _adapter(path.resolve())
    if not (path / "config.json").is_file():
        what = "is a file" if path.is_file() else "holds no model (no config.json)"
        found = [p for p in _inside(path) if (p / "config.json").is_file() or (p / "config.toml").is_file()]
        hint = f" Models in it: {', '.join(p.name for p in found[-8:])}." if found else ""
        raise InputError(
            f"model {name!r}: that {what}.{hint} Give a run, a directory with a Hugging Face model, a .gguf file, or a hub id."
        )
    return _whole(str(path.resolve()))


def _whole(name: str) -> Place:
    arguments = {"pretrained_model_name_or_path": name}
    return Place(arguments, arguments)


def _hub(name: str, path: Path) -> Place:
    """A hub id is NAME or OWNER/NAME; what begins like a path, or in a directory that is here, was meant as a path."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or (name.count("/") == 1 and path.parent.is_dir()):
        near = get_close_matches(path.name, [p.name for p in _inside(path.parent)], n=1, cutoff=0.6)
        hint = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
        raise InputError(
            f"model {name!r}: there is no such directory.{hint} Give a run, a directory with a Hugging Face model, or a hub id."
        )
    return _whole(name)


def _inside(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _adapter(folder: Path) -> Place:
    """The model that an adapter was trained on, and the adapter."""
    need(f"the LoRA adapter {folder}", "peft")
    base = _base(folder / ADAPTER)
    try:
        whole = place(base)
    except InputError as error:
        raise InputError(f"{folder} is a LoRA adapter, and its base model is missing. {error}") from error
    own = {"pretrained_model_name_or_path": str(folder)}
    tokenizer = own if (folder / "tokenizer_config.json").is_file() else whole.tokenizer
    return Place(whole.model, tokenizer, (*whole.adapters, folder))


def _base(file: Path) -> str:
    """The name of the model that an adapter's configuration says it was trained on."""
    try:
        said = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read: {error}. Bring it back from a copy.") from error
    base = said.get("base_model_name_or_path") if isinstance(said, dict) else None
    if not isinstance(base, str) or not base or path_of(base).resolve() == file.parent:
        raise InputError(f"{file} names no base model (base_model_name_or_path). Write its directory there.")
    return base


def _gguf(path: Path) -> Place:
    """A local GGUF file as transformers wants it: a directory and a name. Its weights are dequantized when they are read."""
    if not path.is_file():
        raise InputError(f"model {path}: there is no such file. Give the path of a GGUF file.")
    need(f"the GGUF file {path}", "gguf", "accelerate")
    arguments = {"pretrained_model_name_or_path": str(path.parent.resolve()), "gguf_file": path.name}
    return Place(arguments, arguments)


def unusable(error: OSError | ValueError | ImportError) -> str | None:
    """What transformers says to be wrong with the model that was named, and what to do; None for any other error."""
    said = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno is None:  # its own; one of the operating system's has a number
        return (
            f"{said} Give 'starter', 'smollm2', a run, a directory with a Hugging Face model (config.json, weights, tokenizer), "
            "or a hub id that this machine can reach."
        )
    missing = (
        isinstance(error, ImportError) and error.name is None
    )  # with a name it is Python's, and something is broken
    return said if missing or any(words in said for words in UNUSABLE) else None
