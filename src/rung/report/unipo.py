"""Recorded steps in the JSON of the UNIPO viewer: prompts, answers and what the objective says of each token.

Cho et al., arXiv:2605.11549; github.com/poloclub/unipo. Its form is an annotated example, docs/canonical_schema.json there;
docs/report.md says which field is what of ours. One entry is one batch as its last pass saw it: minibatches are not recorded
apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from rung.errors import InputError, setting
from rung.io.answers import looked_at
from rung.io.files import readable, to_json, write_atomic
from rung.io.run_dir import RunDir
from rung.maths.kl import FullKL, difference
from rung.maths.surrogate import Clip
from rung.recipe_io import from_dict
from rung.recipes import Recipe
from rung.records import Scores, Totals
from rung.report.completions import Pieces, prompt_text, tokenizer

PROMPTS = 3  # of a step, as its form has it
KEYS = {"dr_grpo": "drgrpo"}  # what the viewer calls a method that it explains, where that is not our name
METRICS = {  # its name: ours
    "reward": "reward", "reward_std": "reward_std", "entropy": "entropy", "kl": "kl", "grad_norm": "grad_norm",
    "learning_rate": "learning_rate", "response_length": "completions/mean_length", "advantage_mean": "advantage/mean",
    "value_loss": "critic/loss",
}  # fmt: skip
OPENING = b'{"header": '
Row = dict[str, Any]


def write_unipo(home: Path, out: Path) -> Path:
    """The run's recorded steps as one JSON file, written step by step; returns its path."""
    if out.suffix != ".json":
        raise InputError(
            f"the viewer reads {out.name} only under a name that ends in .json. Give {setting('unipo', 'FILE.json')}."
        )
    run = RunDir.open(home)
    config, pieces = run.config(), tokenizer(run)
    _refuse_target(out)
    if pieces is None:
        raise InputError(
            f"{home} has no checkpoint with a tokenizer, so the texts of its tokens are not known. Train on until one is saved."
        )
    if not run.rollout_steps():
        raise InputError(f"{home} stored no answers ({setting('save_rollouts', False)}): there is no step to export.")
    recipe = _recipe(home, config)
    with readable(run.path / "config.toml"):
        header = to_json(_header(config, recipe))

    def write(file: IO[bytes]) -> None:
        file.write(OPENING + header.encode() + b', "entries": [')
        for i, entry in enumerate(_entries(run, config, recipe, pieces)):
            file.write((b",\n" if i else b"\n") + to_json(entry).encode())
        file.write(b"\n]}\n")

    try:
        write_atomic(out, write)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}. Give another name with {setting('unipo')}.") from error
    return out


def _refuse_target(out: Path) -> None:
    """Refuses to replace anything but an earlier export."""
    if out.is_dir() or (out.exists() and not out.read_bytes().startswith(OPENING)):
        raise InputError(
            f"{out} exists and is no export of ours; it is not overwritten. Give another name with {setting('unipo')}."
        )


def _recipe(home: Path, config: Row) -> Recipe:
    try:
        return from_dict(config["expanded_recipe"])
    except (InputError, TypeError, KeyError) as error:
        raise InputError(
            f"the recipe of {home} has parts that this version does not know ({error}), so the objective of its tokens cannot "
            "be worked out. Export it with the version that trained it."
        ) from error


def _header(config: Row, recipe: Recipe) -> Row:
    clip = recipe.surrogate if isinstance(recipe.surrogate, Clip) else None
    estimator = getattr(recipe.credit, "estimator", None)
    hparams = {
        "gamma": getattr(estimator or recipe.credit, "gamma", 1.0),
        "gae_lambda": getattr(estimator, "lam", None),
        "clip_eps": clip and (clip.low if clip.low == clip.high else [clip.low, clip.high]),
        "kl_coef": recipe.kl.coef,
        "learning_rate": config["learning_rate"],
        "group_size": config["samples_per_prompt"],
        "max_new_tokens": config["max_new_tokens"],
        "temperature": config["temperature"],
    }
    header = {
        "task": config["task"],
        "dataset": config["task"],
        "reward_strategy": config.get("reward") or "the task's own verifier",
        "algorithm": KEYS.get(recipe.name, recipe.name),
        "totalSteps": config["steps"],
        "model_name": config["model"],
        "rollout_batch_size": config["prompts_per_step"],
        "update_epochs": getattr(recipe.update, "epochs", 1),
        "hparams": {k: v for k, v in hparams.items() if v is not None},
        "rung_recipe": config["expanded_recipe"],
    }
    return header | ({"reference_model_name": config["model"]} if recipe.kl.coef else {})


