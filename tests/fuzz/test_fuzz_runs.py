"""Directories of runs by the hundred, with anything in their files: report, eval, explain and going on read them or say why not."""

import json
import shutil

import pytest
from fuzzing import cases, dumps, ended, mutated, plain, replaced, values
from hypothesis import given
from hypothesis import strategies as st
from zstandard import ZstdCompressor, ZstdDecompressor

import rung
from rung.io.run_dir import RunDir
from rung.report import run_report
from rung.settings.flags import Report
from rung.training.held_out import stored
from rung.training.resume import begun

LINES = ("metrics.jsonl", "evaluations/step_000000.jsonl", "rollouts/step_000001.jsonl.zst")
OBJECTS = ("environment.json",)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    rung.train(
        "grpo", steps=2, out=path, prompts_per_step=2, samples_per_prompt=2, eval_problems=2, threads=1, quiet=True
    )
    kept = {name: (path / name).read_bytes() for name in (*LINES, *OBJECTS, "config.toml")}
    shutil.rmtree(path / "checkpoints")  # damaged ones are tests/io/test_damage.py's
    return path, kept


def readings(path, out):
    yield lambda: RunDir.open(path).metrics()
    yield lambda: stored(RunDir.open(path), 0)
    yield lambda: RunDir.open(path).read_rollouts(1)
    yield lambda: begun(path)
    yield lambda: run_report(Report((path,), out))


def damaged(place, whole, file, data):
    path, kept = whole
    for name, content in {**kept, file: data}.items():
        (path / name).write_bytes(content)
    for read in readings(path, place / "report.html"):
        (place / "report.html").unlink(missing_ok=True)
        ended(read, 10)
    if (place / "report.html").exists():
        page = (place / "report.html").read_text()
        assert page.count("</html>") == 1 and page.rstrip().endswith("</html>")


@cases("runs: rows", 40)
@given(data=st.data(), name=st.sampled_from(LINES))
def test_rows_of_a_run_with_anything_in_them(place, whole, data, name):
    content = whole[1][name]
    packed = name.endswith("zst")
    lines = (ZstdDecompressor().stream_reader(content).read() if packed else content).splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at] = dumps(data.draw(replaced(json.loads(lines[at]), values))).encode()
    text = b"\n".join(lines) + b"\n"
    damaged(place, whole, name, ZstdCompressor().compress(text) if packed else text)


@cases("runs: broken", 15)
@given(data=st.data(), name=st.sampled_from((*LINES, *OBJECTS, "config.toml")))
def test_broken_files_of_a_run(place, whole, data, name):
    damaged(place, whole, name, data.draw(mutated(whole[1][name])))


@cases("runs: environment", 10)
@given(data=st.data())
def test_what_is_said_of_the_machine_may_be_anything(place, whole, data):
    tree = json.loads(whole[1]["environment.json"])
    damaged(place, whole, "environment.json", dumps(data.draw(replaced(tree, values) | values)).encode())


LADDER = {
    "kind": "ladder",
    "rows": [{"recipe": "grpo", "label": "grpo", "seed": 0, "accuracy": 0.5, "tokens": 10.0, "lr": 1e-3}],
    "verdicts": [],
    "curves": [],
    "settings": {"tokens": 100},
}


@cases("runs: experiments", 15)
@given(data=st.data(), name=st.sampled_from(["ladder.json", "why.json"]))
def test_what_an_experiment_found_may_be_anything(place, data, name):
    path = place / "found"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    (path / name).write_text(dumps(data.draw(replaced(LADDER, plain) | values)))
    ended(lambda: run_report(Report((path,), path / "report.html")))
