"""One-token mistakes, each of which the tests must catch. They stand in mutants.txt.

    python tests/mutants/mutants.py [--jobs 2] [--only TEXT] [--list] [--independent]

Each mutant is a copy of src/ with one piece of text replaced; the tests that look at that file run against the copy
until the first failure. A mutant that no test fails has survived: a hole in the tests. Exits with 1 if one did, or if
its text is no longer found. A child is forked for each mutant, so that torch is imported only once.

With --independent ten of them, one in each part of the mathematics (or those that --only names), meet each kind of test
by itself. One that fewer than two kinds catch is a mistake that a single wrong test would let through: exits with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONDONTWRITEBYTECODE="1")
ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 300  # seconds of CPU a mutant; one that hangs is caught, at the latest after ten times as long


class Mutant(NamedTuple):
    file: str
    old: str
    new: str
    why: str


HAND_ROWS = "tests/maths/test_hand_rows_*.py"
TESTS = {  # one round after the other, until one fails: the quick and telling ones first
    "maths/logprob.py": ["tests/maths/test_hand_rows_logprob.py"],
    "maths/natural.py": ["tests/maths/test_hand_rows_natural.py"],
    "maths/assess.py": ["tests/training/test_assess.py"],
    "maths/update.py": ["tests/training/test_own_rule.py", "tests/training/test_updates.py"],
    "maths/": [
        HAND_ROWS,
        "tests/maths/test_peers_bugs.py",
        "tests/maths/test_conformance.py",
        "tests/maths/test_scales.py",
    ],
    "kernels/bfloat16.py": ["tests/kernels/test_bfloat16.py"],
    "kernels/continued.py": ["tests/rollout/test_kept.py"],
    "rollout/kept.py": ["tests/rollout/test_kept.py"],
    "kernels/decode.py": ["tests/kernels/test_attention.py", "tests/kernels/test_still.py", "tests/network/test_ways.py"],
    "kernels/varlen.py": ["tests/kernels/test_varlen.py"],
    "kernels/attention.py": ["tests/kernels/test_attention.py", "tests/network/test_ways.py"],
    "network/streams.py": [
        "tests/rollout/test_kept.py",
        "tests/network/test_ways.py",
        "tests/kernels/test_attention.py",
        "tests/evaluation/test_models.py",
    ],
    "network/forward.py": ["tests/kernels/test_attention.py"],
    "network/probe.py": ["tests/network/test_ways.py"],
    "network/float32.py": ["tests/training/test_masters.py"],
    "kernels/rope.py": ["tests/kernels/test_rope.py"],
    "rollout/draws.py": [
        "tests/rollout/test_sampler.py",
        "tests/rollout/test_talk.py",
        "tests/cluster/test_pieces.py",
    ],
    "rollout/sampler.py": ["tests/kernels/test_attention.py", "tests/rollout/test_sampler.py"],
    "rollout/torch_sampler.py": [
        "tests/kernels/test_attention.py",
        "tests/rollout/test_sampler.py",
        "tests/rollout/test_kept.py",
    ],
    "rollout/conversation.py": ["tests/rollout/test_talk.py"],
    "rollout/layout.py": [
        "tests/rollout/test_collect_masks.py",
        "tests/rollout/test_talk.py",
        "tests/training/test_scales.py",
    ],
    "rollout/collect.py": ["tests/rollout/test_collect_masks.py", "tests/training/test_scales.py"],
    "rollout/ask.py": ["tests/rollout/test_collect_masks.py"],
    "kernels/llama_step.py": ["tests/kernels/test_llama.py"],
    "training/work.py": ["tests/training/test_updates.py", "tests/training/test_old_logp.py"],
    "training/learner.py": ["tests/training/test_masters.py"],
    "training/micro.py": ["tests/training/test_memory.py"],
    "training/optimizer.py": ["tests/training/test_updates.py"],
    "training/policy.py": ["tests/kernels/test_attention.py", "tests/training/test_needs.py"],
    "training/critic.py": ["tests/training/test_critic_masks.py", "tests/training/test_needs.py"],
    "training/needs.py": ["tests/training/test_needs.py"],
    "tasks/rewards/": ["tests/tasks/test_together.py"],
    "cluster/pieces.py": ["tests/cluster/test_pieces.py"],
    "cluster/": ["tests/cluster/test_learner.py"],
    "tasks/sandbox/pool.py": ["tests/tasks/test_pool.py", "tests/tasks/test_sandbox.py"],
    "tasks/sandbox/worker.py": ["tests/tasks/test_pool.py", "tests/tasks/test_sandbox.py"],
    "tasks/": ["tests/tasks/test_sandbox.py"],
}

KINDS = {  # five kinds of test that know what is right from five different places
    "hand rows": [HAND_ROWS],  # worked out by hand
    "identities": ["tests/maths/test_conformance.py"],  # what must not change: splits, order, padding, on-policy
    "peers": ["tests/maths/test_peers_bugs.py", "tests/maths/test_peers_vectors.py"],  # other implementations
    "propositions": ["tests/exact/test_propositions_3*.py"],  # theorems, by enumeration
    "pages": ["tests/docs/test_pages.py"],  # the straight-line code of docs/ladder
}
TEN = {
    "maths/credit.py": "leave-one-out divides by G",
    "maths/value.py": "GAE bootstraps from V_t",
    "maths/normalize.py": "padding is whitened",
    "maths/ratio.py": "the ratio is upside down",
    "maths/correction.py": "the correction is upside down",
    "maths/surrogate.py": "clip takes the larger",
    "maths/kl.py": "k3 in the wrong direction",
    "maths/aggregate.py": "tokens of the micro-batch",
    "maths/objective.py": "the leash pushes",
    "maths/natural.py": "half the KL bound",
}


def rounds(file: str) -> tuple[str, ...]:
    return tuple(next(tests for prefix, tests in TESTS.items() if file.startswith(prefix)))


def read() -> list[Mutant]:
    """The blocks of mutants.txt: == file, then a reason, "- old" and "+ new" for each mutant."""
    out, file, lines = [], "", Path(__file__).with_suffix(".txt").read_text().splitlines()
    for i, line in enumerate(lines):
        if line.startswith("== "):
            file = line[3:]
        elif line.startswith("+"):
            why, old, new = lines[i - 2], lines[i - 1], line
            out.append(Mutant(file, *(x[2:].replace("\\n", "\n") for x in (old, new)), why))
    return out


MUTANTS = read()


def run_tests(source: Path, tests: Sequence[str], log: Path) -> None:
    """In a forked child: the tests against `source`; its exit code is that of the first round that fails."""
    os.setsid()
    signal.setitimer(signal.ITIMER_PROF, TIMEOUT)
    signal.alarm(10 * TIMEOUT)
    sys.path.insert(0, str(source))
    os.chdir(ROOT)
    import pytest

    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        quiet = ["-x", "-q", "--no-header", "--tb=line", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist"]
        codes = (pytest.main([*quiet, *map(str, sorted(ROOT.glob(pattern)))]) for pattern in tests)
        code = next((c for c in codes if c), 0)
        import rung

        assert Path(rung.__path__[0]).is_relative_to(source), "the tests did not import the copy"
    os._exit(int(code))


def try_one(mutant: Mutant | None, tests: Sequence[str]) -> tuple[str, str]:
    """(verdict, detail) of one mutant; None stands for the unchanged source."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            file = source / "rung" / mutant.file
            text = file.read_text()
            if text.count(mutant.old) != 1:
                return "NOT APPLIED", f"its text occurs {text.count(mutant.old)} times"
            file.write_text(text.replace(mutant.old, mutant.new))
        log = Path(folder) / "log"
        child = multiprocessing.get_context("fork").Process(target=run_tests, args=(source, tests, log))
        child.start()
        child.join()
        lines = log.read_text().splitlines() if log.exists() else []
        failed = next((x for x in lines if x.startswith(("FAILED", "ERROR"))), lines[-1] if lines else "")
        if child.exitcode == 0:
            return "SURVIVED", ""
        if child.exitcode in (-signal.SIGPROF, -signal.SIGALRM):
            failed = "::timeout"
        return "killed", failed.partition("::")[2].partition(" - ")[0].partition("[")[0] or failed


