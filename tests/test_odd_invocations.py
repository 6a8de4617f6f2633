"""What nobody should type, typed: each ends with status 2 and one message that says why, and never with a traceback."""

import pytest

from rung.cli import main
from rung.training.loop import _Loop

DRY = ("train", "--dry-run")
CHAIN = "[[part]]\ntask = 'chained_arithmetic'\n"
STAGED = CHAIN + "[[stage]]\nweights = {chained_arithmetic = 1}\n%s\n[[stage]]\nweights = {chained_arithmetic = 1}"
ROW = '{"prompt": "1+1=", "answer": "2"}\n'
DEEP = "[" * 100_000
DIGITS = "9" * 5000

FILES: dict[str, str | bytes] = {
    "rows.jsonl": ROW * 3,
    # settings
    "text.toml": "steps = 'x'", "negative.toml": "steps = -1", "nan.toml": "temperature = nan", "typo.toml": "stpes = 1",
    "number.toml": "overrides = 3", "part.toml": "[overrides]\nkl = 3", "beta.toml": "[overrides]\n'kl.coef' = nan",
    "beta2.toml": "[overrides.kl]\npart = 'K3'\ncoef = inf", "twice.toml": "steps = 1\nsteps = 2",
    "spelled.toml": "recipe = 'grpo'\n[overrides]\n'kl.coef' = 0.1\n[overrides.kl]\ncoef = 0.2", "half.toml": "dtype = 'float16'",
    "vllm.toml": "sampler = 'vllm'", "out.toml": "out = 3", "yes.toml": "resume = 'yes'", "options.toml": "task_options = 3",
    "seed.toml": "seed = 1.5", "true.toml": "temperature = true", "recipe.toml": "recipe = 3",
    "rate.toml": "learning_rate = '1e-3'",
    "lam.toml": "recipe = 'a2c'\n[overrides.credit.estimator]\nlam = 3", "nope.toml": "[overrides.credit]\npart = 'Nope'",
    "three.toml": "[overrides.credit]\npart = 3", "list.toml": "steps = [1]", "tracker.toml": "tracker = 'x'",
    "threads.toml": "threads = -1", "rank.toml": "lora_rank = 1.0", "every.toml": "save_every = -5", "zero.toml": "\x00",
    "table.toml": "[steps]\nx = 1", "bytes.toml": b"\xff\xfe", "digits.toml": "steps = " + DIGITS,
    "deep.toml": "steps = " + DEEP, "m_deep.toml": "part = " + DEEP,
    # mixtures
    "m_number.toml": "part = 3", "m_text.toml": "part = 'x'", "m_table.toml": "[part]\ntask = 'chained_arithmetic'",
    "m_list.toml": "part = [1]", "m_none.toml": "part = []", "m_empty.toml": "", "m_task.toml": "[[part]]\ntask = 3",
    "m_name.toml": CHAIN + "name = 3", "m_weight.toml": CHAIN + "weight = 'x'", "m_minus.toml": CHAIN + "weight = -1",
    "m_nan.toml": CHAIN + "weight = nan", "m_inf.toml": CHAIN + "weight = inf", "m_true.toml": CHAIN + "weight = true",
    "m_zero.toml": CHAIN + "weight = 0", "m_options.toml": CHAIN + "options = 3", "m_path.toml": CHAIN + "path = 3",
    "m_size.toml": CHAIN + "options = {train_size = 'x'}", "m_reward.toml": CHAIN + "reward = 3",
    "m_verifier.toml": CHAIN + "verifier = 3", "m_column.toml": CHAIN + "prompt_column = 3", "m_stage.toml": "stage = 3\n" + CHAIN,
    "m_weights.toml": CHAIN + "[[stage]]\nweights = 3", "m_share.toml": CHAIN + "[[stage]]\nweights = {chained_arithmetic = 'x'}",
    "m_until.toml": STAGED % "until_step = 'x'", "m_accuracy.toml": STAGED % "until_accuracy = nan",
    "m_step.toml": STAGED % "until_step = -1", "m_sure.toml": STAGED % "until_accuracy = true",
    "m_never.toml": STAGED % "until_accuracy = 7", "m_bare.toml": CHAIN + "[[stage]]\n",
    "m_bell.toml": CHAIN + 'name = "a\\tb"', "m_space.toml": CHAIN + "name = ' '",
    "m_self.toml": "[[part]]\ntask = 'm_self.toml'", "m_blank.toml": "[[part]]\ntask = ''",
    # rows
    "empty.jsonl": "", "blank.jsonl": "\n\n", "list.jsonl": "[1]\n", "number.jsonl": "3\n", "broken.jsonl": "{\n",
    "deep.jsonl": DEEP,
    "null.jsonl": '{"prompt": null, "answer": "1"}\n', "bare.jsonl": '{"prompt": "x"}\n', "bytes.jsonl": b"\xff\xfe\x00\n",
    "half.jsonl": '{"prompt": "\\ud800", "answer": "1"}\n', "digits.jsonl": '{"prompt": "x", "answer": ' + DIGITS + "}\n",
    "head.csv": "prompt,answer\n", "short.csv": "prompt,answer\nx\n", "bad.parquet": "PAR1", "nothing.parquet": "",
    "lists.jsonl": '{"prompt": [1], "answer": "1"}\n', "roles.jsonl": '{"prompt": [{"role": 3, "content": 4}], "answer": "1"}\n',
    "deep.json": DEEP, "digits.json": f'[{{"prompt": "x", "answer": {DIGITS}}}]',
    # stored ways of evaluating
    "s_list.json": "[]", "s_text.json": '{"format": 1, "task": "chained_arithmetic", "problems": "x"}', "s_deep.json": DEEP,
    "s_minus.json": '{"format": 1, "task": "chained_arithmetic", "problems": -1}', "s_bytes.json": b"\xff",
    "s_nan.json": '{"format": 1, "task": "chained_arithmetic", "temperature": NaN}', "s_task.json": '{"format": 1, "task": 3}',
    "s_options.json": '{"format": 1, "task": "chained_arithmetic", "task_options": 3}',
    "s_top.json": '{"format": 1, "task": "chained_arithmetic", "top_p": 0}',
    # code of the user
    "rewards.py": "def big(completions, **k): return [10 ** 400] * len(completions)\n"
    "def text(completions, **k): return 'ab'\ndef none(completions, **k): return None\n"
    "def short(completions, **k): return [1.0]\ndef odd(completions, **k): return [1j] * len(completions)\n",
    "talks.py": "from rung.records import Step, Task\nclass Talks:\n    name = 'talks'\n    def __len__(self): return 8\n"
    "    def __getitem__(self, i): return Task(str(i), '1+1=')\n    def session(self, task): return Session()\n"
    "    def score(self, group): return [{} for _ in group.completions]\n"
    "class Session:\n    def reset(self): return '1+1='\n    def step(self, completion): return Step([], True, 10 ** 400)\n",
}  # fmt: skip

