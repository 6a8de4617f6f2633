"""The pages of docs/ladder are executed: the code that a learner reads computes what the trainer computes.

Each page's first Python block is the method from plain tensors, top to bottom. Here it meets the recipe composed of
parts, in value and gradient. A page that computed another recipe, or a part that drifted, fails.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import rung.parts as p
from rung.maths.natural import Trial, full_step, line_search
from rung.maths.objective import count, objective
from rung.recipe_io import all_recipes, brief, diff
from rung.recipes import Recipe
from rung.records import Batch, Scores, State

DOCS = Path(__file__).parents[2] / "docs"
LADDER = DOCS / "ladder"
RECIPES = all_recipes()
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(LADDER.glob("*.md")) if path.stem != "index"}
HEADINGS = [
    "The problem it repairs", "The step", "What changes", "Straight-line code",
    "What is known exactly", "Where the paper is silent", "Source",
]  # fmt: skip
MAX_TOKENS = 9
every_page = pytest.mark.parametrize("name", RECIPES)


def section(page: str, heading: str) -> str:
    return page.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def function(name: str, block: int, called: str) -> Callable[..., Any]:
    """A function from the page's n-th Python block, compiled under the page's name; torch is all that it may import."""
    scope: dict[str, Any] = {"torch": torch}
    exec(compile(blocks(PAGES[name])[block], f"docs/ladder/{name}.md", "exec"), scope)
    return scope[called]


# -- batches -----------------------------------------------------------------------------------------------------
LENGTHS = [4, 7, 3, 1, 0, 6, 2, 7, 5, 4, 7, 3, 5, 2]
GROUPS = [0, 1, 2, 0, 1, 2, 1, 0, 3, 1, 3, 2, 0, 3]


def tokens(seed: int, *, dense: bool, far: bool) -> tuple[Batch, Tensor]:
    """A batch with everything that occurs, and log pi of its tokens, both float64.

    Groups of unequal size lie interleaved; group 3 earns the same everywhere (unless `dense`); row 6 has no known
    reward, row 4 no token; rows 1 and 5 hold an observation; the longest answers were cut, but stay. Ratios
    reach from 1/8 to 8, with `far` beyond what any ratio is allowed to be.
    """
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    B, T = len(LENGTHS), max(LENGTHS)
    group_B = torch.tensor(GROUPS)
    mask_BT = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    mask_BT[1, 2], mask_BT[5, 0] = False, False
    last_BT = mask_BT & (mask_BT.flip(1).cumsum(1).flip(1) == 1)
    outcome_B = (rand(B) > 0).double() + 0.25 * (seed % 2)
    outcome_B[group_B == 3] = 0.1 + 0.2
    reward_BT = last_BT * outcome_B[:, None]
    step_end_BT = last_BT | (mask_BT & (rand(B, T) > 0.4))
    if dense:
        reward_BT = reward_BT + torch.where(step_end_BT, 0.5 * rand(B, T), 0.0)
    reward_BT[6, 1] = math.nan
    old_BT = -rand(B, T).abs() - 0.1
    drift_BT = 0.3 * rand(B, T)
    drift_BT[2, 1], drift_BT[7, 3], drift_BT[9, 0], drift_BT[12, 2] = 2.1, -2.1, 2.0, -1.9
    if far:
        drift_BT[0, 1], drift_BT[1, 0], drift_BT[11, 2] = -30.0, -21.0, 22.0
    truncated_B = torch.tensor(LENGTHS) == T
    batch = Batch(
        reward_BT=reward_BT, mask_BT=mask_BT, group_B=group_B,
        valid_B=mask_BT.any(1) & (reward_BT.isfinite() | ~mask_BT).all(1),
        keep_B=torch.ones_like(truncated_B), truncated_B=truncated_B,
        right_B=reward_BT.masked_fill(~mask_BT, 0.0).nan_to_num(0.0).sum(1) > 0,
        behavior_logp_BT=old_BT, old_logp_BT=old_BT, ref_logp_BT=old_BT + 0.4 * rand(B, T), value_BT=0.5 * rand(B, T),
        greedy_B=torch.tensor([0.4, 1.0, 0.0, math.nan if dense else 0.7], dtype=torch.float64)[group_B],
        step_end_BT=step_end_BT if dense else None,
    )  # fmt: skip
    return batch, (old_BT + drift_BT).masked_fill(~mask_BT, math.nan)  # padding may hold anything


BATCHES: Mapping[str, Mapping[str, Any]] = {
    "outcome": {"seed": 0, "dense": False, "far": False},
    "shifted outcome": {"seed": 1, "dense": False, "far": False},
    "dense": {"seed": 2, "dense": True, "far": False},
    "dense, other": {"seed": 3, "dense": True, "far": False},
    "far from the old policy": {"seed": 4, "dense": False, "far": True},
}


def entropy_and_old_kl(logp: Tensor, old_logp: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Stand-ins that depend on log pi, so that their gradient is compared as well: of a policy with two words."""
    p_now, p_old = (torch.where(mask, x, -1.0).clamp(max=-1e-3).exp() for x in (logp, old_logp))
    entropy = -p_now * p_now.log() - (1 - p_now) * (1 - p_now).log()
    old_kl = p_old * (p_old / p_now).log() + (1 - p_old) * ((1 - p_old) / (1 - p_now)).log()
    return entropy, old_kl


