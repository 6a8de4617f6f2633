"""The cheat sheet, from the recipes themselves: python docs/cheat_sheet.py [--print FILE.html]

Without an argument docs/cheat_sheet.md is written anew. With --print (needs the docs extra) a page is written that a browser
prints on one sheet of A4:

    python docs/cheat_sheet.py --print sheet.html
    chromium --headless --no-pdf-header-footer --print-to-pdf=sheet.pdf sheet.html

A part without a formula here is a KeyError: every recipe's row says what it computes.
"""

from __future__ import annotations

import html
import re
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rung import parts as p
from rung.recipe_io import all_recipes
from rung.recipes import Recipe

HERE = Path(__file__).parent
PAGE = HERE / "cheat_sheet.md"
Formula = Callable[[Any], str]

# -- one formula a part ------------------------------------------------------------------------------------------
SCALE = {"group": r"(R_i - \bar R) / \sigma", "none": r"R_i - \bar R", "mean": r"(R_i - \bar R) / \bar R",
         "batch": r"(R_i - \bar R) / \sigma_{\mathrm{batch}}"}  # fmt: skip


def gae(estimator: Any) -> str:
    if isinstance(estimator, p.MC):
        return r"$R_{it} - V(s_{it})$"
    if isinstance(estimator, p.LengthAdaptiveGAE):
        return rf"$\sum_l \lambda_i^l \delta_{{i,t+l}}$, $\lambda_i = 1 - 1 / ({estimator.alpha:g} L_i)$"
    return rf"$\sum_l \lambda^l \delta_{{i,t+l}}$, $\lambda = {estimator.lam:g}$"


CREDIT: Mapping[type, Formula] = {
    p.TotalReturn: lambda c: "$R_i$",
    p.RewardToGo: lambda c: "$R_{it}$",
    p.MovingAverage: lambda c: r"$R_{it} - \hat b_n$",
    p.BatchMean: lambda c: r"$R_{it} - \bar R_{\mathrm{batch}}$",
    p.LeaveOneOut: lambda c: r"$R_i - \bar R_{-i}$",
    p.GroupMean: lambda c: f"${SCALE[c.scale]}$",
    p.StepMean: lambda c: r"$\sum_{k \ge t} \tilde r_{ik}$, steps scaled by group",
    p.Greedy: lambda c: r"$R_{it} - R^{\mathrm{greedy}}$",
    p.LengthWeighted: lambda c: r"$R_i - \sum_j L_j R_j / \sum_j L_j$",
    p.Value: lambda c: gae(c.estimator),
}
NORMALIZE: Mapping[type, Formula] = {p.AsIs: lambda n: "", p.Whiten: lambda n: "whitened"}
RATIO: Mapping[type, Formula] = {
    p.NoRatio: lambda r: "",
    p.TokenRatio: lambda r: r"$\rho_{it}$",
    p.SequenceRatio: lambda r: r"$\rho_i = (\rho_{i0} \rho_{i1} \cdots)^{1 / L_i}$",
}
SURROGATE: Mapping[type, Formula] = {
    p.ScoreFunction: lambda s: r"$A \log \pi$",
    p.Importance: lambda s: r"$\rho A$",
    p.Clip: lambda s: rf"$\min(\rho A, \mathrm{{clip}}(\rho, 1 - {s.low:g}, 1 + {s.high:g}) A)$",
    p.CISPO: lambda s: rf"$\mathrm{{sg}}[\min(\rho, {s.high:g})] A \log \pi$",
    p.SAPO: lambda s: rf"$(4 / h) \mathrm{{sigmoid}}(h (\rho - 1)) A$, $h_+ = {s.positive:g}$, $h_- = {s.negative:g}$",
    p.GMPO: lambda s: rf"$A (\rho_0 \rho_1 \cdots)^{{1 / L}}$, each $\log \rho$ cut at $\pm {s.width:g}$",
    p.MirrorDescent: lambda s: (
        rf"$-(A - \beta_{{\mathrm{{old}}}} \sum_t \ell_t)^2 / (2 \beta_{{\mathrm{{old}}}})$, "
        rf"$\beta_{{\mathrm{{old}}}} = {s.tau:g}$"
    ),
}
KL: Mapping[type, Formula] = {
    p.NoKL: lambda k: "",
    p.K1: lambda k: f"reward: ${k.coef:g} u$",
    p.K2: lambda k: f"loss: ${k.coef:g} k_2$",
    p.K3: lambda k: f"loss: ${k.coef:g} k_3$",
}
WEIGHT: Mapping[type, Formula] = {
    p.SequenceSum: lambda w: "$1/B$",
    p.SequenceMean: lambda w: "$1/(B L_i)$",
    p.TokenMean: lambda w: "$1/N$",
    p.FixedBudget: lambda w: "$1/(B T)$",
}


