"""Every recipe that TRL can express, executed in TRL: its advantages, its loss on random batches, its parameters after 3 steps."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer, TrlParser

import rung.training.work as work
from rung.errors import InputError
from rung.evaluation.conformance import tiny
from rung.export.command import export, write
from rung.export.made import yaml
from rung.export.targets import refusals
from rung.maths.assess import assess
from rung.maths.objective import count, objective
from rung.network.model import wrap
from rung.recipe_io import all_recipes, find, override
from rung.records import Rollout, Scored, Scores, Task
from rung.rollout.collect import Collected
from rung.rollout.layout import layout
from rung.training.learner import Hyper, LocalLearner

PROMPTS, SAMPLES, NEW, RATE = 4, 4, 8, 0.02
# Recipes of the ladder, and others that between them have each part that TRL can express.
CHANGED = {
    "grpo, another eps": ("grpo", {"credit.eps": 1e-6}),
    "grpo, k3 times rho": ("grpo", {"kl": "RatioK3", "kl.coef": 0.1}),
    "grpo, two passes": ("grpo", {"update.epochs": 2}),
    "grpo, stale": ("grpo", {"correction": "StaleNegativeMask", "correction.delta": 0.05}),
    "grpo, two-sided": ("grpo", {"surrogate.two_sided": 1.3, "update.minibatches": 2}),
    "grpo, dual": ("grpo", {"surrogate.dual": 1.2, "update.minibatches": 2}),
    "grpo, entropy": ("grpo", {"entropy": 0.01}),
    "grpo, k2": ("grpo", {"kl": "K2", "kl.coef": 0.1}),
    "gspo, tokens": ("gspo", {"aggregate": "TokenMean", "update.minibatches": 1}),
    "gspo, k3 times rho": ("gspo", {"kl": "RatioK3", "kl.coef": 0.1}),
    "dr_grpo, minibatches": ("dr_grpo", {"update.minibatches": 2}),
    "dr_grpo, budget": ("dr_grpo", {"aggregate.budget": 16}),
    "dapo without resampling": ("dapo", {"data.resample": 0}),
    "dapo, minibatches": ("dapo", {"data.resample": 0, "data.overlong": "none", "update.minibatches": 2}),
    "cut answers dropped": ("dr_grpo", {"data.drop_truncated": True}),
    "cut answers dropped, tokens": ("lite_ppo", {"data.drop_truncated": True}),
    "rloo, clipped": (
        "rloo",
        {"ratio": "SequenceProduct", "surrogate": "Clip", "update.minibatches": 2},
    ),
    "per decision": ("grpo", {"ratio": "PerDecision", "update.epochs": 2}),
    "prompt mean": ("grpo", {"aggregate": "PromptMean"}),
    "sums": ("grpo", {"aggregate": "SequenceSum"}),
    "imitation": ("grpo", {"imitation": 0.1}),
    "importance": ("grpo", {"surrogate": "Importance", "update.epochs": 2}),
    "cispo, low": ("cispo", {"surrogate.low": 0.9, "update.epochs": 2}),
    "kl of answers": ("rloo", {"kl": "SequenceK2", "kl.coef": 0.1}),
    "kl with another gradient": ("grpo", {"kl": "StraightThrough", "kl.coef": 0.1}),
}
LADDER = {name: recipe for name, recipe in all_recipes().items() if not refusals(recipe, "trl")}
RECIPES = {**LADDER, **{name: override(find(base), changes) for name, (base, changes) in CHANGED.items()}}
BY_ITSELF = {"grpo", "dr_grpo", "lite_ppo", "gspo", "cispo", "sapo", "leave_one_out", "rloo"}
every_recipe = pytest.mark.parametrize("name", RECIPES)


def reward(completion_ids, **columns):
    """Odd sums are right; a group of four differs as a rule."""
    return [float(sum(ids) % 2) + 0.25 * (ids[0] % 3 == 0) for ids in completion_ids]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = tiny("llama")
    model.hf.save_pretrained(folder)
    model.codec.tokenizer.save_pretrained(folder)
    return folder


class Recorded:
    """A trainer that keeps what it generated, and which row is where after TRL has shuffled them."""

    def _calculate_rewards(self, *args, **kwargs):
        self.rewards_per_func = super()._calculate_rewards(*args, **kwargs)
        return self.rewards_per_func

    def _generate_and_score_completions(self, inputs):
        out = super()._generate_and_score_completions(inputs)
        self.generations = [*getattr(self, "generations", []), (self.rewards_per_func[:, 0].double().tolist(), out)]
        return {**out, "row": torch.arange(len(out["completion_ids"]))}

    def _prepare_inputs(self, inputs):
        given, kept = super()._prepare_inputs(inputs), getattr(self, "cuts", [])
        if len(self.generations) > len(kept):
            self.cuts = [*kept, torch.cat([part["row"] for part in self._buffered_inputs])]
        return given


def trainer(made, folder, tmp_path, *, accumulate=1, steps=3):
    """TRL's trainer as the export says, with rung's AdamW and rows of `PROMPTS` prompts a generation."""
    settings = dict(made.settings)
    rounds = settings.pop("steps_per_generation") * accumulate
    settings |= {"gradient_accumulation_steps": accumulate, "steps_per_generation": rounds}
    given = {
        "output_dir": str(tmp_path / "out"), "max_steps": steps * made.recipe.update.cost().passes * rounds // accumulate,
        "per_device_train_batch_size": PROMPTS * SAMPLES // rounds, "num_generations": SAMPLES, "max_completion_length": NEW,
        "learning_rate": RATE, "lr_scheduler_type": "constant", "adam_beta2": 0.95, "adam_epsilon": 1e-3, "max_grad_norm": 1.0,
        "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no", "use_cpu": True,
        "model_init_kwargs": {"dtype": "float32"}, "logging_steps": 1000, "disable_tqdm": True,
    }  # fmt: skip
    data = Dataset.from_list([{"prompt": f"w{i + 4} w{i + 5}"} for i in range(12)])
    own, config = (RLOOTrainer, RLOOConfig) if made.trainer == "RLOOTrainer" else (GRPOTrainer, GRPOConfig)
    if made.module:
        write({"made_module.py": made.module}, tmp_path)
        spec = importlib.util.spec_from_file_location("made_module", tmp_path / "made_module.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        own, args = module.Trainer, module.config(**{**given, **settings})
    else:
        args = config(**given, **settings)
    return type("Kept", (Recorded, own), {})(model=str(folder), reward_funcs=reward, args=args, train_dataset=data)


def rows(rewards, out, state, drop=False, overlong=None):
    """The same generation as rung lays it out."""
    groups, ends, olds = [], (2, 3), out.get("old_per_token_logps", torch.zeros(out["completion_ids"].shape))
    lengths = out["completion_mask"].sum(1).tolist()
    for b, (value, ids, length) in enumerate(zip(rewards, out["completion_ids"].tolist(), lengths, strict=True)):
        prompt = out["prompt_ids"][b][out["prompt_mask"][b].bool()].tolist()
        tokens = tuple(ids[:length] if length else ids)  # TRL leaves no mask of an answer that it drops
        stop = "stop" if tokens[-1] in ends else "length"
        fine = 0.0 if overlong is None else overlong(len(tokens), NEW)
        rollout = Rollout(tuple(prompt), tokens, tuple(olds[b][: len(tokens)].tolist()), None, stop)
        if b % SAMPLES == 0:
            groups.append([])
        groups[-1].append(Scored(Task(str(b), ""), rollout, "", {}, value + fine, earned=value))
    return layout(groups, state, same_numbers=False, drop_truncated=drop)


def batch_of(recipe, rewards, out):
    return rows(rewards, out, recipe.initial_state(), recipe.data.drop_truncated, recipe.data.overlong)


def learner(recipe, folder):
    model = tiny("llama")
    hf = type(model.hf).from_pretrained(folder, dtype=torch.float32)
    model = wrap(hf, model.codec.tokenizer)
    model.reach(32)
    hyper = Hyper(RATE, clip_norm=1.0, betas=(0.9, 0.95), epsilon=1e-3, max_new_tokens=NEW)
    return LocalLearner(recipe, model, hyper)


@every_recipe
def test_three_steps_end_at_the_same_parameters(name, saved, tmp_path, monkeypatch):
    """The same model, answers and AdamW in both; a generation is cut into minibatches as TRL has cut it."""
    recipe = RECIPES[name]
    trl, ours = trainer(export(recipe, "trl"), saved, tmp_path, accumulate=2), learner(recipe, saved)
    before = [p.detach().clone() for p in ours.parameters]
    trl.train()
    assert len(trl.generations) == len(trl.cuts) == 3
    for (rewards, out), order in zip(trl.generations, trl.cuts, strict=True):
        monkeypatch.setattr(work, "minibatches", lambda group_B, parts, seed, rows=order: list(rows.chunk(parts)))
        ours.step(Collected([], batch_of(recipe, rewards, out), 0))
    pairs = zip(trl.model.parameters(), ours.parameters, before, strict=True)
    gaps = [
        (float((theirs - own).detach().abs().max()), float((own.detach() - old).abs().max()))
        for theirs, own, old in pairs
    ]
    assert max(gap for gap, _ in gaps) < 1e-6 and max(moved for _, moved in gaps) > 1e-3, gaps


@every_recipe
def test_advantages_loss_and_its_gradient_are_the_recipes_on_random_batches(name, saved, tmp_path):
    """The loss of a step's micro-batches together, at ratios of 1/2 to 2 and far from a reference, against -J of the whole."""
    recipe = RECIPES[name]
    trl = trainer(export(recipe, "trl"), saved, tmp_path, accumulate=2)
    trl.model.train()
    trl.current_gradient_accumulation_steps = 2
    trl._prepare_inputs([{"prompt": f"w{i + 4} w{i + 5}"} for i in range(PROMPTS) for _ in range(SAMPLES)])
    (rewards, out), parts = trl.generations[0], trl._buffered_inputs
    laid = batch_of(recipe, rewards, with_old(trl, out))
    batch = assess(recipe, replace(laid, ref_logp_BT=out.get("ref_per_token_logps"))).batch
    order = torch.cat([part["row"] for part in parts])
    given = torch.cat([part["advantages"] for part in parts]).double()
    given, live = given[:, None] if given.dim() == 1 else given, batch.loss_mask_BT[order]
    torch.testing.assert_close(given * live, batch.adv_BT[order].double() * live, rtol=0, atol=2e-6)
    assert len(parts) == 2 * recipe.update.cost().minibatches
    for first in range(0, len(parts), 2):
        trl._step = first
        compare_step(recipe, trl, batch, parts[first : first + 2])


