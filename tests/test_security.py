"""What SECURITY.md promises: no text is run, no name leaves its directory, no terminal obeys a model, no secret is kept."""

import ast
import re
import warnings
from pathlib import Path

import pytest

import rung
from rung.cli import main
from rung.errors import InputError, printable
from rung.evaluation.asking import written
from rung.io.new_dir import numbered
from rung.io.notebook import table
from rung.io.run_dir import RunDir
from rung.network.place import place
from rung.recipe_io import find, to_dict
from rung.records import Completion, Group, Task
from rung.rollout.question import Answer
from rung.settings.ranges import refuse_name
from rung.tasks.rewards.functions import Rewarded

SOURCE = Path(rung.__file__).parent
# Where Python is run that somebody else wrote: programs and their tests, inside the sandbox.
RUNS_CODE = {"tasks/sandbox/judge.py", "tasks/sandbox/program.py", "tasks/sandbox/tests.py"}
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "code", "pty"}
PRINTS = {  # text of our own alone, or JSON in ASCII
    "cli.py",
    "evaluation/asking.py",
    "evaluation/verification.py",
    "io/terminal.py",
    "models/smollm2.py",
    "shell/commands.py",
    "tasks/sandbox/worker.py",
    "exact/peers/__main__.py",
    "exact/peers/page.py",
    "compat/trainer.py",
    "exact/audit.py",
}
HOSTILE = (
    "\x1b[2J\x1b]52;c;aGFja2Vk\x07\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\\x9b31m\r\b\x7f\u202etxet\u2066\u200b"
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>[red]markup[/red]"
)
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def dangers(source):
    """Lines that run text as code, load objects from bytes, or hand a line to a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [(line, name) for name in names if name.partition(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        bare = called in (
            "eval",
            "exec",
            "compile",
            "__import__",
            "os.system",
            "os.popen",
            "builtins.eval",
            "builtins.exec",
        )
        shell = given.get("shell", "False") != "False"
        unsafe = called in ("torch.load", "yaml.load", "np.load", "numpy.load") and given.get("weights_only") != "True"
        if bare or shell or unsafe or called.endswith(("extractall", "sympify", "parse_expr")):
            found.append((line, called))
    return found


def test_no_text_is_run_and_nothing_is_unpickled():
    places = {str(path.relative_to(SOURCE)): dangers(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")}
    assert {name for name, found in places.items() if found} == RUNS_CODE


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import loads",
        "eval(x)",
        "exec(x)",
        "compile(x, 'a', 'eval')",
        "os.system(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "subprocess.run(x, shell=True)",
        "__import__(x)",
        "archive.extractall()",
        "np.load(x)",
    ],
)
def test_what_would_run_text_is_found(line):
    assert dangers(line)


def test_a_models_eval_mode_is_none():
    assert not dangers("model.eval(); re.compile(x); torch.load(x, weights_only=True); ast.literal_eval(x)")


# -- names -------------------------------------------------------------------------------------------------------------
NAMES = [
    "../up",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "..",
    ".",
    "a\\..\\b",
    "~root",
    "a\0b",
    "\x1b[2J",
    "a" * 300,
    "",
    " ",
    "-rf",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_runs_name_stays_in_its_directory(tmp_path, name):
    root = tmp_path / "runs"
    if len(name) > 255:
        name = name[:200]
    made = numbered(root, name)
    assert made.parent == root and made.is_dir() and [*tmp_path.iterdir()] == [root]
    assert re.fullmatch(r"[A-Za-z0-9._-]+-1", made.name) and not made.name.startswith((".", "-"))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("~root", "-rf")], ids=str)
def test_names_of_parts_and_tasks_stay_names(name):
    with pytest.raises(InputError):
        refuse_name(name, "a name")


@pytest.mark.parametrize("name", ["../up", "/nowhere/at/all", "a/../../b", "~/nowhere-at-all", "./x"])
def test_a_model_that_looks_like_a_path_is_no_hub_id(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is no such directory"):
        place(name)


def test_steps_in_file_names_are_numbers(tmp_path):
    path = tmp_path / "run"
    (path / "rollouts").mkdir(parents=True)
    (path / "config.toml").write_text("")
    for name in (
        "step_../../x.jsonl.zst",
        "step_1e9.jsonl.zst",
        "step_-00001.jsonl.zst",
        "step_\u0661\u0662\u0663\u0661\u0662\u0663.jsonl.zst",
    ):
        (path / "rollouts" / name.replace("/", "_")).write_text("x")
    assert RunDir.open(path).rollout_steps() == []


# -- what a terminal obeys ---------------------------------------------------------------------------------------------
def test_messages_warnings_and_answers_obey_nothing():
    assert not OBEYED.search(str(InputError(HOSTILE))) and "[red]" in str(InputError(HOSTILE))
    assert not OBEYED.search(printable(HOSTILE)) and printable("plain text: 2 + 3 = 5") == "plain text: 2 + 3 = 5"
    said = written(Answer(HOSTILE, "stop", ()), "utf-8")
    assert not OBEYED.search(said.plain) and not said.spans


def test_a_reward_that_quotes_the_model_in_its_error(monkeypatch):
    class One:
        name = "one"

        def __len__(self):
            return 1

        def __getitem__(self, i):
            return Task("t:1", "1+1=", {})

        def score(self, group):
            return []

    def quoting(completions, **columns):
        raise ValueError(completions[0])

    group = Group(One()[0], [Completion(HOSTILE, (1,), "stop")])
    with pytest.raises(InputError) as raised:
        Rewarded(One(), quoting).score(group)
    assert not OBEYED.search(str(raised.value))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Rewarded(One(), quoting, on_error="skip").score(group)
    assert seen and not OBEYED.search(str(seen[0].message))


@pytest.fixture
def rows(tmp_path, monkeypatch):
    import json

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORCE_COLOR", "1")
    lines = [{"prompt": f"{HOSTILE} {i}", "answer": HOSTILE, HOSTILE: HOSTILE} for i in range(3)]
    Path("rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Path("reward.py").write_text(f"def odd(completions, **k): raise ValueError({HOSTILE!r})\n")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["data", "rows.jsonl"],
        ["data", "rows.jsonl", "--prompt-column", HOSTILE],
        ["verify", "--task", "rows.jsonl", "--all"],
        ["verify", "--task", "rows.jsonl", "--verifier", HOSTILE],
        ["verify", "--task", "rows.jsonl", "--reward", "reward.py:odd"],
        ["explain", HOSTILE],
        ["diff", "grpo", HOSTILE],
        ["train", "--model", HOSTILE, "--dry-run"],
        ["report", HOSTILE],
        [HOSTILE],
        ["train", "--task", HOSTILE, "--dry-run"],
        ["train", "--out", HOSTILE + "\0", "--dry-run"],
    ],
    ids=lambda words: " ".join(words).replace(HOSTILE, "HOSTILE"),
)
def test_nothing_that_a_command_says_is_obeyed(words, rows, capsys):
    main(words)
    said = capsys.readouterr()
    assert (said.out + said.err).strip() and not OBEYED.search(said.out + said.err)


def test_a_run_named_by_an_attacker_is_shown_without_its_signs(rows, capsys):
    folder = Path("bad\x1b]0;x\x07\u202e")
    with RunDir.create(None, "x", folder) as run:
        labels = {"name": HOSTILE, "paper": HOSTILE, "why": HOSTILE}
        run.write_config({"expanded_recipe": {**to_dict(find("grpo")), **labels}, "task": HOSTILE})
        run.log({"step": 1, "reward": 1.0, "step_time": 1.0})
    for words in (
        ["explain", str(folder)],
        ["report", str(folder)],
        ["train", "--resume", str(folder)],
        ["eval", str(folder)],
    ):
        main(words)
        said = capsys.readouterr()
        assert (said.out + said.err).strip() and not OBEYED.search(said.out + said.err), words


def test_one_place_makes_consoles():
    """rich's own ends with status 1 where a pipe is closed, and colours files where FORCE_COLOR is set."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    made = [n for n, text in texts.items() if "rich.console.Console(" in text]
    made += [n for n, text in texts.items() if "from rich.console import Console" in text and "Console(" in text]
    assert sorted(made) == ["terminal.py"]


