"""Everything in second_device_*.py, one process a file: the stand-in changes torch for good where it is imported.

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


@pytest.mark.skipif(
    torch.__version__.rpartition(".")[0] != MADE_FOR,
    reason=f"the stand-in for an accelerator uses private functions of torch {MADE_FOR}, this is {torch.__version__}",
)
@pytest.mark.parametrize("file", sorted(x.name for x in HERE.glob("second_device_*.py")))
def test_on_the_second_device(file):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / file)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
