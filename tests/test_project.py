"""The project's own files are not prose: what workflows, hooks, forms and SECURITY.md name exists."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from rung.cli import COMMANDS
from rung.training.config import TrainConfig

ROOT = Path(__file__).parents[1]
WORKFLOWS = {path.stem: path.read_text() for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z0-9]+):.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
PEOPLE_READ = [
    "SECURITY.md",
    "CITATION.cff",
    ".github/pull_request_template.md",
    *(str(form.relative_to(ROOT)) for form in FORMS),
]


# -- workflows ---------------------------------------------------------------------------------------------------------
def commands(job: dict[str, Any]) -> list[str]:
    """What a job runs, once for each value of its matrix that a command names."""
    found = [step["run"] for step in job["steps"] if "run" in step]
    for name, values in job.get("strategy", {}).get("matrix", {}).items():
        slot = f"${{{{ matrix.{name} }}}}"
        found = [line.replace(slot, value) for line in found for value in (values if slot in line else [""])]
    return found


def faults(text: str) -> list[str]:
    """What is wrong with a workflow: it runs what there is not, may do more than read, or takes an action that can change."""
    workflow, found = yaml.safe_load(text), []
    if workflow.get("permissions") != {"contents": "read"} or any(
        "permissions" in x for x in workflow["jobs"].values()
    ):
        found.append("it may do more than read")
    for name, job in workflow["jobs"].items():
        if "timeout-minutes" not in job:
            found.append(f"{name} may run for ever")
        for line in commands(job):
            program, *targets = line.split()
            runs = set(targets) <= TARGETS if program == "make" else os.access(ROOT / program, os.X_OK)
            if not runs:
                found.append(f"{name} runs {line!r}, which there is not")
    pinned = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    taken = re.findall(r"uses: *(.*)", text)
    return found + [f"{x} is no commit with its version beside it" for x in taken if not pinned.fullmatch(x)]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_a_workflow_runs_exists(name):
    assert faults(WORKFLOWS[name]) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("make release", "make relaese", "runs 'make relaese'"),
        ("oldest, newest", "oldest, middle", "runs 'make middle'"),
        (".ci/run", ".ci/runs", "runs '.ci/runs'"),
        ("contents: read", "contents: write", "more than read"),
        ("timeout-minutes: 60", "continue-on-error: true", "release may run for ever"),
        (r"@[0-9a-f]{40} # (v\d+)\S+", r"@\1", "is no commit"),
    ],
)
def test_a_workflow_that_is_wrong_is_found_out(old, new, says):
    wrong, times = re.subn(old, new, WORKFLOWS["ci"])
    assert times and any(says in fault for fault in faults(wrong))


def test_ci_runs_everything_on_both_systems_and_every_python():
    jobs = [job for text in WORKFLOWS.values() for job in yaml.safe_load(text)["jobs"].values()]
    ran = {line for job in jobs for line in commands(job)}
    assert ran == {".ci/run", "make oldest", "make newest", "make release", "make docs", "make smollm2", "make slow"}
    matrix = yaml.safe_load(WORKFLOWS["ci"])["jobs"]["test"]["strategy"]["matrix"]
    assert matrix == {"os": ["ubuntu-latest", "macos-latest"], "python": ["3.11", "3.12", "3.13", "3.14"]}
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert requires == f">={matrix['python'][0]}"


# -- the hook ----------------------------------------------------------------------------------------------------------
def test_the_hook_is_the_lint_of_make_test_and_nothing_else():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (hook,) = repository["hooks"]
    assert (repository["repo"], hook["entry"], hook["pass_filenames"]) == ("local", "make lint", False)
    assert re.search(r"^test: lint ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_types_are_strict_in_every_module():
    """No module of ours is let off: what is set by module only says which of other people's are not read."""
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert mypy["strict"] is True and mypy["files"] == ["src/rung"]
    for several in mypy["overrides"]:
        assert several.keys() == {"module", "follow_imports"}
        assert not any(name.startswith("rung") for name in several["module"])


# -- what people read and fill in --------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_for_something(path):
    form = yaml.safe_load(path.read_text())
    assert form.keys() == {"name", "description", "labels", "body"}
    assert any(field.get("validations", {}).get("required") for field in form["body"])
    assert len({field["id"] for field in form["body"]}) == len(form["body"])


def test_a_bug_comes_with_its_version_and_environment():
    asked = {
        field["attributes"]["label"]
        for field in yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())["body"]
    }
    assert {"rung --version", "The run's environment.json"} <= asked


@pytest.mark.parametrize("path", PEOPLE_READ)
def test_what_it_names_exists(path):
    text = (ROOT / path).read_text()
    for command in re.findall(r"`rung ([a-z]+)", text):
        assert command in COMMANDS, command
    for target in re.findall(r"\bmake ([a-z]+)`", text):
        assert target in TARGETS, target
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / path).parent.joinpath(link).exists(), link
    assert not re.search(r"\w@\w", text), "an address, which nobody may be reading"


def test_security_names_every_setting_that_runs_code():
    """Those whose help says FILE.py, and the one that lets a model bring its own."""
    text = (ROOT / "SECURITY.md").read_text()
    source = (ROOT / "src/rung/settings/shared.py").read_text()
    that_run = {"trust_remote_code", *re.findall(r'^    (\w+):.*\n    """FILE\.py', source, re.MULTILINE)}
    assert {"reward", "environment"} <= that_run
    assert "--task-options.unsafe_code true" in text
    for name in that_run:
        assert name in TrainConfig.__dataclass_fields__ and f"--{name.replace('_', '-')}" in text, name


def test_the_citation_names_no_person():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert citation["authors"] == [{"name": "The rung developers"}]
    assert {"message", "title", "type", "version"} <= citation.keys()
