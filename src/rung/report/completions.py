"""A sample of a run's answers, with what is stored of each token, small enough to stand in one HTML file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zstandard

from rung.io.answers import looked_at
from rung.io.checkpoints import damage
from rung.io.files import readable
from rung.io.run_dir import RunDir
from rung.text import whole_by

STEPS = 40  # files of rollouts that are read, spread evenly over the run
EVALUATIONS = 6
HEAD, TAIL = 700, 300  # tokens shown of an answer that is longer
CONTEXT = 8  # tokens before one that its text may depend on
LEAST = 900  # bytes that a short answer counts: a few thousand answers are enough to read, and quick to draw
TEXT = 6000  # characters shown of a prompt or of an answer without tokens

Pieces = Callable[[Sequence[int]], list[str]]


def collect_completions(run: RunDir, budget: int, binary: bool) -> dict[str, Any]:
    """{"prompts", "rows", "shown", "total", "steps", "pieces"} in about `budget` bytes of JSON.

    binary: an answer is right or wrong.
    Whole groups (all answers to one prompt), the same number of bytes from each step that is read. A quarter of the
    budget goes to the answers to held-out problems, the same problems at every evaluation.
    """
    pieces = tokenizer(run)
    out = _Sample(pieces, binary)
    evaluations = sorted((run.path / "evaluations").glob("step_*.jsonl"))
    steps = run.rollout_steps()
    share = budget // 4 if steps else budget
    chosen = _spread(evaluations, EVALUATIONS)
    for path in chosen:
        out.add(stored_lines(path), "held-out", int(path.stem.removeprefix("step_")), share // len(chosen))
    left = budget - out.size
    read = _spread(steps, STEPS)
    for i, step in enumerate(read):
        rows = run.read_rollouts(step)
        with readable(_rollout_path(run, step)):
            looked_at(rows)
        out.add(rows, "training", step, max(0, left - out.spent) // (len(read) - i))
    for row in out.rows:
        if row["k"] in out.graded:  # a task may pay training and held-out answers on different scales
            row.pop("w", None)
    out.rows.sort(key=lambda row: (row["k"], row["s"]))
    unread = [_rollout_path(run, step) for step in steps if step not in set(read)]
    unread += [path for path in evaluations if path not in set(chosen)]
    return {
        "prompts": list(out.prompts),
        "rows": out.rows,
        "shown": len(out.rows),
        "total": out.seen + sum(map(_count, unread)),
        "steps": len(steps),
        "pieces": pieces is not None,
        "stored": sorted({key for row in out.rows for key in ("ad", "lp", "ra", "u", "v") if key in row}),
    }


class _Sample:
    """Rows for the page. Their short keys are explained in report.js, the only reader."""

    def __init__(self, pieces: Pieces | None, binary: bool) -> None:
        self.binary, self.pieces, self.rows, self.prompts = binary, pieces, list[dict[str, Any]](), dict[str, int]()
        self.size = self.spent = self.seen = 0
        self.graded = set[int]()  # training (0) or held-out (1): some answer was paid something else than 0 and 1

    def add(self, answers: list[dict[str, Any]], kind: str, step: int, budget: int) -> None:
        """Whole groups in their order, until `budget` bytes are used; at least one group."""
        used, group = 0, None
        self.seen += len(answers)
        for answer in answers:
            key = answer.get("group", answer.get("task"))
            if key != group and used >= budget and used:
                break
            group = key
            row = self._row(answer, kind, step)
            self.rows.append(row)
            used += max(len(json.dumps(row)), LEAST) + 1
        self.size += used
        self.spent += used if kind == "training" else 0

    def _row(self, a: dict[str, Any], kind: str, step: int) -> dict[str, Any]:
        prompt = prompt_text(a.get("prompt"))
        reward, parts = a.get("reward"), a.get("rewards") or {}
        row: dict[str, Any] = {
            "k": 0 if kind == "training" else 1,
            "s": step,
            "p": self.prompts.setdefault(prompt, len(self.prompts)),
            "r": reward,
            "stop": a.get("stop"),
        }
        if self.binary and reward is not None:
            earned = reward - parts.get("overlong", 0.0)
            row["w"] = earned > 0.5  # 1 or 0, whatever its length costs
            if min(abs(earned), abs(earned - 1)) > 1e-9:
                self.graded.add(row["k"])
        if "group" in a:
            row["g"] = a["group"]
        if len(parts) > 1:
            row["rs"] = parts
        tokens = a.get("tokens")
        if tokens is None or self.pieces is None:
            row["a"] = _short(str(a.get("answer", "")))
        if tokens is not None:
            row["n"] = len(tokens)
            keep = _window(len(tokens))
            if self.pieces is not None:
                row["t"] = _shown(self.pieces, tokens)
            row |= {"cut": len(tokens) - len(keep)} if len(keep) < len(tokens) else {}
            row |= _per_token(a, keep)
        return row


def _rounded(x: float | None, digits: int) -> float | None:
    """None: it was NaN."""
    return None if x is None else round(x, digits)


def _per_token(a: dict[str, Any], keep: Sequence[int]) -> dict[str, Any]:
    """What is stored of each token; one number where it is the same for all."""
    out: dict[str, Any] = {}
    if adv := a.get("advantages"):
        values = [_rounded(adv[i], 3) for i in keep]
        out["ad"] = values[0] if len(set(values)) == 1 else values
    if logp := a.get("logp"):
        out["lp"] = [_rounded(logp[i], 2) for i in keep]
    if (ref := a.get("ref_logp")) and logp:
        pairs = [(logp[i], ref[i]) for i in keep]
        out["u"] = [None if p is None or r is None else round(p - r, 3) for p, r in pairs]
    if expected := a.get("values"):
        out["v"] = [_rounded(expected[i], 3) for i in keep]
    if ratios := a.get("ratios"):
        out["ra"] = [ratios[i] for i in keep]
        if any(clipped := [a["clipped"][i] for i in keep]):
            out["cl"] = clipped
    return out


def _shown(pieces: Pieces, tokens: Sequence[int]) -> list[str]:
    """The pieces of the tokens in the window, at a cost that does not grow with the answer."""
    if len(tokens) <= HEAD + TAIL:
        return pieces(tokens)
    return [*pieces(tokens[: HEAD + CONTEXT])[:HEAD], *pieces(tokens[-TAIL - CONTEXT :])[CONTEXT:]]


def _window(n: int) -> Sequence[int]:
    return range(n) if n <= HEAD + TAIL else [*range(HEAD), *range(n - TAIL, n)]


def prompt_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return _short(prompt)
    if isinstance(prompt, list):
        return _short("\n\n".join(f"{m.get('role', '')}: {m.get('content', '')}" for m in prompt))
    return ""


def _short(text: str) -> str:
    """Head and tail of a long text."""
    if len(text) <= TEXT:
        return text
    left_out = len(text) - TEXT
    return f"{text[: TEXT * 2 // 3]}\n[… {left_out:,} characters left out …]\n{text[-TEXT // 3 :]}"


def tokenizer(run: RunDir) -> Pieces | None:
    """Token ids to the text that each one adds, by the tokenizer of the run's newest checkpoint; None without one."""
    checkpoint = run.latest_checkpoint()
    path = checkpoint / "tokenizer.json" if checkpoint else None
    if checkpoint is None or path is None or not path.is_file() or damage(checkpoint, only=(path.name,)):
        return None
    decode = whole_by(path)
    return lambda ids: token_pieces(decode, ids)


