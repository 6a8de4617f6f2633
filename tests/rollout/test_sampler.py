"""The sampler's law: what is drawn is what is reported, whatever the batch looks like around a row."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rung.errors import InputError
from rung.models import starter
from rung.network import model as models
from rung.records import SamplingLaw
from rung.rollout.draws import Draws
from rung.rollout.sampler import draw, truncate
from rung.rollout.torch_sampler import TorchSampler

torch.set_num_threads(1)
LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])


@pytest.fixture(scope="module")
def model():
    return models.load(str(starter.path()))


@pytest.mark.parametrize(
    "law", [SamplingLaw(), SamplingLaw(temperature=0.5), SamplingLaw(top_k=3), SamplingLaw(top_p=0.8)], ids=str
)
def test_the_drawn_frequencies_are_the_reported_probabilities(law):
    n = 20_000
    chance = (torch.arange(n) + 0.5) / n  # every quantile once: frequencies are exact up to 1/n
    token, logp, entropy = draw(LOGITS.expand(n, -1), law, chance)
    counts = torch.bincount(token, minlength=5) / n
    p = (truncate(LOGITS[None] / law.temperature, law)[0]).softmax(-1)
    torch.testing.assert_close(counts, p, atol=1.5e-4, rtol=0)
    torch.testing.assert_close(logp, p.log()[token])
    assert float(entropy[0]) == pytest.approx(-sum(float(x) * math.log(float(x)) for x in p if x > 0), abs=1e-5)


def test_the_edges_of_chance_never_draw_an_impossible_token():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(2, -1)
    token, logp, _ = draw(logits, SamplingLaw(), torch.tensor([0.0, 1.0 - 2**-24]))
    assert token.tolist() == [1, 3] and logp.isfinite().all()


def test_greedy_is_the_argmax_with_probability_one():
    token, logp, entropy = draw(LOGITS[None], SamplingLaw(temperature=0.0), torch.tensor([0.9]))
    assert (int(token), float(logp), float(entropy)) == (0, 0.0, 0.0)


def test_top_p_keeps_the_smallest_set_and_renormalizes():
    kept = truncate(torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log(), SamplingLaw(top_p=0.7)).exp()
    torch.testing.assert_close(kept, torch.tensor([[0.5, 0.3, 0.0, 0.0]]))


def test_an_answer_does_not_depend_on_its_neighbors(model):
    prompts = [model.codec.encode(x) for x in ("1+2+3=", "4*5-6*7=", "9-9+9*9-1=")]
    law = SamplingLaw(max_new_tokens=16)
    together = TorchSampler(model).sample(prompts, law, Draws.whole(3, 4 * len(prompts)))
    apart = TorchSampler(model, max_batch=4).sample(prompts, law, Draws.whole(3, 4 * len(prompts)))
    assert [r.tokens for r in together] == [r.tokens for r in apart]
    for a, b in zip(together, apart, strict=True):
        assert a.logp == pytest.approx(b.logp, abs=1e-5)
    other = TorchSampler(model).sample(prompts, law, Draws.whole(4, 4 * len(prompts)))
    assert [r.tokens for r in together] != [r.tokens for r in other]


def test_a_steps_rows_may_be_split_over_calls_and_samplers_in_any_way(model):
    texts = ("1+2+3=", "4*5-6*7=", "9-9+9*9-1=", "2+2=", "3*3*3=", "8-1=")
    prompts, law, G = [model.codec.encode(x) for x in texts], SamplingLaw(max_new_tokens=16), 4
    draws = Draws.whole(3, G * len(prompts))
    whole = [r.tokens for r in TorchSampler(model).sample(prompts, law, draws)]
    assert len(set(whole)) > len(whole) / 2
    one, other = TorchSampler(model), TorchSampler(model, max_batch=5)
    found: dict[int, tuple[int, ...]] = {}
    for sampler, places in ((one, [4, 0]), (other, [5, 2, 1]), (other, [3])):
        rows = [G * p + i for p in places for i in range(G)]
        said = sampler.sample([prompts[p] for p in places], law, draws.part(rows))
        found |= {row: r.tokens for row, r in zip(rows, said, strict=True)}
    assert [found[row] for row in range(len(whole))] == whole
    some = [23, 1, 3]  # rows of a prompt apart, and single ones
    said = other.sample([prompts[row // G] for row in some], replace(law, max_new_tokens=9), draws.part(some))
    assert [r.tokens for r in said] == [whole[row][:9] for row in some], "nor does a shorter limit change what is drawn"


def test_a_row_has_a_column_of_the_whole_steps_chances():
    draws = Draws.whole(3, 12)
    U = torch.rand(16, 12, generator=torch.Generator().manual_seed(3))
    assert torch.equal(draws.chance(16), U) and torch.equal(draws.part([7, 2]).chance(5), U[:5, [7, 2]])
    assert draws.part([7, 2]).part([1]).rows == [2] and draws.turn(0) == draws
    assert not torch.equal(draws.turn(1).chance(16), U) and draws.turn(1) != draws.turn(2)
    with pytest.raises(AssertionError, match="as many rows"):
        draws.each(5)


def test_stop_reasons_come_from_the_sampler_and_the_end_token_is_kept(model):
    rollouts = TorchSampler(model, version=7).sample(
        [model.codec.encode("1+2+3=")], SamplingLaw(max_new_tokens=3), Draws.whole(0, 64)
    )
    for r in rollouts:
        ended = r.tokens[-1] in model.codec.end_ids
        assert r.stop == ("stop" if ended else "length")
        assert len(r.tokens) == len(r.logp) == len(r.entropy) <= 3 and r.version == 7
        assert not any(t in model.codec.end_ids for t in r.tokens[:-1])
    assert {r.stop for r in rollouts} == {"stop", "length"}


def test_every_end_token_ends_an_answer(model):
    ends = frozenset({*model.codec.end_ids, model.codec.encode(">")[0]})
    both = replace(model, codec=replace(model.codec, end_ids=ends))
    rollouts = TorchSampler(both).sample(
        [model.codec.encode("1+2+3=")], SamplingLaw(max_new_tokens=16), Draws.whole(0, 32)
    )
    assert {r.tokens[-1] for r in rollouts if r.stop == "stop"} == ends


def test_end_tokens_are_gathered_from_everywhere_and_padding_keeps_its_gradient(model):
    hf = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=2,
        )
    )
    hf.generation_config.eos_token_id, hf.config.eos_token_id = [2, 5], 2
    ready = models.wrap(hf, model.codec.tokenizer)
    assert {2, 5} <= ready.codec.end_ids
    assert hf.get_input_embeddings().padding_idx is None, "pad == eos: its embedding must be trained"


def test_a_prompt_is_templated_in_one_place_with_one_bos(model):
    with pytest.raises(InputError, match="no chat template"):
        model.codec.encode([{"role": "user", "content": "1+1="}])
    assert model.codec.whole(model.codec.encode("1+1=")) == "1+1="


def test_decoding_drops_the_end_token_only(model):
    codec = model.codec
    said = codec.encode("1>2#2")
    assert codec.decode((*said, *codec.end_ids)) == "1>2#2" == codec.decode(said)
