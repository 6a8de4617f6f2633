"""Propositions that need a model: packing (P72), positions (P73), dropout (Q7), and a refused natural step (P36)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import rung.parts as p
from rung.maths.credit import outcome_to_token
from rung.network.model import Model, wrap
from rung.recipes import TRPO
from rung.records import Batch, SamplingLaw, Tokens
from rung.rollout.draws import Draws
from rung.rollout.torch_sampler import TorchSampler
from rung.training.micro import Micro
from rung.training.policy import Policy
from rung.training.work import Work


def tiny(packs: bool) -> Model:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    return Model(LlamaForCausalLM(config).eval(), None, packs)  # type: ignore[arg-type]


def tokens(junk: int = 0) -> Tokens:
    """Two prompts of different lengths, three answers of different lengths, right-padded with junk."""
    length_B = torch.tensor([3, 1, 4])
    mask_BT = torch.arange(4) < length_B[:, None]
    answer_BT = torch.randint(3, 11, (3, 4), generator=torch.Generator().manual_seed(3))
    return Tokens(
        prompts=[torch.tensor([1, 5, 6]), torch.tensor([1, 7, 8, 9, 4])],
        tokens_BT=torch.where(mask_BT, answer_BT, junk), mask_BT=mask_BT, length_B=length_B, group_B=torch.tensor([0, 1, 1]),
    )  # fmt: skip


def test_P72_P73_packed_and_padded_rows_say_the_same_and_padding_says_nothing():
    alone, together = (Policy(tiny(packs), 0.8) for packs in (False, True))
    want = alone.score(tokens())
    for policy, junk in [(together, 0), (together, 9), (alone, 9)]:
        got = policy.score(tokens(junk))
        torch.testing.assert_close(got.logp_BT, want.logp_BT, rtol=0, atol=2e-5)
        torch.testing.assert_close(got.entropy_BT, want.entropy_BT, rtol=0, atol=2e-5)


def test_P72_an_answer_does_not_see_its_neighbors():
    policy, both = Policy(tiny(True)), tokens()
    one = both.rows(torch.tensor([2]))
    torch.testing.assert_close(policy.score(one).logp_BT[0], policy.score(both).logp_BT[2], rtol=0, atol=2e-5)


def test_P73_left_padding_changes_nothing_if_positions_count_seen_tokens():
    model, ids = tiny(False).hf, torch.tensor([[1, 5, 6, 7]])
    padded = torch.cat([torch.full((1, 3), 2), ids], 1)
    seen = (torch.arange(7) >= 3).long()[None]
    want = model(input_ids=ids).logits[0]
    right = model(input_ids=padded, attention_mask=seen, position_ids=(seen.cumsum(1) - 1).clamp(min=0)).logits[0, 3:]
    torch.testing.assert_close(right, want, rtol=0, atol=2e-5)


class Ends:
    """All that `wrap` asks of a tokenizer."""

    eos_token_id = 2


def full_of_dropout(kind: str):
    torch.manual_seed(0)
    size = {"vocab_size": 11, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "llama":  # functional dropout, a number in the config that only train mode applies
        return LlamaForCausalLM(
            LlamaConfig(
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                attention_dropout=0.5,
                **size,
            )
        )
    return GPT2LMHeadModel(
        GPT2Config(
            n_embd=16, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5, **size
        )
    )


def largest_gap(model: Model) -> float:
    """Largest |log rho| of answers that the model drew itself, before any update."""
    rollouts = TorchSampler(model).sample(
        [(1, 5, 6), (1, 7)], SamplingLaw(temperature=0.8, max_new_tokens=6), Draws.whole(0, 8)
    )
    length_B = torch.tensor([len(r.tokens) for r in rollouts])
    t = Tokens(
        prompts=[torch.tensor([1, 5, 6]), torch.tensor([1, 7])], length_B=length_B, mask_BT=torch.arange(6) < length_B[:, None],
        tokens_BT=torch.tensor([[*r.tokens, *[0] * (6 - len(r.tokens))] for r in rollouts]),
        group_B=torch.arange(2).repeat_interleave(4),
    )  # fmt: skip
    drawn_BT = torch.tensor([[*r.logp, *[0.0] * (6 - len(r.logp))] for r in rollouts])
    log_rho_BT = p.TokenRatio()(Policy(model, 0.8).score(t).logp_BT, drawn_BT, t.mask_BT)
    return float(log_rho_BT.detach().abs().max())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_Q7_before_any_update_the_ratio_is_one_whatever_dropout_the_model_was_trained_with(kind):
    hf = full_of_dropout(kind).train()
    assert largest_gap(wrap(hf, Ends())) < 1e-5
    assert not hf.training


def test_Q7_with_dropout_at_work_it_is_not():
    model = wrap(full_of_dropout("llama"), Ends())
    model.hf.train()
    model.packs = False
    assert largest_gap(model) > 1e-2


def natural_work(max_kl: float) -> tuple[Work, p.NaturalStep, list[torch.Tensor]]:
    policy, t = Policy(tiny(True)), tokens()
    logp_BT = policy.score(t).logp_BT.detach()
    batch = Batch(
        reward_BT=outcome_to_token(torch.tensor([1.0, -1.0, 0.5]), t.mask_BT), mask_BT=t.mask_BT, group_B=t.group_B,
        valid_B=torch.ones(3, dtype=torch.bool), keep_B=torch.ones(3, dtype=torch.bool),
        truncated_B=torch.zeros(3, dtype=torch.bool), behavior_logp_BT=logp_BT, old_logp_BT=logp_BT,
        value_BT=torch.zeros_like(logp_BT), tokens=t,
    )  # fmt: skip
    rule = p.NaturalStep(max_kl=max_kl)
    work = Work(TRPO, policy, replace(batch, adv_BT=TRPO.credit(batch)), torch.arange(3), 4, Micro(1000))
    return work, rule, [x for x in policy.model.hf.parameters() if x.requires_grad]


def test_P36_an_accepted_step_of_a_model_keeps_the_bound_and_gains():
    work, rule, parameters = natural_work(0.01)
    before = [x.detach().clone() for x in parameters]
    report = rule.run(work)
    assert report["update/steps"] == 1
    assert 0 < report["trpo/kl"] <= 0.01
    assert report["trpo/gain"] > 0
    assert any((a != b).any() for a, b in zip(parameters, before, strict=True))


@pytest.mark.parametrize(("max_kl", "backtracks"), [(1e-30, 10), (1e-30, 1)])
def test_P36_a_refused_step_leaves_every_parameter_bit_for_bit(max_kl, backtracks):
    work, rule, parameters = natural_work(max_kl)
    before = [x.detach().clone() for x in parameters]
    report = p.NaturalStep(max_kl=rule.max_kl, backtracks=backtracks).run(work)
    assert report["update/steps"] == 0
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
