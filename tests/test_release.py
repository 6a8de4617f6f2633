"""What is shipped is whole: one version everywhere, and wheel and sdist hold what they should (`make release` installs them)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import rung
from rung.cli import main
from rung.io.environment import describe_environment

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("make_release", ROOT / "tests" / "release.py")
release = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return release.build(ROOT, tmp_path_factory.mktemp("dist"))


def without(archive: Path, name: str, to: Path, more: dict[str, str] | None = None) -> Path:
    """A copy of a wheel without one file, or with some more."""
    copy = to / archive.name
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(copy, "w") as new:
        for item in old.namelist():
            if not item.endswith(name):
                new.writestr(item, old.read(item))
        for item, text in (more or {}).items():
            new.writestr(item, text)
    return copy


def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a repository: an unpacked sdist")
    return release.tracked_files()


# -- one version -------------------------------------------------------------------------------------------------------
def test_there_is_one_version(built, capsys):
    """The source says it; the command, environment.json, wheel and sdist (their names, too) and the citation follow."""
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"rung {rung.__version__}\n"
    assert describe_environment()["versions"]["rung"] == rung.__version__ == release.version()
    wheel, sdist = built
    assert wheel.name == f"rung-{rung.__version__}-py3-none-any.whl" and sdist.name == f"rung-{rung.__version__}.tar.gz"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == rung.__version__
    assert f"## [{rung.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.skipif(not (Path(sys.prefix) / ".ready").exists(), reason="not the environment of `make venv`")
def test_what_is_installed_has_the_version_of_the_source():
    assert importlib.metadata.version("rung") == rung.__version__, "run `make venv` after a change of the version"


# -- wheel and sdist ---------------------------------------------------------------------------------------------------
def test_wheel_and_sdist_hold_what_they_should(built):
    wheel, sdist = built
    assert release.faults_of_wheel(wheel) == []
    with tarfile.open(sdist) as archive:  # files that git does not know yet are no fault of a work in progress
        held = {name.partition("/")[2] for name in archive.getnames()}
    known = set(tracked())
    new = {name for name in held - known if (ROOT / name).is_file()}
    assert release.faults_of_sdist(sdist, tracked=known | new) == []


@pytest.mark.parametrize(
    ("gone", "more", "says"),
    [
        ("py.typed", {}, "the wheel lacks py.typed"),
        ("model.safetensors", {}, "no starter/checkpoint/model.safetensors"),
        ("metrics.md", {}, "no metrics.md"),
        ("licenses/LICENSE", {}, "no licence, or another one"),
        ("entry_points.txt", {}, "it installs no command `rung`"),
        ("METADATA", {}, "the metadata do not say 'Version: "),
        ("-", {"tests/test_api.py": ""}, "not the package's: tests/test_api.py"),
        ("-", {"rung/notes.txt": ""}, "the wheel has also notes.txt"),
    ],
)
def test_a_wheel_that_is_not_whole_is_found_out(built, tmp_path, gone, more, says):
    assert any(said.startswith(says) for said in release.faults_of_wheel(without(built[0], gone, tmp_path, more)))


def test_an_sdist_that_lacks_a_file_is_found_out(built):
    wanted = [*tracked(), "docs/page.md"]
    assert any("docs/page.md" in said for said in release.faults_of_sdist(built[1], tracked=wanted))
