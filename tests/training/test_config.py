"""Every setting of a run: its type and range hold in Python and TOML alike, and what does not fit is refused once."""

import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import tomli_w

import rung
import rung.parts as p
from rung.errors import InputError
from rung.io.run_dir import RunDir
from rung.recipes import DR_GRPO, TRPO
from rung.settings.ranges import hints, options_of
from rung.tasks.problems import load_problems
from rung.training.config import TrainConfig, from_toml, to_toml, typed_settings
from rung.training.defaults import by_task
from rung.training.setup import settle

inf, nan = math.inf, math.nan
HUGE = 2**53
# Each number: the smallest and the largest legal value; a bracket in front leaves the end out. "0, ": zero as well.
RANGES = {
    "steps": (0, HUGE), "tokens": (1, HUGE), "prompts_per_step": (1, HUGE), "samples_per_prompt": (1, 10**6),
    "max_new_tokens": (1, HUGE), "max_turns": (1, HUGE), "max_turn_tokens": (1, HUGE), "max_total_tokens": (1, HUGE),
    "temperature": (1e-3, 1e3), "top_p": (1e-9, 1.0), "top_k": (0, HUGE), "learning_rate": (0.0, 10.0), "warmup_steps": (0, HUGE),
    "decay_steps": (0, HUGE), "clip_norm": (0.0, 1e9), "weight_decay": (0.0, 1e9), "lora_rank": (0, HUGE),
    "adam_beta1": (0.0, 1 - 1e-9),
    "adam_beta2": (0.0, 1 - 1e-9), "adam_epsilon": (1e-9, 1e9), "lora_alpha": (1e-9, 1e9), "activation_gib": (1e-9, 1e9),
    "until": (-1e6, 1e6), "eval_problems": (1, HUGE), "eval_samples": (1, 10**6),
    "eval_every": (0, HUGE), "save_every": (0, HUGE), "keep_last": (0, HUGE), "keep_rollouts": (0, HUGE),
    "seed": (0, HUGE), "threads": (0, 1024),
    "reward_deadline": (1e-9, 1e9),
}  # fmt: skip
CHOICES = {"dtype": "float16", "tracker": "mlflow", "sampler": "touch", "decay_shape": "wave"}
NAMES = [f.name for f in fields(TrainConfig)]


