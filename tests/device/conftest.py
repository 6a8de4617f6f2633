"""What runs on the stand-in imports it by name, in a process of its own (test_second_device.py)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
