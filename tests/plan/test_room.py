"""What a refusal of a planned cluster proposes is tried here: each remedy alone makes the run fit."""

import re

import pytest

from rung.cli import main

WORDS = ["plan", "grpo", "--gpu", "h100", "--model", "qwen2.5-7b", "--json", "-"]


def refused(capsys, *words):
    assert main([*WORDS, *words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(("gpus", "half"), [(1, False), (2, False), (4, True)])
def test_as_many_gpus_as_a_refusal_asks_for_suffice_and_one_less_does_not(gpus, half, capsys):
    said = refused(capsys, "--gpus", str(gpus))
    enough = int(re.search(r"learners instead of \d+ \(--gpus (\d+)\)", said).group(1))
    assert main([*WORDS, "--gpus", str(enough)]) == 0 and enough > gpus
    refused(capsys, "--gpus", str(enough - 1))
    assert ("or give --dtype bfloat16, with which it fits." in said) == half
    assert (main([*WORDS, "--gpus", str(gpus), "--dtype", "bfloat16"]) == 0) == half


def test_a_precision_that_the_recipe_or_the_run_cannot_change_is_not_proposed(capsys):
    assert "--dtype" not in refused(capsys, "--gpus", "1", "--dtype", "bfloat16")
    given = ["--cluster", "ray", "--cluster.learners", "3", "--gpus", "64"]
    said = refused(capsys, *given)
    assert "Take 4 learners instead of 3, " in said and "with which it fits" in said, "there are GPUs enough"
    assert main([*WORDS, *given, "--dtype", "bfloat16"]) == 0