def ways(name, value, folder):
    """The same setting in Python, made and typed_settings, and from a file."""
    yield lambda: TrainConfig(**{name: value})
    yield lambda: TrainConfig(**typed_settings({name: value}))
    try:
        text = tomli_w.dumps({name: str(value) if isinstance(value, Path) else value})
    except (TypeError, ValueError):  # TOML has no such thing
        return
    (folder / "run.toml").write_text(text)
    yield lambda: TrainConfig(**from_toml(folder / "run.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_refused_out_of_its_range_and_kind(name, tmp_path):
    number = name in RANGES
    low, high = RANGES.get(name, (0, 0))
    tiny = 1 if isinstance(low, int) else 1e-9
    wrong = [
        nan,
        inf,
        -inf,
        10**400,
        {"a": {"b": [1]}} if "option" not in name and name != "overrides" else "x",
        [1],
        1j,
    ]
    wrong += [True, "many", low - tiny if low else -1, 2 * high + tiny, -(10**5000)] if number else []
    wrong += [1.5] if number and isinstance(low, int) else []
    wrong += [CHOICES[name]] if name in CHOICES else []
    wrong += [None] if type(None) not in options_of(hints(TrainConfig)[name]) else []
    for value in wrong:
        for way in ways(name, value, tmp_path):
            with pytest.raises(InputError, match=rf"^{name}( in .*)? is .*; it must be ") as refused:
                way()
            assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", RANGES)
def test_every_number_holds_up_to_its_ends(name, tmp_path):
    for value in RANGES[name]:
        for way in ways(name, value, tmp_path):
            assert getattr(way(), name) == value


def test_every_number_has_a_range_here():
    numbers = {
        n
        for n, hint in hints(TrainConfig).items()
        if any("int" in str(o) or "float" in str(o) for o in options_of(hint))
    }
    assert numbers - {"dtype"} == RANGES.keys()


def test_a_whole_number_is_a_rate_too_and_text_a_path(tmp_path):
    (tmp_path / "run.toml").write_text("temperature = 1\nout = 'runs/x'\ntask_path = 'data'\n")
    config = TrainConfig(**from_toml(tmp_path / "run.toml"))
    assert isinstance(config.temperature, float) and config.out == Path("runs/x") and config.task_path == Path("data")


@pytest.mark.parametrize(
    "settings", [{"sampler": "touch"}, {"dtype": "float16"}, {"steps": "5"}, {"learning_rate": -1}, {"resume": 0}]
)
def test_python_refuses_before_anything_is_loaded(settings, monkeypatch):
    monkeypatch.setattr("rung.training.loop.prepare", None)
    with pytest.raises(InputError, match="it must be"):
        rung.train(**settings)


def test_overrides_with_parts_and_none_are_kept_as_they_were_run(tmp_path):
    given = {"kl": p.K3(coef=0.1), "update": {"part": "GradientSteps", "target_kl": None}, "credit.eps": 0}
    config = TrainConfig(recipe="grpo", overrides=given)
    with RunDir.create(tmp_path, "x", tmp_path / "run") as run:
        run.write_config(to_toml(config, config.build_recipe()))
    again = TrainConfig(**from_toml(tmp_path / "run" / "config.toml"))
    assert again.build_recipe() == config.build_recipe() and again.build_recipe().kl == p.K3(coef=0.1)


def test_what_does_not_go_together_is_refused():
    for settings in (
        {"lora_rank": 4, "trainable": "x"},
        {"decay_steps": 5, "tokens": 100},
        {"decay_steps": 9, "steps": 3},
    ):
        with pytest.raises(InputError):
            TrainConfig(**settings).resolved()


@pytest.mark.parametrize(
    ("settings", "every"),
    [
        ({}, 10),  # the starter's 100 steps of 256 answers, 256 problems: nine of them between before and after
        ({"model": "other"}, 15),  # 60 steps of 128 answers: a tenth of 7680 answers is three evaluations
        ({"steps": 1000}, 100), ({"steps": 95}, 10), ({"steps": 9}, 0), ({"steps": 0}, 0), ({"eval_every": 0}, 0),
        ({"steps": 100, "eval_problems": 2560}, 50), ({"steps": 100, "eval_samples": 100}, 0), ({"eval_every": 7}, 7),
    ],
)  # fmt: skip
def test_held_out_problems_are_answered_every_tenth_of_a_run_or_in_a_tenth_of_its_time(settings, every):
    config = TrainConfig(**settings).resolved()
    assert config.eval_every == every and config.resolved() == config
    if every and "eval_every" not in settings:
        between = (config.steps - 1) // every
        evaluated = between * config.eval_problems * (config.eval_samples or 1)
        assert (
            1 <= between <= 9 and evaluated <= config.steps * config.prompts_per_step * config.samples_per_prompt / 10
        )


@pytest.mark.parametrize(
    ("settings", "answer", "seen"),
    [
        ({}, 8, 9),  # 79 steps of 256 tokens, 8 answers evaluated: one in ten
        ({"eval_problems": 80}, 8, 3),  # evaluations take about a tenth of 2,500 answers
        ({"eval_problems": 3000}, 8, 0), ({"eval_problems": 80}, 1, 9), ({"eval_every": 20}, 8, 3), ({"eval_every": 0}, 8, 0),
    ],
)  # fmt: skip
def test_a_run_that_tokens_end_is_evaluated_at_tenths_of_them(settings, answer, seen):
    """However long its answers turn out: its steps are only a cap, of answers of one token."""
    config = TrainConfig(**{"tokens": 20_000, "prompts_per_step": 4, "eval_problems": 8, **settings}).resolved()
    assert config.resolved() == config and config.eval_every == settings.get("eval_every")
    each, steps = 32 * answer, -(-20_000 // (32 * answer))
    at = [n for n in range(1, steps) if config.evaluates_after(n, n * each, (n - 1) * each)]
    assert len(at) == config.evaluations_within(steps) == seen
    gaps = {b - a for a, b in zip([0, *at], at, strict=False)}
    assert seen == 0 or "eval_every" in settings or max(gaps) - min(gaps) <= 2 + steps // 10
    assert config.steps == 625, "a tenth of which would be no tenth of the run"


@pytest.mark.parametrize(
    ("settings", "able", "dtype", "why"),
    [
        ({"model": "starter"}, True, "float32", "too small"),
        ({"model": "other"}, True, "bfloat16", "the CPU has instructions"),
        ({"model": "other"}, False, "float32", "no bfloat16 of its own"),
        ({"model": "other", "recipe": "trpo"}, True, "float32", "in float32 either way"),
        ({"model": "other", "recipe": "trpo", "lora_rank": 4}, True, "bfloat16", "the CPU has instructions"),
    ],
)
def test_dtype_auto_goes_by_what_the_machine_is(settings, able, dtype, why, monkeypatch):
    monkeypatch.setattr("rung.kernels.device.multiplies_bfloat16", lambda: able)
    config = TrainConfig(dtype="auto", device="cpu", **settings)
    assert config.resolved().dtype == dtype == config.usual_dtype()[0] and why in config.usual_dtype()[1]
    assert replace(config, dtype="float32").resolved().dtype == "float32"


@pytest.mark.parametrize(("of", "dtype"), [(DR_GRPO, "bfloat16"), (TRPO, "float32")], ids=["adam", "natural"])
def test_auto_asks_a_recipe_that_was_made_in_python(of, dtype, monkeypatch):
    """No name finds it, so what it computes in goes by itself, everywhere that the settings are filled in."""
    monkeypatch.setattr("rung.kernels.device.multiplies_bfloat16", lambda: True)
    mine, problems = replace(of, name="mine"), load_problems("chained_arithmetic")
    given = TrainConfig(recipe="mine", model="other", dtype="auto", device="cpu", max_new_tokens=8)
    settled, recipe, _ = settle(given, problems, mine)
    assert settled.dtype == dtype and recipe == mine


@pytest.mark.parametrize(
    ("dtype", "able", "said"), [("bfloat16", False, 1), ("bfloat16", True, 0), ("float32", False, 0)]
)
def test_bfloat16_that_is_emulated_says_what_it_costs(dtype, able, said, monkeypatch):
    monkeypatch.setattr("rung.kernels.device.multiplies_bfloat16", lambda: able)
    _, splits = by_task(TrainConfig(dtype=dtype, device="cpu"), load_problems("chained_arithmetic"))
    found = [note for note in splits.notes if re.search(r"bfloat16 is emulated.*1\.8 times.*dtype.*float32", note)]
    assert len(found) == said


def test_what_auto_took_is_said_and_stored(tmp_path, capsys):
    run = rung.train(
        dtype="auto", steps=1, prompts_per_step=4, samples_per_prompt=2, eval_problems=4, out=tmp_path / "run"
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "note: the model computes in float32, since the model is too small" in said
    assert run.config["dtype"] == "float32"
