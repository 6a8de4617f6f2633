"""Everything in second_device_*.py, in processes of their own: the stand-in changes torch for good where it is imported.

python -m pytest tests/device/second_device_recipes.py      the same by hand
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
MADE_FOR = "2.13"
FILES = {  # by process
    "steps": ["second_device_recipes.py"],
    "all the rest": ["second_device_self.py", "second_device_waits.py", "second_device_runs.py"],
}


@pytest.mark.skipif(
    torch.__version__.rpartition(".")[0] != MADE_FOR,
    reason=f"the stand-in for an accelerator uses private functions of torch {MADE_FOR}, this is {torch.__version__}",
)
@pytest.mark.parametrize("kind", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("files", FILES)
def test_on_the_second_device(files, kind):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-m",
        kind,
        *(str(HERE / file) for file in FILES[files]),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0 or (kind == "slow" and done.returncode == 5), done.stdout + done.stderr


def test_no_file_is_forgotten():
    assert {x.name for x in HERE.glob("second_device_*.py")} == {file for files in FILES.values() for file in files}
