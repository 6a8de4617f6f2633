"""A Run is as its files are now and goes on with what it was made of; what it or a call cannot do is said in words."""

import re
import shutil
from dataclasses import dataclass, replace
from types import SimpleNamespace

import datasets
import numpy as np
import pandas
import pytest

import rung
import rung.parts as p
from rung import InputError
from rung.maths.update import Cost
from rung.recipe_io import PARTS
from rung.settings.ranges import Checked

ROWS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(1, 6) for b in range(1, 6)]
SMALL = {"steps": 1, "prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 4, "threads": 1, "quiet": True,
         "max_new_tokens": 8, "learning_rate": 1e-3}  # fmt: skip
MINE = replace(rung.recipes.GRPO, name="cc", surrogate=p.Clip(low=0.1, high=0.3))


def pays(completions, **columns):
    return [0.25 * len(c) for c in completions]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return rung.train("grpo", out=tmp_path_factory.mktemp("runs") / "run", **SMALL)


@pytest.fixture
def copy(run, tmp_path):
    """The run's directory, to do harm to."""
    return shutil.copytree(run.path, tmp_path / "run")


# -- a recipe of one's own -----------------------------------------------------------------------------------------
def test_a_recipe_under_a_name_of_its_own_goes_on_with_rows(tmp_path):
    first = rung.train(MINE, task=ROWS, out=tmp_path / "run", **SMALL)
    assert first.resume(steps=2).steps == 2
    longer = rung.train(resume=first.path, task=ROWS, steps=3, quiet=True)
    assert longer.steps == 3 and longer.config["expanded_recipe"]["surrogate"]["high"] == 0.3
    with pytest.raises(InputError, match=r"recipe\.surrogate is Clip"):
        rung.train(resume=first.path, task=ROWS, recipe=replace(MINE, surrogate=p.Clip()), steps=4)


@dataclass(frozen=True)
class Momentum(p.UpdateRule):
    """theta <- theta + 0.05 grad J."""

    def run(self, work):
        for minibatch in work.cut():
            work.gradient(minibatch)
        g = work.take()
        work.move(0.05 * g)
        return {"grad_norm": float(g.norm()), "update/steps": 1.0}

    def cost(self):
        return Cost(vectors=2)


def test_a_part_of_ones_own_goes_on_where_it_is_and_is_one_message_where_not(tmp_path):
    own = rung.train(replace(MINE, kl=p.NoKL(), update=Momentum()), task=ROWS, out=tmp_path / "run", **SMALL)
    assert own.resume(steps=2).steps == 2
    config = own.path / "config.toml"  # as another process reads it
    config.write_text(config.read_text().replace('"Momentum"', '"Elsewhere"'))
    again = (
        rung.load(own.path).resume,
        lambda: rung.train(resume=own.path, task=ROWS),
        lambda: rung.train(resume=own.path),
    )
    for call in again:
        with pytest.raises(
            InputError, match=r"its update \(Elsewhere\) came from Python.*rung\.train\(recipe=\.\.\., resume="
        ):
            call()


# -- as its files are ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("looked", [True, False])
@pytest.mark.parametrize("how", ["itself", "another"])
def test_a_run_that_was_resumed_is_the_one_that_came_of_it(copy, looked, how):
    begun = rung.load(copy)
    if looked:
        assert (begun.steps, begun.after.step, len(begun.health)) == (1, 1, len(begun.health)) and repr(begun)
    longer = begun.resume(steps=2, quiet=True) if how == "itself" else rung.load(copy).resume(steps=2, quiet=True)
    assert begun.steps == longer.steps == 2 and begun.config["steps"] == 2
    assert begun.after.step == longer.after.step == 2 and begun.after.means == longer.after.means
    assert begun.before.means == longer.before.means and list(begun.metrics) == list(longer.metrics)
    assert repr(begun) == repr(longer) and begun._repr_html_() == longer._repr_html_()


def test_the_run_that_trained_is_not_what_it_was_then(tmp_path):
    first = rung.train("grpo", out=tmp_path / "run", **SMALL)
    assert "1 of 1 steps" in repr(first) and first.metrics is first.metrics, "read once"
    rung.train(resume=first.path, steps=2, quiet=True)
    assert "2 of 2 steps" in repr(first) and first.after.step == 2


def test_resume_is_quiet_where_it_is_told_so(copy, capsys):
    rung.load(copy).resume(steps=2, quiet=True)
    assert capsys.readouterr().out == ""


