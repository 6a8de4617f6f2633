"""The browser of answers: its frame and its controls. report.js fills it, with text and never with markup."""

from __future__ import annotations

from collections.abc import Sequence

from rung.report.markup import Markup, section, tag
from rung.report.sections import Run

ORDERS = (
    ("", "as stored"),
    ("new", "newest first"),
    ("r", "reward, high first"),
    ("r-", "reward, low first"),
    ("n", "longest first"),
    ("n-", "shortest first"),
    ("ad", "largest advantage first"),
    ("lp", "least expected first"),
)

QUANTITIES = (  # (key of a row, quantity, what it is of a token, the page of the book that explains it)
    ("ad", "advantage", "what the token is credited with: how much better than expected", "06_baselines"),
    ("lp", "surprise", "−log p when it was sampled; its mean is the policy's entropy", "07_actor_critic"),
    (
        "ra",
        "ratio",
        "its probability in the last pass over that of the policy before the step",
        "08_importance_sampling",
    ),
    ("ra", "clip", "outside its range, on the side that its advantage asks for, a token has no gradient", "10_ppo"),
    ("u", "KL", "log p less that under the reference, u: its mean is the KL of the two", "11_grpo"),
    ("v", "value", "the reward that the critic expected before the token", "07_actor_critic"),
)


def browser(runs: Sequence[Run]) -> Markup:
    """The section; all that it shows is in the page's data already."""
    shown, total = (sum(run["completions"][k] for run in runs) for k in ("shown", "total"))
    if not shown:
        return section("answers", "Answers", tag("p", "The run stored no answers (--no-save-rollouts)."))
    list_ = [
        tag("p", id="answer-count", class_="hint", role="status"),
        tag("div", id="answer-list", role="listbox", tabindex="0", aria_label="answers"),
    ]
    panes = tag("div", tag("div", list_), tag("div", id="answer", aria_live="polite"), class_="panes")
    needs = tag("p", "Reading the answers needs JavaScript; the rest of the page does not.", class_="warn")
    intro = tag(
        "p",
        _how_many(shown, total),
        " An answer is right if the task paid it 1."
        if _binary(runs)
        else " Rewards have a scale: no answer is right or wrong.",
        _missing(runs),
    )
    return section(
        "answers", "Answers", intro, tag("noscript", needs), _controls(runs), _keys(), panes, _explained(runs)
    )


def _binary(runs: Sequence[Run]) -> bool:
    return all(run["kind"] == "accuracy" for run in runs)


def _stored(runs: Sequence[Run]) -> set[str]:
    return {key for run in runs for key in run["completions"]["stored"]}


def _explained(runs: Sequence[Run]) -> Markup | None:
    """Of each quantity that is stored of a token: what it is, and where the book derives it."""
    stored = _stored(runs)
    rows = [
        tag("tr", tag("td", name), tag("td", meaning), tag("td", tag("code", f"docs/book/{page}.md")))
        for key, name, meaning, page in QUANTITIES
        if key in stored
    ]
    head = tag("tr", [tag("th", text) for text in ("of a token", "what it is", "explained in")])
    return tag("div", tag("table", head, rows, id="quantities"), class_="scroll") if rows else None


def _how_many(shown: int, total: int) -> str:
    if shown == total:
        return f"All {total:,} stored answers."
    where = "whole groups from steps spread evenly over the run, to keep this file small"
    return f"{shown:,} of {total:,} stored answers: {where}."


def _missing(runs: Sequence[Run]) -> str:
    """What the colours cannot show because it was not stored."""
    out = ""
    if "ra" not in _stored(runs):
        out += " Ratios and clipping are not stored: with a single update on each batch every ratio is 1."
    if not all(run["completions"]["pieces"] for run in runs):
        out += " No checkpoint with a tokenizer was found, so some answers are shown without their tokens."
    return out


def _controls(runs: Sequence[Run]) -> Markup:
    which = [("", "all"), *((str(i), run["name"]) for i, run in enumerate(runs))]
    every = [
        ("ad", "advantage"),
        ("lp", "surprise, −log p"),
        ("ra", "ratio and clipping"),
        ("u", "KL to the reference"),
    ]
    colors = [(key, text) for key, text in [*every, ("", "nothing")] if key in _stored(runs) | {"ad", "lp", ""}]
    search = tag("input", type="search", id="f-text", placeholder="in prompt and answer", autocomplete="off")
    return tag(
        "form",
        _select("run", "run", which) if len(runs) > 1 else None,
        _select("kind", "from", [("", "everywhere"), ("0", "training"), ("1", "held-out problems")]),
        _select("step", "step", [("", "all")]),
        _select("right", "verdict", [("", "all"), ("1", "right"), ("0", "wrong")]) if _binary(runs) else None,
        _select("sort", "order", ORDERS),
        _select("color", "colour tokens by", colors),
        tag("label", tag("span", "search"), search, class_="wide"),
        class_="filters",
        id="filters",
        role="search",
        aria_label="choose answers",
    )


def _keys() -> Markup:
    def k(name: str) -> Markup:
        return tag("kbd", name)

    words = ["Keys: ", k("↑"), " ", k("↓"), " or ", k("j"), " ", k("k"), " move, ", k("/"), " search, ", k("Esc")]
    return tag("p", words, " back to the list.", class_="hint noprint")


def _select(key: str, label: str, options: Sequence[tuple[str, str]]) -> Markup:
    choices = [tag("option", text, value=value) for value, text in options]
    return tag("label", tag("span", label), tag("select", choices, id=f"f-{key}"))
