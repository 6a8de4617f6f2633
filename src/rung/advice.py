"""What a message tells the user to type, so that it works as printed, from wherever rung was installed and started."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from rung.errors import InputError


def stands_for_a_run(name: object) -> None:
    """Refuse the word RUN itself, which examples have in place of a run's folder, with the runs that are here."""
    if str(name) not in ("RUN", "RUN_DIR") or Path(str(name)).exists():
        return
    found = sorted(Path().glob("runs/*/config.toml"), key=lambda file: file.stat().st_mtime)
    here = f" Runs in runs: {', '.join(str(file.parent) for file in found[-8:])}." if found else ""
    raise InputError(f"RUN stands for the folder of a run, which `rung train` prints.{here}")


def need(what: str, *packages: str, instead: str = "") -> None:
    """Refuse `what` on a machine that lacks one of the packages, with the command that brings them.

    packages: by the names they are imported by. One that is there and fails to import is not missing: its error says why.
    instead: a sentence without its end, on what else the user may do.
    """
    missing = [package for package in packages if not installed(package)]
    if missing:
        names = " and ".join(missing)
        verb = "is" if len(missing) == 1 else "are"
        install = f"{instead}, or install" if instead else "Install"
        raise InputError(f"{what} needs {names}, which {verb} not installed. {install}: {pip_install(missing)}")


def installed(package: str) -> bool:
    """Whether it can be imported; a mere directory of that name (wandb leaves ./wandb behind) is no package."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def pip_install(packages: list[str]) -> str:
    """The command that installs packages into this Python, in the versions that rung works with."""
    lines = [_split(line) for line in _requirements()]
    extras = {extra for name, _, extra in lines if extra and name in map(_plain, packages)} - {"dev"}
    core = {name for name, _, extra in lines if not extra}
    own = {name: text for name, text, extra in lines if extra in extras}
    wanted = [own.pop(_plain(package), package) for package in packages]
    wanted += [text for name, text in own.items() if name in core]  # such as the transformers that a peft works with
    python = _shown(sys.executable)
    pip = f"{python} -m pip install" if importlib.util.find_spec("pip") else f"uv pip install --python {python}"
    return f"{pip} {shlex.join(wanted)}"


def command(*words: object) -> str:
    """`rung WORDS` as this shell finds it: by its name where that is this rung, else by its path, else `python -m rung`."""
    return " ".join([_program(), *map(shlex.quote, map(str, words))])


def _program() -> str:
    typed, found = Path(sys.argv[0]), shutil.which("rung")
    beside = Path(sys.executable).with_name(Path(found).name if found else "rung")
    for ours in (typed if typed.stem == "rung" else None, beside):
        if ours is None or not ours.is_file():
            continue
        if found and os.path.samefile(found, ours):
            return "rung"
        return _shown(str(ours))
    return f"{_shown(sys.executable)} -m rung"


def _shown(path: str) -> str:
    """A path as one would type it: from the working directory where it lies below it, by its name where PATH finds it."""
    name = Path(path).name
    found = shutil.which(name)
    if found and os.path.samefile(found, path) and os.path.dirname(found) == os.path.dirname(path):
        return name
    whole, here = Path(path).absolute(), Path.cwd()
    near = whole.is_relative_to(here) and whole.parent != here != Path(here.anchor)
    return shlex.quote(str(whole.relative_to(here) if near else whole))


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("rung") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source
        return []


def _split(line: str) -> tuple[str, str, str]:
    """(name, name with versions, extra) of a requirement such as "peft>=0.20; extra == 'peft'"."""
    text, _, marker = line.partition(";")
    name = re.match(r"[\w.-]+", text.strip())
    extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
    return _plain(name[0]) if name else "", text.strip(), extra[1] if extra else ""


def _plain(name: str) -> str:
    return name.replace("_", "-").lower()
