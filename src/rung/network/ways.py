"""How a model is run: each way is tried when the model is loaded (probe.py), and the fastest that agrees is taken.

A few dozen tokens decide. A difference that begins beyond them, such as a window that is wider, is not seen here;
docs/models.md measures those for each kind of model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from rung.errors import InputError, setting
from rung.kernels.llama_step import fits
from rung.kernels.replay import untried
from rung.network.probe import decoded, goes_on, reference, trained

if TYPE_CHECKING:
    from rung.network.model import Model

Way = Literal["packed", "cache", "state", "even", "whole"]
# The way, whether rows that have ended are taken out, whether `LlamaStep` runs.
WAYS: tuple[tuple[Way, bool, bool], ...] = (
    ("packed", True, True),
    ("packed", True, False),
    ("cache", True, False),
    ("cache", False, False),
    ("state", True, False),
    ("state", False, False),
    ("even", True, False),
    ("even", False, False),
    ("whole", True, False),
)


def settle(model: Model) -> None:
    """Choose the ways of `model`. One whose own padded forward does not serve either is refused."""
    try:
        probe = reference(model)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise InputError(
            f"{type(model.hf).__name__} does not run on tokens alone in {model.hf.dtype} ({type(error).__name__}: {error}). Use a "
            f"causal language model, or another {setting('dtype')}."
        ) from error
    why: dict[str, str] = {}
    padded = replace(model, packs=False)
    model.packs = probe.plain and _agrees(lambda: trained(replace(model, packs=True), probe), why, "packed")
    if not model.packs and not _agrees(lambda: trained(padded, probe), why, "padded"):
        raise _refused(model, why["padded"])
    for way, compacts, steps in WAYS:
        if way == "packed" and not (probe.plain and (fits(model.hf) or not steps)):
            continue
        model.decodes, model.compacts, model.short_steps = way, compacts, steps
        if _agrees(lambda: decoded(model, probe), why, way):
            model.slow = _slow(model, why)
            model.keeps = _agrees(lambda: goes_on(model, probe), why, "kept")
            if way == "packed" and model.device.type == "cuda":
                with untried(model.device):
                    model.replays = _agrees(lambda: decoded(replace(model, replays=True), probe), why, "replayed")
            return
    raise _refused(model, why["whole"])


def _agrees(measure: Callable[[], str], why: dict[str, str], name: str) -> bool:
    """Whether a way works and is near enough; if not, `why` says how it failed."""
    try:
        why[name] = measure()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001  models of all makers fail in all manners; the reason is kept
        why[name] = f"{type(error).__name__}: {error}"
    return not why[name]


def _slow(model: Model, why: dict[str, str]) -> str | None:
    """What people should know."""
    kind = type(model.hf).__name__
    if model.decodes == "whole":
        return (
            f"{kind} is sampled by a forward over the whole row for each token, which is slow; its own memory does not give the "
            f"same: {why['even']}"
        )
    if model.decodes == "even":
        return (
            f"{kind} is sampled for prompts of one length at a time, which is slow where many lengths meet; padded, it does not "
            f"give the same: {why['state']}"
        )
    return None


def _refused(model: Model, reason: str) -> InputError:
    return InputError(
        f"{type(model.hf).__name__} cannot be trained: over padded rows, or over a row's first tokens alone, its own forward does "
        f"not give what it gives over the row ({reason}). Use a causal language model that reads from left to right."
    )
