"""TRL's GRPOTrainer and RLOOTrainer: rows, reward functions and an adapter as a run of rung's."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from transformers import TrainerState
from transformers.trainer_utils import TrainOutput

from rung.compat import listeners, lora
from rung.compat.config import GRPOConfig, RLOOConfig
from rung.compat.fields import WORDS, refuse
from rung.compat.listeners import Listener, evaluated, made
from rung.compat.overridden import overridden
from rung.compat.rows import Rows, splits, toolbox
from rung.errors import InputError, named
from rung.io.run_dir import RunDir
from rung.run import Loaded
from rung.settings.paths import path_of
from rung.tasks.environments.named import with_tools
from rung.tasks.environments.protocol import Splits

# Arguments of TRL's trainers that are not translated, and what stands for "not given".
NOT_TRANSLATED: Mapping[str, str] = {
    "reward_processing_classes": "reward models are not translated",
    "optimizers": "rung's optimizer is AdamW",
    "quantization_config": "rung trains weights as they are",
    "rollout_func": "rung samples itself",
    "ref_model": "the reference is the model as it was when the run began",
    "reward_model": "give a function in reward_funcs",
    "value_model": "GRPO and RLOO have none; `rung recipes` has PPO with its own",
}
EARLIER = {"tokenizer": "processing_class", "config": "args", "policy": "model", "reward_functions": "reward_funcs"}
_NOT_GIVEN: tuple[Any, ...] = (None, [], (), {}, (None, None))


class GRPOTrainer:
    """TRL's GRPOTrainer. `run` is the run of rung's that `train()` made; `train()` itself returns what TRL's does."""

    config: ClassVar[type[GRPOConfig]] = GRPOConfig

    @named(WORDS)
    def __init__(
        self, model: Any = None, reward_funcs: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
        args: GRPOConfig | None = None, train_dataset: Rows | Mapping[str, Rows] | None = None, eval_dataset: Any = None,
        processing_class: Any = None, callbacks: Sequence[Any] | None = None, peft_config: Any = None,
        tools: Sequence[Callable[..., Any]] | None = None, environment_factory: Callable[[], Any] | None = None,
        **others: Any,
    ) -> None:  # fmt: skip
        earlier = {EARLIER[name]: others.pop(name) for name in EARLIER if name in others}
        model, args = earlier.get("model", model), earlier.get("args", args)
        processing_class = earlier.get("processing_class", processing_class)
        reward_funcs = earlier.get("reward_funcs", reward_funcs)
        what = type(self).__name__
        if not isinstance(model, str | os.PathLike | None):
            model, peft_config = lora.apart(model, peft_config)
        if args is not None and not isinstance(args, GRPOConfig):
            raise InputError(
                f"{what}: args is a {type(args).__name__}. Import {self.config.__name__} from rung.compat, too."
            )
        if args is not None and args.recipe != self.config.recipe:
            raise InputError(
                f"{what}: args is a {type(args).__name__}, which says how to train with {args.recipe}. Give a "
                f"{self.config.__name__}, or use {args.recipe.upper()}Trainer."
            )
        self.args = args if args is not None else self.config(f"{_name(model)}-{what.removesuffix('Trainer')}")
        judges = [reward_funcs] if callable(reward_funcs) else list(reward_funcs or [])
        adapter, adapter_notes = lora.lora(peft_config) if peft_config is not None else ([], [])
        methods, method_notes = overridden(type(self), GRPOTrainer)
        self.callbacks = made(callbacks)
        found = [*methods, *_others(others), *listeners.misfits(self.callbacks, self.args)]
        found += [*self._misfits(model, judges, tools, environment_factory), *adapter]
        refuse(what, [*found, *self.args.misfits(), *self._hub_misfits()])
        weights = [float(w) for w in self.args.reward_weights or [1.0] * len(judges)]
        notes = [*self.args.notes, *adapter_notes, *method_notes, *self._differences(model)]
        self.splits = splits(train_dataset, eval_dataset, judges, weights, notes)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        if tools or environment_factory is not None:
            factory = toolbox(tools) if tools else environment_factory
            self.splits = with_tools(factory, self.splits, judge=bool(judges))
        self._unread: Sequence[str] = self.splits.notes
        self._source = str(model) if isinstance(model, str | os.PathLike) else None
        self._pair = None if self._source else (model, processing_class or _tokenizer(model))
        self._own_tokenizer = processing_class
        self.run: Any = None
        self.settings = {**self.args.settings(len(self.splits.train)), **lora.settings(peft_config)}
        self.state = TrainerState(max_steps=self.settings["steps"] * self.args.updates)
        self.accelerator = SimpleNamespace(
            is_main_process=True, is_local_main_process=True, process_index=0, num_processes=1, print=print,
            wait_for_everyone=lambda: None, unwrap_model=lambda model: model,
        )  # fmt: skip
        self._listener().tell("on_init_end")

    # -- what is refused and said -------------------------------------------------------------------------------------
    def _misfits(self, model: Any, judges: Sequence[Any], tools: Any, environment_factory: Any) -> list[str]:
        found = []
        if model is None:
            found.append("model is missing: give a directory, a hub id or a model of transformers.")
        if isinstance(environment_factory, Mapping):
            found.append("environment_factory: one class is translated, not a dictionary of them.")
        if tools and environment_factory is not None:
            found.append("tools and environment_factory: give one; the methods of the class are tools.")
        if not judges and environment_factory is None:
            found.append(
                f"{type(self).__name__} needs reward_funcs, or an environment_factory whose class has get_reward."
            )
        if not all(map(callable, judges)) or any(hasattr(j, "get_input_embeddings") for j in judges):
            found.append("reward_funcs: only functions are translated, not reward models.")
        weights = self.args.reward_weights
        if weights is not None and len(weights) != len(judges):
            found.append(f"reward_weights has {len(weights)} numbers for {len(judges)} reward functions.")
        return found

    def _hub_misfits(self) -> list[str]:
        if not self.args.push_to_hub:
            return []
        from huggingface_hub import constants, get_token

        if constants.is_offline_mode():
            return ["push_to_hub=True: HF_HUB_OFFLINE is set, so nothing could leave this machine."]
        if not (self.args.hub_token or get_token()):
            return ["push_to_hub=True: there is no account to push to. Log in with `hf auth login`, or give hub_token."]
        return []

    def _differences(self, model: Any) -> list[str]:
        own = str(getattr(model, "dtype", "")).removeprefix("torch.")
        wanted = "bfloat16" if self.args.bf16 else own
        return (
            [f"bf16=True: a model that is given as an object is trained as it is, in {own}"]
            if own and own != wanted
            else []
        )

    # -- the model ----------------------------------------------------------------------------------------------------
    @named(WORDS)
    def _loaded(self) -> tuple[Any, Any]:
        """(model, tokenizer): those that were given, those of the run, or else loaded now and trained themselves."""
        if self._pair is None:
            if self.run is not None:
                self._pair = self.run.load()
            else:
                import torch

                from rung.network.model import load
                from rung.training.setup import locate

                dtype, trust = getattr(torch, self.settings["dtype"]), self.settings["trust_remote_code"]
                ready = load(locate(self._source or ""), dtype=dtype, trust_remote_code=trust, merge=True)
                self._pair = (ready.hf, self._own_tokenizer or ready.codec.tokenizer)
        return self._pair

    @property
    def model(self) -> Any:
        """The model of transformers, which is trained in place where it was there before train()."""
        return self._loaded()[0]

    @property
    def processing_class(self) -> Any:
        return self._own_tokenizer or self._loaded()[1]

    tokenizer = processing_class

    def add_callback(self, callback: Any) -> None:
        refuse("add_callback", listeners.misfits(made([callback]), self.args))
        self.callbacks += made([callback])

    def _listener(self) -> Listener:
        shown = {"model": self._pair[0], "processing_class": self._pair[1]} if self._pair else {}
        per_epoch = self.args.per_epoch(len(self.splits.train))
        return Listener(self.args, self.callbacks, self.args.updates, per_epoch, shown, self.state)

    def _said(self, more: Sequence[str] = ()) -> Splits:
        """The problems with the notes that nobody has read yet; they are said once."""
        notes, self._unread = (*self._unread, *more), ()
        return replace(self.splits, notes=notes)

    # -- what it does -------------------------------------------------------------------------------------------------
    @named(WORDS)
    def train(self, resume_from_checkpoint: str | bool | None = None) -> TrainOutput:
        """Train, and return TRL's TrainOutput; `run` is the run of rung's."""
        from rung.api import train

        settings, begin = dict(self.settings), self._resumed(resume_from_checkpoint)
        if self._source is None or self._own_tokenizer is not None or self.callbacks:
            pair = self._loaded()
            named = self._source is not None and self._own_tokenizer is None
            settings |= {"model": Loaded(self._source or "", *pair) if named else pair}
            del settings["dtype"]  # the object's own
        else:
            settings["model"] = self._source
        listener = self._listener()
        if begin:
            listener.remember(RunDir.open(begin["resume"]))
        self.run = train(task=self._said(listeners.notes(self.callbacks)), callbacks=[listener], **settings, **begin)
        listener.tell("on_train_end")
        if self.args.push_to_hub:
            self.push_to_hub()
        rewards = [row["reward"] for row in self.state.log_history if row.get("reward") is not None]
        summary = {"train_steps": self.state.global_step, "train_reward": rewards[-1] if rewards else None}
        return TrainOutput(self.state.global_step, math.nan, summary)  # there is no loss among the metrics

    def _resumed(self, checkpoint: str | bool | None) -> dict[str, Any]:
        """The argument of rung.train that goes on with a run: that of output_dir, or the one that the path lies in."""
        from rung.training.setup import is_run

        if checkpoint is None or checkpoint is False:
            return {}
        named = self.args.output_dir if checkpoint is True else str(checkpoint)
        path = path_of(named or "")
        found = next((p for p in (path, *list(path.parents)[:2]) if is_run(p)), None)
        if found is None:
            raise InputError(
                f"resume_from_checkpoint={checkpoint!r}: {path} is no run of rung's, nor a checkpoint in one. "
                "Give the run's directory."
            )
        return {"resume": found}

    @named(WORDS)
    def evaluate(self, eval_dataset: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Metrics of the held-out problems, under TRL's names, for the model of now."""
        from rung.api import evaluate
        from rung.training.config import TrainConfig
        from rung.training.evaluation import answers_per_problem

        if eval_dataset is not None and eval_dataset is not self.eval_dataset:
            raise InputError("evaluate(eval_dataset=...): give it to the trainer, whose reward functions judge it.")
        if self.run is not None:
            measured = evaluate(self.run, task=self._said())  # as it evaluated itself
        else:
            samples = answers_per_problem(
                self.args.num_generations_eval, TrainConfig.eval_problems, len(self.splits.eval)
            )
            measured = evaluate(
                self._loaded(), task=self._said(), samples=samples, temperature=self.args.temperature,
                max_new_tokens=self.settings["max_new_tokens"], template_options=self.settings["template_options"],
            )  # fmt: skip
        row = {k.replace("eval_", f"{metric_key_prefix}_", 1): v for k, v in evaluated(measured.result).items()}
        self.state.log_history.append({**row, "epoch": self.state.epoch or 0.0, "step": self.state.global_step})
        return row

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """The trained model in Hugging Face format; None: into output_dir, beside the run."""
        folder = path_of(output_dir or self._run("save_model").path)
        skipped = shutil.ignore_patterns("state.*", "COMPLETE")
        shutil.copytree(self._run("save_model").model_path, folder, ignore=skipped, dirs_exist_ok=True)

    @named(WORDS)
    def push_to_hub(self, commit_message: str = "", dataset_name: Any = None, **more: Any) -> str:
        """The newest model and a card to hub_model_id, or to a repository of output_dir's name; returns its address."""
        run = self._run("push_to_hub")
        repo = self.args.hub_model_id or Path(self.args.output_dir or run.path).name
        address: str = run.push_to_hub(repo, private=self.args.hub_private_repo, token=self.args.hub_token)
        return address

    def is_world_process_zero(self) -> bool:
        return True

    is_local_process_zero = is_world_process_zero

    def create_model_card(self, model_name: str | None = None, **more: Any) -> None:
        """push_to_hub writes the card."""

    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        print(f"{split}: " + ", ".join(f"{name} {value}" for name, value in metrics.items()))

    def save_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        text = json.dumps(dict(metrics), indent=2, default=str)
        (self._run("save_metrics").path / f"{split}_results.json").write_text(text + "\n", encoding="utf-8")

    def save_state(self) -> None:
        self.state.save_to_json(str(self._run("save_state").path / "trainer_state.json"))

    def _run(self, what: str) -> Any:
        if self.run is None:
            raise InputError(f"{what}: there is nothing to save before train().")
        return self.run


class RLOOTrainer(GRPOTrainer):
    """TRL's RLOOTrainer."""

    config = RLOOConfig


def _name(model: Any) -> str:
    named = str(model) if isinstance(model, str | os.PathLike) else getattr(model, "name_or_path", "")
    return Path(named).name or "model"


def _tokenizer(model: Any) -> Any:
    """The one that was saved with a model object, as TRL finds it."""
    from transformers import AutoTokenizer

    name = getattr(model, "name_or_path", "")
    if not name:
        raise InputError("GRPOTrainer: the model names no directory that has its tokenizer. Give processing_class.")
    return AutoTokenizer.from_pretrained(name)


def _others(given: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in given.items():
        if name not in NOT_TRANSLATED:
            found.append(f"{name}: there is no such argument.")
        elif not any(value is x or (type(value) is type(x) and value == x) for x in _NOT_GIVEN):
            found.append(f"{name}: {NOT_TRANSLATED[name]}.")
    return found
