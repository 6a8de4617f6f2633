"""Finished measurements as JSON lines: a long run goes on where it stopped, and tables are rendered without measuring."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rung.io.environment import describe_environment

HERE = Path(__file__).parent
Key = dict[str, Any]


class Cells:
    """What `path` holds, by key. Every cell is one process of its own, so that peak memory is its own too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self.done[_name(row["key"])] = row
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"table": "environment"}, describe_environment())

    def measure(self, key: Key, python: str, script: str, flags: dict[str, Any]) -> None:
        """Run `script` with `flags` and keep the JSON of its last line under `key`, unless that is there already."""
        if _name(key) in self.done:
            return
        words = [word for name, value in flags.items() for word in _flag(name, value)]
        done = subprocess.run([python, str(HERE / script), *words], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{script} {' '.join(words)} failed:\n{done.stderr[-3000:]}")
        result = json.loads(done.stdout.strip().splitlines()[-1])
        print(json.dumps({**key, **result}), file=sys.stderr, flush=True)
        self._append(key, result)

    def table(self, name: str) -> list[dict[str, Any]]:
        """All rows of a table, result and key in one; where both have a name, the key's."""
        return [{**row["result"], **row["key"]} for row in self.done.values() if row["key"]["table"] == name]

    def _append(self, key: Key, result: dict[str, Any]) -> None:
        row = {"key": key, "result": result}
        self.done[_name(key)] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _name(key: Key) -> str:
    return json.dumps(key, sort_keys=True)


def _flag(name: str, value: Any) -> list[str]:
    word = "--" + name.replace("_", "-")
    if value is True:
        return [word]
    if value is None or value is False:
        return []
    return [word, *map(str, value)] if isinstance(value, list) else [word, str(value)]
