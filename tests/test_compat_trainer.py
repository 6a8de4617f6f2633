"""What scripts do with TRL's trainer besides giving it arguments: subclasses, callbacks, evaluations."""

import dataclasses
import inspect
import math
import re

import pytest
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from rung.compat import GRPOConfig, GRPOTrainer, fields, overridden
from rung.compat.listeners import EVENTS, HEARD, Listener
from rung.errors import InputError, named, setting
from rung.models import starter
from rung.records import Rollout, Scored, Task
from rung.training.config import TrainConfig
from rung.training.evaluation import Evaluation

ROWS = [{"prompt": f"{i}+1=", "gold": str(i + 1)} for i in range(9)]


def right(completions, gold, **columns):
    return [float(c == g) for c, g in zip(completions, gold, strict=True)]


def noise(completions, **columns):
    return [sum(map(ord, c)) % 11 / 7 for c in completions]


def trainer(out=None, kind=GRPOTrainer, reward=right, callbacks=None, rows=ROWS, **more):
    few = {"max_steps": 2, "per_device_train_batch_size": 2, "num_generations": 2, "max_completion_length": 4}
    args = GRPOConfig(None if out is None else str(out), **{**few, "bf16": False, "save_strategy": "no", **more})
    return kind(str(starter.path()), reward, args, rows, callbacks=callbacks)


# -- subclasses ----------------------------------------------------------------------------------------------------
THEIRS = sorted({*overridden.OF_TRL, *(n for n, x in vars(Trainer).items() if callable(x) and not n.startswith("__"))})


@pytest.mark.parametrize("name", THEIRS)
def test_a_method_of_trls_is_called_or_refused_by_name(name):
    kind = type("Mine", (GRPOTrainer,), {name: lambda self, *_, **__: None})
    if hasattr(GRPOTrainer, name):
        found = trainer(kind=kind).splits.notes
        assert (name in overridden.BY_SCRIPTS) == any(f"Mine.{name} is not called while training" in n for n in found)
        return
    with pytest.raises(InputError, match=rf"Mine.{name} would never be called: .{{20}}"):
        trainer(kind=kind)


def test_what_does_the_same_is_named_and_own_helpers_are_nobodys_business():
    class Mine(GRPOTrainer):
        def compute_loss(self, *args, **kwargs): ...
        def _calculate_rewards(self, *args): ...
        def create_optimizer(self): ...
        def _helper(self): ...

    with pytest.raises(InputError) as error:
        trainer(kind=Mine, loss_type="vespo")
    said = str(error.value)
    assert "4 refused" in said and "_helper" not in said and "loss_type='vespo'" in said
    assert "compute_loss would never be called: the objective is a recipe's" in said
    assert "_calculate_rewards would never be called: give functions in reward_funcs" in said
    assert "create_optimizer would never be called: rung's optimizer is AdamW" in said
    trainer(kind=type("Mine", (GRPOTrainer,), {"_helper": Mine._helper, "train": GRPOTrainer.train}))


# -- callbacks -----------------------------------------------------------------------------------------------------
class Everything(TrainerCallback):
    """Hears every event, in order."""


def heard_by(kind, seen):
    def hear(event):
        return lambda self, args, state, control, **more: seen.append((event, state.global_step))

    return type(kind.__name__, (kind,), {event: hear(event) for event in EVENTS})()


def test_every_event_comes_or_is_said_never_to_come(tmp_path, capsys):
    seen = []
    made = trainer(tmp_path / "run", callbacks=[heard_by(Everything, seen)], save_strategy="steps", save_steps=1)
    assert seen == [("on_init_end", 0)]
    made.train()
    assert {event for event, _ in seen} == {*HEARD} - {"on_epoch_end"}, "an epoch has 8 steps"
    assert [at for event, at in seen if event == "on_save"] == [1, 2]
    never = [e for e in EVENTS if e not in HEARD]
    assert capsys.readouterr().out.count(f"callback Everything: {', '.join(never)} are never called here") == 1


def test_each_epoch_begins_and_ends():
    seen = []
    listener = Listener(GRPOConfig(), [heard_by(Everything, seen)], 1, 2, {})
    for step in (1, 2, 3):
        listener.on_step(type("Record", (), {"step": step, "metrics": {}}))
    assert [x for x in seen if "epoch" in x[0]] == [("on_epoch_begin", 0), ("on_epoch_end", 2), ("on_epoch_begin", 2)]


