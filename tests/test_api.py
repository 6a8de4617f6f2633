"""rung from Python: objects in place of names give the same run, and a Run does what it says."""

import inspect
import json
import math
import shutil
import subprocess
import sys
from types import SimpleNamespace

import datasets
import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import rung
from rung import InputError
from rung.evaluation.conformance import tiny
from rung.io.recorded import Metrics
from rung.io.run_dir import RunDir
from rung.models import starter
from rung.network.adapter import has_adapter
from rung.tasks.environments.protocol import Splits
from rung.training.config import TrainConfig

ROWS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(1, 6) for b in range(1, 6)]
SMALL = {"steps": 2, "prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 8, "threads": 1, "quiet": True,
         "max_new_tokens": 8, "learning_rate": 1e-3}  # fmt: skip


def short(completions, **columns):
    return [1 / (1 + len(c)) for c in completions]


def right(completions, answer, **columns):
    return [float(c.endswith(f"#{a}")) for c, a in zip(completions, answer, strict=True)]


def starter_objects():
    return AutoModelForCausalLM.from_pretrained(starter.path()), AutoTokenizer.from_pretrained(starter.path())


def answers(run):
    """What a run did, without its times."""
    return [(row["answer"], row["rewards"], row["advantages"]) for step in run.rollouts.values() for row in step]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run from objects alone."""
    heard = []
    listener = SimpleNamespace(on_step=heard.append, on_evaluate=heard.append)
    model = starter_objects()
    out = tmp_path_factory.mktemp("api") / "run"
    made = rung.train("grpo", model=model, task=ROWS, reward=[(short, 1.0), (right, 0.5)], callbacks=[listener],
                      out=out, **SMALL)  # fmt: skip
    assert [getattr(x, "step", None) for x in heard] == [0, 1, 2, 2]
    return made


# -- import --------------------------------------------------------------------------------------------------------
def test_importing_rung_takes_milliseconds_and_loads_nothing():
    code = (
        "import sys, time; before = set(sys.modules); start = time.perf_counter(); import rung; took = time.perf_counter() - start;"
        "print(took, sorted({m.partition('.')[0] for m in set(sys.modules) - before} & {'torch', 'transformers', 'numpy'}),"
        "sorted(dir(rung)), rung.__version__, callable(rung.train))"
    )
    said = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    words = [x.stdout.split(" ", 1) for x in said]
    assert min(float(took) for took, _ in words) < 0.05
    assert words[0][1].startswith("[] ['InputError', 'Run', 'StepRecord', '__version__', 'evaluate', 'load', 'recipes'")
    assert words[0][1].endswith("True\n")


def test_the_function_says_what_it_takes():
    import rung.training.loop

    assert rung.training.loop, "the package of that name stays one"
    parameters = inspect.signature(rung.train).parameters
    assert list(parameters)[:3] == ["recipe", "model", "tokenizer"] and parameters["seed"].default == 0
    assert set(vars(TrainConfig())) <= set(parameters) and "trained in place" in rung.train.__doc__
    assert rung.recipes.GRPO.name == "grpo" and rung.records.Task
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        rung.trian  # noqa: B018


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rung.train("grpo", lerning_rate=1.0), "Did you mean 'learning_rate'"),
        (lambda: rung.train("grpo", callback=[print]), "Did you mean 'callbacks'"),
        (lambda: rung.train("gropo"), "Did you mean 'grpo'"),
        (lambda: rung.train(task=3), "task is 3, of type int"),
        (lambda: rung.train(task=[]), r"task \(rows\) holds no rows"),
        (lambda: rung.train(task=["a"]), "task, row 1 is 'a', of type str. Each row must be a dict"),
        (lambda: rung.train(task={"train": []}), "holds no rows"),
        (lambda: rung.train(task=ROWS, reward=3), "reward holds 3, which is no reward function"),
        (lambda: rung.train(task=ROWS, reward=[]), "empty list"),
        (lambda: rung.train(task=ROWS, reward=[(short, "a")]), "the weight 'a', which is no number"),
        (lambda: rung.train(task=ROWS, reward=[(short, math.nan)]), "no number"),
        (lambda: rung.train(task=ROWS, reward=[short, short]), "two functions 'short'"),
        (lambda: rung.train(task=ROWS, task_options={"shuffle": 1}), "unknown option"),
        (lambda: rung.train(tokenizer=3), "tokenizer goes with a model that is an object"),
        (lambda: rung.train(model=(1, 2, 3)), "a tuple of 3"),
        (lambda: rung.train(model=torch.nn.Linear(2, 2)), "no causal language model"),
        (lambda: rung.train(model=starter_objects()[0]), r"Give both: model=\(model, tokenizer\)"),
        (lambda: rung.evaluate("starter", sample=3), "Did you mean 'samples'"),
        (lambda: rung.load("nowhere"), "nowhere is not a run"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_written(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        call()
    assert not list(tmp_path.iterdir())


# -- objects and names ---------------------------------------------------------------------------------------------
def test_objects_give_the_run_that_names_give(run, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "rewards.py").write_text(inspect.getsource(short) + "\n\n" + inspect.getsource(right))
    reward = f"{tmp_path / 'rewards.py'}:short,{tmp_path / 'rewards.py'}:right*0.5"
    named = rung.train(
        "grpo", task=tmp_path / "rows.jsonl", reward=reward, model="starter", out=tmp_path / "run", **SMALL
    )
    assert answers(named) == answers(run) and named.after.reward == run.after.reward
    assert named.config["reward"] == reward
    assert (run.config["task"], run.config["reward"]) == ("python:rows", "python:short,right*0.5")
    assert run.config["model"] == "python:LlamaForCausalLM"


@pytest.mark.parametrize(
    "task",
    [
        datasets.Dataset.from_list(ROWS),
        datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}),
        {"all": ROWS},
        tuple(ROWS),
    ],
    ids=["Dataset", "DatasetDict", "dict", "tuple"],
)
def test_rows_in_every_form_are_the_same_problems(task, run, tmp_path):
    again = rung.train("grpo", task=task, reward=[(short, 1.0), (right, 0.5)], out=tmp_path / "run", **SMALL)
    assert answers(again) == answers(run)


def test_splits_of_a_mapping_stay_apart(tmp_path):
    task = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS[5:]), "test": datasets.Dataset.from_list(ROWS[:5])}
    )
    run = rung.train(task=task, out=tmp_path / "run", **SMALL)
    held_out = {a.task.prompt for a in run.after.answers}
    assert held_out == {row["prompt"] for row in ROWS[:5]}
    assert not held_out & {row["prompt"] for step in run.rollouts.values() for row in step}


class Count:
    """An environment of three problems, right where the answer holds the digit."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return rung.records.Task(f"count/{i}", f"{i}+1=")

    def score(self, group):
        return [{"digit": float("1" in c.text)} for c in group.completions]


