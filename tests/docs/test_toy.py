"""The toy of docs/book/toy.md computes in a browser what rung's oracle computes: same world, same recipes, to 1e-9.

Node runs docs/_static/toy.js. The oracle gets the same tree of answers: `4` and `5` end one, `think` goes on, three thinks are cut.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import rung.parts as p
from rung.exact.oracle import advantages, all_batches, expected_gradient
from rung.exact.world import F64, Condition, Scene, Tree, World
from rung.maths.objective import count
from rung.recipe_io import find
from rung.recipes import Recipe

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "docs" / "_static"
ANSWERS = [[0], [1], [2, 0], [2, 1], [2, 2, 0], [2, 2, 1], [2, 2, 2]]
NODE = shutil.which("node")
SETTINGS = 100
pytestmark = pytest.mark.skipif(
    NODE is None, reason="no node here, which runs the toy's JavaScript: apt-get install nodejs"
)


def node(script: str, given: Any = None) -> Any:
    """What a script says with `say(value)`; `toy` is toy.js, `given` what it gets. JSON has no infinity: null is one."""
    head = (
        "const fs = require('fs'), toy = require(process.argv[1]), given = JSON.parse(fs.readFileSync(0), "
        "(_, x) => (x === null ? -Infinity : x)), say = (x) => console.log(JSON.stringify(x));"
    )
    assert NODE is not None
    out = subprocess.run(
        [NODE, "-e", head + script, str(STATIC / "toy.js")],
        input=json.dumps(given), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


# -- the same world in rung --------------------------------------------------------------------------------------------
class ToyWorld(World):
    answers = 7  # type: ignore[assignment]
    states = 3  # type: ignore[assignment]


class ToyScene(Scene):
    """The toy's tree, rewards and policies in a Scene of rung's."""

    def __init__(self, setting: dict[str, Any]) -> None:
        world = ToyWorld(vocabulary=3, horizon=3, prompts=1, samples=setting["G"], policy="tabular")
        super().__init__(World(3, 3, 1, setting["G"], policy="tabular"), Condition())
        self.world, self.tree = world, toy_tree()
        self.logits = lambda theta: theta.view(1, 3, 3)
        self.theta, self.old = (torch.tensor(setting[x], dtype=F64).flatten() for x in ("now", "old"))
        self.behavior = self.ref = self.old
        thinks_AT = ((self.tree.token_AT == 2) & self.tree.mask_AT).to(F64)
        last_AT = torch.arange(3) == self.tree.length_A[:, None] - 1
        self.reward_PAT = (
            last_AT * torch.tensor(setting["reward"], dtype=F64)[:, None] + thinks_AT * setting["think"]
        )[None]


def toy_tree() -> Tree:
    token_AT = torch.tensor([[*a, 0, 0][:3] for a in ANSWERS])
    length_A = torch.tensor([len(a) for a in ANSWERS])
    return Tree(
        prefixes=((), (2,), (2, 2)), token_AT=token_AT, mask_AT=torch.arange(3) < length_A[:, None],
        state_AT=torch.arange(3).expand(7, 3).clone(), length_A=length_A, truncated_A=torch.tensor([a[-1] == 2 for a in ANSWERS]),
    )  # fmt: skip


def as_in_the_toy(name: str) -> Recipe:
    """The recipe without what the toy leaves out and says so: KL to a reference, entropy, a penalty of length, Adam."""
    recipe = find(name)
    return replace(
        recipe,
        kl=p.NoKL(),
        trust=p.NoTrust(),
        entropy=0.0,
        update=p.GradientSteps(),
        data=replace(recipe.data, overlong=None),
    )


def settings(seed: int = 0) -> list[dict[str, Any]]:
    """Random rewards, policies, group sizes; every recipe several times, on-policy, near and far from the old policy."""
    names, draw = node("say(Object.keys(toy.RECIPES))"), random.Random(seed)
    out = []
    for n in range(SETTINGS):
        old = [[draw.gauss(0, 1) for _ in range(3)] for _ in range(3)]
        drift = (0.0, 0.1, 0.6)[n % 3]
        reward = [float(draw.random() < 0.5) for _ in ANSWERS] if n % 2 else [draw.gauss(0, 1) for _ in ANSWERS]
        out.append({
            "recipe": names[n % len(names)], "G": draw.choice([2, 3, 4]), "reward": reward,
            "think": draw.choice([0.0, -0.1, 0.3]), "old": old,
            "now": [[x + drift * draw.gauss(0, 1) for x in row] for row in old],
        })  # fmt: skip
    return out


@pytest.fixture(scope="module")
def pairs() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    given = settings()
    return list(zip(given, node("say(given.map(toy.evaluate))", given), strict=True))


def test_gradient_bias_and_variance_are_the_oracles(pairs):
    assert len(pairs) == SETTINGS
    for setting, found in pairs:
        exact = expected_gradient(as_in_the_toy(setting["recipe"]), ToyScene(setting))
        for name, want in (
            ("gradient", exact.gradient.tolist()), ("target", exact.target.tolist()), ("cosine", exact.cosine),
            ("scale", exact.scale), ("variance", exact.trace), ("groups", exact.batches),
        ):  # fmt: skip
            assert found[name] == pytest.approx(want, rel=1e-9, abs=1e-9), (setting, name)


def test_credit_weight_and_what_the_clip_silences_are_the_oracles(pairs):
    for setting, found in pairs:
        scene, recipe = ToyScene(setting), as_in_the_toy(setting["recipe"])
        credit_AT, weight_A, silent = by_enumeration(scene, recipe)
        for a, row in enumerate(found["answers"]):
            assert row["credit"] == pytest.approx(credit_AT[a, : len(ANSWERS[a])].tolist(), rel=1e-9, abs=1e-9), setting
            assert row["weight"] == pytest.approx(float(weight_A[a]), rel=1e-9), setting
        assert found["cases"]["silent"] == pytest.approx(silent, rel=1e-9, abs=1e-9), setting


def by_enumeration(scene: Scene, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """Mean credit [A, T] and mean weight G w [A] of an answer that is drawn; the shares of tokens silenced: low, high."""
    rows, batches = scene.rows(recipe), all_batches(recipe, scene)
    adv_NBT = advantages(recipe, scene, rows, rows, batches)
    log_ratio_AT = scene.logp(scene.law(scene.theta))[0] - scene.logp(scene.law(scene.old))[0]
    credit_AT, weight_A, drawn_A = torch.zeros(7, 3, dtype=F64), torch.zeros(7, dtype=F64), torch.zeros(7, dtype=F64)
    silent, tokens = [0.0, 0.0], 0.0
    for cells, probability, adv_BT in zip(batches.cells_NB, batches.weight_N, adv_NBT, strict=True):
        batch = replace(rows.rows(cells), group_B=batches.group_B)
        w_BT = recipe.aggregate(batch.mask_BT, batch.group_B, count(batch, 3))
        credit_AT.index_add_(0, cells, probability * adv_BT)
        weight_A.index_add_(0, cells, probability * len(cells) * w_BT[:, 0])
        drawn_A.index_add_(0, cells, probability.expand(len(cells)))
        ratio_BT = recipe.ratio(log_ratio_AT[cells], torch.zeros_like(adv_BT), batch.mask_BT)
        for k, off_BT in enumerate(recipe.surrogate.clipped(ratio_BT, adv_BT)):
            silent[k] += float(probability * (off_BT & batch.mask_BT).sum())
        tokens += float(probability * batch.mask_BT.sum())
    return credit_AT / drawn_A[:, None], weight_A / drawn_A, [x / tokens for x in silent]


def test_the_random_settings_reach_every_branch(pairs):
    """A comparison that never meets the clip, a group without a difference or a policy that moved would show little."""
    assert {s["recipe"] for s, _ in pairs} >= {"reinforce", "ppo", "grpo", "dr_grpo", "gspo", "dapo"}
    assert all(sum(f["cases"]["silent"][k] > 0.01 for _, f in pairs) >= 5 for k in (0, 1))
    assert sum(len(set(s["reward"])) < 7 for s, _ in pairs) >= 40
    assert sum(s["now"] == s["old"] for s, _ in pairs) >= 30


def test_the_toy_of_the_book_has_the_books_numbers():
    """One prompt, four answers: the exact gradient that the chapters derive by hand."""
    theta = [[math.log(0.3), math.log(0.3), math.log(0.4)], [math.log(0.75), math.log(0.25), None], [0.0, 0.0, 0.0]]
    setting = {
        "reward": [1, 0, 1, 0, 1, 0, 0],
        "think": 0,
        "old": theta,
        "now": theta,
        "recipe": "leave_one_out",
        "G": 4,
    }
    found = node("const e = toy.evaluate(given); say({...e, J: toy.J(given.old, e.world.r)})", setting)
    assert found["J"] == pytest.approx(0.6)
    assert found["target"] == pytest.approx([0.12, -0.18, 0.06, 0.075, -0.075, 0, 0, 0, 0])
    assert found["gradient"] == pytest.approx(found["target"])
    assert [row["old"] for row in found["answers"]] == pytest.approx([0.3, 0.3, 0.3, 0.1, 0, 0, 0])
    assert found["world"]["values"][:2] == pytest.approx([0.6, 0.75])


def test_a_step_and_a_move_are_what_they_say():
    setting = settings(1)[10]
    found = node(
        "const e = toy.evaluate(given), m = toy.moved(given, 0.7); say({"
        "step: toy.step(given.now, e.gradient, 2), e, moved: m, start: toy.evaluate({...given, now: given.old}).gradient})",
        setting,
    )
    gradient = torch.tensor(found["e"]["gradient"], dtype=F64)
    assert torch.allclose(
        torch.tensor(found["step"], dtype=F64), torch.tensor(setting["now"], dtype=F64) + 2 * gradient.view(3, 3)
    )
    move = torch.tensor(found["moved"], dtype=F64) - torch.tensor(setting["old"], dtype=F64)
    start = torch.tensor(found["start"], dtype=F64).view(3, 3)
    assert float(move.norm()) == pytest.approx(0.7) and float((move * start).sum()) == pytest.approx(
        0.7 * float(start.norm())
    )


def test_a_single_answer_is_not_compared_with_itself():
    said = node(
        "try { toy.evaluate(given) } catch (error) { say(error.message) }", {**settings()[0], "recipe": "grpo", "G": 1}
    )
    assert "G must be 2 or more" in said


def test_the_still_picture_is_the_one_that_the_page_draws():
    """`node docs/_static/toy_view.js > docs/pictures/toy.svg`."""
    assert NODE is not None
    drawn = subprocess.run([NODE, str(STATIC / "toy_view.js")], capture_output=True, text=True, check=True).stdout
    assert drawn == (ROOT / "docs" / "pictures" / "toy.svg").read_text(encoding="utf-8")


# -- what a link chooses -----------------------------------------------------------------------------------------------
def test_every_heading_that_a_link_may_name_chooses_settings_that_there_are():
    view = "const view = require(process.argv[1].replace('toy.js', 'toy_view.js'));"
    scenes, rewards, policies, recipes = node(
        f"{view} say([view.SCENES, Object.keys(view.REWARDS), Object.keys(view.POLICIES), Object.keys(toy.RECIPES)])"
    )
    known = {
        "recipe": recipes,
        "rewards": rewards,
        "policy": policies,
        "moved": range(5),
        "step": range(11),
        "G": range(1, 9),
    }
    assert all(value in known[key] for scene in scenes.values() for key, value in scene.items())
    page = (ROOT / "docs" / "book" / "toy.md").read_text(encoding="utf-8")
    heads = re.findall(r"^### (.*)$", page, re.MULTILINE)
    assert {re.sub(r"[^a-z ]", "", head.lower()).replace(" ", "-") for head in heads} == set(scenes)
    linked = {}
    for chapter in sorted((ROOT / "docs" / "book").glob("[0-9]*.md")):
        for name in re.findall(r"\]\(toy\.md#([\w-]+)\)", chapter.read_text(encoding="utf-8")):
            linked.setdefault(name, chapter.name[:2])
    assert set(linked) == set(scenes) and set(linked.values()) == {"04", "05", "06", "10", "11", "12"}
