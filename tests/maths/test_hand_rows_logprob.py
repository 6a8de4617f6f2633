"""The chunked log-probability against plain log_softmax: values, entropies and every gradient."""

import math

import pytest
import torch

from rung.maths import logprob
from rung.maths.logprob import distribution, entropy_of, full_kl, token_logprob
from rung.records import SamplingLaw
from rung.rollout.sampler import draw

N, D, V = 7, 5, 11


def inputs(bias=True, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    hidden, weight, b = (torch.randn(*s, generator=g).to(dtype).requires_grad_() for s in ((N, D), (V, D), (V,)))
    return hidden, weight, b if bias else None, torch.randint(V, (N,), generator=g)


def plain(hidden, weight, bias, target, temperature):
    log_p = (torch.nn.functional.linear(hidden, weight, bias).float() / temperature).log_softmax(-1)
    return log_p.gather(-1, target[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


UP = torch.linspace(-1.0, 2.0, N), torch.linspace(0.5, -0.7, N)


@pytest.mark.parametrize("chunk", [1 << 24, 2 * V, 3 * V + 1, 1], ids=["one chunk", "two rows", "three rows", "a row"])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("entropy", [True, False], ids=["with entropy", "logp only"])
@pytest.mark.parametrize("kept", [N * V, N * V - 1], ids=["kept", "computed again"])
def test_values_and_gradients(monkeypatch, chunk, temperature, bias, entropy, kept):
    monkeypatch.setattr(logprob, "CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr(logprob, "KEPT_ELEMENTS", kept)
    hidden, weight, b, target = inputs(bias)
    leaves = [x for x in (hidden, weight, b) if x is not None]

    def gradients(logp, ent):
        total = (UP[0] * logp).sum() + ((UP[1] * ent).sum() if entropy else 0.0)
        return torch.autograd.grad(total, leaves)

    ours = token_logprob(hidden, weight, target, bias=b, temperature=temperature)
    theirs = plain(hidden, weight, b, target, temperature)
    for got, want in zip((*ours, *gradients(*ours)), (*theirs, *gradients(*theirs)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grad", [True, False], ids=["with gradient", "without"])
def test_what_is_kept_saves_a_product_and_changes_no_bit(monkeypatch, dtype, grad):
    """Four chunks: their logits are computed once where log p is kept, twice where it is not, once without gradient."""
    monkeypatch.setattr(logprob, "CHUNK_ELEMENTS", 2 * V)
    hidden, weight, b, target = inputs(dtype=dtype)
    products, own = [], logprob._logits
    monkeypatch.setattr(logprob, "_logits", lambda *args: products.append(1) or own(*args))
    found, alive = {}, {}
    for kept in (N * V, 0):
        monkeypatch.setattr(logprob, "KEPT_ELEMENTS", kept)
        products.clear()
        with torch.set_grad_enabled(grad):
            logp, entropy = token_logprob(hidden, weight, target, bias=b)
        alive[kept] = len(logp.grad_fn.kept) if grad else 0
        again = torch.autograd.grad((UP[0] * logp).sum(), hidden, retain_graph=True) if grad else ()
        grads = torch.autograd.grad((UP[0] * logp + UP[1] * entropy).sum(), (hidden, weight, b)) if grad else ()
        found[kept] = [logp, entropy, *again, *grads]
        assert len(products) == 4 + 8 * (grad and not kept)
    assert alive == {N * V: 4 * grad, 0: 0}
    assert all(torch.equal(x, y) for x, y in zip(*found.values(), strict=True))


def test_only_what_is_wanted_is_computed():
    hidden, weight, _, target = inputs()
    logp, _ = token_logprob(hidden, weight.detach(), target)
    (grad,) = torch.autograd.grad(logp.sum(), hidden)
    want, _ = plain(hidden, weight.detach(), None, target, 1.0)
    torch.testing.assert_close(grad, torch.autograd.grad(want.sum(), hidden)[0], rtol=1e-5, atol=1e-6)


def test_low_precision_heads_are_normalized_in_float32():
    hidden, weight, b, target = inputs(dtype=torch.bfloat16)
    logp, entropy = token_logprob(hidden, weight, target, bias=b)
    assert logp.dtype == entropy.dtype == torch.float32
    want = plain(hidden, weight, b, target, 1.0)
    torch.testing.assert_close((logp, entropy), want, rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(logp.sum(), (hidden, weight, b))
    assert all(g.dtype == torch.bfloat16 for g in grads)


def test_certain_words_have_no_entropy_and_no_nan():
    weight = torch.tensor([[200.0], [-200.0]], requires_grad=True)
    logp, entropy = token_logprob(torch.ones(2, 1), weight, torch.tensor([0, 1]))
    torch.testing.assert_close(logp, torch.tensor([0.0, -400.0]))
    torch.testing.assert_close(entropy, torch.zeros(2))
    assert torch.autograd.grad((logp + entropy).sum(), weight)[0].isfinite().all()


def test_distribution_temperature_and_bias():
    hidden, weight, b, _ = inputs()
    z = hidden @ weight.T + b
    torch.testing.assert_close(distribution(hidden, weight, bias=b), z.log_softmax(-1))
    torch.testing.assert_close(distribution(hidden, weight, bias=b, temperature=0.5), (2 * z).log_softmax(-1))


def test_kl_and_entropy_of_distributions():
    p, q = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    torch.testing.assert_close(full_kl(p, q), torch.tensor([math.log(2)]))
    torch.testing.assert_close(entropy_of(p), torch.tensor([math.log(2)]))
    assert full_kl(q, p).item() == math.inf, "q produces a word that p cannot"
    assert full_kl(p, p).item() == 0


def test_impossible_words_leave_the_gradients_finite():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    log_p, log_q = logits.log_softmax(-1), torch.tensor([[0.25, 0.25, 0.5]]).log()
    for value in (entropy_of(log_p), full_kl(log_p, log_q), full_kl(log_p.detach(), log_p)):
        (grad,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
        assert value.isfinite().all()
        assert grad.isfinite().all()


# -- impossible words, certain words, huge logits -----------------------------------------------------------------------
def hard_logits(seed):
    """Rows of logits with impossible words (-inf), rows with one possible word alone, gaps of 1e4 and of 1e30."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(N, V, generator=g) * 10.0 ** torch.randint(0, 3, (N, 1), generator=g)
    z[torch.rand(N, V, generator=g) < 0.3] = -torch.inf
    z[1], z[2], z[3, 0], z[4, 0] = -torch.inf, -1e4, 1e30, -1e30
    z[1, 5], z[2, 5], z[0, 4] = 3.0, 3.0, 0.0
    return z, z.argmax(-1)


@pytest.mark.parametrize("chunk", [1 << 24, 2 * V])
@pytest.mark.parametrize("seed", range(20))
def test_impossible_words_add_nothing_to_values_and_gradients(monkeypatch, seed, chunk):
    """0 log 0 = 0: the same as in a vocabulary without them, through the chunked head, the plain law and the KL."""
    monkeypatch.setattr(logprob, "CHUNK_ELEMENTS", chunk)
    z, target = hard_logits(seed)
    for n in range(N):
        can = z[n].isfinite()
        # the head: logits of word v = h_v + bias_v, where bias holds the impossible
        hidden = z[n].masked_fill(~can, 0.0)[None].requires_grad_()
        bias = torch.where(can, 0.0, -torch.inf)
        logp, entropy = token_logprob(hidden, torch.eye(V), target[n : n + 1], bias=bias)
        (grad,) = torch.autograd.grad(logp.sum() + 0.3 * entropy.sum(), hidden)
        small = z[n, can].double().requires_grad_()
        law = small.log_softmax(-1)
        want_entropy = torch.special.entr(law.exp()).sum()
        same = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}
        torch.testing.assert_close(logp[0], law.max(), **same)
        torch.testing.assert_close(entropy[0], want_entropy, **same)
        torch.testing.assert_close(entropy_of(z[n : n + 1].log_softmax(-1))[0], want_entropy, **same)
        (plain_grad,) = torch.autograd.grad(law.max() + 0.3 * -(law.exp() * law.clamp(min=-1e4)).sum(), small)
        torch.testing.assert_close(grad[0, can], plain_grad, **same)
        assert (grad[0, ~can] == 0).all()


@pytest.mark.parametrize("seed", range(20))
def test_a_kl_between_laws_with_the_same_impossible_words_is_finite_with_its_gradient(seed):
    z, _ = hard_logits(seed)
    p, q = z.clone().requires_grad_(), z + torch.randn(N, V, generator=torch.Generator().manual_seed(seed + 1))
    q[5] = z[5].masked_fill(z[5] < z[5].max() - 200, -torch.inf)  # what p has lost to rounding, q may exclude
    for kl in (full_kl(p.log_softmax(-1), q.log_softmax(-1)), full_kl(q.log_softmax(-1), p.log_softmax(-1))):
        assert kl.isfinite().all() and (kl > -1e-5).all()
        (grad,) = torch.autograd.grad(kl.sum(), p, retain_graph=True)
        assert grad.isfinite().all() and (grad[~z.isfinite()] == 0).all()
    (grad,) = torch.autograd.grad(entropy_of(p.log_softmax(-1)).sum(), p)
    assert grad.isfinite().all()


@pytest.mark.parametrize("seed", range(5))
def test_the_sampler_says_the_same_of_them(seed):
    z, _ = hard_logits(seed)
    token, logp, entropy = draw(z, SamplingLaw(), torch.rand(N, generator=torch.Generator().manual_seed(seed)))
    law = z.log_softmax(-1)
    assert z.gather(-1, token[:, None]).isfinite().all()
    torch.testing.assert_close(logp, law.gather(-1, token[:, None])[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy, entropy_of(law), rtol=1e-4, atol=1e-5)


def test_a_word_that_p_has_lost_to_rounding_adds_nothing_where_q_excludes_it():
    p = torch.tensor([[0.0, -200.0, -torch.inf]]).requires_grad_()
    q = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    kl = full_kl(p, q)
    assert kl.item() == 0.0
    assert torch.autograd.grad(kl.sum(), p)[0].isfinite().all()
