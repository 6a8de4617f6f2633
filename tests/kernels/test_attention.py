"""Packed attention, one-token decoding and the policy, against each model's own forward on one row at a time."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers

from rung.kernels.attention import Packed, common_head, packed_attention
from rung.kernels.decode import Decode
from rung.network.model import Model, wrap
from rung.records import SamplingLaw, Tokens
from rung.rollout.draws import Draws
from rung.rollout.sampler import draw
from rung.rollout.torch_sampler import TorchSampler
from rung.training.policy import Policy, microbatches, predicting_states

V, D = 29, 16
PROMPTS = [(5, 6, 7, 8, 9), (10, 11), (4, 4, 4, 4, 12, 4, 4)]
COMMON = {
    "vocab_size": V, "hidden_size": D, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 3,
}  # fmt: skip
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
KINDS = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4, "num_hidden_layers": 3, "layer_types": LAYERS},
    "gpt2": {"n_embd": D, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 24},
    "phi": {"num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "phi3": {},
    "mistral": {"sliding_window": 4, "head_dim": 4},
}  # fmt: skip


def tiny(kind: str) -> Model:
    torch.manual_seed(0)
    common = {k: COMMON[k] for k in ("vocab_size", "bos_token_id", "eos_token_id")} if kind == "gpt2" else COMMON
    config = transformers.AutoConfig.for_model(kind, **{**common, **KINDS[kind]})
    hf = transformers.AutoModelForCausalLM.from_config(config)
    hf.generation_config.eos_token_id = 3
    for weight in hf.parameters():
        if weight.dim() > 1:
            weight.data.mul_(5)  # sharp enough that an error in the attention shows
        elif kind in ("gpt2", "phi"):
            weight.data.add_(0.1 * torch.randn_like(weight))  # biases that are not zero
    return wrap(hf, SimpleNamespace(eos_token_id=3))


@pytest.fixture(scope="module", params=KINDS)
def model(request) -> Model:
    return tiny(request.param)


@pytest.fixture(scope="module")
def llama() -> Model:
    return tiny("llama")


def sampled(model: Model, law: SamplingLaw, samples: int = 3) -> tuple[Tokens, torch.Tensor, torch.Tensor]:
    """Answers of the sampler as the trainer reads them, with the sampler's own log-probabilities and entropies."""
    rollouts = TorchSampler(model).sample(PROMPTS, law, Draws.whole(0, samples * len(PROMPTS)))
    B, T = len(rollouts), max(len(r.tokens) for r in rollouts)
    tokens_BT = torch.full((B, T), 3)
    logp_BT, entropy_BT = torch.zeros(2, B, T)
    for b, r in enumerate(rollouts):
        n = len(r.tokens)
        tokens_BT[b, :n], logp_BT[b, :n], entropy_BT[b, :n] = (
            torch.tensor(r.tokens),
            torch.tensor(r.logp),
            torch.tensor(r.entropy),
        )
    length_B = torch.tensor([len(r.tokens) for r in rollouts])
    mask_BT = torch.arange(T) < length_B[:, None]
    tokens = Tokens([torch.tensor(x) for x in PROMPTS], tokens_BT, mask_BT, length_B, torch.arange(B) // samples)
    return tokens, logp_BT, entropy_BT


def definition(model: Model, tokens: Tokens, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of each token by the model's own forward, one row at a time, without any padding."""
    logp_BT, entropy_BT = torch.zeros(2, *tokens.mask_BT.shape)
    for b, n in enumerate(tokens.length_B.tolist()):
        prompt = tokens.prompts[int(tokens.group_B[b])]
        answer = tokens.tokens_BT[b, :n]
        logits = model.hf(input_ids=torch.cat([prompt, answer])[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        log_p = (logits.float() / temperature).log_softmax(-1)
        at = torch.zeros_like(tokens.mask_BT)
        at[b, :n] = tokens.mask_BT[b, :n]
        scored = tokens.mask_BT[b, :n]
        logp_BT = logp_BT.masked_scatter(at, log_p.gather(-1, answer[:, None])[:, 0][scored])
        entropy_BT = entropy_BT.masked_scatter(at, -(log_p.exp() * log_p).sum(-1)[scored])
    return logp_BT, entropy_BT


def gradient(model: Model, logp_BT: torch.Tensor, entropy_BT: torch.Tensor) -> torch.Tensor:
    up = torch.linspace(-1.0, 1.5, logp_BT.numel()).view_as(logp_BT)
    leaves = [p for p in model.hf.parameters() if p.requires_grad]
    return torch.cat(
        [
            g.flatten()
            for g in torch.autograd.grad((up * (logp_BT + 0.3 * entropy_BT)).sum(), leaves, materialize_grads=True)
        ]
    )


def test_what_packs(model):
    kind = model.hf.config.model_type
    assert model.packs == (kind != "gemma2"), "gemma2 caps its attention logits, so it keeps its own forward"


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_trainer_and_definition_agree(model, temperature):
    """The same tokens, three ways: drawn one by one, scored packed, scored row by row."""
    tokens, drawn_logp_BT, drawn_entropy_BT = sampled(model, SamplingLaw(temperature=temperature, max_new_tokens=11))
    scores = Policy(model, temperature).score(tokens)
    logp_BT, entropy_BT = definition(model, tokens, temperature)
    for got, want in (
        (scores.logp_BT, logp_BT),
        (scores.entropy_BT, entropy_BT),
        (drawn_logp_BT, logp_BT),
        (drawn_entropy_BT, entropy_BT),
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    ours, theirs = gradient(model, scores.logp_BT, scores.entropy_BT), gradient(model, logp_BT, entropy_BT)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-4


def ragged(B: int = 5) -> Tokens:
    """Answers of 4, 1, 0, 6 and 3 tokens in no order of prompts, with an observation in the fourth."""
    g = torch.Generator().manual_seed(1)
    length_B = torch.tensor([4, 1, 0, 6, 3])
    mask_BT = torch.arange(6) < length_B[:, None]
    mask_BT[3, 2] = False
    tokens_BT = torch.randint(4, V, (B, 6), generator=g)
    return Tokens([torch.tensor(x) for x in PROMPTS], tokens_BT, mask_BT, length_B, torch.tensor([2, 0, 1, 1, 2]))


def test_ragged_rows_in_any_order(model):
    tokens = ragged()
    logp_BT, entropy_BT = definition(model, tokens, 0.7)
    scores = Policy(model, 0.7).score(tokens)
    torch.testing.assert_close(scores.logp_BT, logp_BT, rtol=0, atol=1e-4)
    torch.testing.assert_close(scores.entropy_BT, entropy_BT, rtol=0, atol=1e-4)
    assert (scores.logp_BT[~tokens.mask_BT] == 0).all()
    padded = Policy(replace(model, packs=False), 0.7).score(tokens)
    torch.testing.assert_close(padded.logp_BT, logp_BT, rtol=0, atol=1e-4)


HEAD = (5, 6, 7, 8, 9, 10, 11)


@pytest.fixture
def sharing(monkeypatch) -> list[tuple[int, ...]]:
    """Prompts that all begin with HEAD, of which a few tokens are enough."""
    monkeypatch.setattr("rung.kernels.attention.HEAD", 3)
    return [HEAD + x for x in PROMPTS]


def test_what_all_prompts_begin_with_runs_once_and_changes_nothing(model, sharing):
    """Scores and their gradient, behind a head that is longer than the windows are."""
    tokens = replace(ragged(), prompts=[torch.tensor(x) for x in sharing])
    scores, want = Policy(model, 0.7).score(tokens), definition(model, tokens, 0.7)
    for got, expected in zip((scores.logp_BT, scores.entropy_BT), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    ours, theirs = gradient(model, scores.logp_BT, scores.entropy_BT), gradient(model, *want)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-4


def test_answers_behind_a_head_are_those_without_it(model, sharing, monkeypatch):
    law, draws = SamplingLaw(max_new_tokens=9), Draws.whole(2, 3 * len(sharing))
    once = TorchSampler(model).sample(sharing, law, draws)
    monkeypatch.setattr("rung.kernels.attention.HEAD", 1000)
    each = TorchSampler(model).sample(sharing, law, draws)
    assert [r.tokens for r in once] == [r.tokens for r in each]
    for a, b in zip(once, each, strict=True):
        torch.testing.assert_close(torch.tensor(a.logp), torch.tensor(b.logp), rtol=0, atol=1e-4)
    if model.packs:
        assert [sum(r.read for r in x) for x in (once, each)] == [7 + 5 + 2 + 7, 12 + 9 + 14]


def test_padding_tokens_are_never_seen(llama):
    tokens = ragged()
    other = replace(tokens, tokens_BT=torch.where(torch.arange(6) < tokens.length_B[:, None], tokens.tokens_BT, 0))
    torch.testing.assert_close(Policy(llama).score(other).logp_BT, Policy(llama).score(tokens).logp_BT, rtol=0, atol=0)


def test_rows_do_not_see_each_other(llama):
    """Changing one answer, or dropping it, leaves the others where they were."""
    tokens = ragged()
    logp_BT = Policy(llama).score(tokens).logp_BT
    changed = tokens.tokens_BT.clone()
    changed[0] = 17
    other = Policy(llama).score(replace(tokens, tokens_BT=changed)).logp_BT
    torch.testing.assert_close(other[1:], logp_BT[1:], rtol=0, atol=1e-6)
    rows = torch.tensor([4, 3])
    few = Policy(llama).score(tokens.rows(rows)).logp_BT
    torch.testing.assert_close(few, logp_BT[rows], rtol=0, atol=1e-5)


def test_full_distributions_are_compared_at_the_same_tokens(model):
    tokens = ragged()
    policy = Policy(model, 0.7)
    frozen = policy.freeze(tokens)
    same = policy.score(tokens, ref=frozen, old=frozen)
    torch.testing.assert_close(same.ref_kl_BT, torch.zeros(5, 6), rtol=0, atol=1e-5)
    torch.testing.assert_close(same.old_kl_BT, torch.zeros(5, 6), rtol=0, atol=1e-5)
    colder = replace(frozen, hidden=frozen.hidden * 0.5)
    moved = policy.score(tokens, ref=colder, old=colder)
    assert (moved.ref_kl_BT[tokens.mask_BT] > 0).all()
    log_p, log_q = policy._log_p(frozen), policy._log_p(colder)
    for got, (a, b) in ((moved.ref_kl_BT, (log_p, log_q)), (moved.old_kl_BT, (log_q, log_p))):
        torch.testing.assert_close(got[tokens.mask_BT], (a.exp() * (a - b)).sum(-1), rtol=1e-3, atol=1e-5)
        assert (got[~tokens.mask_BT] == 0).all()


def test_predicting_states_are_in_row_order(llama):
    tokens = ragged()
    (hidden,) = predicting_states(llama, tokens)
    logp = llama.logits(hidden).log_softmax(-1).gather(-1, tokens.tokens_BT[tokens.mask_BT][:, None])[:, 0]
    torch.testing.assert_close(logp, Policy(llama).score(tokens).logp_BT[tokens.mask_BT], rtol=0, atol=1e-5)


@pytest.mark.parametrize("used", [0, 1, 6])
def test_a_token_in_bfloat16_sees_what_it_sees_in_float32(used):
    """Rows of one prompt, two query heads to a key head: the same numbers in both precisions, but for the rounding of p and out."""

    def attend(dtype: torch.dtype) -> torch.Tensor:
        generator = torch.Generator().manual_seed(used)
        new = lambda *shape: torch.randn(*shape, generator=generator).bfloat16().to(dtype)  # noqa: E731
        prefill = SimpleNamespace(keys=[new(1, 2, 5, 8)], values=[new(1, 2, 5, 8)], length_P=torch.tensor([5]))
        memory = Decode(prefill, 3, 9)  # type: ignore[arg-type]
        for _ in range(used + 1):
            out = memory.attend(0, 3 * new(4, 3, 8), new(2, 3, 8), new(2, 3, 8), 0.25, None)
            memory.advance()
        return out.float()

    low, exact = attend(torch.bfloat16), attend(torch.float32)
    assert float((low - exact).norm() / exact.norm()) < 0.01


def test_the_models_own_attention_comes_back(llama):
    before = llama.hf.config._attn_implementation
    with packed_attention(llama.hf):
        assert llama.hf.config._attn_implementation != before
    assert llama.hf.config._attn_implementation == before


def test_layout_by_hand():
    layout = Packed(
        [torch.tensor([1, 2, 3]), torch.tensor([4])],
        [torch.tensor([5, 6]), torch.tensor([], dtype=torch.long), torch.tensor([7])],
        [1, 0, 0],
    )
    assert layout.ids.tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert layout.positions.tolist() == [[0, 1, 2, 0, 1, 2, 3]], "an answer goes on where its prompt ends"
    assert layout.prompt_last.tolist() == [2, 3]
    assert layout.answer_start.tolist() == [4, 6, 6]


def test_layout_behind_a_head_by_hand(monkeypatch):
    monkeypatch.setattr("rung.kernels.attention.HEAD", 2)
    prompts = [torch.tensor(x) for x in ([1, 2, 3], [1, 2, 4, 5])]
    layout = Packed(prompts, [torch.tensor([6]), torch.tensor([7, 8])], [1, 0])
    assert layout.ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert layout.positions.tolist() == [[0, 1, 2, 2, 3, 4, 3, 4]]
    assert layout.prompt_last.tolist() == [2, 4]
    assert layout.answer_start.tolist() == [5, 6]
    assert layout.read_P.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("prompts", "head"),
    [
        ([[1, 2, 3]], 0),
        ([[1, 2, 3], [1, 2, 3]], 2),
        ([[1, 2, 3], [1, 2]], 0),
        ([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 4, 4]], 2),
        ([[9, 2, 3, 4], [1, 2, 3, 4]], 0),
        ([[5], [5]], 0),
    ],
    ids=[
        "one prompt",
        "the same twice",
        "one is as long as the head",
        "the shortest of them",
        "the rest is alike",
        "one token",
    ],
)
def test_a_head_leaves_every_prompt_a_token(monkeypatch, prompts, head):
    monkeypatch.setattr("rung.kernels.attention.HEAD", 2)
    assert common_head([torch.tensor(x) for x in prompts]) == head


# -- the sampler ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("max_batch", [512, 3], ids=["at once", "prompt by prompt"])
def test_answers_end_at_the_end_token_or_at_the_limit(model, max_batch):
    law = SamplingLaw(max_new_tokens=9)
    rollouts = TorchSampler(model, version=4, max_batch=max_batch).sample(
        PROMPTS, law, Draws.whole(5, 8 * len(PROMPTS))
    )
    assert [r.prompt for r in rollouts] == [x for x in PROMPTS for _ in range(8)]
    for r in rollouts:
        assert 1 <= len(r.tokens) == len(r.logp) == len(r.entropy) <= 9
        assert 3 not in r.tokens[:-1], "nothing follows an end token"
        assert r.stop == ("stop" if r.tokens[-1] == 3 else "length")
        assert r.stop == "stop" or len(r.tokens) == 9
        assert r.version == 4
        assert r.actions is None
    assert {r.stop for r in rollouts} == {"stop", "length"}


def test_batching_and_compaction_change_no_answer(llama, monkeypatch):
    law = SamplingLaw(max_new_tokens=12)
    whole = TorchSampler(llama).sample(PROMPTS, law, Draws.whole(1, 6 * len(PROMPTS)))
    parts = TorchSampler(llama, max_batch=6).sample(PROMPTS, law, Draws.whole(1, 6 * len(PROMPTS)))
    assert [r.tokens for r in whole] == [r.tokens for r in parts]
    monkeypatch.setattr("rung.rollout.torch_sampler.COMPACT_BELOW", 0.0)
    never = TorchSampler(llama).sample(PROMPTS, law, Draws.whole(1, 6 * len(PROMPTS)))
    assert [r.tokens for r in never] == [r.tokens for r in whole]
    monkeypatch.setattr("rung.rollout.torch_sampler.COMPACT_BELOW", 2.0)
    always = TorchSampler(llama).sample(PROMPTS, law, Draws.whole(1, 6 * len(PROMPTS)))
    assert [(r.tokens, r.stop) for r in always] == [(r.tokens, r.stop) for r in whole]
    for way in ("cache", "even", "whole"):
        own = TorchSampler(replace(llama, decodes=way, short_steps=False)).sample(
            PROMPTS, law, Draws.whole(1, 6 * len(PROMPTS))
        )
        assert [(r.prompt, r.tokens) for r in own] == [(r.prompt, r.tokens) for r in whole], way


def test_greedy_answers_follow_the_largest_logit(model):
    rollouts = TorchSampler(model).sample(
        PROMPTS, SamplingLaw(temperature=0.0, max_new_tokens=7), Draws.whole(0, 1 * len(PROMPTS))
    )
    for r in rollouts:
        ids = torch.tensor([[*r.prompt, *r.tokens]])
        best = model.hf(input_ids=ids, use_cache=False).logits[0, len(r.prompt) - 1 : -1].argmax(-1)
        assert tuple(best.tolist()) == r.tokens
        assert set(r.logp) == set(r.entropy) == {0.0}


def test_draw_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(4, 3)
    token, logp, entropy = draw(logits, SamplingLaw(), torch.tensor([0.0, 0.51, 0.79, 0.81]))
    assert token.tolist() == [0, 1, 1, 2], "the first token whose cumulative probability exceeds the number drawn"
    torch.testing.assert_close(logp.exp(), torch.tensor([0.5, 0.3, 0.3, 0.2]))
    torch.testing.assert_close(entropy, torch.full((4,), 1.0296530))
    token, logp, _ = draw(logits, SamplingLaw(temperature=0.5), torch.tensor([0.0, 0.65, 0.67, 0.95]))
    assert token.tolist() == [0, 0, 1, 2], ".25, .09, .04 over .38: up to .658, .895, 1"
    torch.testing.assert_close(logp.exp(), torch.tensor([0.25, 0.25, 0.09, 0.04]) / 0.38)


def test_impossible_tokens_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, 5)
    token, logp, entropy = draw(logits, SamplingLaw(), torch.tensor([0.0, 0.75, 0.99999994]))
    assert token.tolist() == [1, 3, 3]
    torch.testing.assert_close(logp.exp(), torch.full((3,), 0.5))
    torch.testing.assert_close(entropy.exp(), torch.full((3,), 2.0))


@pytest.mark.parametrize(
    ("law", "kept", "why"),
    [
        (SamplingLaw(top_k=2), [1, 2], "the two largest"),
        (SamplingLaw(top_p=0.5), [1], "the smallest set that holds one half"),
        (SamplingLaw(top_p=0.51), [1, 2], "one more is needed"),
        (SamplingLaw(top_p=0.9, top_k=2), [1, 2], "both"),
        (SamplingLaw(top_k=9), [0, 1, 2], "more than there are"),
    ],
)
def test_truncated_laws_are_renormalized(law, kept, why):
    p = torch.tensor([0.2, 0.5, 0.3])
    chance = torch.linspace(0, 0.999, 200)
    token, logp, _ = draw(p.log().expand(200, 3), law, chance)
    assert sorted(token.unique().tolist()) == kept, why
    torch.testing.assert_close(logp.exp(), (p / p[kept].sum())[token])


# -- micro-batches ----------------------------------------------------------------------------------------------------
def test_micro_batches_hold_each_row_once_within_the_budget():
    tokens = ragged()
    parts = list(microbatches(tokens, torch.tensor([0, 1, 3, 4]), 15))
    assert [x.tolist() for x in parts] == [[1, 3], [0, 4]], "5 + 1 + 2 + 6 = 14, then 7 + 4 + 3 = 14"
    assert [x.tolist() for x in microbatches(tokens, torch.arange(5), 1)] == [[1], [2], [3], [0], [4]]
