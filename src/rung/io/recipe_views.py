"""The ladder on the terminal: the tree of recipes, the assembled equation of one, the difference of two."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from rung.advice import command
from rung.io.tables import show
from rung.io.terminal import make_rich, say
from rung.parts import AsIs, Data, NoCorrection, NoKL, NoTrust
from rung.recipe_io import LABELS, all_recipes, brief, diff, equation, lineage
from rung.recipes import Recipe

SYMBOLS = {
    "credit": "A", "normalize": "A <-", "ratio": "rho", "correction": "c", "surrogate": "S", "kl": "beta kl",
    "trust": "beta_old KL", "aggregate": "w", "entropy": "c_H", "imitation": "c_+", "update": "theta <-", "data": "data",
}  # fmt: skip


MEANINGS = (  # (where the symbol is written, the symbol, what it stands for)
    (r"\bJ\b", "J", "what a step makes larger; its gradient moves the weights"),
    (r"_bt|_b\b|y_b|r_bk", "b, t", "answer b of the batch, token t of it; sum_bt goes over all of them"),
    (r"\bw_bt", "w", "how much a token counts in the sum"),
    (r"\bm_bt", "m", "1 on a token that the policy sampled, 0 on any other"),
    (r"\bS\(", "S", "what one token adds to J, from its ratio and advantage; its row says how"),
    (r"\bA(_\w+)?\b", "A", "advantage: how much better than expected; a number, no gradient flows through it"),
    (r"\brho", "rho", "ratio: the token's probability now over that when the batch was sampled"),
    (r"\bc S\b|^c =", "c", "weight that corrects for a sampler that was not the policy"),
    (r"\bbeta kl", "beta", "price of moving away from the reference, the model that training began with"),
    (r"\bkl\b|\bkl_bt", "kl", "estimate of the KL to the reference, token by token; k in its row"),
    (r"beta_old", "beta_old", "price of moving away from the policy before the step"),
    (r"KL\(", "KL(p || q)", "Kullback-Leibler divergence of p from q, in nats a token"),
    (r"\bc_H H", "c_H, H", "weight of the entropy, and the entropy of the next token"),
    (r"c_\+ / N", "c_+, N_+", "weight of the likelihood of right answers, and the number of their tokens"),
    (r"\btheta\b", "theta", "the model's weights"),
    (r"\bpi\b", "pi", "the policy: the model that is trained; pi(y_t|.) is its probability of token y_t"),
    (r"pi_old|\bold\b", "pi_old", "the policy before the step, which sampled the batch"),
    (r"pi_ref", "pi_ref", "the reference policy"),
    (r"\bR(?!_bt)(_\w+)?\b", "R", "reward of a whole answer"),
    (r"\br_\w+|\br\b", "r", "reward of a token; an answer's reward is paid at its last"),
    (r"\bR_bt", "R_bt", "reward-to-go: what is paid at token t and after it"),
    (r"_G\b|\bG/|G-1", "G", "the answers to the same prompt, and how many they are"),
    (r"\bb_k|b_\{k", "b_k", "the baseline in step k"),
    (r"\bV(_t)?\b", "V", "value: the reward that the critic expects from here"),
    (r"\bB\b", "B", "number of answers in the batch"),
    (r"\|y_b\||\bL(_j)?\b", "L, |y_b|", "number of tokens of the answer"),
    (r"\bell", "ell", "log pi - log pi_old of the sampled token"),
    (r"\bu(_\w+)?\b", "u", "log pi - log pi_ref of the sampled token"),
    (r"\bgamma", "gamma", "discount: what a reward one token later is worth"),
    (r"\beps\b", "eps", "small number that keeps a divisor from being 0"),
    (r"\btau\b", "tau", "temperature of the surrogate"),
    (r"F\^-1", "s, F", "length of the step, and the Fisher matrix: how the policy answers to the weights"),
    (r"\bgrad\b", "grad", "derivative by theta"),
)  # fmt: skip


def meanings(recipe: Recipe) -> list[tuple[str, str]]:
    """(symbol, what it stands for) of every symbol in the recipe's objective and in the equations of its parts."""
    lines = [objective_text(recipe), *(equation(part) for _, part in present(recipe) if not isinstance(part, float))]
    return [(symbol, text) for pattern, symbol, text in MEANINGS if any(re.search(pattern, line) for line in lines)]


def present(recipe: Recipe) -> list[tuple[str, Any]]:
    """(field, part) of all parts but those that stand for nothing."""
    parts = [(f.name, getattr(recipe, f.name)) for f in fields(recipe) if f.name not in LABELS]
    return [
        (name, part) for name, part in parts if part not in (0.0, NoKL(), NoTrust(), NoCorrection(), AsIs(), Data())
    ]


def derivation(recipe: Recipe) -> str | None:
    """The page that derives the recipe, or the nearest one below it."""
    pages = [r.name for r in lineage(recipe) if r.name in all_recipes()]
    return f"docs/ladder/{pages[-1]}.md" if pages else None


