"""The ladder on the terminal: the tree of recipes, the assembled equation of one, the difference of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from rung.advice import command
from rung.io.tables import show
from rung.parts import AsIs, Data, NoCorrection, NoKL, NoTrust
from rung.recipe_io import LABELS, brief, diff, equation, lineage
from rung.recipes import Recipe

SYMBOLS = {
    "credit": "A", "normalize": "A <-", "ratio": "rho", "correction": "c", "surrogate": "S", "kl": "beta kl",
    "trust": "beta_old KL", "aggregate": "w", "entropy": "c_H", "imitation": "mu", "update": "theta <-", "data": "data",
}  # fmt: skip


def tree(known: Mapping[str, Recipe]) -> None:
    """Print every recipe under its parent, with what changed and why."""
    console = Console()
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
        J += " + (mu / N+) sum log pi over right answers"
    if recipe.kl.coef and recipe.kl.where == "reward":
        J += "      with  r_bt <- r_bt - beta kl_bt"
    return J


def explain(recipe: Recipe, json_to: str | None = None) -> int:
    """Print what the recipe computes: J, then each part with its values, equation and source."""
    rows = []
    for f in fields(recipe):
        if f.name in LABELS:
            continue
        part = getattr(recipe, f.name)
        if json_to is None and part in (0.0, NoKL(), NoTrust(), NoCorrection(), AsIs(), Data()):
            continue  # absent
        rows.append(
            (SYMBOLS[f.name], f.name, brief(part, full=True), equation(part) if not isinstance(part, float) else "")
        )
    if json_to is not None:
        show(recipe.name, ("symbol", "field", "part", "equation"), rows, json_to)
        return 0
    console = Console()
    console.print(Text(recipe.name, style="bold"), Text(recipe.paper, style="dim"))
    console.print(Text(recipe.why))
    console.print(Text("from the bottom:  " + " -> ".join(r.name for r in lineage(recipe)), style="dim"))
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
    console.print(Text(f"\nthe loop prepares: {', '.join(sorted(recipe.needs)) or 'nothing but rewards'}", style="dim"))
    return 0


def show_diff(a: Recipe, b: Recipe, json_to: str | None = None) -> int:
    """Print the fields in which two recipes differ; for a rung and its parent, why."""
    rows = [
        (name, brief(x, full=True), brief(y, full=True), equation(y) if not isinstance(y, float) else "")
        for name, (x, y) in diff(a, b).items()
    ]
    if not rows and json_to is None:
        print(f"{a.name} and {b.name} compute the same.")
        return 0
    show(f"{a.name} -> {b.name}", ("field", a.name, b.name, "what the second does"), rows, json_to)
    if json_to is None:
        for child, parent in ((b, a), (a, b)):
            if child.parent == parent.name:
                print(f"\n{child.name} ({child.paper}): {child.why}")
    return 0
