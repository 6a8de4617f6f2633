"""The recipes and batches that the tests of single targets share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
