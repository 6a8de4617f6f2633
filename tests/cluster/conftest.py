"""`cluster_steps` is what the tests and the processes that they start have in common."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
