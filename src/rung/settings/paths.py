"""A path as its user gave it: ~ and ~NAME stand for homes, wherever it was written; the one place that reads them."""

from __future__ import annotations

import os
from pathlib import Path

from rung.errors import InputError


def path_of(given: str | Path) -> Path:
    """The path, from the home that ~ stands for. (A shell puts it there itself, but not behind = and not in Python.)

    Raises:
        InputError: nobody of that name has a home on this machine.
    """
    home = os.path.expanduser(Path(given))  # left as it is where there is none; pathlib raises a RuntimeError
    if not home.startswith("~"):
        return Path(home)
    name = Path(home).parts[0].removeprefix("~")
    whose = f"the home of the user {name!r}, and this machine has none" if name else "your home, and $HOME says of none"
    raise InputError(f"{given}: ~{name} stands for {whose}. Write the whole path.")
