"""Equations of docstrings, set: the objective as MathML (browsers know it, nothing is loaded), parts as raised and lowered text."""

from __future__ import annotations

import re
from html import escape

from rung.report.markup import Markup, tag

GREEK = {
    "rho": "ρ", "beta": "β", "theta": "θ", "pi": "π", "mu": "μ", "kappa": "κ", "gamma": "γ", "lam": "λ", "delta": "δ",
    "ell": "ℓ", "eps": "ε", "tau": "τ", "sigma": "σ", "grad": "∇",
}  # fmt: skip
SIGNS = {"<-": "←", "<=": "≤", ">=": "≥", "!=": "≠", "||": "‖", "-": "−"}
LOWERED = "mean|std|var|log|kl|target|[A-Za-z]|" + "|".join(
    ["sum", *GREEK]
)  # what may carry an index; max_kl is a name
INDEX = r"\{[^{}]*\}|[A-Za-z0-9]+|\+(?=[\s),]|$)"
TOKEN = re.compile(rf"(?P<name>(?:{LOWERED})_(?:{INDEX})|[A-Za-z]+)|(?P<sign><-|\|\||[^\sA-Za-z])")


def inline(text: str) -> Markup:
    """An equation of a docstring with Greek letters, indices below and powers above."""
    text = re.sub(r"<-|<=|>=|!=|\|\||(?<=[\s(])-(?=[\s(\d])|^- ", lambda m: SIGNS.get(m[0], "− "), text)
    out = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text.replace("sqrt(", "√("), quote=False))
    out = re.sub(rf"\b({LOWERED})_({INDEX})", lambda m: f"{_letter(m[1])}<sub>{_inside(m[2])}</sub>", out)
    out = re.sub(r"(?<=[\w)>])\^(\([^()]*\)|-?\w+)", lambda m: f"<sup>{_inside(m[1]).replace('-', '−')}</sup>", out)
    return Markup(re.sub(rf"(?<![\w&])({'|'.join(GREEK)})(?![\w;])", lambda m: GREEK[m[1]], out))


def _letter(name: str) -> str:
    return "Σ" if name == "sum" else GREEK.get(name, name)


def _inside(index: str) -> str:
    return " ".join(_letter(word) for word in index.strip("{}()").split())


def mathml(text: str) -> Markup:
    """A line such as `J = sum_bt w_bt [ S(rho, A) - beta kl ]` as an equation."""
    parts = [
        _formula(part) if i % 2 == 0 else tag("mtext", f"\u2003{part.strip()}\u2003")
        for i, part in enumerate(_prose(text))
    ]
    return tag("math", tag("mrow", parts), displaystyle="true", aria_label=text)


def _prose(text: str) -> list[str]:
    """Formula, words, formula, ..."""
    return re.split(r"(\bwith\b|over right answers)", text)


def _formula(text: str) -> list[Markup]:
    out: list[Markup] = []
    names = list(TOKEN.finditer(text))
    for before, m in zip([None, *names], names, strict=False):
        if before and before["name"] and m["name"]:
            out.append(tag("mspace", width="0.2em"))  # a product
        out.append(_name(m["name"]) if m["name"] else tag("mo", SIGNS.get(m["sign"], m["sign"])))
    return out


def _name(name: str) -> Markup:
    base, _, index = name.partition("_")
    letter = (
        tag("mo", "∑")
        if base == "sum"
        else tag("mi", _letter(base), mathvariant="normal" if len(_letter(base)) > 1 else None)
    )
    if base == "log" or not index:
        return letter
    return tag("munder" if base == "sum" else "msub", letter, tag("mi", _letter(index.strip("{}"))))