@pytest.mark.parametrize("task", [Count(), Splits("mine", Count(), Count(), 8)], ids=["Environment", "Splits"])
def test_environments_and_splits_are_tasks_and_may_be_judged_by_a_function(task, tmp_path):
    own = rung.train(task=task, out=tmp_path / "own", **SMALL)
    judged = rung.train(task=task, reward=short, out=tmp_path / "judged", **SMALL)
    assert {*own.rollouts[1][0]["rewards"]} == {"digit"} and {*judged.rollouts[1][0]["rewards"]} == {"short"}
    assert own.config["task"] == ("python:mine" if isinstance(task, Splits) else "python:Count")


class Shop:
    """A book costs 12."""

    def reset(self, item, **row):
        self.paid = None
        return f"buy the {item}"

    def pay(self, amount: int) -> str:
        """Pay.

        Args:
            amount: of money
        """
        self.paid = amount
        return "thanks"

    def get_reward(self):
        return float(self.paid == 12)


def test_a_class_is_an_environment_over_rows(tmp_path):
    model = tiny("llama")
    model.hf.config.max_position_embeddings = 2048
    rows = [{"prompt": [{"role": "user", "content": f"w{i}"}], "item": f"w{i}"} for i in range(4, 30)]
    settings = {**SMALL, "max_new_tokens": 12, "prompts_per_step": 2, "samples_per_prompt": 2, "steps": 1}
    run = rung.train(
        model=(model.hf, model.codec.tokenizer), task=rows, environment=Shop, out=tmp_path / "run", **settings
    )
    assert run.config["environment"] == "python:Shop" and "Shop" in run.rollouts[1][0]["rewards"]
    assert "Shop" in repr(run)


