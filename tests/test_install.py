"""What installs rung is whole, and what a message tells the user to type works as printed."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from rung import advice
from rung.errors import InputError

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "rung"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {extra: list(map(Requirement, lines)) for extra, lines in PROJECT["optional-dependencies"].items()}
BROUGHT = {"tokenizers", "huggingface_hub", "yaml"}  # by transformers, always
ONLY_AFTER_A_CHECK = {
    "experiments/why_picture.py",
    "tasks/sources/gym_score.py",
}  # modules that only run where their extra is installed


def import_name(requirement: Requirement) -> str:
    return requirement.name.replace("-", "_")


OPTIONAL = {import_name(r) for extra, lines in EXTRAS.items() if extra != "dev" for r in lines}
OPTIONAL -= {import_name(r) for r in CORE}


def lock() -> list[Requirement]:
    lines = (line.partition(" #")[0].strip() for line in (ROOT / "requirements.lock").read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def locked() -> dict[str, Version]:
    """What the lock says for this machine."""
    here = [r for r in lock() if r.marker is None or r.marker.evaluate()]
    return {canonicalize_name(r.name): Version(str(r.specifier).removeprefix("==")) for r in here}


# -- the lock ------------------------------------------------------------------------------------------------------
def test_every_requirement_has_its_line_in_the_lock_and_the_line_obeys_it():
    versions = locked()
    for wanted in [*CORE, *(r for extra, lines in EXTRAS.items() if extra not in APART for r in lines)]:
        if wanted.name != "rung":
            assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), f"{wanted}: run `make lock`"


def test_the_lock_pins_and_names_no_place():
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|^-|[^ ]*@|/(?!=)", text, re.MULTILINE)
    for line in lock():
        assert re.fullmatch(r"==[^,*]+", str(line.specifier)), line


APART = {"ray"}  # `make cluster` has an environment of its own


def test_dev_brings_every_extra():
    (everything,) = (r for r in EXTRAS["dev"] if r.name == "rung")
    assert everything.extras == EXTRAS.keys() - {"dev"} - APART


@pytest.mark.skipif(not (Path(sys.prefix) / ".ready").exists(), reason="not the environment of `make venv`")
def test_what_is_installed_is_what_the_lock_says():
    versions, found = locked(), {}
    for package in importlib.metadata.distributions():
        found[canonicalize_name(package.metadata["Name"])] = Version(Version(package.version).public)
    own = {"rung", "pip"}
    other = {name: str(version) for name, version in found.items() if versions.get(name) != version and name not in own}
    assert not other, (
        "not the versions of requirements.lock: run `make venv` (what the lock has no more leaves with .venv alone)"
    )
    for wanted in [*CORE, *(r for extra, lines in EXTRAS.items() if extra not in APART for r in lines)]:
        assert canonicalize_name(wanted.name) in found, f"{wanted} is not installed: run `make venv`"


# What runs inside another project, or runs it, imports what that project brings: its installation is the user's or `make field`'s.
ELSEWHERE = ("exact/peers/", "export/inside/", "rollout/vllm_sampler.py")


def test_what_is_imported_is_declared():
    """By name, and what an extra brings only inside a function, which asks for it first."""
    core = {import_name(r) for r in CORE} | BROUGHT | {"rung"} | set(sys.stdlib_module_names)
    for path in sorted(SOURCE.rglob("*.py")):
        place, tree = path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text())
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom) or getattr(node, "level", 0):
                continue
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [x.name for x in node.names]
            for name in {module.partition(".")[0] for module in modules} - core:
                assert name in OPTIONAL or place.startswith(ELSEWHERE), (
                    f"{place} imports {name}, which pyproject.toml lacks"
                )
                assert node not in tree.body or place in ONLY_AFTER_A_CHECK, (
                    f"{place} cannot be imported without {name}"
                )


# -- what a message tells the user to type ---------------------------------------------------------------------------
def test_only_one_place_says_how_to_install():
    said = {
        p.relative_to(SOURCE).as_posix()
        for p in SOURCE.rglob("*.py")
        if re.search(r"pip install|rung\[", p.read_text())
    }
    assert said == {"advice.py"}


BARE = """
import contextlib, importlib, io, json, os, pkgutil, sys
for name in {optional!r}:
    sys.modules[name] = None  # as if it were not installed
import rung
from rung.cli import main
for module in pkgutil.walk_packages(rung.__path__, "rung."):
    if module.name not in {skip!r} and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
out = []
for argv in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(argv)
    out.append([status, said.getvalue()])
