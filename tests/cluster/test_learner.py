"""Several processes take the step of one: weights, advantages, metrics, for every kind of recipe and any split of the rows."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import pytest
import torch
from cluster_steps import Case, Momentum, alone, collected, compared, together

import rung.parts as p
from rung.cluster.group import leave, meet
from rung.errors import InputError
from rung.recipe_io import all_recipes, find, override
from rung.recipes import GRPO

torch.set_num_threads(1)
STOPS = replace(override(find("ppo"), {"update.epochs": 4, "update.target_kl": 0.02}), name="stops")
OWN = replace(GRPO, name="momentum", kl=p.NoKL(), update=Momentum())
EVERYTHING = replace(
    override(find("ppo"), {"entropy": 0.01}), name="everything", imitation=0.1, kl=p.FullKL(0.1), trust=p.OldKL(0.5, 0.01),
    aggregate=p.PromptMean(),
)  # fmt: skip
ADAPTS = replace(find("ppo"), name="adapts", kl=p.K1(0.05, target=0.1, horizon=100))
QUICK = [
    Case(find("reinforce_pp"), "lopsided"), Case(find("a2c"), "fair"), Case(STOPS, "idle"), Case(find("trpo"), "lopsided"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def quick(folder):
    return compared([2], [replace(case, save=str(folder / f"saved {case}")) for case in QUICK], folder)


@pytest.fixture
def one_process(tmp_path):
    """A group of this process alone."""
    meet(0, 1, f"file://{tmp_path / 'meeting'}")
    yield
    leave()


def same(one, others, tolerance=5e-5):
    """Every process holds what one process would, within the rounding of float32."""
    moved = (one.weights - one.start).norm()
    for found in others:
        assert torch.equal(found.weights, others[0].weights), "all processes are one model bit for bit"
        assert float((found.weights - one.weights).norm()) <= tolerance * float(moved)
        torch.testing.assert_close(found.adv_n, one.adv_n, rtol=1e-3, atol=1e-5)
        for mine, theirs in ((one.ratio_n, found.ratio_n), (one.clip_n, found.clip_n)):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(theirs, mine, rtol=1e-3, atol=1e-4, equal_nan=True)
        for mine, theirs in zip(one.metrics[-len(found.metrics) :], found.metrics, strict=True):
            assert mine.keys() == theirs.keys()
            assert not {k: (mine[k], theirs[k]) for k in mine if not near(mine[k], theirs[k])}


def near(x, y):
    return math.isclose(x, y, rel_tol=1e-3, abs_tol=1e-5) or (x != x and y != y)


@pytest.mark.parametrize("name", map(str, QUICK))
def test_two_processes_take_the_step_of_one(quick, name):
    one, found = quick[name]
    assert float((one.weights - one.start).norm()) > 1e-3
    same(one, found[2])


def test_the_kl_that_stops_is_that_of_all_processes(quick):
    one, _ = quick[f"{STOPS.name}: idle"]
    stopped = [row["update/stopped_early"] for row in one.metrics]
    assert 1.0 in stopped and one.metrics[stopped.index(1.0)]["update/steps"] >= 2, "not at once, and not never"


@pytest.mark.parametrize("how", [together, alone], ids=["as several would", "by itself"])
@pytest.mark.parametrize("case", QUICK[2:], ids=str)
def test_what_two_processes_saved_goes_on_in_one(quick, folder, one_process, case, how):
    resumed = how(replace(case, restore=str(folder / f"saved {case}")), collected(case.recipe, case.steps))
    same(quick[str(case)][0], [resumed])


def test_what_one_process_saved_is_dealt_out(quick, tmp_path, one_process):
    for case in QUICK[2:]:
        steps, here = collected(case.recipe, case.steps), str(tmp_path / case.recipe.name)
        alone(replace(case, save=here), steps)
        same(quick[str(case)][0], [together(replace(case, restore=here), steps)])


def test_what_two_processes_saved_is_a_model_for_everyone(quick, folder):
    case = QUICK[0]
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(folder / f"saved {case}")
    one, _ = quick[str(case)]
    weights = torch.cat([x.flatten() for x in saved.state_dict().values()])
    assert type(saved).__name__ == "LlamaForCausalLM" and len(weights) == len(one.weights)
    assert 0 < float((weights - one.start).norm()) < float((one.weights - one.start).norm()) * 2


def test_a_damaged_checkpoint_is_one_message(one_process, quick, folder, tmp_path):
    case = QUICK[0]
    shutil.copytree(folder / f"saved {case}", tmp_path / "damaged")
    (tmp_path / "damaged" / "state.json").write_text('{"format": 1}')
    with pytest.raises(
        InputError, match=r"training state in .* is damaged \(KeyError: .*Resume from an earlier checkpoint"
    ):
        together(replace(case, restore=str(tmp_path / "damaged")), collected(case.recipe, 1))
    (tmp_path / "damaged" / "state.json").unlink()
    with pytest.raises(InputError, match=r"holds no training state \(state.json is missing\)"):
        together(replace(case, restore=str(tmp_path / "damaged")), collected(case.recipe, 1))


# -- slow: everything --------------------------------------------------------------------------------------------------
EVERY = [*all_recipes().values(), STOPS, OWN, EVERYTHING, ADAPTS]
SPLITS = [Case(recipe, ("fair", "lopsided", "idle")[i % 3]) for i, recipe in enumerate(EVERY)]
KINDS = [
    Case(find(name), "fair", kind=kind)
    for name, kind in (
        ("grpo", "lora"), ("a2c", "lora"), ("trpo", "lora"), ("ppo", "padded"), ("ppo", "checkpointing"), ("trpo", "checkpointing"),
        ("grpo", "half frozen"), ("vapo", "half frozen"),
    )
]  # fmt: skip
LOW = Case(find("grpo"), "lopsided", steps=1, kind="bfloat16")
SAVED = [Case(find("ppo")), Case(OWN), Case(find("trpo")), Case(find("a2c"), kind="lora")]


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return compared([4, 2], SPLITS, tmp_path_factory.mktemp("every"))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", map(str, SPLITS))
def test_any_number_of_processes_takes_the_step_of_one(every, name, size):
    one, found = every[name]
    same(one, found[size])


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return compared([2], [*KINDS, LOW], tmp_path_factory.mktemp("kinds"))


@pytest.mark.slow
@pytest.mark.parametrize("name", map(str, KINDS))
def test_models_of_all_kinds_are_dealt_out(kinds, name):
    one, found = kinds[name]
    same(one, found[2])


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    saved = [replace(case, save=str(folder / str(case))) for case in SAVED]
    wrote = compared([2], saved, folder)
    read = compared([4, 1], [replace(case, restore=str(folder / str(case))) for case in SAVED], folder)
    return wrote, read


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 1])
@pytest.mark.parametrize("name", map(str, SAVED))
def test_what_two_processes_saved_goes_on_in_any_number(resumed, name, size):
    one, found = resumed[0][name]
    same(one, found[2])
    same(one, resumed[1][name][1][size])


@pytest.fixture(scope="module")
def back(tmp_path_factory):
    """What two processes did with what one had saved, and the folder where both saved."""
    folder = tmp_path_factory.mktemp("back")
    for case in SAVED:
        alone(replace(case, save=str(folder / f"one {case}")), collected(case.recipe, case.steps))
    cases = [replace(c, restore=str(folder / f"one {c}"), save=str(folder / f"two {c}")) for c in SAVED]
    return compared([2], cases, folder), folder


@pytest.mark.slow
@pytest.mark.parametrize("case", SAVED, ids=str)
def test_what_one_process_saved_goes_on_in_two_and_back(resumed, back, case):
    one, (found, folder) = resumed[0][str(case)][0], back
    same(one, found[str(case)][1][2])
    again = replace(case, restore=str(folder / f"two {case}"))
    same(one, [alone(again, collected(case.recipe, case.steps))])


@pytest.mark.slow
def test_in_low_precision_the_step_is_as_near_as_rounding_lets_it(kinds):
    one, found = kinds[str(LOW)]
    moved, apart = (one.weights - one.start).float().norm(), (found[2][0].weights - one.weights).float().norm()
    assert apart < 0.1 * moved and torch.equal(found[2][0].weights, found[2][1].weights)
