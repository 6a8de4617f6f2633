"""`make release`: builds the wheel and the sdist, checks what is in them, and trains from the wheel in an empty environment.

python tests/release.py dist requirements.lock
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "rung"
WITHOUT_THESE_NOTHING_WORKS = ("py.typed", "starter/checkpoint/model.safetensors", "metrics.md")


def version() -> str:
    """The one that stands in the source."""
    found = re.search(r'^__version__ = "(.+?)"', (PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "src/rung/__init__.py says no __version__"
    return found[1]


def build(source: Path, to: Path) -> tuple[Path, Path]:
    """(wheel, sdist) of a source tree, by the backend that pyproject.toml names, in the lock's version."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(to)], cwd=source, check=True, capture_output=True
    )
    (wheel,), (sdist,) = to.glob("*.whl"), to.glob("*.tar.gz")
    return wheel, sdist


# -- what is in them ---------------------------------------------------------------------------------------------------
def faults_of_wheel(wheel: Path) -> list[str]:
    """What is wrong with a wheel: a sentence each."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    info = f"rung-{version()}.dist-info/"
    package = {name.removeprefix("rung/") for name in held if name.startswith("rung/")}
    tree = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = _difference("the wheel", package, tree)
    found += [f"no {name}" for name in WITHOUT_THESE_NOTHING_WORKS if not any(x.endswith(name) for x in package)]
    found += [f"not the package's: {name}" for name in held if not name.startswith(("rung/", info))]
    if held.get(f"{info}licenses/LICENSE") != (ROOT / "LICENSE").read_bytes():
        found.append("no licence, or another one")
    if b"rung = rung.cli:main" not in held.get(f"{info}entry_points.txt", b""):
        found.append("it installs no command `rung`")
    return found + _misnamed(held.get(f"{info}METADATA", b""))


def faults_of_sdist(sdist: Path, *, tracked: Iterable[str]) -> list[str]:
    """What is wrong with an sdist, which is to hold what the repository holds."""
    top = f"rung-{version()}/"
    with tarfile.open(sdist) as archive:
        names = {member.name.removeprefix(top) for member in archive.getmembers() if member.isfile()}
        about = archive.extractfile(f"{top}PKG-INFO") if "PKG-INFO" in names else None
        said = about.read() if about else b""
    return _difference("the sdist", names - {"PKG-INFO"}, set(tracked)) + _misnamed(said)


def tracked_files() -> list[str]:
    """What git holds, as it is now in the work tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _difference(what: str, held: set[str], wanted: set[str]) -> list[str]:
    lacks, more = sorted(wanted - held), sorted(held - wanted)
    return [f"{what} lacks {', '.join(lacks)}"] * bool(lacks) + [f"{what} has also {', '.join(more)}"] * bool(more)


def _misnamed(metadata: bytes) -> list[str]:
    lines = metadata.decode().splitlines()
    wanted = (f"Version: {version()}", "License-Expression: Apache-2.0", "License-File: LICENSE")
    return [f"the metadata do not say {line!r}" for line in wanted if line not in lines]


# -- does it run -------------------------------------------------------------------------------------------------------
def try_out(wheel: Path, lock: Path, place: Path) -> str:
    """Installs a wheel into an environment of its own and trains two steps there; what `rung --version` printed."""
    python, rung = place / "env/bin/python", place / "env/bin/rung"
    subprocess.run([sys.executable, "-m", "venv", place / "env"], check=True)
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([python, "-m", "pip", "install", *quiet, "--constraint", lock, wheel], check=True, stdout=sys.stderr)
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run = {"cwd": place, "env": {**bare, "HF_HUB_OFFLINE": "1"}, "check": True}
    said = subprocess.run([rung, "--version"], capture_output=True, text=True, **run).stdout.strip()
    subprocess.run([rung, "train", "--steps", "2", "--out", "first"], **run)
    steps = (place / "first/metrics.jsonl").read_text().count("\n")
    assert steps >= 2, f"two steps left {steps} lines of metrics"
    return said


def main(dist: Path, lock: Path) -> int:
    for old in (*dist.glob("rung-*.whl"), *dist.glob("rung-*.tar.gz")):
        old.unlink()
    wheel, sdist = build(ROOT, dist)
    found = faults_of_wheel(wheel) + faults_of_sdist(sdist, tracked=tracked_files())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with tarfile.open(sdist) as archive:
            archive.extractall(place, filter="data")
        again, _ = build(place / f"rung-{version()}", place / "again")
        if again.read_bytes() != wheel.read_bytes():
            found.append("the wheel that is built from the sdist is another one")
        if not found and (said := try_out(wheel, lock, place)) != f"rung {version()}":
            found.append(f"`rung --version` of the wheel says {said!r}")
    print("\n".join(found) or f"{wheel}\n{sdist}\nboth hold what they should, and the wheel trains")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()))