def of(table: Mapping[type, Formula], part: Any) -> str:
    return table[type(part)](part)


def also(recipe: Recipe) -> str:
    """What a recipe has besides: the kind of step, entropy, imitation, the old policy's KL, the choice of answers."""
    update, data = recipe.update, recipe.data
    said = []
    if isinstance(update, p.NaturalStep):
        said.append(rf"natural step, $\mathrm{{KL}} \le {update.max_kl:g}$")
    elif update.minibatches > 1:
        said.append(f"{update.minibatches} minibatches")
    if isinstance(recipe.trust, p.OldKL):
        said.append(r"$- \beta_{\mathrm{old}} \mathrm{KL}(\pi_{\mathrm{old}} \Vert \pi)$, adaptive")
    said += [f"$c_H = {recipe.entropy:g}$"] if recipe.entropy else []
    said += [f"$c_+ = {recipe.imitation:g}$"] if recipe.imitation else []
    said += ["zero-variance groups drawn anew"] if data.resample else []
    said += ["overlong penalty"] if data.overlong else []
    return ", ".join(said)


def row(recipe: Recipe) -> str:
    surrogate = of(SURROGATE, recipe.surrogate)
    if not isinstance(recipe.surrogate, p.ScoreFunction | p.MirrorDescent):
        surrogate = f"{of(RATIO, recipe.ratio)}: {surrogate}"
    cells = [of(CREDIT, recipe.credit), of(NORMALIZE, recipe.normalize), surrogate, of(KL, recipe.kl),
             of(WEIGHT, recipe.aggregate), also(recipe)]  # fmt: skip
    return f"| [{recipe.name}](ladder/{recipe.name}.md) | " + " | ".join(cells) + " |"


# -- the sheet ---------------------------------------------------------------------------------------------------
LETTERS = (r"\pi", "J", "r_t", r"R(\tau)", "V", "A", r"\delta_t", r"\ell", r"\rho", "u", "B", "G", "L", "N", "T", r"\sigma",
           r"\beta", r"k_1")  # fmt: skip


def symbols() -> list[str]:
    """Rows of docs/symbols.md, without unit and chapter."""
    rows = [
        x.split(" | ") for x in (HERE / "symbols.md").read_text(encoding="utf-8").splitlines() if x.startswith("| $")
    ]
    found = {re.findall(r"\$([^$]+)\$", cells[0])[0]: cells for cells in rows}
    return [f"{found[x][0].removeprefix('| ')}: {found[x][1]}" for x in LETTERS]


def sheet() -> str:
    rows = "\n".join(row(recipe) for recipe in all_recipes().values())
    letters = "\n".join(f"- {x}" for x in symbols())
    return rf"""# Cheat sheet

Generated by `python docs/cheat_sheet.py` from the recipes; do not edit. `python docs/cheat_sheet.py --print sheet.html`
writes it as one sheet of A4. Derivations: [the book](book/01_situation.md).

$$
\nabla J = \mathbb{{E}}\left[ \sum_t A_t \nabla \log \pi(a_t \mid s_t) \right], \qquad
\hat J = \sum_{{i,t}} w_{{it}} \left( S(\rho_{{it}}, A_{{it}}) - \beta \mathrm{{KL}}_{{it}} + c_H H_{{it}} \right), \qquad
\rho = e^{{\ell}} = \frac{{\pi}}{{\pi_{{\mathrm{{old}}}}}}, \quad e^{{u}} = \frac{{\pi}}{{\pi_{{\mathrm{{ref}}}}}}
$$

| recipe | credit $A_{{it}}$ | normalized | ratio: surrogate $S$ | KL | weight $w_{{it}}$ | also |
|---|---|---|---|---|---|---|
{rows}

## What holds for all

- At $\rho = 1$, on a fresh batch, every surrogate's gradient is $A \nabla \log \pi$: then only credit, weight and KL matter.
- $\mathbb{{E}}[\nabla \log \pi \mid s] = 0$: whatever is known before the token may be subtracted as a baseline.
- $R_i - \bar R = (1 - 1 / G) (R_i - \bar R_{{-i}})$: the group's mean scales, it does not bend. $1/\sigma$ and $1/L_i$ bend.
- Clip: no gradient if $A \gt 0$ and $\rho \gt 1 + \epsilon$, or $A \lt 0$ and $\rho \lt 1 - \epsilon$; no bound on the KL.
- As a loss $k_1$ has no gradient on average, $k_2$ that of $\mathrm{{KL}}(\pi \Vert \pi_{{\mathrm{{ref}}}})$, $k_3$ the other's.
- The objective's value says nothing. Watch reward, entropy, KL, length, zero-variance groups.

## Symbols

{letters}
"""