def _job(number: int) -> tuple[int, str, str]:
    return (number, *try_one(MUTANTS[number], rounds(MUTANTS[number].file)))


def _meet(job: tuple[int, str]) -> tuple[int, str, str, str]:
    number, kind = job
    return (number, kind, *try_one(MUTANTS[number], KINDS[kind]))


def independent(chosen: Sequence[int], jobs: int) -> int:
    """A table (Markdown) of mutants by kinds of test; 1 if a mutant is caught by fewer than two kinds, or cannot be made."""
    found: dict[tuple[int, str], str] = {}
    with ThreadPool(jobs) as pool:
        for number, kind, verdict, detail in pool.imap_unordered(_meet, [(i, kind) for i in chosen for kind in KINDS]):
            found[number, kind] = verdict
            print(
                f"{verdict:11s} {kind:13s} {MUTANTS[number].why}   {detail and f'[{detail}]'}",
                file=sys.stderr,
                flush=True,
            )
    print(f"| mistake | in | {' | '.join(KINDS)} | kinds |\n|---|---|{'---|' * len(KINDS)}---|")
    weak = 0
    for i in chosen:
        verdicts = [found[i, kind] for kind in KINDS]
        kinds = verdicts.count("killed")
        weak += kinds < 2 or not set(verdicts) <= {"killed", "SURVIVED"}
        cells = " | ".join({"SURVIVED": "alive"}.get(x, x) for x in verdicts)
        print(f"| {MUTANTS[i].why} | {MUTANTS[i].file} | {cells} | {kinds} |")
    return int(weak > 0)