def compare_step(recipe, trl, batch, parts):
    """TRL's loss of two micro-batches and its gradient in log pi and in the entropy, beside rung's objective's."""
    g, rows = torch.Generator().manual_seed(0), torch.cat([part["row"] for part in parts])

    def rand(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    shape, moved = batch.mask_BT[rows].shape, recipe.update.reuses_batch
    old, entropy = -3 * rand(*shape) - 0.1, rand(*shape).requires_grad_()
    now = (old + (1.4 * rand(*shape) - 0.7 if moved else 0.0)).requires_grad_()
    ref, losses, at = old + 2 * rand(*shape) - 1, [], 0
    for part in parts:
        cut = slice(at, at := at + len(part["row"]))
        given = {**part, **({"old_per_token_logps": old[cut]} if "old_per_token_logps" in part else {})}
        assert ("old_per_token_logps" in part or "old_logps" in part) or not moved
        given |= {"old_logps": (old[cut] * part["completion_mask"]).sum(1)} if "old_logps" in part else {}
        given |= {"ref_per_token_logps": ref[cut]} if "ref_per_token_logps" in part else {}
        trl._get_per_token_logps_and_entropies = lambda *_, c=cut, **__: (now[c], entropy[c], None)
        loss = trl._compute_loss(trl.model, given)
        losses.append(loss / 2 if isinstance(trl, RLOOTrainer) else loss)  # whose losses transformers averages
    (sum(losses)).backward()
    ours = replace(
        batch.rows(rows),
        old_logp_BT=old,
        behavior_logp_BT=old,
        ref_logp_BT=ref if recipe.needs & {"ref_logp"} else None,
    )
    logp, H = now.detach().requires_grad_(), entropy.detach().requires_grad_()
    J = objective(recipe, ours, Scores(logp, H), batch.adv_BT[rows].double(), count(ours, NEW))
    (-J).backward()
    live = ours.loss_mask_BT
    torch.testing.assert_close(now.grad * live, logp.grad, rtol=1e-6, atol=1e-8)
    assert not (now.grad * ~live).any() and logp.grad.abs().max() > 1e-4
    if recipe.entropy:
        torch.testing.assert_close(entropy.grad, H.grad, rtol=1e-6, atol=1e-9)
    if not isinstance(trl, RLOOTrainer) and type(recipe.surrogate).__name__ != "ScoreFunction":  # made.notes says why
        torch.testing.assert_close(sum(losses).detach(), -J.detach(), rtol=1e-6, atol=1e-7)


def with_old(trl, out):
    """TRL keeps no log-probabilities of the old policy where it steps once; a KL in the reward needs them."""
    if "old_per_token_logps" in out:
        return out
    ids = torch.cat([out["prompt_ids"], out["completion_ids"]], 1)
    seen = torch.cat([out["prompt_mask"], out["completion_mask"]], 1)
    with torch.no_grad():
        logp, _, _ = trl._get_per_token_logps_and_entropies(trl.model, ids, seen, out["completion_ids"].shape[1])
    return {**out, "old_per_token_logps": logp}


@pytest.mark.parametrize(
    ("recipe", "changed", "message"),
    [
        ("gmpo", {"num_iterations": 2}, "num_iterations"),
        ("gmpo", {"steps_per_generation": 2}, "steps_per_generation"),
        ("gmpo", {"mask_truncated_completions": True}, "mask_truncated_completions"),
        ("reinforce_pp", {"beta": 0.5}, "'beta': 0.001"),
    ],
)
def test_a_config_that_is_another_recipes_is_refused(recipe, changed, message, saved, tmp_path):
    made = export(find(recipe), "trl")
    made = replace(made, settings={**made.settings, **changed})
    with pytest.raises(InputError, match=message):
        trainer(made, saved, tmp_path)


def test_settings_alone_are_enough_where_trls_own_code_computes_the_recipe():
    assert {name for name, recipe in LADDER.items() if not export(recipe, "trl").module} == BY_ITSELF


def test_the_settings_are_fields_of_trls_configs(tmp_path):
    for name, recipe in RECIPES.items():
        made = export(recipe, "trl")
        config = RLOOConfig if made.trainer == "RLOOTrainer" else GRPOConfig
        (tmp_path / "made.yaml").write_text(yaml(made.settings))
        words = f"--config {tmp_path}/made.yaml --output_dir {tmp_path} --bf16 false --use_cpu true".split()
        (read,) = TrlParser(config).parse_args_and_config(words)
        assert {key: getattr(read, key) for key in made.settings} == dict(made.settings), name
