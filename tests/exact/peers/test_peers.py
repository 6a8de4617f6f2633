"""The harness for other projects' losses, with a small project of the test: a real package with its metadata.

The real projects are audited by `make field`; where one is installed, its adapter is held to its own explanations here as well.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest

import rung.parts as p
from rung.errors import InputError
from rung.exact.peers import controls, field, registry, stand_ins
from rung.exact.peers import page as written
from rung.exact.peers.compare import match, pair_of, variant
from rung.exact.peers.field import look_at, look_at_all, run_audit_peer
from rung.exact.peers.page import page, section
from rung.exact.peers.peer import Peer, Project, asking
from rung.exact.world import World

ROOT = Path(__file__).parents[3]
SMALL = World(vocabulary=2, horizon=2, prompts=2, samples=2)
LOSS = """
import ray
from vllm.engine import LLM

@ray.remote(num_gpus=1)
class Worker(LLM):
    @ray.method(num_returns=2)
    def run(self):
        return 1

def loss(log_probs, old_log_probs, advantages, response_mask, clip=0.2):
    ratio = (log_probs - old_log_probs).exp()
    gain = (ratio * advantages).minimum(ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -(gain * response_mask).sum() / response_mask.sum().clamp(min=1)

def group_advantages(rewards, groups, eps=1e-4):
    out = rewards.clone()
    for g in groups.unique():
        out[groups == g] = (rewards[groups == g] - rewards[groups == g].mean()) / (rewards[groups == g].std() + eps)
    return out
"""
NO_KL = (p.NoKL(), "it has none")
TOKENS = (p.TokenMean(), "a mean over tokens")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A package toytrainer 1.0, which needs ray and vllm to be imported, and its adapter."""
    (tmp_path / "toytrainer.py").write_text(LOSS, encoding="utf-8")
    info = tmp_path / "toytrainer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toytrainer\nVersion: 1.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.ADAPTERS, "toy", ("toy_1_0", "toytrainer", "1.0"))
    adapter = ModuleType("rung.exact.peers.toy_1_0")
    adapter.project = project
    monkeypatch.setitem(sys.modules, "rung.exact.peers.toy_1_0", adapter)
    for module, name in itertools.product((field, written), ("MAIN", "OTHERS")):
        monkeypatch.setattr(module, name, SMALL if name == "MAIN" else {"real": replace(SMALL, reward="real")})
    registry.project.cache_clear()
    yield tmp_path
    registry.project.cache_clear()
    for name in [m for m in sys.modules if m.split(".")[0] in ("toytrainer", "ray", "vllm") and "toy_1_0" not in m]:
        del sys.modules[name]


def project(version):
    stand_ins.stand_in_for("ray", "vllm")
    import toytrainer  # it is on sys.path as long as the fixture lasts

    def loss(**x):
        return toytrainer.loss(x["logp"], x["old_logp"], x["advantages"], x["mask"])

    def advantages(**x):
        return toytrainer.group_advantages(x["rewards"], x["groups"])

    made = asking(loss, "toy", "logp", "old_logp", "advantages", "mask"), asking(advantages, "adv", "rewards", "groups")
    peer = Peer("grpo", "grpo", *made, {"kl": NO_KL, "aggregate": TOKENS}, paper="a|b")
    return Project("toy", "toytrainer", version, (peer,), "ray and vllm", "averaged", (("its critic", "needs a GPU"),))


# -- the controls --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", list(controls.CONTROLS))
def test_every_control_fires(what):
    check, loss, advantages = controls.CONTROLS[what]
    assert check in [c.name for c in controls._audit(loss, advantages).failed]


def test_every_check_has_a_control():
    from rung.exact.yours.invariances import CHECKS

    assert {check for check, _, _ in controls.CONTROLS.values()} >= {
        *CHECKS,
        "group size",
        "inputs",
        "ratio",
        "KL",
        "micro-batches",
    }


def test_a_control_that_is_silent_is_named(monkeypatch):
    monkeypatch.setattr(controls, "CONTROLS", {"nothing is wrong": ("padding", controls.plain, None)})
    monkeypatch.setattr(controls, "_nan", controls.plain)
    assert controls.silent() == ["nothing is wrong: padding holds", "NaN counts as unbiased"]


# -- a project ---------------------------------------------------------------------------------------------------------------
def test_a_projects_own_code_is_audited_and_explained(toy):
    (line,) = look_at_all(registry.project("toy"))
    assert "toytrainer" in sys.modules and not line.faults
    assert line.match.same and line.match.c == pytest.approx(1)
    assert line.found.kind == "biased" and "std" in line.found.words
    assert {"accumulation", "micro-batches"} <= {c.name for c in line.found.failed}
    assert len(line.elsewhere) == 1
    text = page([section(registry.project("toy"), [line])], date(2026, 1, 2), 3)
    assert "2026-01-02" in text and "## toy 1.0" in text and "its critic (needs a GPU)" in text
    (row,) = [x for x in text.splitlines() if x.startswith("| `grpo`")]
    assert (
        row.count("|") - row.count("\\|") == 8 + len(field.OTHERS) - 1
        and "is [grpo](ladder/grpo.md), but for kl: it has none" in row
    )


def test_an_explanation_that_does_not_explain_is_a_fault(toy):
    (peer,) = registry.project("toy").peers
    wrong = {
        "is no grpo": replace(peer, differs={"kl": NO_KL}),
        "explains nothing": replace(peer, rest="something else"),
        "makes no difference": replace(peer, differs={**peer.differs, "credit": (p.GroupMean(), "its eps")}),
    }
    for says, other in wrong.items():
        (fault,) = look_at(other).faults
        assert says in fault


def test_a_changed_number_in_the_package_shows(toy):
    source = (toy / "toytrainer.py").read_text(encoding="utf-8")
    (toy / "toytrainer.py").write_text(source.replace("clip=0.2", "clip=0.28"), encoding="utf-8")
    (peer,) = registry.project("toy").peers
    found = match(pair_of(peer), variant(peer), SMALL)
    assert found.same_on_policy and not found.same


def test_the_command_prints_a_line_of_the_page(toy, capsys):
    assert run_audit_peer("toy:grpo", None) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "toy:grpo: biased" in said and "against ours is grpo, but for kl" in said and "against its paper a|b" in said


def test_an_algorithm_a_project_or_a_version_that_there_is_not(toy, monkeypatch):
    with pytest.raises(InputError, match=r"algorithm of toy: 'gpro'.*Did you mean 'grpo'"):
        registry.peer("toy:gpro")
    with pytest.raises(InputError, match="unknown project 'try'"):
        registry.project("try")
    monkeypatch.setitem(registry.ADAPTERS, "toy", ("toy_1_0", "toytrainer", "2.0"))
    registry.project.cache_clear()
    with pytest.raises(
        InputError, match=r"written for toytrainer 2.0, and 1.0 is installed.* install toytrainer==2\.0$"
    ):
        registry.project("toy")
    monkeypatch.setitem(registry.ADAPTERS, "toy", ("toy_1_0", "toy-that-is-nowhere", "1.0"))
    registry.project.cache_clear()
    said = r"and its package toy-that-is-nowhere is not installed here\. .*`make field`.* install toy-that-is-nowhere==1\.0$"
    with pytest.raises(InputError, match=said) as found:
        registry.project("toy")
    assert found.value.__cause__ is None, "what is missing is looked for, and no other library's words are needed"
    assert registry.is_peer("trl:dapo") and not registry.is_peer("losses.py:dapo") and not registry.is_peer(None)


def test_what_raises_in_an_adapter_names_it(toy):
    broken = replace(registry.project("toy"), peers=(Peer("none", "grpo", lambda logp: 1.0),))
    with pytest.raises(InputError, match="toy:none: "):
        look_at_all(broken)


# -- stand-ins -----------------------------------------------------------------------------------------------------------
def test_a_stand_in_is_imported_inherited_from_and_computes_nothing(toy):
    assert stand_ins.stand_in_for("ray", "json") == ("ray",), "what is installed stays as it is"
    stand_ins.stand_in_for("vllm")
    import toytrainer

    assert toytrainer.Worker().run() == 1
    with pytest.raises(RuntimeError, match=r"ray.get is a stand-in: it cannot compute"):
        sys.modules["ray"].get()(1, 2)
    assert importlib.util.find_spec("rayon_that_is_nowhere") is None


# -- the real ones -----------------------------------------------------------------------------------------------------------
def test_the_pins_of_make_field_are_the_versions_of_the_adapters():
    pins = dict(
        re.findall(
            r"^([\w-]+)==(\S+)", (ROOT / "docs/field/requirements.txt").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    assert {package: pins.get(package) for _, package, _ in registry.ADAPTERS.values()} == {
        package: version for _, package, version in registry.ADAPTERS.values()
    }


def test_every_issue_that_an_adapter_names_is_written():
    named = {
        x for f in Path(registry.__file__).parent.glob("*.py") for x in re.findall(r'issue="([\w-]+)"', f.read_text())
    }
    headings = re.findall(r"^## ([\w-]+)$", (ROOT / "docs/field/issues.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert named and not named - {*headings}
    assert sorted({*headings}) == sorted(headings)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(registry.ADAPTERS))
def test_a_real_projects_explanations_hold(name):
    _, package, _ = registry.ADAPTERS[name]
    try:
        found = registry.project(name)
    except InputError:
        pytest.skip(f"{package} is not installed here: `make field` audits it")
    assert not [fault for line in look_at_all(found) for fault in line.faults]