@pytest.mark.parametrize("callback", [5, print, "on_step_end", object()])
def test_what_hears_nothing_is_refused(callback):
    with pytest.raises(InputError, match=r"callbacks holds .*, which has no method that is called"):
        trainer(callbacks=[callback])
    with pytest.raises(InputError, match="no method that is called"):
        trainer().add_callback(callback)


def said_best(values, **config):
    """What state holds after evaluations with these rewards at steps 0, 10, ..., and which of them ended the run."""
    stop = EarlyStoppingCallback(early_stopping_patience=2)
    args = GRPOConfig(max_steps=99, eval_strategy="steps", metric_for_best_model="reward", **config)
    listener = Listener(args, [stop], 1, 99, {})
    for i, value in enumerate(values):
        answer = Scored(Task("a", "?"), Rollout((1,), (1,), (0.0,), (), "end"), "", {"r": value}, value)
        if not listener.on_evaluate(Evaluation([answer], 1, step=10 * i)):
            return listener.state.best_metric, listener.state.best_global_step, 10 * i
    return listener.state.best_metric, listener.state.best_global_step, None


def test_the_best_evaluation_is_kept_as_transformers_keeps_it_and_early_stopping_stops():
    assert said_best([9.0, 0.1, 0.3, 0.2, 0.3, 0.9]) == (0.3, 20, 40), "9 before training is nobody's merit"
    assert said_best([0.0, 0.1, 0.2, 0.3]) == (0.3, 30, None)
    assert said_best([0.0, 0.3, 0.1, 0.2, 0.3], greater_is_better=False) == (0.1, 20, 40)
    assert GRPOConfig(metric_for_best_model="eval_loss").greater_is_better is False


def test_early_stopping_ends_a_run_under_its_own_name(tmp_path, capsys):
    made = trainer(
        tmp_path / "run", callbacks=[EarlyStoppingCallback(1, 2.0)], max_steps=9, eval_strategy="steps", eval_steps=1,
        metric_for_best_model="eval_reward",
    )  # fmt: skip
    assert made.train().global_step == 2, "no reward of 0 or 1 rises by more than 2"
    assert made.run.stopped == "EarlyStoppingCallback.on_evaluate" and made.state.best_global_step == 1
    assert "EarlyStoppingCallback.on_evaluate ended the run after step 2" in capsys.readouterr().out


def test_a_run_that_goes_on_knows_its_best_evaluation(tmp_path):
    how = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_reward", "save_strategy": "steps",
           "save_steps": 1, "learning_rate": 1e-12, "lr_scheduler_type": "constant"}  # fmt: skip
    first = trainer(tmp_path / "run", **how)
    first.train()
    assert first.state.best_global_step == 1, "the weights stay as they are, and only a better one counts"
    again = trainer(tmp_path / "run", max_steps=3, **how)
    again.train(resume_from_checkpoint=True)
    assert (again.state.best_metric, again.state.best_global_step) == (first.state.best_metric, 1)
    at = [row["step"] for row in again.state.log_history if "reward" in row]
    assert at == [1, 2, 3] and len(again.state.log_history) > len(first.state.log_history)


def test_early_stopping_without_a_metric_or_with_an_unknown_one_is_refused(tmp_path):
    with pytest.raises(InputError, match="EarlyStoppingCallback needs metric_for_best_model"):
        trainer(callbacks=[EarlyStoppingCallback()])
    with pytest.raises(InputError, match=r"unknown metric_for_best_model 'eval_rewrd'. Did you mean 'eval_reward'"):
        trainer(tmp_path / "run", metric_for_best_model="rewrd").train()


# -- what cannot be read -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*fields.COUNTS, *fields.NUMBERS])
@pytest.mark.parametrize("value", [None, "5", True, ["x"]])
def test_what_is_no_number_is_one_refusal(name, value):
    args = GRPOConfig(**{"max_steps": 1, name: value})
    if value is None and name in fields.OPEN:
        assert args.settings()["steps"] == 1
        return
    with pytest.raises(InputError, match=rf"1 refused.*\n  {name}={re.escape(repr(value))}: give a (whole )?number"):
        args.settings()