def the_ten() -> list[int]:
    numbers = [i for i, m in enumerate(MUTANTS) if TEN.get(m.file) == m.why]
    assert len(numbers) == len(TEN), "a mutant of the ten is no longer in mutants.txt, or is there twice"
    return numbers


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--jobs", type=int, default=2, help="mutants at once")
    args.add_argument("--only", default="", help="mutants whose file, text or reason contains this")
    args.add_argument("--list", action="store_true", help="name the mutants and stop")
    args.add_argument(
        "--independent", action="store_true", help="which kinds of test catch ten of them, each by itself"
    )
    asked = args.parse_args()
    chosen = [i for i, m in enumerate(MUTANTS) if asked.only in " ".join(m)]
    if asked.independent and not asked.only:
        chosen = the_ten()
    if asked.list:
        print("\n".join(f"{MUTANTS[i].file:22s} {MUTANTS[i].why}" for i in chosen))
        return 0
    started = time.time()
    with contextlib.redirect_stdout(io.StringIO()):
        import pytest  # noqa: F401
        import torch
        import transformers  # noqa: F401

        torch.set_num_threads(1)
    suites = sorted({rounds(MUTANTS[i].file) for i in chosen})
    if asked.independent:
        suites = [tuple(tests) for tests in KINDS.values()]
    for suite in suites:
        verdict, detail = try_one(None, suite)
        if verdict != "SURVIVED":
            print(f"the tests fail without any mutant: {' '.join(suite)}   {detail}")
            return 1
    if asked.independent:
        return independent(chosen, asked.jobs)
    counts: dict[str, int] = {}
    with ThreadPool(asked.jobs) as pool:
        for number, verdict, detail in pool.imap_unordered(_job, chosen):
            counts[verdict] = counts.get(verdict, 0) + 1
            mutant = MUTANTS[number]
            print(f"{verdict:11s} {mutant.file:22s} {mutant.why}   {detail and f'[{detail}]'}", flush=True)
    summary = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items(), key=lambda x: -x[1]))
    print(f"{len(chosen)} mutants: {summary or 'none'} ({time.time() - started:.0f} s)")
    return int(set(counts) != {"killed"})


if __name__ == "__main__":
    sys.exit(main())
