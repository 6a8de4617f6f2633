"""Every proposition that this project rests on has a test that carries its number: P1 to P77 and Q1 to Q20.

The propositions are stated where they are tested, by name: test_P9_..., test_Q3_.... What the numbers mean and how to read
them is in docs/proof.md.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ALL = [*(f"P{n}" for n in range(1, 78)), *(f"Q{n}" for n in range(1, 21))]
ELSEWHERE = {  # tests that are at home in another part of the project, under a name that says what they do there
    "Q8": [
        ("training/test_learner.py", "test_the_sampler_and_the_trainer_agree_on_log_probabilities"),
        ("kernels/test_attention.py", "test_sampler_trainer_and_definition_agree"),
    ],
    "Q12": [
        ("maths/test_conformance.py", "test_edges_are_finite"),
        ("maths/test_hand_rows_credit.py", "test_one_answer_to_a_prompt_is_refused_or_zero_never_raw"),
        ("training/test_learner.py", "test_a_batch_without_signal_changes_nothing_and_says_so"),
    ],
    "Q13": [("training/test_learner.py", "test_the_reference_never_moves")],
    "Q14": [("training/test_run.py", "test_a_resumed_run_equals_one_that_never_stopped")],
    "Q15": [
        ("maths/test_ladder.py", "test_nonsense_is_refused_with_the_reason"),
        ("maths/test_ladder.py", "test_every_rule_has_its_example"),
        ("maths/test_ladder.py", "test_sampling_that_contradicts_the_recipe_is_refused"),
    ],
    "Q16": [("conformance/test_polgrad.py", "test_weights_advantages_loss_and_gradient")],  # `make conformance`
    "Q17": [("maths/test_peers_vectors.py", "test_one_loss_from_all_parts")],
    "Q20": [("tasks/test_verify.py", "test_never_accepted")],
}


def names(path: Path) -> list[str]:
    return re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)


def carried() -> set[str]:
    """The numbers in the names of the tests of this folder."""
    found = (name for path in sorted(TESTS.glob("exact/test_*.py")) for name in names(path))
    return {number for name in found for number in re.findall(r"(?<=_)[PQ]\d+(?=_|$)", name)}


@pytest.mark.parametrize("number", ALL)
def test_a_proposition_has_a_test(number):
    if number in ELSEWHERE:
        assert all(name in names(TESTS / file) for file, name in ELSEWHERE[number])
    else:
        assert number in carried()


def test_no_test_carries_a_number_that_means_nothing():
    assert carried() <= set(ALL)
    assert not carried() & set(ELSEWHERE), "listed as elsewhere, and yet here"