WHOLE = ["steps", "tokens", "prompts-per-step", "samples-per-prompt", "max-new-tokens", "max-turns", "max-turn-tokens",
         "max-total-tokens", "top-k", "warmup-steps", "decay-steps", "lora-rank", "eval-problems", "eval-samples", "eval-every",
         "save-every", "keep-last", "seed", "threads"]  # fmt: skip
REAL = [
    "temperature",
    "top-p",
    "learning-rate",
    "clip-norm",
    "weight-decay",
    "lora-alpha",
    "activation-gib",
    "adam-beta1",
    "adam-beta2",
    "adam-epsilon",
]
PARTS = [("grpo", "entropy"), ("grpo", "surrogate.high"), ("grpo", "kl.coef"), ("a2c", "credit.estimator.lam"),
         ("ppo", "update.epochs"), ("trpo", "update.max_kl"), ("dapo", "data.resample"), ("moving_average", "credit.rate"),
         ("sapo", "surrogate.positive")]  # fmt: skip
OPTIONS = {"train_size": ("nan", "NaN", "-1", "0", "x", "true", "null", "1.5", "[1]", "9" * 30),
           "seed": ("nan", "x", "true", "1.5"),
           "eval_size": ("x", "9999", "null"), "reward_offset": ("NaN", "Infinity", "1e400", "x"), "unlearnable": ("2", "nan", "x"),
           "nope": ("1",)}  # fmt: skip
SMALL = ("train", "--steps", "1", "--prompts-per-step", "2", "--samples-per-prompt", "2", "--eval-problems", "2",
    "--threads", "1",
)  # fmt: skip

