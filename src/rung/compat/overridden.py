"""Methods of TRL's trainer that a subclass defines: which of them are called here. And what does the same as the others."""

from __future__ import annotations

from collections.abc import Mapping

_OBJECTIVE = (
    "the objective is a recipe's: arguments of the config choose its parts, and rung.train takes a Recipe of your own"
)
_SAMPLING = "rung samples itself: generation arguments say how, tools and environment_factory what an answer talks to"
_REWARDS = "give functions in reward_funcs"
_DATA = "give the rows in train_dataset and eval_dataset; rung orders them by its seed"
_OPTIMIZER = "rung's optimizer is AdamW: learning_rate, lr_scheduler_type, warmup_steps and weight_decay set it"
_EVALUATION = "evaluations are rung's own: give eval_dataset and reward_funcs"
_LOGGING = "give a callback with on_log"
_SAVING = "give a callback with on_save; save_steps says when"
_LOOP = "the loop is rung's: give a callback with on_step_end or on_evaluate"

# What TRL 1.16's GRPOTrainer and RLOOTrainer define besides what transformers' Trainer has.
OF_TRL: Mapping[str, str] = {
    **dict.fromkeys(("_compute_loss", "get_high_entropy_mask", "get_off_policy_mask", "get_gamma_weights",
                     "_get_per_token_logps_and_entropies"), _OBJECTIVE),
    **dict.fromkeys(("_generate", "_generate_single_turn", "_generate_and_score_completions", "_tokenize_prompts",
                     "_get_tool_suffix_ids", "_tool_call_loop"), _SAMPLING),
    "_calculate_rewards": _REWARDS,
    **dict.fromkeys(("_log_metric", "_log_completion_extra"), _LOGGING),
}  # fmt: skip
# Of transformers' Trainer, by what stands in the name, the first that fits; all others are parts of its loop.
BY_WORD: Mapping[str, str] = {
    "loss": _OBJECTIVE, "training_step": _OBJECTIVE, "optimizer": _OPTIMIZER, "scheduler": _OPTIMIZER, "learning_rate": _OPTIMIZER,
    "eval": _EVALUATION, "predict": _EVALUATION, "dataloader": _DATA, "sampler": _DATA, "inputs": _DATA, "columns": _DATA,
    "batch": _DATA, "log": _LOGGING, "save": _SAVING,
}  # fmt: skip
# Called by the script and not by train(), as transformers' Trainer calls them in its loop.
BY_SCRIPTS: Mapping[str, str] = {
    "evaluate": _EVALUATION,
    "save_model": _SAVING,
    "create_model_card": "push_to_hub writes the card",
}


def overridden(trainer: type, ours: type) -> tuple[list[str], list[str]]:
    """(refused, noted): a sentence for each method of TRL's that a subclass of `ours` defines and train() never calls."""
    own = {name for c in trainer.__mro__ if c not in ours.__mro__ for name, x in vars(c).items() if callable(x)}
    if not own:
        return [], []
    from transformers import Trainer

    theirs = {*OF_TRL, *(name for name in dir(Trainer) if not name.startswith("__"))}
    names = sorted(own & theirs)
    refused = [f"{trainer.__name__}.{n} would never be called: {_instead(n)}." for n in names if not hasattr(ours, n)]
    noted = [f"{trainer.__name__}.{n} is not called while training: {BY_SCRIPTS[n]}" for n in names if n in BY_SCRIPTS]
    return refused, noted


def _instead(name: str) -> str:
    return OF_TRL.get(name) or next((why for word, why in BY_WORD.items() if word in name), _LOOP)