LOOKS = {
    "repr": repr, "html": lambda r: r._repr_html_(), "config": lambda r: r.config, "load": lambda r: r.load(),
    "metrics": lambda r: r.metrics, "health": lambda r: r.health, "before": lambda r: r.before, "after": lambda r: r.after,
    "rollouts": lambda r: r.rollouts, "model_path": lambda r: r.model_path, "ask": lambda r: r.ask("1+1="),
    "evaluate": lambda r: r.evaluate(), "resume": lambda r: r.resume(steps=3), "report": lambda r: r.report(),
    "steps": lambda r: r.steps, "recipe": lambda r: r.recipe, "push": lambda r: r.push_to_hub("a/b"),
}  # fmt: skip


@pytest.mark.parametrize("looked", [True, False])
@pytest.mark.parametrize("name", LOOKS)
def test_a_run_that_is_gone_is_one_message(copy, name, looked):
    gone = rung.load(copy)
    if looked:
        repr(gone)
    shutil.rmtree(copy)
    with pytest.raises(InputError, match=r"does not exist|no such|is gone"):
        LOOKS[name](gone)


@pytest.mark.parametrize("text", ["steps = [", "", "steps = 3\n[expanded_recipe]\n", "\x00\xff"])
@pytest.mark.parametrize("name", ["repr", "html", "config", "load", "recipe", "health", "resume"])
def test_a_broken_config_is_one_message(copy, name, text):
    broken = rung.load(copy)
    (copy / "config.toml").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"config\.toml"):
        LOOKS[name](broken)


# -- two models ----------------------------------------------------------------------------------------------------
def test_two_models_are_compared_as_in_the_shell(run):
    both = rung.evaluate(run, compare="starter", problems=6, temperature=0)
    ours, theirs = (rung.evaluate(m, task="chained_arithmetic", problems=6, temperature=0, max_new_tokens=8)
                    for m in (run, "starter"))  # fmt: skip
    assert both.result.means == ours.result.means and both.other.result.means == theirs.result.means
    assert both.difference.difference == pytest.approx(ours.reward - theirs.reward) and both.difference.n == 6
    assert ours.difference is None and ours.other is None
    lines = repr(both).splitlines()
    assert len(lines) == 3 and lines[1].startswith("starter: ") and lines[2].startswith("difference: ")
    graded = run.evaluate(compare=run.load(), task=ROWS, reward=pays, problems=3, temperature=0)
    assert graded.difference.difference == 0 and graded.other.model.endswith("LlamaForCausalLM")


def test_more_problems_than_there_are_is_no_reason_for_more_answers(run, capsys):
    measured = rung.evaluate("starter", task="chained_arithmetic", problems=10**9, max_new_tokens=1)
    assert (measured.result.n, measured.samples) == (500, 1)
    assert "problems=1000000000, and there are 500" in capsys.readouterr().err
    own = rung.train(task=ROWS, out=run.path.parent / "few", **SMALL)
    few = own.evaluate(task=ROWS, problems=2 * own.before.n)
    assert (few.result.n, few.samples) == (own.before.n, 1)
    assert "all of them are taken" in capsys.readouterr().err


def test_a_number_of_held_out_problems_out_of_all_reason_is_all_of_them(tmp_path):
    large = rung.train(out=tmp_path / "run", **{**SMALL, "steps": 0, "eval_problems": 10**9, "max_new_tokens": 1})
    assert large.before.n == len(large.before.answers) == 500


# -- for people ----------------------------------------------------------------------------------------------------
def test_an_evaluation_and_a_finding_are_said_in_short(run, tmp_path):
    assert re.fullmatch(r"<accuracy \d\.\d{3} \(95% CI .*\) at step 1: 4 answers to 4 problems>", repr(run.after))
    ill = rung.train(task=ROWS, reward=lambda completions, **c: [1.0] * len(completions), out=tmp_path / "run",
                     **{**SMALL, "steps": 3})  # fmt: skip
    assert ill.health
    for finding in ill.health:
        s = finding.symptom
        assert all(part in repr(finding) for part in (s.name, finding.when, finding.seen, s.cause, s.remedy))
        assert "<function" not in repr(finding)


# -- rewards and rows ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "value",
    [
        lambda n: dict.fromkeys(range(n), 1.0), lambda n: {float(i) for i in range(n)}, lambda n: "1" * n, lambda n: b"1" * n,
        lambda n: ["1"] * n, lambda n: [1.0] * (n - 1) + ["0"], lambda n: np.array(["1"] * n),
    ],
)  # fmt: skip
def test_a_reward_that_is_no_list_of_numbers_is_refused(value, tmp_path):
    with pytest.raises(InputError, match="must return a list of numbers"):
        rung.train(
            task=ROWS, reward=lambda completions, **columns: value(len(completions)), out=tmp_path / "run", **SMALL
        )