# -- a model that is an object -------------------------------------------------------------------------------------
def test_an_object_is_trained_in_place(tmp_path):
    model, tokenizer = starter_objects()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    run = rung.train(model=model, tokenizer=tokenizer, task=ROWS, reward=short, out=tmp_path / "run", **SMALL)
    saved = AutoModelForCausalLM.from_pretrained(run.model_path).state_dict()
    assert all(torch.equal(saved[k], v) for k, v in model.state_dict().items())
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_what_an_object_cannot_be(tmp_path):
    model, tokenizer = starter_objects()
    how = {"task": ROWS, "out": tmp_path / "run", **SMALL}
    with pytest.raises(InputError, match=r"weights are float32 and dtype is 'bfloat16'.*model\.to\(torch\.bfloat16\)"):
        rung.train(model=(model, tokenizer), dtype="bfloat16", **how)
    with pytest.raises(InputError, match="dtype is 'float16'"):
        rung.train(model=(starter_objects()[0].half(), tokenizer), **how)
    with pytest.raises(InputError, match="loaded from nowhere"):
        rung.train(model=(tiny("llama").hf, tokenizer), lora_rank=2, **how)
    assert not (tmp_path / "run").exists()
    adapted = rung.train(model=(model, tokenizer), lora_rank=2, reward=short, **how)
    assert has_adapter(model) and (adapted.model_path / "adapter_model.safetensors").is_file()
    with pytest.raises(InputError, match="has a LoRA adapter already"):
        rung.train(model=(model, tokenizer), task=ROWS, out=tmp_path / "again", **SMALL)
    assert adapted.resume(3).steps == 3, "a run goes on with its own adapter"


# -- resume --------------------------------------------------------------------------------------------------------
def test_a_run_goes_on_with_what_it_was_given(run, tmp_path):
    how = {"task": ROWS, "reward": [(short, 1.0), (right, 0.5)], "model": "starter"}
    first = rung.train("grpo", out=tmp_path / "run", **how, **{**SMALL, "steps": 1})
    again = r"its task \(rows\) and its reward \(short,right\*0.5\) came from Python.*task=\.\.\., reward=\.\.\."
    with pytest.raises(InputError, match=again):
        rung.train(resume=first.path, steps=2)
    with pytest.raises(InputError, match=r"its reward \(short,right\*0\.5\) came"):
        rung.train(resume=first, steps=2, task=ROWS)
    with pytest.raises(InputError, match=r"reward is 'python:short,right\*0.5', not 'python:right'"):
        rung.train(resume=first.path, steps=2, task=ROWS, reward=right)
    assert answers(first.resume(2, quiet=True)) == answers(run), "as if it had never stopped"
    opened = rung.load(first.path)
    with pytest.raises(InputError, match="came from Python"):
        opened.resume(3)
    assert opened.resume(3, task=ROWS, reward=how["reward"], quiet=True).steps == 3


# -- what a Run does -----------------------------------------------------------------------------------------------
def test_a_run_shows_itself_in_three_lines(run):
    lines = repr(run).splitlines()
    assert len(lines) == 3 and all(len(line) < 220 for line in lines)
    assert lines[0].startswith(f"run {run.path}: grpo on LlamaForCausalLM, rows, 2 of 2 steps")
    assert f"{run.before.reward:.3f} before, {run.after.reward:.3f} after" in lines[1]
    for shown in (run.metrics, run.rollouts, run.after, run.evaluate()):
        assert len(repr(shown)) < 220 and "\n" not in repr(shown)


def test_a_notebook_shows_a_table_and_a_curve(run):
    page = run._repr_html_()
    assert page.count("<svg") == 1 and "<script" not in page and "http" not in page
    assert page.count("<circle") == 2, "an evaluation before and one after"
    points = page.partition('points="')[2].partition('"')[0].split()
    assert len(points) == 2 and f"{run.after.reward:.3f}" in page
    assert page.count(str(run.path)) == 1, "the title says where it lies"
    table = run.metrics._repr_html_()
    right = Metrics([{"step": 0, "eval/accuracy": 0.5, "eval/reward": 0.5}])._repr_html_()
    assert "eval/reward" in table and "eval/accuracy" in right and "eval/reward" not in right, (
        "no number stands there twice"
    )
    assert table.count("<tr>") == 1 + len(run.metrics) and "grad_norm" in table


