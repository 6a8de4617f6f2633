"""Ways to bring and to run a model: GGUF files, gradient checkpointing, chat templates, end tokens."""

import sys
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch

from rung.errors import InputError
from rung.evaluation.conformance import BOS, EOS, TURN, draw, tiny, tokenizer, trained
from rung.network import checkpointing
from rung.network import model as models
from rung.records import SamplingLaw
from rung.rollout.draws import Draws
from rung.rollout.torch_sampler import TorchSampler
from rung.training.policy import activation_bytes_per_token

torch.set_num_threads(1)


def write_gguf(path, model) -> None:
    """A llama as llama.cpp would store it: its own names, q and k with the halves of each head interleaved."""
    c, weights = model.hf.config, {k: v.detach().numpy() for k, v in model.hf.state_dict().items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_dimension_count(c.hidden_size // c.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(c.vocab_size)
    words = ["<u>", "<s>", "</s>", "<t>", "a", "b", "ab", "ba", *(f"w{i}" for i in range(c.vocab_size - 8))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if i < 4 else 1 for i in range(len(words))])
    writer.add_token_merges(["a b", "b a"])  # a single one is misread by transformers before 5.19
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)

    def interleave(w, heads):
        return w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)

    def put(name, key, heads=0):
        w = weights[key].astype(np.float32)
        writer.add_tensor(name, np.ascontiguousarray(interleave(w, heads) if heads else w))

    put("token_embd.weight", "model.embed_tokens.weight")
    put("output_norm.weight", "model.norm.weight")
    put("output.weight", "lm_head.weight")
    for i in range(c.num_hidden_layers):
        at = f"model.layers.{i}."
        put(f"blk.{i}.attn_q.weight", at + "self_attn.q_proj.weight", c.num_attention_heads)
        put(f"blk.{i}.attn_k.weight", at + "self_attn.k_proj.weight", c.num_key_value_heads)
        put(f"blk.{i}.attn_v.weight", at + "self_attn.v_proj.weight")
        put(f"blk.{i}.attn_output.weight", at + "self_attn.o_proj.weight")
        put(f"blk.{i}.ffn_gate.weight", at + "mlp.gate_proj.weight")
        put(f"blk.{i}.ffn_up.weight", at + "mlp.up_proj.weight")
        put(f"blk.{i}.ffn_down.weight", at + "mlp.down_proj.weight")
        put(f"blk.{i}.attn_norm.weight", at + "input_layernorm.weight")
        put(f"blk.{i}.ffn_norm.weight", at + "post_attention_layernorm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_a_model(tmp_path):
    model = tiny("llama")
    write_gguf(tmp_path / "tiny.gguf", model)
    loaded = models.load(str(tmp_path / "tiny.gguf"))
    ids = torch.tensor([[1, 5, 6, 7, 8]])
    torch.testing.assert_close(loaded.hf(ids).logits, model.hf(ids).logits, rtol=0, atol=1e-5)
    assert loaded.packs and loaded.codec.encode("ab")[-1:] == [6]
    assert loaded.codec.end_ids == {EOS} == {loaded.codec.tokenizer.eos_token_id}
    assert len(TorchSampler(loaded).sample([(1, 5, 6)], SamplingLaw(max_new_tokens=4), Draws.whole(0, 2))) == 2


def test_gguf_files_that_are_not_there_or_damaged_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such"):
        models.load(str(tmp_path / "none.gguf"))
    (tmp_path / "bad.gguf").write_bytes(b"not a gguf file")
    with pytest.raises(InputError, match="could not be loaded"):
        models.load(str(tmp_path / "bad.gguf"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match="needs gguf, which is not installed"):
        models.load(str(tmp_path / "bad.gguf"))


def kept_bytes(model, tokens) -> int:
    """What autograd holds between forward and backward, beside the parameters."""
    own, seen = {p.data_ptr() for p in model.hf.parameters()}, {}

    def pack(x):
        if x.data_ptr() not in own:
            seen[x.data_ptr()] = x.numel() * x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        trained(model, tokens)
    return sum(seen.values())


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_gradient_checkpointing_keeps_less_and_changes_nothing(kind):
    model, kept = tiny(kind), tiny(kind)
    before = activation_bytes_per_token(model)
    checkpointing.enable(kept)
    assert checkpointing.is_on(kept) and not checkpointing.is_on(model)
    tokens, logp = draw(model)
    again, logp_again = draw(kept)
    assert torch.equal(tokens.tokens_BT, again.tokens_BT) and torch.equal(logp, logp_again), "sampling keeps its cache"
    (a, grad_a), (b, grad_b) = trained(model, tokens), trained(kept, tokens)
    assert torch.equal(a, b)
    torch.testing.assert_close(grad_a, grad_b)
    assert kept_bytes(kept, tokens) < 0.7 * kept_bytes(model, tokens)
    assert activation_bytes_per_token(kept) < before


def test_several_end_tokens_end_an_answer_and_pad_may_be_one_of_them():
    model = tiny("llama")
    assert model.codec.end_ids == {EOS, TURN} and model.codec.tokenizer.pad_token_id == EOS
    rollouts = TorchSampler(model).sample(
        [model.codec.encode("w5")], SamplingLaw(max_new_tokens=64), Draws.whole(0, 64)
    )
    ended = [r for r in rollouts if r.stop == "stop"]
    assert {r.tokens[-1] for r in ended} == {EOS, TURN}
    assert all(t not in model.codec.end_ids for r in ended for t in r.tokens[:-1])


def test_a_template_is_applied_in_one_place_with_one_bos():
    model = tiny("llama")
    chat = [{"role": "user", "content": "w5"}]
    assert (
        model.codec.encode(chat).count(BOS)
        == model.codec.encode("w5").count(BOS)
        == model.codec.encode("<s> w5").count(BOS)
        == 1
    )
    bare = tokenizer()
    bare.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        replace(model.codec, tokenizer=bare).encode(chat)


def test_a_template_that_refuses_a_role_is_the_users_mistake_not_a_crash():
    model = tiny("llama")
    strict = tokenizer()
    strict.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(InputError, match="System role not supported"):
        replace(model.codec, tokenizer=strict).encode([{"role": "system", "content": "w5"}])