@pytest.mark.parametrize(
    "value", [np.ones, lambda n: tuple([True] * n), lambda n: (1 for _ in range(n)), lambda n: pandas.Series([1] * n)]
)
def test_numbers_in_any_order_of_theirs_are_rewards(value, tmp_path):
    def reward(completions, **columns):
        return value(len(completions))

    assert rung.train(task=ROWS, reward=reward, out=tmp_path / "run", **SMALL).before.reward == 1


@pytest.mark.parametrize("empty", [None, "", float("nan"), np.float32("nan"), pandas.NA, pandas.NaT], ids=repr)
@pytest.mark.parametrize("column", ["prompt", "answer"])
@pytest.mark.parametrize("at", [0, 7])
def test_a_cell_that_holds_nothing_is_empty(empty, column, at, tmp_path):
    rows = [{**row, column: empty} if i == at else row for i, row in enumerate(ROWS)]
    with pytest.raises(InputError, match=rf"rows:{at + 1}: the column '{column}' is empty|unknown column '{column}'"):
        rung.train(task=rows, out=tmp_path / "run", **SMALL)


def test_what_a_table_of_pandas_misses_is_found(tmp_path):
    table = pandas.DataFrame(ROWS)
    table.loc[3, "answer"] = None
    for rows in (table.to_dict("records"), datasets.Dataset.from_pandas(table.convert_dtypes())):
        with pytest.raises(InputError, match=":4: the column 'answer' is empty"):
            rung.train(task=rows, out=tmp_path / "run", **SMALL)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{**row, "answer": 10**5000} for row in ROWS], "column 'answer' is a whole number of more than 4,300 digits"),
        ([{0: row["prompt"], 1: row["answer"]} for row in ROWS], "row 1 has a column named 0, of type int"),
        ([ROWS[0], {**ROWS[1], 7: "x"}], "row 2 has a column named 7, of type int"),
    ],
)
def test_rows_that_cannot_be_read_are_said(rows, said, tmp_path):
    with pytest.raises(InputError, match=said):
        rung.train(task=rows, out=tmp_path / "run", **SMALL)


# -- models and callbacks ------------------------------------------------------------------------------------------
def test_a_model_without_a_parameter_to_train(run, tmp_path):
    model, tokenizer = run.load()
    model.requires_grad_(False)
    how = {"task": "chained_arithmetic", "out": tmp_path / "run", **SMALL}
    with pytest.raises(InputError, match=r"every parameter of the model is frozen.*lora_rank"):
        rung.train(model=(model, tokenizer), **how)
    with pytest.raises(InputError, match=r"^model is a tuple of 2, and tokenizer is given besides\. Give model="):
        rung.train(model=(model, tokenizer), tokenizer=tokenizer, **how)


def test_a_hook_that_is_no_method():
    with pytest.raises(InputError, match=r"^on_step of the callback SimpleNamespace is 3\. It must be a method"):
        rung.train(callbacks=[SimpleNamespace(on_step=3)], **SMALL)


# -- parts of one's own --------------------------------------------------------------------------------------------
KINDS = {"UpdateRule": ("run", "cost"), "Surrogate": ("__call__",), "Ratio": ("__call__",), "Aggregate": ("__call__",),
         "Credit": ("__call__",), "Correction": ("__call__",)}  # fmt: skip


@pytest.mark.parametrize(("kind", "method"), [(kind, method) for kind, methods in KINDS.items() for method in methods])
def test_a_part_that_lacks_a_method_names_it(kind, method):
    body = {name: lambda self, *args: None for name in KINDS[kind] if name != method}
    made = dataclass(frozen=True)(type("Mine", (getattr(p, kind),), body))
    with pytest.raises(InputError, match=rf"^Mine \({kind}\) has no {method}\(\)\. Define it"):
        made()


def test_every_base_of_parts_says_what_it_leaves_open():
    bases = {c for part in PARTS.values() for c in part.__mro__ if c is not Checked and issubclass(c, Checked)}
    bases = {c for c in bases if c.__name__ not in PARTS and c.__module__.startswith("rung.maths")}
    silent = {c.__name__ for c in bases if not any(getattr(x, "__isabstractmethod__", False) for x in vars(c).values())}
    assert silent == {"ReferenceKL"}, "whose value() is asked by penalty() alone"
