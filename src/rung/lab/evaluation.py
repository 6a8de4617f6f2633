"""`rung eval`: a model's or a run's accuracy on held-out problems, every answer kept if asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import InputError
from rung.io.run_dir import RunDir
from rung.io.tables import check_json_target, show
from rung.records import Completion, SamplingLaw
from rung.rollout import model as models
from rung.rollout.sampler import TorchSampler
from rung.tasks import environments
from rung.tasks.environment import Environment
from rung.train.answers import answer_row
from rung.train.evaluate import Evaluation, evaluate
from rung.train.setup import locate

if TYPE_CHECKING:
    from rung.cli import Eval


def run_eval(args: Eval) -> int:
    """Evaluate and print one row; exit status 0."""
    check_json_target(args.json)
    if args.out is not None and args.out.exists():
        raise InputError(f"--out {args.out}: that exists, and nothing is overwritten. Give another name.")
    if args.problems < 1 or args.samples < 1:
        raise InputError("--problems and --samples must be at least 1.")
    directory, stored = resolve(args.model)
    task = args.task or stored.get("task")
    if task is None:
        task = "chained_arithmetic" if args.model == "starter" else None
    environment = stored.get("environment") if args.task is None else None
    if task is None and environment is None:
        raise InputError(f"{args.model} is not a run, so it does not know its task. Say which with --task.")
    path = args.task_path or (Path(stored["task_path"]) if "task_path" in stored and args.task is None else None)
    options: dict[str, Any] = dict(stored.get("task_options", {})) if args.task is None else {}
    if path is not None and path.is_file():
        options["eval_share"] = 1.0  # a single file given for an evaluation is all evaluation
    splits = environments.load(task, environment=environment, path=path, options=options)
    limits = {k: stored[k] for k in ("max_turns", "max_turn_tokens", "max_total_tokens") if environment and k in stored}
    tokens = args.max_new_tokens or (stored.get("max_new_tokens") if environment else None) or splits.max_new_tokens
    law = SamplingLaw(args.temperature, args.top_p, args.top_k, tokens, **limits)
    model = models.load(directory)
    result = evaluate(splits.eval, model, TorchSampler(model), law, args.problems, args.samples, args.seed)
    if args.out is not None:
        with args.out.open("x", encoding="utf-8") as file:
            file.writelines(json.dumps(answer_row(a)) + "\n" for a in result.answers)
    low, high = result.interval()
    metrics = result.metrics()
    row: dict[str, Any] = {
        "model": args.model,
        "task": task or environment,
        "problems": result.n,
        "samples": args.samples,
        "accuracy": result.accuracy,
        "95% low": low,
        "95% high": high,
        "length": metrics["eval/mean_length"],
        "truncated": metrics["eval/clipped_ratio"],
        "no answer found": unanswered(splits.eval, result),
        "unscored": int(metrics["eval/unscored"]),
    }
    show(
        f"{args.model} on {task or environment}, temperature {args.temperature:g}",
        list(row),
        [list(row.values())],
        args.json,
    )
    return 0


def resolve(name: str) -> tuple[str, dict[str, Any]]:
    """The model's directory, and the settings of the run if `name` is one."""
    path = Path(name).expanduser()
    if (path / "config.toml").is_file():
        run = RunDir.open(path)
        return str(run.model_path()), run.config()
    return locate(name), {}


def unanswered(env: Environment, result: Evaluation) -> float | None:
    """The share of answers in which no answer was found; None where the task cannot tell."""
    extract = getattr(env, "extract", None)
    if extract is None:
        return None
    missing = [extract(a.task, Completion(a.text, a.rollout.stop, a.rollout.tokens)) is None for a in result.answers]
    return sum(missing) / len(missing) if missing else math.nan