CASES = [
    *[(*DRY, f"--{name}", value) for name in WHOLE for value in ("nan", "-1", "9" * 400)],
    *[(*DRY, f"--{name}", value) for name in REAL for value in ("nan", "inf", "-1", "1e300")],
    *[(*DRY, f"--recipe.{path}", value, "--recipe", name) for name, path in PARTS for value in ("nan", "-inf", "many", "[1]")],
    *[(*DRY, f"--task-options.{name}", value) for name, values in OPTIONS.items() for value in values],
    *[(*DRY, "--config", name) for name in FILES if name.endswith(".toml") and not name.startswith("m_")],
    *[(*DRY, "--task", name) for name in FILES if name.startswith("m_")],
    *[("verify", "--task", name) for name in FILES if name.endswith((".jsonl", ".csv", ".parquet", "p.json", "s.json"))
      and name != "rows.jsonl" and not name.startswith("s_")],
    *[("eval", "starter", "--spec", name) for name in FILES if name.startswith("s_")],
    # the recipe
    (*DRY, "--recipe.update.epochs", "0"), (*DRY, "--recipe.credit", ""), (*DRY, "--recipe.", "1"), (*DRY, "--recipe.nope", "1"),
    (*DRY, "--recipe.credit", "GroupMean", "--recipe.credit", "LeaveOneOut"), (*DRY, "--recipe.credit.nope", "1"),
    (*DRY, "--recipe.name", "x"), (*DRY, "--recipe.credit.scale.x", "1"), (*DRY, "--recipe.kl", "Clip"), (*DRY, "--recipe.credit"),
    (*DRY, "--recipe", "ppo", "--prompts-per-step", "3"), ("train", "grpo", "--recipe", "ppo", "--dry-run"),
    # twice, empty, unknown
    (*DRY, "--steps", "1", "--steps", "2"), (*DRY, "--steps=1", "--steps=1"), ("train", "--dry-run", "--dry-run"),
    (*DRY, "--prompts_per_step", "4", "--prompts-per-step", "4"), (*DRY, "--task-options.seed", "1", "--task-options.seed", "2"),
    ("train", "grpo", "ppo", "--dry-run"), ("train", "--save-rollouts", "--no-save-rollouts", "--dry-run"),
    (*DRY, "--config", ""), (*DRY, "--config", "."), (*DRY, "--config", "gone.toml"), (*DRY, "--out", ""), (*DRY, "--model", ""),
    (*DRY, "--task", ""), (*DRY, "--trainable", ""), (*DRY, "--nope"), (*DRY, "--recipe", ""), ("nope",), ("",), ("--nope",),
    # what does not go together, or does not exist
    (*DRY, "--trainable", "("), (*DRY, "--trainable", "nothing"), (*DRY, "--lora-rank", "4", "--trainable", "x"),
    (*DRY, "--decay-steps", "5", "--tokens", "100"), (*DRY, "--decay-steps", "50", "--steps", "3"), (*DRY, "--reward", "x"),
    (*DRY, "--reward", "x.py:f"), (*DRY, "--environment", "x"), (*DRY, "--tracker", "x"), (*DRY, "--dtype", "float16"),
    (*DRY, "--sampler", "vllm"), (*DRY, "--task-path", "gone"), (*DRY, "--task", "gsm8k"), (*DRY, "--task", "a:,b:"),
    (*DRY, "--task", "chained_arithmetic:nan,gsm8k:1"),
    (*DRY, "--task", "chained_arithmetic:1e999999999,gsm8k:1"), (*DRY, "--task", ":1,:2"), (*DRY, "--max-new-tokens", "99999999"),
    (*DRY, "--prompts-per-step", "9" * 12), (*DRY, "--samples-per-prompt", "9" * 12),
    (*DRY, "--top-k", "5"), (*DRY, "--top-p", "0.5"),
    (*DRY, "--temperature", "0"), (*DRY, "--task", "rows.jsonl", "--task-options.eval_share", "nan"), ("train", "--resume"),
    ("train", "--resume", "gone"), ("train", "--out", "rows.jsonl/x", *SMALL[1:]), ("train", "--out", "rows.jsonl", *SMALL[1:]),
    # other commands
    *[("eval", "starter", f"--{name}", value) for name in ("problems", "samples", "temperature", "top-p", "top-k", "seed")
      for value in ("nan", "-1", "9" * 30)],
    *[("ladder", f"--{name}", value) for name in ("seeds", "tokens", "rates", "bounds", "sweep-seeds", "eval-every", "jobs")
      for value in ("nan", "-1") if (name, value) != ("bounds", "nan")],
    *[("variance", "starter", f"--{name}", value) for name in ("batches", "warmup-batches", "learning-rate", "seed")
      for value in ("nan", "-1")],
    *[("speedrun", f"--{name}", value) for name in ("seeds", "seed", "target", "steps", "eval-every", "threads")
      for value in ("nan", "-1")],
    ("speedrun", "--out", "rows.jsonl/x"), ("speedrun", "nope"), ("speedrun", "--target", "1.5"),
    ("speedrun", "--steps", "5", "--decay-steps", "6"),
    ("speedrun", "--model", "gone/x"), (*DRY, "--until", "nan"), (*DRY, "--until", "0.9", "--eval-every", "0"),
    (*DRY, "--until", "7"), (*DRY, "--until", "1.01", "--task", "rows.jsonl"), ("ladder", "--target", "2"),
    (*DRY, "--warmup-steps", "50", "--steps", "3"),
    *[("audit", "grpo", f"--{name}", value) for name in ("old-kl", "temperature", "vocabulary", "horizon", "samples", "seed")
      for value in ("nan", "-1", "9" * 30)],
    *[("plan", "--answer-tokens", value) for value in ("NaN", "Infinity", "-1", "0", "1e400", "[1]", "true", "many", "")],
    ("why", "gspo", "--seeds", "1"), ("why", "gspo", "--jobs", "0"), ("why", "gspo", "--out", "rows.jsonl/x"), ("why", "nope"),
    ("ladder", "--out", "rows.jsonl/x"), ("ladder", "--recipes", "nope"), ("ladder", "--target", "nan"),
    ("ladder", "--recipes", "trpo", "--bounds", "nan"), ("ladder", "--rates", "1e-3,nan"), ("ladder", "--gradient-batches", "2"),
    ("audit", "grpo", "--markdown", "gone/x.md"), ("audit", "grpo", "--json", "gone/x"), ("audit", "nope"),
    ("audit", "grpo", "--old-kl", "50"), ("audit", "grpo", "--horizon", "200"), ("audit", "grpo", "--reward", "x"),
    ("export", "grpo"), ("export", "nope", "--to", "trl"), ("export", "ppo", "--to", "trl"), ("export", "grpo", "--to", "areal"),
    ("export", "grpo", "--to", "trl", "--out", "rows.jsonl"), ("export", "grpo", "--to", "trl", "--recipe.nope", "1"),
    ("import", "trl"), ("import", "trl", "gone.yaml"), ("import", "skyrl", "rows.jsonl"), ("import", "trl", "rows.jsonl"),
    ("import", "trl", "rewards.py"), ("import", "trl", "."),
    ("starter", "--out", "x", "--seed", "-1"), ("starter", "--out", "x", "--seed", "9" * 30), ("starter", "--out", "rows.jsonl/x"),
    ("verify", "--task", "chained_arithmetic", "--problems", "0"), ("verify", "--task", "nope"), ("diff", "grpo", "nope"),
    ("explain", "nope"), ("report", "gone"), ("report", "rows.jsonl"), ("eval", "rows.jsonl"), ("eval", "starter", "--split", "x"),
    ("eval", "starter", "--compare", "gone"), ("eval", "starter", "--out", "gone/x.jsonl"), ("variance", "rows.jsonl"),
    ("recipes", "--json", "gone/x"), ("ask", "gone", "1+1="), ("ask", "rows.jsonl", "1+1="), ("ask",), ("completion", "csh"),
    ("ask", "starter", "1+1=", "--compare", "gone"), ("ask", "starter", "9" * 500), ("ask", "starter", "1+1=", "--json", "gone/x"),
    *[("ask", "starter", "1+1=", f"--{name}", value) for name in ("samples", "temperature", "seed", "max-new-tokens")
      for value in ("nan", "-1")],
    # what the user's own code gives
    *[(*SMALL, "--reward", f"rewards.py:{name}") for name in ("big", "text", "none", "short", "odd")],
    (*SMALL, "--environment", "talks.py:Talks", "--max-new-tokens", "8"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("odd")
    for name, text in FILES.items():
        (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def brief(case):
    return " ".join(word if len(word) < 30 else word[:12] + "..." for word in case)


def a_step_at_most(loop, first, go=_Loop.go):
    assert loop.setup.config.steps == 1, "it was not refused, and would train for long"
    return go(loop, first)


@pytest.mark.parametrize("case", CASES, ids=map(brief, CASES))
def test_an_odd_invocation_is_refused_with_one_message(case, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(_Loop, "go", a_step_at_most)
    status = main(case)
    said = capsys.readouterr().err
    assert status == 2, "refused, and neither accepted nor a crash (1)"
    assert said.count("rung: ") == 1, said
    assert "Traceback" not in said and len(said) < 9000


def test_there_are_many():
    assert len(set(CASES)) == len(CASES) >= 300


LONG = "a" * 5000


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--model", LONG), ("train", "--task", LONG), ("train", "--config", LONG), ("train", "--resume", LONG),
        ("train", "--reward", f"{LONG}.py:f"), ("train", "--out", LONG), ("train", "--task-path", LONG), ("eval", LONG),
        ("ask", LONG, "1+1="), ("report", LONG), ("explain", LONG), ("diff", LONG, "grpo"), ("variance", LONG), ("data", LONG),
        ("plan", "--model", LONG), ("verify", "--task", f"{LONG}.jsonl"), ("audit", "--of", f"{LONG}.py:f"),
        ("why", "grpo", "--out", LONG), ("export", "grpo", "--to", "trl", "--out", LONG), ("import", "trl", LONG),
        ("train", "--model", f"x/{LONG[:300]}"),
    ],
    ids=lambda words: " ".join(word[:12] for word in words),
)  # fmt: skip
def test_a_name_that_no_file_can_have_is_one_message(words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert said.count("rung: ") == 1 and "Traceback" not in said