json.dump(out, sys.stdout)
"""


def test_without_the_extras_everything_imports_and_each_is_asked_for_in_the_same_words(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    run = ["train", "--steps", "0", "--eval-problems", "2", "--out", str(tmp_path / "run")]
    arithmetic = ["--task", "chained_arithmetic"]
    calls = [
        ([*run, "--model", "smollm2"], "reasoning_gym"),
        ([*run, "--model", "smollm2", *arithmetic], "gguf accelerate"),
        ([*run, "--model", str(tmp_path / "model.gguf"), *arithmetic], "gguf accelerate"),
        ([*run, "--model", str(tmp_path / "adapter"), *arithmetic], "peft"),
        ([*run, "--lora-rank", "2"], "peft"),
        ([*run, "--task", "chain_sum"], "reasoning_gym"),
        ([*run, "--task", "leg_counting"], "reasoning_gym"),
        ([*run, "--task", "hf:someone/something"], "datasets"),
        ([*run, "--task", str(tmp_path / "rows.parquet")], "pyarrow"),
        ([*run, "--environment", "gymnasium:FrozenLake-v1"], "gymnasium"),
        *(([*run, "--tracker", name], name) for name in ("tensorboard", "trackio", "wandb")),
        (["smollm2", "--out", str(tmp_path / "smollm2")], "gguf accelerate"),
        (["eval", "starter", "--task", "chain_sum"], "reasoning_gym"),
        (["verify", "--task", "chain_sum"], "reasoning_gym"),
        (["recipes"], ""),
        (run, ""),
        (["report", str(tmp_path / "run")], ""),
    ]
    skip = {"rung." + place.removesuffix(".py").replace("/", ".") for place in ONLY_AFTER_A_CHECK}
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(optional=sorted(OPTIONAL), skip=skip), json.dumps([argv for argv, _ in calls])],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for (argv, packages), (status, said) in zip(calls, json.loads(done.stdout), strict=True):
        assert status == (2 if packages else 0), (argv, said)
        if packages:
            command = re.search(r"(\S*python\S* -m pip install) (.*?)(?: && .*)?$", said.strip())
            assert command, (argv, said)
            asked = [import_name(Requirement(text)) for text in shlex.split(command[2])]
            assert asked[: len(packages.split())] == packages.split(), (argv, said)
    assert not (tmp_path / "smollm2").exists()


def test_an_extra_is_installed_in_the_versions_that_work(monkeypatch):
    lines = [*PROJECT["dependencies"], *(f"{r}; extra == '{extra}'" for extra, rs in EXTRAS.items() for r in rs)]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    (transformers,) = (str(r) for r in EXTRAS["peft"] if r.name == "transformers")
    assert shlex.split(advice.pip_install(["peft"]))[-2:] == [str(EXTRAS["peft"][0]), transformers]
    for extra in ("gguf", "track", "datasets"):
        names = [import_name(r) for r in EXTRAS[extra]]
        assert shlex.split(advice.pip_install(names))[-len(names) :] == list(map(str, EXTRAS[extra]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"a, which is not installed. Install: uv pip install --python \S+ a$"):
        advice.need("it", "a")


def test_a_package_that_is_there_and_broken_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "broken_thing.py").write_text("import a_module_that_nobody_has")
    (tmp_path / "only_a_directory").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert advice.installed("broken_thing") and not advice.installed("only_a_directory")
    advice.need("it", "broken_thing")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A shell in a directory with an environment in .venv, none of it on PATH, and another rung elsewhere."""
    for home in (".venv/bin", "elsewhere"):
        (tmp_path / home).mkdir(parents=True)
        for name in ("rung", "python"):
            (tmp_path / home / name).write_text("")
            (tmp_path / home / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    monkeypatch.setattr(sys, "argv", [".venv/bin/rung"])
    return tmp_path


def test_a_command_is_printed_as_this_shell_finds_it(place, monkeypatch):
    assert advice.command("report", "runs/my run") == ".venv/bin/rung report 'runs/my run'"
    monkeypatch.setattr(sys, "argv", [str(place / "notebook.py")])  # rung.train() in Python
    assert advice.command("report") == ".venv/bin/rung report"
    monkeypatch.setenv("PATH", str(place / "elsewhere"))  # another environment's
    assert advice.command("report") == ".venv/bin/rung report"
    monkeypatch.setenv("PATH", str(place / ".venv/bin"))
    assert advice.command("report") == "rung report" and advice.pip_install(["x"]).startswith("python -m pip install")
    monkeypatch.chdir("/")
    monkeypatch.setenv("PATH", "")
    assert advice.command("report") == f"{place}/.venv/bin/rung report"
    (place / ".venv/bin/rung").unlink()
    assert advice.command("report") == f"{place}/.venv/bin/python -m rung report"
    assert advice.pip_install(["x"]).startswith(f"{place}/.venv/bin/python -m pip install")
    (place / "bin").mkdir()
    os.symlink(place / "elsewhere/rung", place / "bin/rung")  # as pipx and uv do
    monkeypatch.setenv("PATH", str(place / "bin"))
    monkeypatch.setattr(sys, "argv", [str(place / "bin/rung")])
    assert advice.command("report") == "rung report"


def test_the_printed_command_runs():
    bare = {**os.environ, "PATH": os.defpath}
    shown = subprocess.run(
        [sys.executable, "-m", "rung", "recipes"], capture_output=True, text=True, env=bare, check=True
    ).stdout
    rung = re.search(r"(\S+(?: -m rung)?)\s+explain\s+NAME", shown)
    assert rung, shown[-300:]
    done = subprocess.run(f"{rung[1]} --version", shell=True, capture_output=True, text=True, env=bare)
    assert done.stdout.startswith("rung "), done.stderr
