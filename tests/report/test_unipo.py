"""Recorded steps for the UNIPO viewer: what it asks of a log, and that the numbers of a token are those of the run."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path

import pytest
import zstandard
from jsonschema import Draft202012Validator, ValidationError

import rung
from rung.cli import main
from rung.io.run_dir import RunDir
from rung.report.unipo import write_unipo

SCHEMA = Draft202012Validator(json.loads((Path(__file__).parent / "unipo.schema.json").read_text()))
SMALL = {"prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 2, "threads": 1, "quiet": True}


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """{recipe: its run, its export}: PPO in four minibatches, GRPO once, GSPO with one ratio for an answer."""
    out, folder = {}, tmp_path_factory.mktemp("unipo")
    for name in ("ppo", "grpo", "gspo"):
        path = rung.train(recipe=name, steps=2, learning_rate=3e-3, out=folder / name, **SMALL).path
        out[name] = path, json.loads(write_unipo(path, folder / f"{name}.json").read_text())
    return out


@pytest.mark.parametrize("name", ["ppo", "grpo", "gspo"])
def test_it_is_what_the_viewer_asks_for(exports, name):
    _, export = exports[name]
    SCHEMA.validate(export)
    assert [entry["step"] for entry in export["entries"]] == [1, 2]
    for response in (r for e in export["entries"] for p in e["prompts"] for r in p["responses"]):
        assert {len(x) for x in response["tokens"].values()} == {response["response_length"]}
        shown = "".join(response["tokens"]["strings"])
        assert shown.startswith(response["response_text"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x["entries"][0]["metrics"].pop("policy_objective"),
        lambda x: x["entries"][0]["prompts"][0].update(responses=[]),
        lambda x: x["entries"][0]["prompts"][0]["responses"][0]["tokens"].pop("strings"),
        lambda x: x["header"].update(algorithm=""),
        lambda x: x["header"]["hparams"].update(clip_eps="0.2"),
    ],
    ids=["objective", "responses", "strings", "algorithm", "clip"],
)
def test_what_lacks_a_part_is_found(exports, spoil):
    wrong = copy.deepcopy(exports["grpo"][1])
    spoil(wrong)
    with pytest.raises(ValidationError):
        SCHEMA.validate(wrong)


def test_the_numbers_of_a_token_are_those_of_the_run(exports):
    """PPO: the ratio is in the log-probabilities, the objective is the lower of two products, its mean that of the step."""
    path, export = exports["ppo"]
    rows = RunDir.open(path).read_rollouts(2)
    gains = []
    for row in rows:
        for rho, adv in zip(row["ratios"], row["advantages"], strict=True):
            gains.append(min(rho * adv, min(max(rho, 0.8), 1.2) * adv) if rho is not None else 0.0)
    entry = export["entries"][1]
    assert entry["metrics"]["policy_objective"] == pytest.approx(sum(gains) / len(gains), abs=1e-9)
    assert all(len(prompt["responses"]) == 1 for prompt in entry["prompts"]), "PPO compares no answers"
    response = entry["prompts"][0]["responses"][0]
    row = next(r for r in rows if r["answer"] == response["response_text"] and r["tokens"] == response["tokens"]["ids"])
    told = response["tokens"]
    assert any(abs(x - 1) > 0.01 for x in row["ratios"])
    for t, rho in enumerate(row["ratios"]):
        assert math.exp(told["log_probs"][t] - told["old_log_probs"][t]) == pytest.approx(rho, rel=1e-4)
        assert told["token_kl"][t] == pytest.approx(row["logp"][t] - row["ref_logp"][t], abs=2e-6)
        adv = row["advantages"][t]
        assert told["token_objective"][t] == pytest.approx(min(rho * adv, min(max(rho, 0.8), 1.2) * adv), abs=1e-5)
    assert told["values"] == row["values"] and len(row["values"]) == len(row["tokens"])


def test_a_group_is_whole_and_differs_and_its_kl_is_k3(exports):
    path, export = exports["grpo"]
    rows = {(r["prompt"], *r["tokens"]): r for r in RunDir.open(path).read_rollouts(2)}
    assert export["header"]["hparams"]["clip_eps"] == 0.2 and export["header"]["algorithm"] == "grpo"
    differ = [len({r["reward"] for r in p["responses"]}) > 1 for p in export["entries"][1]["prompts"]]
    assert differ == sorted(differ, reverse=True) and all(
        len(p["responses"]) == 4 for p in export["entries"][1]["prompts"]
    )
    prompt = export["entries"][1]["prompts"][0]
    for response in prompt["responses"]:
        assert set(response["tokens"]["advantages"]) == {response["advantage"]}
        assert response["tokens"]["log_probs"] == response["tokens"]["old_log_probs"], "one update: every ratio is 1"
        row = rows[(prompt["prompt"], *response["tokens"]["ids"])]
        u = row["logp"][0] - row["ref_logp"][0]
        assert response["tokens"]["token_kl"][0] == pytest.approx(math.expm1(-u) + u, abs=1e-5)


def test_a_ratio_of_the_answer_is_not_passed_off_as_that_of_a_token(exports):
    _, export = exports["gspo"]
    tokens = export["entries"][1]["prompts"][0]["responses"][0]["tokens"]
    assert "log_probs" not in tokens and "token_kl" not in tokens and "old_log_probs" in tokens
    assert (
        export["header"]["hparams"]["clip_eps"] == [0.0003, 0.0004] and "reference_model_name" not in export["header"]
    )


def test_the_command_writes_it_in_place_of_a_report_and_replaces_only_its_own(exports, tmp_path, capsys):
    path, out = exports["grpo"][0], tmp_path / "steps.json"
    for _ in range(2):
        assert main(["report", str(path), "--unipo", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out)] * 2 and not (path / "report.html").exists()
    assert json.loads(out.read_text()) == exports["grpo"][1]
    mine = tmp_path / "mine.json"
    mine.write_text('{"mine": 1}')
    said = {
        ("--unipo", str(mine)): "no export of ours",
        ("--unipo", str(tmp_path / "steps.txt")): "ends in .json",
        ("--unipo", str(out), "--out", "a.html"): "no report",
        ("--unipo", str(tmp_path / "none" / "steps.json")): "No such file",
        (str(path), "--unipo", str(out)): "Name one run",
    }
    for words, why in said.items():
        assert main(["report", str(path), *words]) == 2
        assert why in capsys.readouterr().err
    assert mine.read_text() == '{"mine": 1}'


def test_a_run_without_answers_or_texts_is_refused(tmp_path, make, capsys):
    for folder, spoil, why in (
        ("bare", lambda run: None, "no checkpoint with a tokenizer"),
        ("silent", lambda run: [x.unlink() for x in (run / "rollouts").iterdir()], "stored no answers"),
    ):
        run = make(tmp_path / folder, "grpo", 2, checkpoint=folder == "silent")
        spoil(run)
        assert main(["report", str(run), "--unipo", str(tmp_path / "a.json")]) == 2
        assert why in capsys.readouterr().err


def test_what_is_damaged_is_named(exports, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(exports["grpo"][0], run)
    file = min((run / "rollouts").iterdir())
    whole, config = file.read_bytes(), (run / "config.toml").read_text()
    file.write_bytes(zstandard.compress(b'{"task": 1}\n'))
    assert main(["report", str(run), "--unipo", str(tmp_path / "a.json")]) == 2
    assert f"{file.parent} is damaged" in capsys.readouterr().err and not (tmp_path / "a.json").exists()
    file.write_bytes(whole)
    (run / "config.toml").write_text(config.replace("max_new_tokens", "tokens_at_most"))
    assert main(["report", str(run), "--unipo", str(tmp_path / "a.json")]) == 2
    assert f"{run / 'config.toml'} is damaged" in capsys.readouterr().err
