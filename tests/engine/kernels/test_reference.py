"""The plain torch kernels against independent formulas."""

import pytest
import torch

from qcode.engine.kernels import reference


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_rms_norm_in_double() -> None:
    x, weight = torch.randn(3, 64, generator=generator()), torch.rand(64, generator=generator())
    x64 = x.double()
    expected = x64 / (x64.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    actual = reference.rms_norm(x, weight, 1e-6)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=1e-7)


def test_rotary_turns_pairs_and_passes_the_rest() -> None:
    x = torch.randn(4, 2, 12, generator=generator())
    angles = torch.rand(4, 3, generator=generator()) * 6
    y = reference.apply_rotary(x, angles.cos(), angles.sin())
    turned = torch.complex(x[..., :3], x[..., 3:6]) * torch.exp(1j * angles[:, None])
    torch.testing.assert_close(y[..., :3], turned.real)
    torch.testing.assert_close(y[..., 3:6], turned.imag)
    torch.testing.assert_close(y[..., 6:], x[..., 6:], rtol=0, atol=0)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_paged_attention_is_plain_causal_attention(num_kv_heads: int) -> None:
    num_heads, head_dim, block_size = 4, 16, 4
    contexts, queries = [7, 1, 16], [3, 1, 16]
    gen = generator()
    k_cache = torch.randn(9, num_kv_heads, block_size, head_dim, generator=gen)
    v_cache = torch.randn(9, num_kv_heads, block_size, head_dim, generator=gen)
    tables = torch.tensor([[8, 2, 0, 0], [5, 0, 0, 0], [1, 3, 7, 6]], dtype=torch.int32)
    starts = torch.tensor([0, 3, 4, 20], dtype=torch.int32)
    q = torch.randn(20, num_heads, head_dim, generator=gen)
    lengths = torch.tensor(contexts, dtype=torch.int32)
    out = reference.paged_attention(q, k_cache, v_cache, tables, starts, lengths, 0.3)
    for b, (context, count) in enumerate(zip(contexts, queries, strict=True)):
        keys = k_cache[tables[b].long()].transpose(1, 2).flatten(0, 1)[:context]
        values = v_cache[tables[b].long()].transpose(1, 2).flatten(0, 1)[:context]
        for i in range(count):
            row, visible = int(starts[b]) + i, context - count + i + 1
            for head in range(num_heads):
                kv_head = head // (num_heads // num_kv_heads)
                scores = (keys[:visible, kv_head] @ q[row, head]) * 0.3
                expected = scores.softmax(0) @ values[:visible, kv_head]
                torch.testing.assert_close(out[row, head], expected)


def test_long_attention_is_computed_in_chunks() -> None:
    context, num_heads = 2048, 16
    assert 4 * num_heads * context * context > 2 * reference.SCORE_BYTES
    k_cache, v_cache = torch.randn(2, context // 32, 1, 32, 8, generator=generator())
    q = torch.randn(context, num_heads, 8, generator=generator())
    tables = torch.arange(context // 32, dtype=torch.int32)[None]

    def last_queries(count: int) -> torch.Tensor:
        starts = torch.tensor([0, count], dtype=torch.int32)
        lengths = torch.tensor([context], dtype=torch.int32)
        rows = q[context - count :]
        return reference.paged_attention(rows, k_cache, v_cache, tables, starts, lengths, 1.0)

    whole = last_queries(context)
    for count in (1, 100, 513):
        torch.testing.assert_close(whole[-count:], last_queries(count))
