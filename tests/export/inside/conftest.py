"""Recipes executed inside other trainers. Each file is collected only where its target is installed."""

from importlib.util import find_spec

collect_ignore_glob = [f"test_in_{name}.py" for name in ("trl", "verl", "skyrl") if find_spec(name) is None]