# -- print -------------------------------------------------------------------------------------------------------
STYLE = """
@font-face { font-family: math-of-site; src: url(data:font/woff2;base64,FONT) }
math { font-family: math-of-site, math }
@page { size: A4 landscape; margin: 7mm 9mm }
body { font: 7.2pt/1.22 system-ui, sans-serif; margin: 0; color: #111 }
h1 { font-size: 12pt; margin: 0 } h2 { font-size: 8pt; margin: 3pt 0 1pt } p { margin: 0 }
table { border-collapse: collapse; width: 100%; margin-top: 2pt } a { color: inherit; text-decoration: none }
th { text-align: left; border-bottom: .8pt solid #111 } td { border-bottom: .3pt solid #bbb }
th, td { padding: .35pt 5pt .35pt 0 } td:first-child { font-family: monospace; white-space: nowrap }
ul { margin: 0; padding-left: 12pt; break-inside: avoid } .two { display: flex; gap: 16pt }
.two div:first-child { flex: 45% } .two div { flex: 55% }
.two div:last-child ul { columns: 2; column-gap: 14pt }
math { font-size: 1.05em } math[display=block] { font-size: 1.15em; margin: 2pt 0 }
"""


def inline(text: str, mathml: Callable[[str, str], str]) -> str:
    pieces = re.split(r"(\$[^$]+\$|`[^`]+`|\[[^\]]+\]\([^)]+\))", text)
    for i in range(1, len(pieces), 2):
        x = pieces[i]
        pieces[i] = (
            mathml(x[1:-1], "inline") if x[0] == "$" else html.escape(x[1:-1] if x[0] == "`" else x[1 : x.index("](")])
        )
    return "".join(pieces)


def printed(text: str) -> str:
    """The sheet as one page: table across, facts and symbols side by side below it. Equations and their font are the site's."""
    sys.path.insert(0, str(HERE / "_ext"))
    from mathml import mathml

    font = b64encode((HERE / "_static" / "math.woff2").read_bytes()).decode()
    shown = re.search(r"\$\$\n(.*?)\n\$\$", text, re.DOTALL)
    assert shown is not None
    cells = [x[2:-2].split(" | ") for x in text.splitlines() if x.startswith("| ")]
    head = "".join(f"<th>{inline(c, mathml)}</th>" for c in cells[0])
    body = "".join(f"<tr>{''.join(f'<td>{inline(c, mathml)}</td>' for c in x)}</tr>" for x in cells[1:])
    facts, letters = (re.findall(r"^- (.*)$", part, re.MULTILINE) for part in text.split("\n## ")[1:])
    lists = ["".join(f"<li>{inline(x, mathml)}</li>" for x in items) for items in (facts, letters)]
    style = STYLE.replace("FONT", font)
    return (
        f'<!doctype html><meta charset="utf-8"><title>rung: cheat sheet</title><style>{style}</style><h1>Cheat sheet</h1>'
        + mathml(shown[1], "block")
        + f"<table><tr>{head}</tr>{body}</table><div class=two><div><h2>What holds for all</h2><ul>{lists[0]}</ul></div>"
        + f"<div><h2>Symbols</h2><ul>{lists[1]}</ul></div></div>"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--print"]:
        Path(sys.argv[2]).write_text(printed(sheet()), encoding="utf-8")
    else:
        PAGE.write_text(sheet(), encoding="utf-8")
