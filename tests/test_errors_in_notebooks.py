"""What a notebook shows of input that was refused: the message, and none of our frames."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("IPython")

REFUSED = {
    "import rung; rung.train(stepss=3)": "InputError: unknown setting of rung.train: 'stepss'. Did you mean 'steps'?",
    "from rung.compat import GRPOConfig; GRPOConfig(top_p=0.5)": "InputError: GRPOConfig: 1 refused, since nothing is",
    "from rung.errors import RunFailed; raise RunFailed('the disk is full')": "RunFailed: the disk is full\n",
    "try: 1 / 0\nexcept ZeroDivisionError as e: raise rung.InputError('said') from e": "InputError: said\n",
}
OTHER = "1 / 0"
RUN = """
import contextlib, io, json, sys
from IPython.core.interactiveshell import InteractiveShell
shell, shown = InteractiveShell.instance(), []
for cell in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        shell.run_cell(cell)
    shown.append(said.getvalue())
print(json.dumps(shown))
"""


def test_a_refusal_is_its_message_and_any_other_error_has_its_frames(tmp_path):
    """In a process of its own, since IPython's shell takes `__main__` over."""
    cells = [*REFUSED, OTHER]
    run = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(cells)], env={**os.environ, "IPYTHONDIR": str(tmp_path)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    shown = dict(zip(cells, json.loads(run.stdout.splitlines()[-1]), strict=True))
    for cell, message in REFUSED.items():
        assert shown[cell].startswith(message) and "Traceback" not in shown[cell] and ".py" not in shown[cell]
    assert "Traceback" in shown[OTHER]
