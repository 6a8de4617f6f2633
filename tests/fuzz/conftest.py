"""What the fuzzers share: `fuzzing.py` beside this file, and a machine on which nothing that they do is remembered."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory that every case of a file may write into: hypothesis runs them one after the other."""
    return tmp_path_factory.mktemp("fuzz")