def test_a_count_is_whole_and_large_enough():
    with pytest.raises(InputError) as error:
        GRPOConfig(max_steps=2.5, num_generations=0, num_iterations=math.inf, seed=-1, loss_type=["grpo"]).settings()
    said = (
        "5 refused",
        "max_steps=2.5: give a whole",
        "num_generations=0: give at least 1",
        "num_iterations=inf",
        "seed=-1",
        "['grpo']",
    )
    assert all(text in str(error.value) for text in said)
    assert {f.name for f in dataclasses.fields(GRPOConfig) if type(f.default) in (int, float) and f.name not in fields.NOTED
            and f.name not in fields.ONLY} <= {*fields.COUNTS, *fields.NUMBERS}  # fmt: skip


def test_a_value_is_refused_beside_a_name():
    with pytest.raises(InputError) as error:
        GRPOConfig(optim="adafactor", deepspeed="x", max_steps=None)
    assert all(
        text in str(error.value) for text in ("3 refused", "optim='adafactor'", "deepspeed='x'", "max_steps=None")
    )


@pytest.mark.parametrize("prompt", [None, 5, [], math.nan])
def test_a_row_without_words_is_refused(prompt):
    with pytest.raises(InputError, match=r"row 7 of the train dataset has the prompt .*leave the row out"):
        trainer(rows=[*ROWS, {"prompt": prompt, "gold": ""}])


# -- in TRL's words ------------------------------------------------------------------------------------------------
def test_messages_name_trls_arguments(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("")
    with pytest.raises(InputError) as error:
        trainer(tmp_path / "run").train()
    assert "another directory with output_dir=..., or continue this run with resume_from_checkpoint=..." in str(
        error.value
    )

    def fails(completions, **columns):
        return 1 / 0

    with pytest.raises(InputError, match="leave such answers unscored with None in the list that it returns"):
        trainer(tmp_path / "other", reward=fails).train()
    assert setting("out") == "out=...", "and as before behind it"


def test_words_are_for_settings_that_there_are():
    there = {f.name for f in dataclasses.fields(TrainConfig)}
    assert {name.partition(".")[0] for name in fields.WORDS} - {"recipe"} <= there
    words = {word.removesuffix("=") for name, word in fields.WORDS.items() if word.isidentifier() or word.endswith("=")}
    arguments = {f.name for f in dataclasses.fields(GRPOConfig)} | {*inspect.signature(GRPOTrainer).parameters}
    assert words <= arguments | {*inspect.signature(GRPOTrainer.train).parameters}
    with named(fields.WORDS):
        assert setting("tracker", "wandb") == "report_to='wandb'"
        assert setting("template_options.x", 1) == "chat_template_kwargs={'x': 1}"
        assert setting("reward_deadline", 9) == "reward_deadline=9 of rung.train"
        assert setting("recipe.kl.coef", 0.1) == "beta=0.1"
        assert setting("recipe.entropy") == "overrides={'entropy': ...} of rung.train"


# -- evaluations ---------------------------------------------------------------------------------------------------
def test_an_evaluation_is_the_runs_own(tmp_path, capsys):
    """Same problems, samples, law and seed: the same number, before as after."""
    made = trainer(tmp_path / "run", reward=noise, temperature=0.8, learning_rate=0.05, num_generations=4,
                   per_device_train_batch_size=4, logging_steps=3, lr_scheduler_type="constant")  # fmt: skip
    before = made.evaluate()
    result = made.train()
    after = made.evaluate()
    rows = [row for row in made.state.log_history if "eval_reward" in row]
    assert [row["eval_reward"] for row in rows] == [before["eval_reward"]] * 2 + [after["eval_reward"]] * 2
    assert before["eval_reward"] != after["eval_reward"]
    assert made.run.config["eval_samples"] == 128, "2 problems are held out, and 256 answers asked for"
    assert math.isnan(result.training_loss)
    assert made.is_world_process_zero() and made.is_local_process_zero()
    said = capsys.readouterr()
    assert (said.out + said.err).count("logging_steps=3") == 1, "what is noted is noted once"


def test_samples_that_are_asked_for_are_taken(tmp_path):
    made = trainer(tmp_path / "run", reward=noise, num_generations_eval=3)
    before = made.evaluate()
    made.train()
    assert made.run.config["eval_samples"] == 3
    assert before["eval_reward"] == made.state.log_history[1]["eval_reward"]
