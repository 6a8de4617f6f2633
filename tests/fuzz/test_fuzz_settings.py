"""TOML by the hundred: settings, mixtures and stored ways of evaluating, of anything and broken."""

import tomli_w
from fuzzing import DEEP, cases, dumps, ended, mutated, replaced, values
from hypothesis import given
from hypothesis import strategies as st

from rung.evaluation import spec as specs
from rung.tasks.problems import load_problems
from rung.training.config import TrainConfig, from_toml, to_toml
from rung.training.resume import begun

CONFIG = TrainConfig(
    recipe="ppo",
    overrides={"surrogate.high": 0.28, "kl": "K3", "kl.coef": 0.1},
    task="chained_arithmetic",
    task_options={"seed": 1},
).resolved()
WHOLE = to_toml(CONFIG, CONFIG.build_recipe())
MIX = {
    "part": [
        {"task": "chained_arithmetic", "weight": 2.0, "name": "a", "options": {"train_size": 64, "eval_size": 16}},
        {
            "task": "chained_arithmetic",
            "weight": 1.0,
            "name": "b",
            "options": {"train_size": 64, "eval_size": 16, "seed": 2},
        },
    ],
    "stage": [{"weights": {"a": 1.0, "b": 0.5}, "until_step": 3}, {"weights": {"a": 1.0, "b": 1.0}}],
}
TOML = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-10, 10),
        st.floats(),
        st.sampled_from([2**53, 2**63 - 1, -(2**63), "x", "", "nan"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    ),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner, max_size=2)
    ),
    max_leaves=5,
)
BROKEN = (
    "steps = " + "[" * DEEP,
    "steps = " + "9" * 6000,
    "x = '" + "a" * 1_000_000 + "'",
    "a." * DEEP + "b = 1",
    "[" + "a." * 5000 + "b]\nx = 1",
    "steps = 1\nsteps = 1",
)


def settled(path):
    return TrainConfig(**from_toml(path)).resolved().build_recipe()


@cases("toml: settings", 30)
@given(tree=replaced(WHOLE, TOML))
def test_settings_with_anything_in_them(place, tree):
    path = place / "config.toml"
    path.write_bytes(tomli_w.dumps(tree).encode())
    ended(lambda: settled(path))
    ended(lambda: begun(place))  # as a run's


@cases("toml: broken", 25)
@given(
    data=mutated(tomli_w.dumps(WHOLE).encode())
    | mutated(tomli_w.dumps(MIX).encode())
    | st.sampled_from([x.encode() for x in BROKEN])
)
def test_broken_toml(place, data):
    for name, read in (("config.toml", settled), ("mix.toml", lambda path: load_problems(str(path)))):
        path = place / name
        path.write_bytes(data)
        ended(lambda read=read, path=path: read(path))
    ended(lambda: begun(place))


@cases("toml: mixtures", 20)
@given(tree=replaced(MIX, TOML))
def test_mixtures_with_anything_in_them(place, tree):
    path = place / "mixture.toml"
    path.write_bytes(tomli_w.dumps(tree).encode())

    def drawn():
        splits = load_problems(str(path))
        return splits.train[0], splits.eval[0], len(splits.train)

    ended(drawn)


SPEC = {
    "format": 1,
    "task": "chained_arithmetic",
    "problems": 8,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "seed": 0,
    "samples": 1,
    "task_options": {"seed": 1},
}


@cases("json: ways of evaluating", 15)
@given(tree=replaced(SPEC, values))
def test_stored_ways_of_evaluating(place, tree):
    path = place / "spec.json"
    path.write_text(dumps(tree))
    ended(lambda: specs.read(path))