def composed(recipe: Recipe, batch: Batch, logp: Tensor) -> Tensor:
    """J as the trainer makes it of the recipe's parts."""
    batch = replace(batch, state=replace(recipe.initial_state(), mean=0.3, mean_updates=4))
    shaped = recipe.kl.shape_reward(batch)
    adv_BT = recipe.normalize(recipe.credit(shaped), shaped.mask_BT & shaped.valid_B[:, None])
    entropy, old_kl = entropy_and_old_kl(logp, batch.old_logp_BT, batch.mask_BT)
    scores = Scores(logp, entropy, old_kl_BT=old_kl if "old_full" in recipe.needs else None)
    return objective(recipe, shaped, scores, adv_BT, count(shaped, MAX_TOKENS))


def straight(name: str, batch: Batch, logp: Tensor) -> Tensor:
    """J as the page writes it, from plain tensors."""
    entropy, old_kl = entropy_and_old_kl(logp, batch.old_logp_BT, batch.mask_BT)
    return function(name, 0, "objective")(
        logp, batch.old_logp_BT, batch.reward_BT, batch.mask_BT, batch.group_B, max_tokens=MAX_TOKENS,
        ref_logp=batch.ref_logp_BT, value=batch.value_BT, greedy=batch.greedy_B, entropy=entropy, old_kl=old_kl,
        step_end=batch.step_end_BT, running_mean=0.3 / (1 - 0.9**4),
    )  # fmt: skip


