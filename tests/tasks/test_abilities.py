"""What an environment can do besides is seen through every wrapper, on every Python, and is used when one trains."""

import ast
import copy
import inspect
import json
import pickle
from fractions import Fraction
from pathlib import Path

import pytest

import rung
import rung.parts as p
from rung.errors import InputError
from rung.models import starter
from rung.network import model as models
from rung.records import Completion, SamplingLaw, State, Step, Task
from rung.rollout.collect import Collector
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks.environments import named, protocol
from rung.tasks.environments.protocol import (
    Bounded,
    BoundedBelow,
    Conversational,
    Counts,
    Environment,
    Extracts,
    HasGold,
    Judge,
    Judged,
    Observes,
    Splits,
    Staged,
    Stateful,
    Stepwise,
    Waits,
)
from rung.tasks.environments.wrapper import ABILITIES, Part
from rung.tasks.problems import load_problems
from rung.tasks.rewards.functions import judged
from rung.tasks.sources.mixture import Mixture, Stage
from rung.tasks.sources.wording import Wording, worded

OF_SESSIONS = {protocol.Begins, protocol.Closes, protocol.Named, protocol.Environment, protocol.Session}


class Sums:
    """A user's environment that can do nothing besides. `heard`: what its abilities were asked."""

    def __init__(self, size=12):
        self.size, self.heard = size, []

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        if not 0 <= i < self.size:
            raise IndexError(i)
        return Task(f"sum-{i}", f"{i % 10}+1=", {"answer": str((i % 10 + 1) % 10)})

    def score(self, group):
        return [{"r": float(i % 2)} for i, _ in enumerate(group.completions)]

    def hear(self, what, answer=None):
        self.heard.append(what)
        return answer


class Chat:
    def __init__(self, env, task):
        self.env, self.task, self.counters = env, task, {"calls": 1.0, "failures": 0.0}

    def reset(self):
        return self.task.prompt

    def step(self, completion):
        return Step([], done=True, reward=0.5)

    def close(self):
        self.env.hear("close")


# What a user writes to have the ability, and no more.
WRITTEN = {
    Conversational: {"session": lambda self, task: self.hear(("session", task.prompt), Chat(self, task))},
    Extracts: {"extract": lambda self, task, completion: self.hear(("extract", task.prompt), completion.text[-1:] or None)},
    HasGold: {"right_answers": lambda self, task: self.hear(("gold", task.prompt), ("7", ["#7"]))},
    Stepwise: {"steps": lambda self, task, completion: self.hear(("steps", task.prompt), [])},
    Staged: {"begin_step": lambda self, step: self.hear(("begin", step), {"task/level": 3.0})},
    Observes: {"observe": lambda self, tasks, rewards: self.hear(("observe", [t.id for t in tasks], [*rewards]))},
    Stateful: {
        "state_dict": lambda self: {"at": len(self.heard)},
        "load_state_dict": lambda self, state: self.hear(("load", state)),
    },
    Bounded: {"most": 1.0},
    BoundedBelow: {"least": 0.0},
    Judged: {"judge": lambda self, task: self.hear(("judge", task.prompt), Judge("a friend judges"))},
    Waits: {"waits": True},
    Counts: {"counters": property(lambda self: {"odd": 2.0})},
}  # fmt: skip


def mine(*abilities):
    return type("Mine", (Sums,), {k: v for a in abilities for k, v in WRITTEN[a].items()})()


def members(ability):
    return [name for name in vars(ability) if not name.startswith("_")]


def pay(completions, **columns):
    return [float(i % 2) for i, _ in enumerate(completions)]


class Tool:
    def reset(self, **row):
        return None


def tools(env):
    return named.with_tools(Tool, Splits("mine", env, env), judge=False).train


def functions(*judges):
    return lambda env: judged(Splits("mine", env, env), [(f, 1.0) for f in judges], "stop").train


def also_pay(completions, **columns):
    return pay(completions)