def _entries(run: RunDir, config: Row, recipe: Recipe, pieces: Pieces) -> Iterator[Row]:
    logged = {row["step"]: row for row in run.metrics() if "step_time" in row}
    for step in run.rollout_steps():
        if step not in logged:  # killed between its answers and its metrics
            continue
        with readable(run.path / "rollouts"):
            rows = looked_at(run.read_rollouts(step))
            told = _told(rows, recipe, config["max_new_tokens"])
            groups = _representative(rows, grouped="groups" in recipe.credit.needs)
            yield {
                "step": step,
                "is_first_step_after_rollout_phase": True,  # every batch is sampled anew
                "metrics": _metrics(logged[step], told["objective"]),
                "prompts": [
                    _prompt(rows, members, f"step{step}_p{g}", told, pieces) for g, members in enumerate(groups)
                ],
            }


def _prompt(rows: list[Row], members: list[int], name: str, told: Row, pieces: Pieces) -> Row:
    answers = [_response(rows[i], i, f"{name}_sample{n}", told, pieces) for n, i in enumerate(members)]
    return {"prompt": prompt_text(rows[members[0]]["prompt"]), "responses": answers}


def _metrics(row: Row, objective: float) -> Row:
    out = {theirs: row[ours] for theirs, ours in METRICS.items() if isinstance(row.get(ours), float)}
    clipped = [row[name] for name in row if name.startswith("clip_ratio/")]
    return {"policy_objective": objective, **out, **({"clip_fraction": sum(clipped)} if clipped else {})}


def _representative(rows: list[Row], grouped: bool) -> list[list[int]]:
    """Row numbers of up to three prompts, those whose answers earned differently first: all answers, or, where a method
    compares none, one."""
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row["group"], []).append(i)
    order = sorted(groups.values(), key=lambda members: len({rows[i]["reward"] for i in members}) == 1)
    return [members if grouped else members[:1] for members in order[:PROMPTS]]


def _told(rows: list[Row], recipe: Recipe, max_tokens: int) -> dict[str, Any]:
    """What J says of the recorded batch: the surrogate of each token, [B, T], and their weighted sum, without KL and entropy."""
    mask_BT = _padded([row.get("actions") or [1] * len(row["tokens"]) for row in rows]).bool()
    old_logp_BT, adv_BT = (_padded([row[name] for row in rows]) for name in ("logp", "advantages"))
    ratio_BT = _padded(
        [[float("nan") if x is None else x for x in row.get("ratios") or [1.0] * len(row["tokens"])] for row in rows]
    )
    seen_BT = mask_BT & ratio_BT.isfinite()
    ell_BT = torch.where(seen_BT, ratio_BT, 1.0).log()
    logp_BT = old_logp_BT + ell_BT
    gain_BT = recipe.surrogate(ell_BT, logp_BT, adv_BT, mask_BT).masked_fill(~seen_BT, 0.0)
    _, group_B = torch.tensor([row["group"] for row in rows]).unique(return_inverse=True)
    length_B = mask_BT.sum(1)
    total = Totals(int(length_B.sum()), len(rows), max_tokens, torch.bincount(group_B, length_B).long())
    told = {"gain": gain_BT, "seen": seen_BT, "logp": logp_BT, "per_token": _per_token(recipe)}
    if all("ref_logp" in row for row in rows) and not isinstance(recipe.kl, FullKL):
        u_BT = difference(old_logp_BT, _padded([row["ref_logp"] for row in rows]), mask_BT)
        told["kl"] = recipe.kl.value(u_BT, torch.zeros_like(u_BT), Scores(old_logp_BT))
    return told | {"objective": float((recipe.aggregate(mask_BT, group_B, total) * gain_BT).sum())}


def _per_token(recipe: Recipe) -> bool:
    """Whether a recorded ratio is that of its own token, and not of the answer, so that log p follows from it."""
    return type(recipe.ratio).__name__ in ("TokenRatio", "NoRatio")


def _padded(lists: list[list[float]]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(x, dtype=torch.float64) for x in lists], batch_first=True)


def _response(row: Row, i: int, name: str, told: dict[str, Any], pieces: Pieces) -> Row:
    n, adv = len(row["tokens"]), row["advantages"]

    def of(key: str) -> list[float | None]:
        seen = told["seen"][i, :n].tolist()
        return [round(x, 6) if there else None for x, there in zip(told[key][i, :n].tolist(), seen, strict=True)]

    tokens = {
        "ids": row["tokens"],
        "strings": pieces(row["tokens"]),
        "old_log_probs": row["logp"],
        **({"log_probs": of("logp")} if told["per_token"] else {}),
        **({"ref_log_probs": row["ref_logp"]} if "ref_logp" in row else {}),
        **({"token_kl": of("kl")} if "kl" in told else {}),
        **({"values": row["values"]} if "values" in row else {}),
        "advantages": adv,
        "token_objective": of("gain"),
    }
    out = {"id": name, "reward": row["reward"], "response_text": row["answer"], "response_length": n, "tokens": tokens}
    return out | ({"advantage": adv[0]} if len(set(adv)) == 1 else {})
