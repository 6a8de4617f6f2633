"""Flags of `rung eval` and `rung verify`; here and not beside their code, so that the command line starts without torch.

Both also take --task-options.NAME VALUE, which cli.py reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional, Suppress


@dataclass(frozen=True)
class Eval:
    """Accuracy of a model or run on held-out problems: mean@k, pass@k, maj@k with 95 % intervals; two models side by side."""

    model: Positional[str]
    """a run's directory, starter, smollm2, a model's directory, or a hub id"""
    compare: str | None = None
    """a second model or run: the same problems, and the paired difference (first minus second)"""
    spec: Path | None = None
    """a stored .spec.json: evaluate exactly as it says; no other setting may be given"""
    task: str | None = None
    """what `rung train --task` takes; a run knows its own"""
    task_path: Path | None = None
    """data of a task that has none of its own (gsm8k)"""
    task_options: Suppress[dict[str, Any]] = field(default_factory=dict)
    split: str | None = None
    """eval (default) or train"""
    problems: int | None = None
    """default: 256, or as many as there are"""
    samples: int | None = None
    """answers per problem (default: 1)"""
    temperature: float | None = None
    """default: 1; 0 is greedy"""
    top_p: float | None = None
    top_k: int | None = None
    max_new_tokens: int | None = None
    """default: the task's"""
    seed: int | None = None
    out: Path | None = None
    """every answer, to this new .jsonl file (default: RUN/evaluations/eval-N.jsonl); the .spec.json stands beside it"""
    json: str | None = None
    """write the table as JSON to this file, or - for standard output"""


@dataclass(frozen=True)
class Verify:
    """A task's verifier on gold, corrupted and adversarial answers: false accepts (exit status 1), false rejects, time."""

    task: str
    """what `rung train --task` takes"""
    task_path: Path | None = None
    """data of a task that has none of its own (gsm8k)"""
    reward: str | None = None
    """FILE.py:NAME, reward functions instead of the task's verifier"""
    verifier: str = "auto"
    """for tasks from rows: auto, exact, numeric, choice, math or code"""
    prompt_column: str = "prompt"
    answer_column: str = "answer"
    task_options: Suppress[dict[str, Any]] = field(default_factory=dict)
    problems: int = 10
    all: bool = False
    """print every case, not only those with mistakes"""
    json: str | None = None
    """write the table as JSON to this file, or - for standard output"""