def token_pieces(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> list[str]:
    """The text that each token adds. A character of several tokens stands at its last one, the others are empty.

    A token's text depends on the few before it alone: a character has at most four bytes, thus at most four tokens.
    """
    out, last = [], len(ids) - 1
    for i in range(len(ids)):
        start = max(0, i - CONTEXT)
        before, now = _settled(decode(ids[start:i])), decode(ids[start : i + 1])
        out.append((now if i == last else _settled(now))[len(before) :])
    return out


def _settled(text: str) -> str:
    """Without what may be the first bytes of a character: a replacement sign for each of them, or one for all."""
    for _ in range(3):
        text = text.removesuffix("\ufffd")
    return text


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _rollout_path(run: RunDir, step: int) -> Path:
    return run.path / "rollouts" / f"step_{step:06d}.jsonl.zst"


def stored_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of an evaluation; a torn last line of a killed run is left out."""
    with readable(path):
        lines, out = path.read_bytes().splitlines(), []
        for number, line in enumerate(lines, 1):
            try:
                out.append(json.loads(line))
            except (ValueError, RecursionError):
                if number < len(lines):
                    raise
        return looked_at(out)


def _count(path: Path) -> int:
    if path.suffix != ".zst":
        with readable(path):
            return path.read_bytes().count(b"\n")
    with readable(path), path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