def tree(known: Mapping[str, Recipe]) -> None:
    """Print every recipe under its parent, with what changed and why."""
    console = make_rich(sys.stdout)
    nodes: dict[str, Tree] = {}
    root = Tree(
        Text("the ladder, from its foot: each rung is its parent with the parts that its paper changed", style="dim")
    )
    for recipe in known.values():
        above = nodes.get(recipe.parent or "", root)
        label = Text(recipe.name, style="bold")
        label.append(f"   {recipe.paper}", style="dim")
        if recipe.parent is not None and recipe.parent in known:
            label.append(
                "\n" + ", ".join(f"{k}: {brief(new)}" for k, (_, new) in diff(known[recipe.parent], recipe).items()),
                style="cyan",
            )
        label.append("\n" + recipe.why)
        nodes[recipe.name] = above.add(label)
    console.print(root)
    rung = command()
    steps = f"\n{rung} explain NAME: the equation.  {rung} diff A B: what changes.  {rung} train NAME: run it."
    console.print(Text(steps, style="dim"))


def objective_text(recipe: Recipe) -> str:
    """The master formula with the terms that this recipe has."""
    terms = ["c S(rho, A)" if recipe.correction.needs else "S(rho, A)"]
    if recipe.kl.coef and recipe.kl.where == "loss":
        terms.append("- beta kl")
    if recipe.entropy:
        terms.append("+ c_H H")
    if recipe.trust.coef:
        terms.append("- beta_old KL(old||pi)")
    inside = " ".join(terms)
    J = f"J = sum_bt w_bt [ {inside} ]" if len(terms) > 1 else f"J = sum_bt w_bt {inside}"
    if recipe.imitation:
        J += " + (c_+ / N_+) sum log pi over right answers"
    if recipe.kl.coef and recipe.kl.where == "reward":
        J += "      with  r_bt <- r_bt - beta kl_bt"
    return J


def changed(recipe: Recipe) -> list[str]:
    """In what the recipe is not the one of its name on the ladder."""
    known = all_recipes().get(recipe.name)
    changes = {} if known is None else diff(known, recipe)
    return [f"{name} is {brief(now)}, not {brief(usual)}" for name, (usual, now) in changes.items()]


def explain(recipe: Recipe, json_to: str | None = None) -> int:
    """Print what the recipe computes: J, then each part with its values, equation and source."""
    every = [(f.name, getattr(recipe, f.name)) for f in fields(recipe) if f.name not in LABELS]
    rows = [
        (SYMBOLS[name], name, brief(part, full=True), "" if isinstance(part, float) else equation(part))
        for name, part in (every if json_to is not None else present(recipe))
    ]
    if json_to is not None:
        show(recipe.name, ("symbol", "field", "part", "equation"), rows, json_to)
        return 0
    console = make_rich(sys.stdout)
    console.print(Text(recipe.name, style="bold"), Text(recipe.paper, style="dim"))
    console.print(Text(recipe.why))
    console.print(Text("from the bottom:  " + " -> ".join(r.name for r in lineage(recipe)), style="dim"))
    if changes := changed(recipe):
        console.print(Text("changed:  " + "; ".join(changes)))
    console.print(Text("\n" + objective_text(recipe) + "\n", style="bold cyan"))
    table = Table(show_edge=False, pad_edge=False, expand=False)
    for title in ("symbol", "part", "equation and source"):
        table.add_column(title, overflow="fold")
    for symbol, _, part, text in rows:
        table.add_row(Text(symbol), Text(part), Text(text))
    console.print(table)
    if recipe.silent:
        console.print(Text("\nwhere the paper is silent, our choice"))
        for line in recipe.silent:
            console.print(Text(f"  - {line}"))
    console.print(Text("\nsymbols"))
    symbols = Table.grid(padding=(0, 2))
    for symbol, text in meanings(recipe):
        symbols.add_row(Text(f"  {symbol}"), Text(text))
    console.print(symbols)
    if page := derivation(recipe):
        console.print(Text(f"\nderivation, and the method as one page of code: {page}"))
    console.print(Text(f"\nthe loop prepares: {', '.join(sorted(recipe.needs)) or 'nothing but rewards'}", style="dim"))
    return 0


def show_diff(
    a: Recipe,
    b: Recipe,
    json_to: str | None = None,
    named: tuple[str, str] | None = None,
    other: Sequence[str] | None = None,
) -> int:
    """Print the fields in which two recipes differ; for a rung and its parent, why. named: what the user calls them.

    other: of two runs, the settings beside the recipe in which they differ.
    """
    first, second = named or (a.name, b.name)
    rows = [
        (name, brief(x, full=True), brief(y, full=True), equation(y) if not isinstance(y, float) else "")
        for name, (x, y) in diff(a, b).items()
    ]
    if not rows and json_to is None:
        if other:
            say(f"{first} and {second}: the same recipe; other settings differ: {', '.join(other)}.")
        else:
            say(f"{first} and {second} compute the same{'' if other is None else ', with the same settings'}.")
        return 0
    show(f"{first} -> {second}", ("field", first, second, "what the second does"), rows, json_to)
    if json_to is None:
        for child, parent in ((b, a), (a, b)):
            if child.parent == parent.name:
                say(f"\n{child.name} ({child.paper}): {child.why}")
        if other:
            say(f"\nOther settings differ: {', '.join(other)}.")
    return 0
