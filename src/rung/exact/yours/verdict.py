"""`rung audit --of FILE.py:NAME`: is the gradient of a loss of your own, from any trainer, the policy gradient?

from rung.exact import audit_function

def loss(logp, rewards, mask, groups):
    return -(logp * mask).sum(1).mul(rewards).mean()

print(audit_function(loss).words)      # unbiased
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from rung.errors import InputError
from rung.exact.audit import ON_POLICY, WORLD, conditions
from rung.exact.estimate import Estimate, cosine
from rung.exact.world import World
from rung.exact.yours.checks import Check, a_step, fails, holds
from rung.exact.yours.invariances import invariances
from rung.exact.yours.measure import STRAIGHT, Measured, Truth, measure, truth
from rung.exact.yours.ratios import kl_of, ratio_of
from rung.exact.yours.reasons import reasons, unused
from rung.exact.yours.signature import Yours
from rung.exact.yours.steps import Pair
from rung.io.tables import refuse_target, say_verdict, show
from rung.io.terminal import span
from rung.tasks.rewards.python_file import load_object

LONGEST = 60.0  # seconds that the batches of one condition may take
Kind = Literal["unbiased", "proportional", "biased", "not finite"]
WRONG_KL = ("k1 in", "pi/ref", "|log")  # beginnings of the names in ratios.KLS that are no KL


@dataclass(frozen=True)
class Findings:
    """What is known exactly about a function.

    kind: "unbiased", "proportional" (right up to the constant `scale`), "biased", or "not finite" (NaN or inf somewhere).
    because: what bends it, each with the cosine once it is undone (NaN: it was seen, not undone).
    beta: of the KL to the reference, where it asks for one.  off_policy: cosine when the batch is 0.05 nats old.
    """

    name: str
    kind: Kind
    cosine: float
    scale: float
    variance: float
    constant: str
    because: tuple[tuple[str, float], ...]
    checks: tuple[Check, ...]
    beta: float | None
    off_policy: float
    seconds: float

    @property
    def words(self) -> str:
        beta = self.beta or 0.0
        leash = f" of E[R] {'-' if beta > 0 else '+'} {abs(beta):.4g} KL" if abs(beta) > 1e-9 else ""
        if self.kind == "unbiased":
            return "unbiased" + leash
        if self.kind == "proportional":
            return f"right up to a constant{leash}: c = {self.constant}"
        why = "; ".join(w if math.isnan(c) else f"{w} (undone: {_cos(c)})" for w, c in self.because)
        if self.kind == "not finite":
            return f"not finite: {why}"
        return f"biased: cosine {_cos(self.cosine)}, because {why or 'of something that no known repair undoes'}"

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if c.status == "fails")

    @property
    def right(self) -> bool:
        return self.kind in ("unbiased", "proportional") and not self.failed

    def __str__(self) -> str:
        checks = (f"  {c.status:8}{c.name}: {c.words}" for c in self.checks)
        return "\n".join([f"{self.name}: {self.words}", f"  {self.numbers}, {self.seconds:.1f} s", *checks])

    @property
    def numbers(self) -> str:
        return f"c {self.scale:.4g}, variance {self.variance:.4g}, cosine off-policy {_cos(self.off_policy)}"


def _cos(x: float) -> str:
    return "1" if x > 1 - 1e-9 else f"{min(x, 0.9999):.4f}"


def audit_function(
    loss: Callable[..., Any] | None = None, *, advantages: Callable[..., Any] | None = None, world: World = WORLD
) -> Findings:
    """Hand every batch of a small world to the function(s), and say what the expected gradient is.

    loss: f(logp, ...) -> a scalar to minimize, or [B,T].  advantages: f(rewards, ...) -> [B] or [B,T].
    Either is enough. What they may ask for by name is in docs/audit_yours.md.

    Raises:
        rung.InputError: the function cannot be audited: what it asks for, its shape, no gradient, not deterministic.
    """
    if loss is None and advantages is None:
        raise InputError("nothing to audit. Give a loss, an advantage function (advantages=...), or both.")
    pair = Pair(None if loss is None else Yours(loss), None if advantages is None else Yours(advantages, "advantages"))
    return audit_pair(settled(pair), world)


def audit_pair(pair: Pair, world: World = WORLD) -> Findings:
    """The same of a pair that is settled."""
    start = time.perf_counter()
    checks, on = invariances(pair), ON_POLICY
    ordered = any(c.name == "order" and c.status == "fails" for c in checks)
    _refuse_hours(pair, world)
    m = measure(pair, world, on, ordered=ordered)
    if m.bad.any():
        bad, nothing = (_where_bad(m), math.nan), (math.nan,) * 3
        return Findings(
            pair.name, "not finite", *nothing, "", (bad,), tuple(checks), None, math.nan, time.perf_counter() - start
        )
    true = truth(world, on)
    e, beta = _against(pair, m, true, world, ordered)
    kind = _kind(e)
    because = _because(pair, m, e, world, ordered, true) if kind == "biased" else ()
    off = conditions()[1]
    moved = measure(pair, world, off, ordered=ordered).estimate(truth(world, off).with_kl(beta or 0.0)).cosine
    size, constant = _group_size(pair, world, kind, e.scale)
    checks += [size, *_inputs(pair), *_ratio(pair), *_kl(pair, beta)]
    numbers = (e.cosine, e.scale, e.trace)
    took = time.perf_counter() - start
    return Findings(pair.name, kind, *numbers, constant, because, tuple(checks), beta, moved, took)


def expectation(pair: Pair, world: World) -> tuple[Kind, float, float]:
    """What kind the expected gradient is in a world, its cosine and its scale; NaN where a batch is not finite."""
    m = measure(pair, world, ON_POLICY)
    if m.bad.any():
        return "not finite", math.nan, math.nan
    e, _ = _against(pair, m, truth(world, ON_POLICY), world, False)
    return _kind(e), e.cosine, e.scale


def assert_policy_gradient(
    loss: Callable[..., Any] | None = None, *, advantages: Callable[..., Any] | None = None, c: float | None = None
) -> Findings:
    """For a test of your own: fails unless the expected gradient is (c times) the policy gradient and no check fails."""
    found = audit_function(loss, advantages=advantages)
    if not found.right:
        raise AssertionError(str(found))
    if c is not None and not math.isclose(found.scale, c, rel_tol=1e-4):
        raise AssertionError(f"{found.name}: the constant is {found.scale:.6g}, not {c:g}\n{found}")
    return found


# -- pieces -----------------------------------------------------------------------------------------------------------------
def settled(pair: Pair) -> Pair:
    """With both functions tried on a few rows."""
    if pair.loss and pair.advantages and not pair.loss.needs & {"advantages", "advantages_B"}:
        raise InputError(
            f"{pair.loss.name} asks for no advantages, so {pair.advantages.name} has nothing to do. Audit them apart."
        )
    return pair.settled(a_step((3, 3), 0))


def _refuse_hours(pair: Pair, world: World) -> None:
    rows, start = a_step((2, 2), 0), time.perf_counter()
    pair(pair.assess(rows))
    seconds = (time.perf_counter() - start) * world.batches
    if seconds > LONGEST:
        raise InputError(
            f"{world.batches:,} batches of this world, one call each, would take about {span(seconds)}. Use a smaller "
            "vocabulary, horizon, number of prompts or of samples (3, 2, 2 and 2 take seconds)."
        )


def _where_bad(m: Measured) -> str:
    n = int(m.bad.nonzero()[0, 0])
    x, share = m.rows(n).x, float(m.bad.double().mean())
    R, L = ([round(v, 3) for v in t.tolist()] for t in (x["rewards"], x["mask"].sum(1).double()))
    batch = f"rewards {R} for answers of {[int(v) for v in L]} tokens to prompts {x['groups'].tolist()}"
    return f"{share:.0%} of the batches give NaN or inf, such as {batch}"


def _kind(e: Estimate) -> Kind:
    return "unbiased" if e.relative_error < STRAIGHT else "proportional" if e.bend < STRAIGHT else "biased"


def _against(pair: Pair, m: Measured, true: Truth, world: World, ordered: bool) -> tuple[Estimate, float | None]:
    """Against grad E[R], or grad (E[R] - beta KL) with the beta that its KL has on average."""
    plain = m.estimate(true.reward)
    if "ref_logp" not in pair.needs:
        return plain, None
    policy = measure(pair, world, ON_POLICY, ordered=ordered, no_ref=True).estimate(true.reward)
    leash = plain.gradient - policy.gradient
    beta = float(leash @ true.kl / (true.kl @ true.kl)) / (policy.scale or 1.0)
    return m.estimate(true.with_kl(beta)), beta


def _because(
    pair: Pair, m: Measured, e: Estimate, world: World, ordered: bool, true: Truth
) -> tuple[tuple[str, float], ...]:
    if "ref_logp" not in pair.needs:
        return reasons(pair, m, e, world, ON_POLICY, ordered)
    alone = measure(pair, world, ON_POLICY, ordered=ordered, no_ref=True)
    policy, out = alone.estimate(true.reward), list[tuple[str, float]]()
    leash = e.gradient - policy.gradient
    if float(leash.norm()) > 1e-12 and cosine(leash, true.kl) < 1 - 1e-9:
        name = kl_of(pair, a_step((3, 3), 19)) or "its KL to the reference"
        far = f"has a cosine of {cosine(leash, true.kl):.4f} with that of the KL between answers"
        out.append((f"the expected gradient of {name} {far}", policy.cosine))
    if policy.bend >= STRAIGHT:
        out += reasons(pair, alone, policy, world, ON_POLICY, ordered)
    return tuple(out)


def _group_size(pair: Pair, world: World, kind: Kind, scale: float) -> tuple[Check, str]:
    """The same in a world with other sizes; the constant as a formula that fits both."""
    other = replace(world, vocabulary=2, horizon=world.horizon + 2, prompts=1, samples=world.samples + 1)
    G, more = world.samples, other.samples
    try:
        m = measure(pair, other, ON_POLICY)
    except InputError as error:
        return fails("group size", f"works with {G} answers to a prompt, not with {more}: {error}"), f"{scale:.4g}"
    if m.bad.any():
        return fails("group size", f"NaN or inf with {more} answers to a prompt: {_where_bad(m)}"), f"{scale:.4g}"
    e, _ = _against(pair, m, truth(other, ON_POLICY), other, False)
    constant = _constant(pair, {world: scale, other: e.scale}) if kind != "biased" else f"{scale:.4g}"
    if kind != "biased" and _kind(e) == "biased":
        return fails(
            "group size", f"biased with {more} answers to a prompt (cosine {_cos(e.cosine)}), not with {G}"
        ), constant
    return holds(
        "group size", f"c is {scale:.4g} with {G} answers to a prompt, {e.scale:.4g} with {more} (and another limit)"
    ), constant


FIRST: dict[str, Callable[[World], float]] = {
    "1": lambda w: 1.0,
    "(G-1)/G": lambda w: (w.samples - 1) / w.samples,
    "G/(G-1)": lambda w: w.samples / (w.samples - 1),
    "(1 - 1/B)": lambda w: 1 - 1 / (w.samples * w.prompts),
}
SECOND: dict[str, Callable[[World], float]] = {
    "1": lambda w: 1.0,
    "1/M": lambda w: 1 / w.horizon,
    "B": lambda w: float(w.samples * w.prompts),
    "G": lambda w: float(w.samples),
    "P": lambda w: float(w.prompts),
    "1/B": lambda w: 1 / (w.samples * w.prompts),
    "1/G": lambda w: 1 / w.samples,
    "1/P": lambda w: 1 / w.prompts,
    "B/M": lambda w: w.samples * w.prompts / w.horizon,
}


def _third(world: World) -> World:
    """G 2 of 1 prompt: 2 and (G-1)/G B are 2 both with G 2 of 2 prompts and with G 3 of 1."""
    return replace(world, vocabulary=2, horizon=world.horizon + 1, prompts=1)


def _constant(pair: Pair, scales: Mapping[World, float]) -> str:
    """The constant of the first world, as a formula that is right in the others and in a third one; else the number."""
    here = next(iter(scales))
    third, number = _third(here), f"{scales[here]:.4g}"
    if _formula(scales) is None:
        return number
    try:
        m = measure(pair, third, ON_POLICY)
    except InputError:  # it takes no single prompt: what its constant depends on is not known
        return number
    name = _formula({**scales, third: _against(pair, m, truth(third, ON_POLICY), third, False)[0].scale})
    return f"{name} = {number}" if name else number


def _formula(scales: Mapping[World, float]) -> str | None:
    """A product of at most two known constants that is right in every world."""
    for (a, f), (b, g) in itertools.product(FIRST.items(), SECOND.items()):
        if all(math.isclose(f(w) * g(w), s, rel_tol=10 * STRAIGHT) for w, s in scales.items()):
            return " ".join(x for x in (a, b) if x != "1") or "1"
    return None


def _inputs(pair: Pair) -> list[Check]:
    return [fails("inputs", words) for words in unused(pair)]


def _ratio(pair: Pair) -> list[Check]:
    if pair.loss is None or not pair.loss.needs & {"old_logp", "behavior_logp"}:
        return []
    which = ratio_of(pair, pair.assess(a_step((3, 3), 21)))
    bad = which is not None and which.startswith(("none", "upside")) and "old_logp" in pair.loss.needs
    said = "not one of those known here" if which is None else which
    return [Check("ratio", "fails" if bad else "holds", f"importance ratio: {said}")]


def _kl(pair: Pair, beta: float | None) -> list[Check]:
    if beta is None:
        return []
    which = kl_of(pair, a_step((3, 3), 23))
    bad = (which is not None and which.startswith(WRONG_KL)) or beta < -1e-9
    words = which or "none of those known in a loss (a KL in the reward, then)"
    away = ", which pushes AWAY from the reference" if beta < -1e-9 else ""
    return [Check("KL", "fails" if bad else "holds", f"{words}; on average beta = {beta:.4g}{away}")]


# -- the command --------------------------------------------------------------------------------------------------------------
def run_audit_of(loss: str | None, advantages: str | None, json_to: str | None, world: World = WORLD) -> int:
    """Load FILE.py:NAME, print the verdict and a line for each check, and write both as JSON where asked to."""
    refuse_target(json_to)
    named = {"of": loss, "advantages": advantages}
    functions = {k: None if spec is None else load_object(spec, k) for k, spec in named.items()}
    found = audit_function(functions["of"], advantages=functions["advantages"], world=world)
    say_findings(found, json_to)
    return 0


def say_findings(found: Findings, json_to: str | None, *more: tuple[str, str, str]) -> None:
    """The verdict in a line, then a table of what was found."""
    say_verdict(f"{found.name}: {found.words}.", json_to)
    title = "audit of your function: what the expected gradient is, and what may change nothing"
    rows = [
        ("verdict", found.kind, found.words),
        ("numbers", "", found.numbers),
        *more,
        *((c.name, c.status, c.words) for c in found.checks),
    ]
    show(title, ("check", "status", "what was found"), rows, json_to)