def with_gradient(J: Callable[[Tensor], Tensor], logp: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logp.clone().requires_grad_()
    value = J(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


# -- the code ----------------------------------------------------------------------------------------------------
@every_page
@pytest.mark.parametrize("which", BATCHES)
def test_the_page_computes_what_the_parts_compute(name, which):
    batch, logp = tokens(**BATCHES[which])
    want, want_grad = with_gradient(lambda x: composed(RECIPES[name], batch, x), logp)
    got, got_grad = with_gradient(lambda x: straight(name, batch, x), logp)
    assert got.dim() == 0 and want.isfinite() and want != 0
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-12, atol=1e-12)
    live = batch.mask_BT & batch.valid_B[:, None]
    assert (want_grad[live] != 0).any() and (want_grad[~live] == 0).all()


def test_no_page_computes_another_recipe():
    """The comparison above has power: on the same batch all recipes differ."""
    batch, logp = tokens(**BATCHES["dense"])
    J = {name: with_gradient(lambda x, r=recipe: composed(r, batch, x), logp)[1] for name, recipe in RECIPES.items()}
    for page in PAGES:
        grad = with_gradient(lambda x, n=page: straight(n, batch, x), logp)[1]
        same = [name for name in J if torch.allclose(J[name], grad, rtol=1e-6, atol=1e-9)]
        assert same == [page]


@every_page
def test_a_batch_without_any_known_reward_is_zero(name):
    batch, logp = tokens(**BATCHES["outcome"])
    batch = replace(batch, reward_BT=batch.reward_BT * math.nan)
    J, grad = with_gradient(lambda x: straight(name, batch, x) + 0.0 * x[0, 0], logp.nan_to_num(-1.0))
    assert J == 0 and (grad == 0).all()


@every_page
def test_all_pages_share_one_signature_and_need_torch_alone(name):
    code = blocks(PAGES[name])[0]
    assert inspect.signature(function(name, 0, "objective")) == inspect.signature(function("reinforce", 0, "objective"))
    assert "rung" not in code and re.findall(r"^\s*(?:from|import) (\w+)", code, re.MULTILINE) == ["torch"]
    lines = code.strip().splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 120


# -- further blocks ----------------------------------------------------------------------------------------------
def test_the_moving_average_is_updated_as_the_page_says():
    after = function("moving_average", 1, "after_the_batch")
    part, state = p.MovingAverage(), State()
    for seed in range(4):
        batch = replace(tokens(seed, dense=True, far=False)[0], state=state)
        mean, updates, baseline = after(
            state.mean, state.mean_updates, batch.reward_BT.masked_fill(~batch.mask_BT, 0).sum(1)[batch.valid_B]
        )
        state = part.observe(batch)
        assert (state.mean, state.mean_updates) == (pytest.approx(mean, rel=1e-13), updates)
        assert part.baseline(state) == pytest.approx(baseline, rel=1e-13)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_critic_learns_as_the_page_says(clip):
    batch, _ = tokens(2, dense=True, far=False)
    batch = batch.rows(batch.valid_B)
    credit = p.Value(p.MC(), critic=p.Critic(clip=clip))
    value = batch.value_BT + 0.4 * torch.randn(
        batch.value_BT.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    weight = batch.mask_BT / batch.mask_BT.sum().double()
    want = credit.critic.loss(value, batch.value_BT, credit.targets(batch), weight)
    got = function("value_baseline", 1, "critic_loss")(value, batch.reward_BT, batch.mask_BT, clip, batch.value_BT)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_the_critic_of_gae_learns_as_the_page_says(name):
    batch, _ = tokens(2, dense=True, far=False)
    batch = batch.rows(batch.valid_B)
    credit = RECIPES[name].credit
    assert isinstance(credit, p.Value)
    new = batch.value_BT + 0.4 * torch.randn(batch.value_BT.shape, generator=torch.Generator().manual_seed(0)).double()
    weight = batch.mask_BT / batch.mask_BT.sum().double()
    want = credit.critic.loss(new, batch.value_BT, credit.targets(batch), weight)
    critic_loss = function("a2c", 1, "critic_loss")
    got = critic_loss(new, batch.value_BT, batch.reward_BT, batch.mask_BT, clip=credit.critic.clip)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("allowed", [0, 1, 3, 9, 10])
def test_the_line_search_is_as_the_page_says(allowed):
    part = RECIPES["trpo"].update
    assert isinstance(part, p.NaturalStep)
    kls = [part.max_kl * (2 if j < allowed else 1) for j in range(11)]

    def trial(fraction: float) -> Trial:
        return Trial(0.1, kls[round(math.log(fraction) / math.log(part.shrink))])

    want, _ = line_search(trial, part.max_kl, part.shrink, part.backtracks)
    got = function("trpo", 1, "accepted_fraction")(lambda f: (trial(f).gain, trial(f).kl))
    assert got == want == (part.shrink**allowed if allowed < part.backtracks else 0.0)


def test_the_natural_direction_is_as_the_page_says():
    A = torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fisher, g = A @ A.T / 12, A[0] - A[1]
    direction = function("trpo", 1, "natural_direction")
    part = RECIPES["trpo"].update
    assert isinstance(part, p.NaturalStep)
    want = full_step(lambda v: fisher @ v, g, part.max_kl, part.damping, part.cg_iterations)
    torch.testing.assert_close(direction(lambda v: fisher @ v, g), want, rtol=1e-10, atol=1e-12)
    step = direction(lambda v: fisher @ v, g, max_kl=0.01, damping=0.1, iterations=12)
    H = fisher + 0.1 * torch.eye(12, dtype=torch.float64)
    assert float(step @ H @ step / 2) == pytest.approx(0.01, rel=1e-10)
    solved = torch.linalg.solve(H, g)
    torch.testing.assert_close(step / step.norm(), solved / solved.norm(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kl", [0.001, 0.0066, 0.0067, 0.01, 0.0149, 0.0151, 0.5])
@pytest.mark.parametrize("beta", [1.2e-4, 3.0, 9e3])
def test_beta_old_adapts_as_the_page_says(kl, beta):
    state = RECIPES["ppo_kl"].trust.observe(State(trust_coef=beta), kl)
    assert state.trust_coef == function("ppo_kl", 1, "adapted")(beta, kl)


@pytest.mark.parametrize("name", PAGES)
def test_every_block_of_code_runs(name):
    for block in blocks(PAGES[name]):
        exec(compile(block, name, "exec"), {"torch": torch})
    extra = {"moving_average", "value_baseline", "a2c", "trpo", "ppo_kl"}
    assert len(blocks(PAGES[name])) == 1 + (name in extra), "a further block needs a test of its own, above"


# -- the text ----------------------------------------------------------------------------------------------------
def test_every_recipe_has_a_page_and_every_page_a_recipe():
    assert set(PAGES) == set(RECIPES)


@every_page
def test_every_page_has_the_same_headings(name):
    page = PAGES[name]
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == HEADINGS
    assert page.startswith("# ") and f"**Run it**: `rung train {name}`" in page
    assert all(section(page, h).strip() for h in HEADINGS)
    assert len(page.splitlines()) <= 130
    assert "$$" in section(page, "The step")


@every_page
def test_what_changes_is_the_difference_to_the_parent(name):
    recipe = RECIPES[name]
    text = section(PAGES[name], "What changes")
    below = (
        RECIPES[recipe.parent]
        if recipe.parent
        else replace(recipe, surrogate=p.CISPO(), credit=p.Greedy(), aggregate=p.TokenMean(), ratio=p.TokenRatio())
    )
    changed = diff(below, recipe)
    rows = {
        row[0].strip(" `"): row[1:]
        for line in text.splitlines()
        if line.startswith("| `") and (row := line.strip("|").split(" | "))
    }
    assert set(rows) == set(changed)
    for field, (_, new) in changed.items():
        assert f"`{brief(new)}`" in rows[field][0]
    if recipe.parent:
        assert f"]({recipe.parent}.md)" in text


@every_page
def test_silence_and_source_are_those_of_the_recipe(name):
    page, recipe = PAGES[name], RECIPES[name]
    silent = plain(section(page, "Where the paper is silent"))
    for sentence in recipe.silent:
        assert plain(sentence) in silent
    for paper in re.split(r", (?=arXiv)", recipe.paper):
        assert plain(paper) in plain(section(page, "Source"))


AUDIT = (DOCS / "audit.md").read_text(encoding="utf-8")
ORACLE = re.compile(r"^- The oracle \(`rung audit (\w+)`.*?(?=^- |^\n|^#)", re.MULTILINE | re.DOTALL)


def verdicts(name: str) -> list[str]:
    """What docs/audit.md says of a recipe: on fresh samples, off-policy, with a wrong critic if it has one."""
    rows = re.findall(rf"^\| {name} \| ([^|]+) \|", AUDIT, re.MULTILINE)
    return rows[:3] if "wrong critic" in "".join(rows) else rows[:2]


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if "- The oracle (" in page])
def test_the_oracles_verdict_on_the_page_is_that_of_the_audit(name):
    found = ORACLE.search(PAGES[name])
    assert found is not None and found[1] == name
    said, want = found[0], verdicts(name)
    cosines = [re.findall(r"cosine (\d\.\d{4})", verdict)[:1] for verdict in want]
    assert re.findall(r"\d\.\d{4}", said) == [x for row in cosines for x in row]
    assert ("unbiased on" in said) == (want[0] == "unbiased")
    assert ("unbiased up to the constant" in said) == want[0].startswith("unbiased up to")


def test_most_pages_quote_the_oracle():
    assert sum("- The oracle (" in page for page in PAGES.values()) >= 18


def plain(text: str) -> str:
    return " ".join(text.replace("\\", "").split()).lower()


def test_the_tree_in_the_index_is_the_tree():
    index = (LADDER / "index.md").read_text(encoding="utf-8")
    tree = re.search(r"^```text\n(.*?)^```$", index, re.MULTILINE | re.DOTALL)
    assert tree is not None
    found: dict[str, str | None] = {}
    above: list[str] = []
    for line in tree.group(1).splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        above[depth:] = [name]
        found[name] = above[depth - 1] if depth else None
    assert found == {name: r.parent for name, r in RECIPES.items()}
    for name in RECIPES:
        assert f"]({name}.md)" in index, f"the story of the index passes {name} by"


def anchors(page: str) -> set[str]:
    plain_text = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", plain_text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


OURS = [*sorted(LADDER.glob("*.md")), DOCS / "metrics.md"]


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_internal_links_resolve(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_mathematics_survives_the_renderer(path):
    """Markdown eats a backslash before punctuation; a dollar must find its partner; a bar ends a table's cell."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    assert text.count("$$") % 2 == 0
    shown = re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL)
    inline = re.findall(r"\$([^$\n]*)\$", re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL))
    assert re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL).count("$") == 2 * len(inline), (
        "a formula is broken over two lines"
    )
    for formula in shown + inline:
        assert not re.search(r"\\[^a-zA-Z]", formula), formula
        assert formula.count("{") == formula.count("}"), formula
        assert formula.count(r"\left") - formula.count(r"\leftarrow") == formula.count(r"\right") - formula.count(
            r"\rightarrow"
        ), formula
    for formula in inline:
        assert formula == formula.strip() and formula, formula
    for line in text.splitlines():
        if line.startswith("|"):
            assert not any("|" in f for f in re.findall(r"\$([^$]*)\$", line)), line
