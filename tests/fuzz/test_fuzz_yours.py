"""Losses and advantage functions of anybody's by the hundred, as `rung audit --of` takes them: a verdict, or one message."""

import torch
from fuzzing import cases, ended
from hypothesis import given
from hypothesis import strategies as st

from rung.exact.world import World
from rung.exact.yours.signature import NAMES
from rung.exact.yours.verdict import audit_function

SMALL = World(vocabulary=2, horizon=1, prompts=1, samples=2)
TERMS = st.recursive(
    st.sampled_from(
        [
            "logp",
            "rewards",
            "mask",
            "old_logp",
            "ref_logp",
            "advantages",
            "values",
            "truncated",
            "groups",
            "tokens",
            "1.0",
            "0.0",
            "-1e308",
            "float('nan')",
            "float('inf')",
            "torch.zeros(0)",
            "None",
            "'x'",
            "logits",
            "total_tokens",
            "index",
            "step",
            "micro_batches",
            "temperature",
            "max_tokens",
            "[1.0]",
            "torch.ones(3)",
        ]
    ),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*/@"), inner),
        st.builds("{}.sum(-1)".format, inner),
        st.builds("{}.mean()".format, inner),
        st.builds("{}.exp()".format, inner),
        st.builds("{}.log()".format, inner),
        st.builds("{}.detach()".format, inner),
        st.builds("{}[:, None]".format, inner),
        st.builds("{}.clamp(-1, 1)".format, inner),
        st.builds("({} > 0)".format, inner),
        st.builds("({}, {})".format, inner, inner),
        st.builds("{}.item()".format, inner),
        st.builds("torch.rand_like({})".format, inner),
        st.builds("{}.std()".format, inner),
        st.builds("{}.T".format, inner),
        st.builds("{}.half()".format, inner),
    ),
    max_leaves=6,
)


def made(body, kind):
    """A function of what its body names."""
    names = [name for name in NAMES if name in body] or ["logp"]
    if kind == "loss" and not {"logp", "logits"} & {*names}:
        names.append("logp")
    scope = {"torch": torch}
    exec(f"def f({', '.join(names)}): return {body}", scope)
    return scope["f"]


@cases("losses", 30)
@given(body=TERMS)
def test_whatever_a_loss_is(body):
    verdict(loss=made(body, "loss"))


SENSIBLE = st.builds(
    "-({} * mask * {}){}".format,
    st.sampled_from(["logp", "(logp - old_logp).exp()", "(logp - old_logp.detach()).exp().clamp(0.8, 1.2)"]),
    st.sampled_from(
        ["rewards[:, None]", "advantages", "(rewards - rewards.mean())[:, None]", "1.0", "(advantages / 0.0)"]
    ),
    st.sampled_from([".sum()", ".mean()", ".sum(1).mean()", ".sum() / mask.sum()", ""]),
)


@cases("losses: sensible", 5)
@given(body=SENSIBLE)
def test_losses_as_people_write_them(body):
    verdict(loss=made(body, "loss"))


@cases("advantages", 20)
@given(body=TERMS)
def test_whatever_advantages_are(body):
    verdict(advantages=made(body, "advantages"))


def verdict(**functions):
    found, _ = ended(lambda: audit_function(**functions, world=SMALL), 10)
    assert found is None or (found.kind in ("unbiased", "proportional", "biased", "not finite") and str(found))


@cases("losses: given", 5)
@given(
    what=st.one_of(
        st.none(),
        st.integers(),
        st.just(len),
        st.just(print),
        st.just(torch.sum),
        st.just(torch.nn.Linear(1, 1)),
        st.just(int),
        st.just(lambda *a: 0),
        st.just(lambda **k: 0),
    )
)
def test_whatever_is_given_as_a_loss(what):
    verdict(loss=what)
