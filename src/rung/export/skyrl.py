"""A recipe for SkyRL 0.3: a module that registers estimator and loss, and starts SkyRL with the settings that they need.

SkyRL's own code stands in skyrl/backends/skyrl_train/utils/ppo_utils.py; its KL term in workers/worker.py beside it.
"""

from __future__ import annotations

from typing import Any

import rung.parts as p
from rung.export.made import Export, header, literal, times
from rung.export.targets import refuse
from rung.recipes import Recipe

ALGORITHM = "trainer.algorithm"
REDUCTIONS = {
    "TokenMean": "token_mean", "SequenceMean": "sequence_mean", "PromptMean": "prompt_mean",
    "FixedBudget": "seq_mean_token_sum_norm", "SequenceSum": "seq_mean_token_sum_norm",
}  # fmt: skip
KINDS = {"K1": "k1", "K2": "k2", "K3": "k3"}
LENGTH, BATCH = 1024, 256  # tokens of an answer and prompts of a mini-batch where nothing else is set


def to_skyrl(recipe: Recipe) -> Export:
    """The recipe for SkyRL. InputError with every reason why it cannot run there."""
    refuse(recipe, "skyrl")
    name, checked = f"rung_{recipe.name}", _checked(recipe)
    algorithm = {"advantage_estimator": name, "policy_loss_type": name, **checked}
    settings = {f"{ALGORITHM}.{key}": value for key, value in algorithm.items()} | _beside(recipe)
    return Export(
        recipe, "skyrl", "skyrl.train", settings, _module(recipe, name, checked, settings), _notes(recipe, name), None
    )


def _checked(r: Recipe) -> dict[str, Any]:
    """Settings of the algorithm, which the registered functions see."""
    where = r.kl.where if r.kl.coef else ""
    kl = (
        {"kl_estimator_type": KINDS[type(r.kl).__name__], "kl_loss_coef": r.kl.coef, "kl_ctrl.type": "fixed"}
        if where
        else {}
    )
    width = {"max_seq_len": 1} if isinstance(r.aggregate, p.SequenceSum) else {}  # B answers times 1
    return {
        "loss_reduction": REDUCTIONS[type(r.aggregate).__name__], **width, "use_kl_in_reward": where == "reward",
        "use_kl_loss": where == "loss", **kl, "use_entropy_loss": False, "advantage_batch_normalize": False,
        "zero_variance_filter": False,
    }  # fmt: skip


def _beside(r: Recipe) -> dict[str, Any]:
    """What is checked by nobody."""
    length, cost = "generator.sampling_params.max_generate_length", r.update.cost()
    fixed = isinstance(r.aggregate, p.FixedBudget)
    budget = getattr(r.aggregate, "budget", None)
    return {
        **({f"{ALGORITHM}.max_seq_len": budget or LENGTH} if fixed else {}),
        **({length: LENGTH} if fixed and not budget else {}),
        "trainer.update_epochs_per_batch": cost.passes,
        "trainer.train_batch_size": BATCH * cost.minibatches,
        "trainer.policy_mini_batch_size": BATCH,
    }


def _module(r: Recipe, name: str, checked: dict[str, Any], settings: dict[str, Any]) -> str:
    given = "".join(f"    {key!r}: {value!r},\n" for key, value in settings.items())
    return (
        header(r, "skyrl", "an advantage estimator and a policy loss of that name.")
        + f"""
import sys

from skyrl.backends.skyrl_train.utils.ppo_utils import AdvantageEstimatorRegistry, PolicyLossRegistry

from rung.export.inside.skyrl import advantage_estimator, policy_loss
from rung.recipe_io import from_dict

NAME = {name!r}
RECIPE = {literal(r)}
ALGORITHM = {checked!r}
SETTINGS = {{
{given}}}

AdvantageEstimatorRegistry.register(NAME, advantage_estimator(RECIPE, ALGORITHM))
PolicyLossRegistry.register(NAME, policy_loss(RECIPE, ALGORITHM))


def main():
    \"\"\"SkyRL with these settings; those of the command line stand behind them and win.\"\"\"
    from skyrl.train.entrypoints.main_base import main as skyrl

    sys.argv[1:1] = [f"{{key}}={{str(value).lower()}}" for key, value in SETTINGS.items()]
    skyrl()


if __name__ == "__main__":
    main()
"""
    )


def _notes(r: Recipe, name: str) -> tuple[str, ...]:
    return tuple(filter(None, (
        f"run it with: python {name}.py trainer.policy.model.path=... data.train_data=...",
        f"trainer.train_batch_size is {times(r)} trainer.policy_mini_batch_size; keep that if you change one",
        f"{ALGORITHM}.max_seq_len is generator.sampling_params.max_generate_length; keep that if you change one"
        if isinstance(r.aggregate, p.FixedBudget) and not r.aggregate.budget else "",
        "SkyRL cuts a token's k3 at 10 (where pi is 13 times less than pi_ref), rung the log-ratio at +-20"
        if isinstance(r.kl, p.K3) and r.kl.coef else "",
        "where all answers of a batch earn the same, rung learns nothing, and this whitens what the KL left in the rewards"
        if isinstance(r.normalize, p.Whiten) and r.kl.coef and r.kl.where == "reward" else "",
    )))  # fmt: skip