def test_what_is_printed_goes_through_one_place():
    """`say` and rich's Text make text harmless; `print` does not, so it prints text of our own alone."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            plain = isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
            if plain and not all(isinstance(x, ast.Constant) for x in node.args):
                found.add(str(path.relative_to(SOURCE)))
    assert found <= PRINTS, "say(...) of io/terminal.py"


def test_a_table_in_a_notebook_holds_text_and_no_markup():
    html = table(["a", HOSTILE], [[HOSTILE, "1"]])
    assert "<script" not in html and "<img" not in html and "onerror=alert(1)&gt;" in html


# -- secrets -----------------------------------------------------------------------------------------------------------
SECRETS = (
    "HF_TOKEN",
    "WANDB_API_KEY",
    "OPENAI_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "DB_PASSWORD",
    "GITHUB_TOKEN",
    "SSH_KEY",
)


def test_no_secret_of_the_environment_is_kept(tmp_path, monkeypatch, capsys):
    for name in SECRETS:
        monkeypatch.setenv(name, f"planted-{name.lower()}-7f3a")
    path = tmp_path / "run"
    words = [
        "--steps", "1", "--prompts-per-step", "2", "--samples-per-prompt", "2", "--eval-problems", "2", "--threads", "1",
    ]  # fmt: skip
    assert main(["train", "grpo", *words, "--out", str(path)]) == 0
    assert main(["report", str(path)]) == 0
    assert main(["eval", str(path), "--problems", "2", "--threads", "1"]) == 0
    said = capsys.readouterr()
    files = [file for file in path.rglob("*") if file.is_file()]
    assert len(files) > 8
    for text in (*(file.read_bytes() for file in files), (said.out + said.err).encode()):
        assert b"planted-" not in text and b"7f3a" not in text
