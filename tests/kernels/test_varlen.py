"""Which keys a text sees, where one kernel serves all texts: the numbers of padded blocks (on a GPU: device/test_cuda.py)."""

import pytest
import torch

from rung.kernels import attention, varlen
from rung.kernels.attention import Packed
from rung.kernels.varlen import Rows


def plain(q, k, v, query_end, key_end, queries, keys, *, scale, window_size, enable_gqa=True):
    """The kernel's rule, text by text: its causal line ends where the keys end."""
    out = torch.zeros(len(q), q.shape[1], v.shape[2])
    for (a, b), (c, d) in zip(
        *(list(zip(x.tolist(), x.tolist()[1:], strict=False)) for x in (query_end, key_end)), strict=True
    ):
        assert 0 < b - a <= queries
        assert b - a <= d - c <= keys
        at, seen = torch.arange(b - a)[:, None] + (d - c) - (b - a), torch.arange(d - c)
        see = seen <= at
        if window_size[0] >= 0:
            see &= seen >= at - window_size[0]
        for h in range(q.shape[1]):
            key = h // (q.shape[1] // k.shape[1])
            score = (scale * q[a:b, h] @ k[c:d, key].T).masked_fill(~see, -torch.inf)
            out[a:b, h] = score.softmax(-1) @ v[c:d, key]
    return out


def test_rows_by_hand():
    """A head of two tokens, a prompt of one more, an answer without a token, and one of three."""
    rows = Rows.of(torch.tensor([2, 1, 0, 3]), torch.tensor([-1, 0, 1, 1]))
    assert rows.query_end.tolist() == [0, 2, 3, 6]
    assert rows.key_end.tolist() == [0, 2, 5, 11]
    assert rows.key_n.tolist() == [0, 1, 0, 1, 2, 0, 1, 2, 3, 4, 5]
    assert (rows.queries, rows.keys) == (3, 6)


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("head", [0, 2])
@pytest.mark.parametrize("answers", [[3, 0, 5, 1], [0, 0], []])
def test_texts_see_what_they_see_on_padded_blocks(window, head, answers, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.tensor([7, 8, 1, 2]), torch.tensor([7, 8, 3]), torch.tensor([7, 8, 4, 5, 6])]
    packed = Packed(prompts, [torch.arange(n) for n in answers], [i % 3 for i in range(len(answers))], head=head)
    N = packed.ids.shape[1]
    q, k, v = (torch.randn(n, N, 4, generator=generator, requires_grad=True) for n in (4, 2, 2))
    weight = torch.randn(N, 4, 4, generator=generator)

    def attended():
        packed.keys, packed.values, packed.keep_keys = [], [], True
        out = packed.attend(0, q, k, v, 0.5, window)
        return out.detach(), torch.autograd.grad((out * weight).sum(), [q, k, v]), *packed.keys, *packed.values

    blocks = attended()
    packed.seen_by_rows()
    monkeypatch.setattr(attention, "takes", lambda *tensors: True)
    monkeypatch.setattr(varlen, "varlen_attn", plain)
    torch.testing.assert_close(attended(), blocks, rtol=0, atol=1e-5)


def test_no_kernel_where_there_is_no_gpu():
    x = torch.zeros(2, 3, 8, dtype=torch.bfloat16)
    assert not varlen.takes(x, x, x)