def mixed(env):
    return Mixture({"a": env, "b": Sums()}, [Stage({"a": Fraction(1), "b": Fraction(1)})], repeat=True)


# What a reward function takes the place of.
OWN_JUDGE = {Bounded, BoundedBelow, Stepwise, Waits, Counts, Conversational}
# wrapper -> (how it is made, abilities that end at it). A mixture has most of them whatever its parts can do.
WRAPPERS = {
    "cut": (lambda env: named.as_splits(env, "mine").train, set()),
    "worded": (lambda env: worded(Splits("mine", env, env), Wording(template="1+{prompt}")).train, {Conversational}),
    "mixture": (lambda env: Mixture({"a": env}, [Stage({"a": Fraction(1)})], repeat=True), set()),
    "rewarded": (functions(pay), OWN_JUDGE),
    "rewarded twice": (functions(pay, also_pay), OWN_JUDGE),
    "tools": (tools, {Bounded, BoundedBelow, Stepwise, Waits, Counts, Extracts, HasGold, Judged}),
    "all of them": (
        lambda env: named.as_splits(WRAPPERS["mixture"][0](WRAPPERS["worded"][0](Part(env, 0, 10))), "mine").train,
        {Conversational},
    ),
}  # fmt: skip
ALWAYS = {
    "mixture": {Bounded, BoundedBelow, HasGold, Staged, Observes, Stateful, Judged, Waits, Counts},
    "rewarded": {Staged, Judged, Waits},
    "rewarded twice": {Staged, Judged, Waits},
    "tools": {Conversational, Waits},
}
ALWAYS["all of them"] = ALWAYS["mixture"]
CASES = [(name, {ability}) for name in WRAPPERS for ability in ABILITIES]
CASES += [(name, set(ABILITIES) - (set() if name in ("cut", "mixture") else {Conversational})) for name in WRAPPERS]


def seen(env):
    """The abilities that are found without running anybody's code, as isinstance finds them since Python 3.12."""
    missing = object()
    return {
        a for a in ABILITIES if all(inspect.getattr_static(env, name, missing) is not missing for name in members(a))
    }


def test_every_ability_of_environments_can_be_passed_on():
    found = {
        x for x in vars(protocol).values() if getattr(x, "_is_protocol", False) and x.__module__ == protocol.__name__
    }
    assert found - OF_SESSIONS == set(ABILITIES) == set(WRITTEN), "an ability that no wrapper would pass on, or no test"
    for ability, passed in ABILITIES.items():
        assert set(members(ability)) == set(members(passed)), f"{passed.__name__} passes on other methods"


@pytest.mark.parametrize(
    ("name", "abilities"), CASES, ids=lambda x: x if isinstance(x, str) else "+".join(sorted(a.__name__ for a in x))
)
def test_a_wrapper_has_the_abilities_of_what_is_inside_and_no_others(name, abilities):
    make, lost = WRAPPERS[name]
    if name in ("worded", "all of them") and Conversational in abilities:
        with pytest.raises(InputError, match="says itself what is asked"):
            make(mine(*abilities))
        return
    env = make(mine(*abilities))
    wanted = (abilities - lost) | ALWAYS.get(name, set())
    assert isinstance(env, Environment)
    assert {a for a in ABILITIES if isinstance(env, a)} == wanted == seen(env)
    for again in (copy.deepcopy(env), copy.copy(env)):
        assert seen(again) == wanted and again[0] == env[0] and type(again).__name__ == type(env).__name__


def test_a_wrapper_that_is_pickled_is_the_same_wrapper():
    env = pickle.loads(pickle.dumps(Part(Part(Kept(), 2, 9), 1, 3)))
    assert [env[i].id for i in range(len(env))] == ["sum-3", "sum-4"] and isinstance(env, Extracts)


class Kept(Sums):
    """At the top of a module, so that pickle finds it."""

    def extract(self, task, completion):
        return None


