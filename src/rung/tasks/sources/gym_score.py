"""reasoning-gym's own score of one answer, in a worker process: its sympy scorers may hang. Imports nothing of rung."""

import json
from functools import lru_cache
from typing import Any

import reasoning_gym


def score(name: str, options: dict[str, Any], entry: str, answer: str) -> float:
    """The score of `answer` to the problem in `entry`, a JSON object with question, answer and metadata; -1 if it raises."""
    try:
        return float(_dataset(name, json.dumps(options)).score_answer(answer, json.loads(entry)))
    except MemoryError:
        raise
    except (Exception, SystemExit):  # noqa: BLE001 - the scorer could not read the answer
        return -1.0


@lru_cache(maxsize=8)
def _dataset(name: str, options: str) -> Any:
    return reasoning_gym.create_dataset(name, size=1, seed=0, **json.loads(options))
