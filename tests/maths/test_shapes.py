"""A wrong shape is found out by the names, also where PyTorch would broadcast it without a word."""

from __future__ import annotations

import pytest
import torch
from shapes import disagreement, watched

from rung.maths.credit import outcome_to_token
from rung.maths.ratio import TokenRatio, own_gradient

ONE_A_TOKEN, ONE_AN_ANSWER = torch.zeros(3, 4), torch.zeros(3, 1)
MASK = torch.ones(3, 4, dtype=torch.bool)


def test_what_fits_passes(batch_of):
    with watched():
        TokenRatio()(ONE_A_TOKEN, ONE_A_TOKEN, MASK)
        outcome_to_token(torch.zeros(3), MASK)
        batch_of([1.0, 2.0], lengths=[1, 3])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda _: TokenRatio()(ONE_A_TOKEN, ONE_AN_ANSWER, MASK),
            r"TokenRatio.__call__: T is 1 in old_logp_BT \(3, 1\)",
        ),
        (lambda _: own_gradient(ONE_A_TOKEN, torch.zeros(4)), r"own_gradient: d_BT is \(4,\)"),
        (lambda batch_of: batch_of([1.0, 2.0], keep_B=torch.ones(3)), r"__init__: B is 3 in keep_B \(3,\)"),
        (lambda batch_of: batch_of([1.0], lengths=[3], value_BT=torch.ones(1, 1)), r"T is 1 in value_BT \(1, 1\)"),
    ],
    ids=["broadcast over tokens", "broadcast over answers", "a record", "a record's width"],
)
def test_what_does_not_fit_is_found_out(batch_of, call, says):
    with pytest.raises(AssertionError, match=says), watched():
        call(batch_of)


def test_the_digit_1_is_a_size():
    names = (("log_s_B1", "B1"), ("d_BT", "BT"))
    assert disagreement(names, {"log_s_B1": ONE_AN_ANSWER, "d_BT": ONE_A_TOKEN, "other": torch.zeros(7)}) is None
    assert disagreement(names, {"log_s_B1": ONE_A_TOKEN}) == "1 is 4 in log_s_B1 (3, 4) and 1 in its name"
