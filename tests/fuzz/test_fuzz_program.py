"""The program itself, in a process of its own: what the fuzzers call in this one ends there as it does here."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzzing import DEEP

import rung

ENV = {**os.environ, "PYTHONPATH": str(Path(rung.__file__).parents[1]), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
ROW = '{"prompt": "1+1=", "answer": "2"}\n'
FILES = {
    "deep.jsonl": "[" * DEEP,
    "digits.jsonl": '{"prompt": "x", "answer": ' + "9" * 6000 + "}\n",
    "nul.jsonl": '{"prompt": "a\\u0000b", "answer": "1"}\n' + ROW,
    "half.jsonl": '{"prompt": "\\ud800", "answer": "1"}\n',
    "choices.jsonl": '{"prompt": "x", "choices": "' + "[" * DEEP + '", "answer": "A"}\n',
    "escape.jsonl": '{"prompt": "\\u001b[2J", "answer": ""}\n',
    "long.jsonl": '{"' + "a" * 10_000_000 + '": "x"}\n',
    "dots.toml": "a." * DEEP + "b = 1",
    "deep.toml": "steps = " + "[" * DEEP,
    "spec.json": "[" * DEEP,
    "loss.py": "loss = int\nadv = print\n",
    "reward.py": "import itertools\ndef endless(completions, **k): return itertools.count()\n"
    "def much(completions, **k): return [1e308] * len(completions)\n"
    "def lazy(completions, **k): return (1 / 0 for _ in completions)\n",
}
SMALL = ["train", "--steps", "1", "--prompts-per-step", "2", "--samples-per-prompt", "2", "--eval-problems", "2",
    "--threads", "1",
]  # fmt: skip
LINES = [
    ["verify", "--task", "digits.jsonl"],
    ["train", "--dry-run", "--config", "dots.toml"],
    ["train", "--dry-run", "--task-options.seed", "[" * DEEP],
    ["verify", "--task", "deep.jsonl"],
    ["verify", "--task", "nul.jsonl"],
    ["verify", "--task", "half.jsonl"],
    ["verify", "--task", "choices.jsonl"],
    ["verify", "--task", "escape.jsonl"],
    ["data", "long.jsonl"],
    ["data", "nul.jsonl"],
    ["train", "--dry-run", "--config", "deep.toml"],
    ["train", "--dry-run", "--task", "dots.toml"],
    ["eval", "starter", "--spec", "spec.json"],
    ["audit", "--of", "loss.py:loss"],
    ["audit", "--advantages", "loss.py:adv"],
    [*SMALL, "--reward", "reward.py:endless"],
    [*SMALL, "--reward", "reward.py:much*10"],
    [*SMALL, "--reward", "reward.py:lazy"],
    ["train", "--steps", "9" * 6000],
    ["train", "--seed", "\u0663"],
    ["explain", "\udcff"],
    ["report", "\udcff"],
    ["ask", "starter", "\udcff"],
    ["ask", "starter", "9" * 100_000],
    ["ask", "starter", "\x1b[2J"],
    ["eval", "\x1b]52;c;aGk=\x07"],
    ["train", "--out", "a" * 5000],
    ["train", "--model", "a" * 5000],
    ["train", "--model", "../" * 1000],
    ["\x1b[2J"],
]
FAST = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("program")
    for name, text in FILES.items():
        (path / name).write_text(text)
    return path


@pytest.mark.parametrize(
    "words", [pytest.param(x, marks=[] if i < FAST else pytest.mark.slow, id=str(i)) for i, x in enumerate(LINES)]
)
def test_the_program_ends_in_a_result_or_with_2_and_one_message(words, folder):
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "rung", *words], cwd=folder, env=ENV, capture_output=True, timeout=120, check=False
    )
    said = done.stderr.decode("utf-8", "surrogateescape")
    assert done.returncode in (0, 2), said[-3000:]
    assert time.monotonic() - begun < 60
    assert (len(re.findall("^rung: ", said, re.MULTILINE)) == 1) == (done.returncode == 2), said[-3000:]
    assert "Traceback" not in said and len(said) < 12_000
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", done.stdout + done.stderr), "nothing that a terminal obeys"


def test_there_are_a_thousand_cases_of_all_kinds():
    """RUNG_FUZZ_CASES=1000; `make faults` runs ten times as many."""
    found = [
        re.findall(r'^@cases\("([^"]+)", (\d+)', file.read_text(), re.MULTILINE)
        for file in Path(__file__).parent.glob("test_*.py")
    ]
    shares = [(kind, int(share)) for kinds in found for kind, share in kinds]
    assert sum(share for _, share in shares) == 1000 and len({kind for kind, _ in shares}) == len(shares) >= 30