def by_getattr(source):
    """Lines that ask for an ability by its name, or pass everything on: isinstance sees neither."""
    names, found = {"close", "session", *(n for a in ABILITIES for n in members(a))}, []
    for node in ast.walk(ast.parse(source)):
        called = (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr")
        )
        if called and isinstance(node.args[1], ast.Constant) and node.args[1].value in names:
            found.append(node.lineno)
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__" and "getattr(" in ast.unparse(node):
            found.append(node.lineno)
    return found


def test_abilities_are_asked_for_by_isinstance():
    house = Path(rung.__file__).parent
    paths = [
        path for room in ("tasks", "rollout", "training", "evaluation") for path in sorted((house / room).rglob("*.py"))
    ]
    found = {path.name: lines for path in paths if (lines := by_getattr(path.read_text(encoding="utf-8")))}
    found.pop("protocol.py")  # half_stateful: the one that asks for half an ability
    assert not found
    assert by_getattr('getattr(env, "waits", False)\nhasattr(env, "right_answers")') == [1, 2]
    assert by_getattr("class A:\n    def __getattr__(self, name):\n        return getattr(self.env, name)") == [2]


# -- what is passed on arrives -----------------------------------------------------------------------------------------
def test_what_computes_from_the_problem_gets_it_as_its_environment_wrote_it():
    inner = mine(HasGold, Extracts, Stepwise, Judged, Observes)
    env = WRAPPERS["all of them"][0](inner)
    task, said = env[0], Completion("x7")
    assert task.prompt.startswith("1+") and task.id.startswith("a/")
    assert env.right_answers(task) == ("7", ["#7"]) and env.steps(task, said) == [] and env.extract(task, said) == "7"
    assert env.judge(task).words == "a friend judges"
    env.observe([task], [[1.0, 0.0]])
    own = inner[int(task.id.rpartition("-")[2])]
    assert inner.heard == [
        ("gold", own.prompt), ("steps", own.prompt), ("extract", task.prompt), ("judge", own.prompt),
        ("observe", [own.id], [[1.0, 0.0]]),
    ]  # fmt: skip


def test_a_mixture_finds_answers_if_all_parts_do_and_knows_steps_if_one_does():
    able = mixed(mine(Extracts, Stepwise, Waits, HasGold, Judged))
    assert not isinstance(able, Extracts), "no answer found would be said of parts that cannot tell"
    assert isinstance(able, Stepwise) and not able.waits
    one, other = (next(t for t in map(able.__getitem__, range(2)) if t.id.startswith(x)) for x in "ab")
    assert able.steps(other, Completion("")) == [] and able.judge(other) == Judge()
    assert able.right_answers(one)[0] == "7" and able.right_answers(other)[0] == other.data["answer"]
    with pytest.raises(InputError, match="only a is held in conversations"):
        mixed(mine(Conversational))


def test_a_mixture_in_a_mixture_is_told_what_its_own_problems_earned_and_goes_on_where_it_stood():
    stages = [Stage({"x": Fraction(1)}, until_accuracy=0.5), Stage({"y": Fraction(1)})]

    def made():
        inner = Mixture({"x": mine(Observes), "y": Sums()}, stages, repeat=True)
        return inner, Mixture(
            {"inner": inner, "b": Sums()}, [Stage({"inner": Fraction(1), "b": Fraction(1)})], repeat=True
        )

    inner, outer = made()
    tasks = [outer[i % 2] for i in range(400)]
    outer.observe(tasks, [[1.0] if t.id.startswith("inner/") else [0.0] for t in tasks])
    assert inner.parts["x"].heard[0][1] == [
        inner.inner(outer.inner(t)[1])[1].id for t in tasks if t.id.startswith("inner/")
    ]
    assert outer.begin_step(0) == {"task/inner.stage": 1.0}
    other, again = made()
    again.load_state_dict(json.loads(json.dumps(outer.state_dict())))
    assert other.stage == inner.stage == 1


@pytest.mark.parametrize("half", [{"state_dict"}, {"load_state_dict"}])
def test_half_an_ability_is_refused(half):
    env = type("Half", (Sums,), {k: v for k, v in WRITTEN[Stateful].items() if k in half})()
    for task in (env, Splits("mine", env, Sums())):
        with pytest.raises(InputError, match=f"has {min(half)} and no "):
            load_problems(task)


# -- and is used -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def model():
    return models.load(str(starter.path()))


@pytest.mark.parametrize("ability", ABILITIES, ids=lambda a: a.__name__)
@pytest.mark.parametrize("name", ["cut", "mixture", "rewarded"])
def test_a_step_uses_each_ability_alone(name, ability, model):
    inner, (make, lost) = mine(ability), WRAPPERS[name]
    if (name, ability) == ("rewarded", Conversational):
        with pytest.raises(InputError, match="conversations that it judges itself"):
            load_problems(Splits("mine", inner, inner), reward=pay)
        return
    law = SamplingLaw(max_new_tokens=4)
    collector = Collector(make(inner), model.codec, TorchSampler(model), law, p.Data(), 2, 2, 0, steps=True)
    got = collector.collect(0, State())
    wanted = {
        Conversational: ["session"] * 4 + ["close"] * 4, Extracts: ["extract"] * 4, Stepwise: ["steps"] * 4, Staged: ["begin"],
        Observes: ["observe"],
    }.get(ability, [])  # fmt: skip
    used = ability not in lost
    assert kinds(inner) == wanted * used
    assert ("rewards/odd" in got.counters) == (ability is Counts and used)
    assert ("completions/no_answer_ratio" in got.counters) == (ability is Extracts)
    assert bool({"task/level", "task/a.level"} & {*got.counters}) == (ability is Staged)


SMALL = {
    "model": "starter", "prompts_per_step": 2, "samples_per_prompt": 2, "max_new_tokens": 4, "eval_problems": 2, "threads": 1,
}  # fmt: skip


def kinds(env):
    return [x if isinstance(x, str) else x[0] for x in env.heard]


@pytest.mark.parametrize("name", ["cut", "worded", "mixture", "rewarded", "all of them"])
def test_training_evaluation_and_going_on_use_all_of_them_together(name, tmp_path):
    make, lost = WRAPPERS[name]
    talks = name in ("cut", "mixture")
    able = set(ABILITIES) - (set() if talks else {Conversational})
    env, held_out, later = mine(*able), mine(*able), mine(*able)
    task = Splits("mine", make(env), make(held_out))
    run = rung.train("grpo_process", task=task, steps=2, save_every=1, out=tmp_path / "run", **SMALL)
    heard = kinds(env)
    assert [x[1] for x in env.heard if x[0] == "begin"] == [0, 1] and heard.count("observe") == 2
    assert heard.count("extract") == 8 and heard.count("session") == 8 * talks
    assert heard.count("steps") == 8 * (Stepwise not in lost and not talks), "turns are the steps of a conversation"
    assert any("rewards/odd" in row for row in run.metrics) == (Counts not in lost)
    assert kinds(held_out).count("session") == 4 * talks, "before and after"
    rung.train(resume=tmp_path / "run", task=Splits("mine", make(later), make(held_out)), steps=3)
    assert kinds(later)[0] == "load" and [x[1] for x in later.heard if x[0] == "begin"] == [2]


def test_a_state_that_nobody_takes_back_ends_the_resumption(tmp_path):
    rung.train("grpo", task=Splits("mine", mine(Stateful), Sums()), steps=1, out=tmp_path / "run", **SMALL)
    with pytest.raises(InputError, match="keeps no such state"):
        rung.train(resume=tmp_path / "run", task=Splits("mine", Sums(), Sums()), steps=2)


def test_a_curriculum_below_tools_hears_of_its_own_problems():
    inner = mine(Observes, Staged, Stateful)
    env = tools(inner)
    env.observe([env[3]], [[1.0]])
    assert inner.heard == [("observe", ["sum-3"], [[1.0]])] and env.begin_step(4) == {"task/level": 3.0}
    assert env[3].prompt != inner[3].prompt and env.own(env[3]) == inner[3]