def test_what_a_name_holds_stays_text(run, tmp_path):
    odd = tmp_path / "<script>alert(1)"
    shutil.copytree(run.path, odd)
    page = rung.load(odd)._repr_html_()
    assert "<script" not in page and "&lt;script&gt;" in page


def test_metrics_are_a_table(run):
    assert run.metrics["reward"] == {row["step"]: row["reward"] for row in run.metrics if "reward" in row}
    assert {*run.metrics["eval/reward"]} == {0, 2} and run.metrics.columns[0] == "step"
    frame = pandas.DataFrame(run.metrics)
    assert list(frame.columns) == run.metrics.columns and len(frame) == len(run.metrics)
    assert run.metrics[0] == run.metrics[:1][0] == next(iter(run.metrics))
    with pytest.raises(InputError, match="Did you mean 'reward'"):
        run.metrics["rewrad"]


def test_rollouts_are_read_when_they_are_asked_for(run, monkeypatch):
    assert list(run.rollouts) == [1, 2] and len(run.rollouts) == 2 and 2 in run.rollouts and 3 not in run.rollouts
    monkeypatch.setattr(RunDir, "read_rollouts", lambda self, step: step)
    assert run.rollouts[2] == 2
    monkeypatch.undo()
    with pytest.raises(InputError, match="no rollouts of step 9"):
        run.rollouts[9]


def test_an_opened_run_is_the_same(run):
    opened = rung.load(run.path)
    assert repr(opened) == repr(run) and opened._repr_html_() == run._repr_html_()
    assert opened.before.reward == run.before.reward and opened.after.means == run.after.means
    assert opened.steps == run.steps == 2 and not opened.interrupted


def test_a_first_evaluation_of_zeros_and_ones_is_no_accuracy_where_a_later_one_is_graded(tmp_path):
    def later(completions, trainer_state, **columns):
        return [1.0 if trainer_state.global_step == 0 else 0.5] * len(completions)

    run = rung.train(task=ROWS, reward=later, out=tmp_path / "run", **SMALL)
    for seen in (run, rung.load(run.path)):
        assert (seen.before.reward, seen.after.reward) == (1.0, 0.5)
        assert not seen.before.binary and "held-out mean reward 1.000 before, 0.500 after" in repr(seen)


def test_the_model_is_loaded_and_asked(run):
    model, tokenizer = run.load()
    ids = tokenizer("1+2=", return_tensors="pt").input_ids
    theirs = AutoModelForCausalLM.from_pretrained(run.model_path)(ids).logits
    assert torch.allclose(model(ids).logits, theirs, atol=1e-5)
    reply = run.ask("1+2=")
    assert reply.now and not reply.before and "came from Python as an object" in repr(reply)
    assert len(run.ask("1+2=", 3, before=False).now) == 3 and "came from" not in repr(run.ask("1+2=", before=False))


def test_a_run_evaluates_as_it_did_itself(run):
    measured = run.evaluate()
    assert measured.reward == pytest.approx(run.after.reward) and measured.interval() == run.after.interval()
    assert math.isnan(measured.accuracy), "rewards of 1 / (1 + length) are not right or wrong"
    assert len(run.evaluate(samples=3, problems=2).answers()) == 6
    other = rung.evaluate(run, task=ROWS)
    assert other.accuracy == other.reward and not math.isnan(other.accuracy), "judged by the rows' answers"
    model = rung.evaluate(starter_objects(), task=ROWS, max_new_tokens=8, temperature=0)
    assert model.accuracy == rung.evaluate("starter", task=ROWS, max_new_tokens=8, temperature=0).accuracy
    with pytest.raises(InputError, match=r"the (reward short,right\*0\.5|task rows) came from Python"):
        rung.evaluate(run.path)
    assert rung.evaluate(run.path, task=ROWS, reward=short).reward > 0


def test_a_report_is_written(run):
    assert run.report() == run.path / "report.html" and run.report().stat().st_size > 10_000


@pytest.mark.parametrize("recipe", [5, {"name": "grpo"}])
def test_a_recipe_of_another_kind_is_one_message(recipe):
    with pytest.raises(rung.InputError, match=r"give a recipe's name"):
        rung.train(recipe)
