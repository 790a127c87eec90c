"""Attention of many queries over few keys, on tokens as they lie.

A program takes a block of queries of one head. Where the head's keys fit, they are one tile and the
softmax is a plain one; else tiles of keys pass by, and the softmax is kept up with them (T. Dao et
al.: FlashAttention, 2022). Exponentials are powers of two: the scale holds log2(e).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from fastseg.kernels.launching import Launch, choose
from fastseg.kernels.precision import input_precision
from fastseg.kernels.tokens import rows_of_channels

LOG2_E = 1.4426950408889634
LN_2 = tl.constexpr(0.6931471805599453)
# Keys of a head of 64 channels that are one tile: with 16 bits each, their products with a block of
# queries fit into registers, and the values into shared memory.
MOST_WHOLE = 256
# Programs that fill a GPU: the queries are split for the gradient of keys until there are so many.
PROGRAMS = 256


@triton.jit
def _place(rows, heads, BLOCK: tl.constexpr):
    """The block of rows, the sample and the head of a program."""
    blocks = tl.cdiv(rows, BLOCK)
    rest = tl.program_id(0) // blocks
    return tl.program_id(0) % blocks, (rest // heads).to(tl.int64), rest % heads


@triton.jit
def _at(rows, stride, limit, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """Where (rows, BLOCK_D) values of a head lie, and which of them there are."""
    d = tl.arange(0, BLOCK_D)
    inside = (rows < limit)[:, None]
    if WIDTH < BLOCK_D:
        inside = inside & (d < WIDTH)[None, :]
    return rows.to(tl.int64)[:, None] * stride + d[None, :], inside


@triton.jit
def _load(x, rows, stride, limit, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    at, inside = _at(rows, stride, limit, WIDTH, BLOCK_D)
    return tl.load(x + at, mask=inside, other=0)


@triton.jit
def _store(x, values, rows, stride, limit, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    at, inside = _at(rows, stride, limit, WIDTH, BLOCK_D)
    tl.store(x + at, values, mask=inside)


@triton.jit
def _scores(q, k, m, keys, PRECISION: tl.constexpr):
    """Products of queries and keys, (queries, keys); minus infinity where there is no key."""
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    return tl.where((m < keys)[None, :], s, float("-inf"))


@triton.jit(do_not_specialize=["heads"])
def _forward(
    query,
    key,
    value,
    out,
    lse,
    query_sample,
    query_row,
    key_sample,
    key_row,
    value_sample,
    value_row,
    queries,
    keys,
    heads,
    scale,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    block, sample, head = _place(queries, heads, BLOCK_N)
    query += sample * query_sample + head * WIDTH
    key += sample * key_sample + head * WIDTH
    value += sample * value_sample + head * WIDTH
    out += (sample * queries * heads + head) * WIDTH
    lse += sample * queries * heads + head
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    q = _load(query, n, query_row, queries, WIDTH, BLOCK_D)
    if WHOLE:
        m = tl.arange(0, BLOCK_M)
        k = _load(key, m, key_row, keys, WIDTH, BLOCK_D)
        s = _scores(q, k, m, keys, PRECISION)
        top = tl.max(s, 1) * scale
        p = tl.exp2(s * scale - top[:, None])
        total = tl.sum(p, 1)
        v = _load(value, m, value_row, keys, WIDTH, BLOCK_D)
        o = tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
    else:
        top = tl.full((BLOCK_N,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_N,), tl.float32)
        o = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        for first in range(0, keys, BLOCK_M):
            m = first + tl.arange(0, BLOCK_M)
            k = _load(key, m, key_row, keys, WIDTH, BLOCK_D)
            s = _scores(q, k, m, keys, PRECISION)
            higher = tl.maximum(top, tl.max(s, 1) * scale)
            p = tl.exp2(s * scale - higher[:, None])
            shrink = tl.exp2(top - higher)
            total = total * shrink + tl.sum(p, 1)
            v = _load(value, m, value_row, keys, WIDTH, BLOCK_D)
            o = tl.dot(p.to(v.dtype), v, acc=o * shrink[:, None], input_precision=PRECISION)
            top = higher
    _store(out, o / total[:, None], n, heads * WIDTH, queries, WIDTH, BLOCK_D)
    exact = (top + tl.log2(total)) * LN_2
    tl.store(lse + n.to(tl.int64) * heads, exact, mask=n < queries)


@triton.jit(do_not_specialize=["heads"])
def _backward_query(
    grad,
    query,
    key,
    value,
    out,
    lse,
    delta,
    d_query,
    grad_sample,
    grad_row,
    query_sample,
    query_row,
    key_sample,
    key_row,
    value_sample,
    value_row,
    queries,
    keys,
    heads,
    scale,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The gradient of queries; also delta, (B, N, heads): the sums of gradient times output."""
    block, sample, head = _place(queries, heads, BLOCK_N)
    start = sample * queries * heads + head
    grad += sample * grad_sample + head * WIDTH
    query += sample * query_sample + head * WIDTH
    key += sample * key_sample + head * WIDTH
    value += sample * value_sample + head * WIDTH
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    at = start + n.to(tl.int64) * heads
    g = _load(grad, n, grad_row, queries, WIDTH, BLOCK_D)
    q = _load(query, n, query_row, queries, WIDTH, BLOCK_D)
    o = _load(out + start * WIDTH, n, heads * WIDTH, queries, WIDTH, BLOCK_D)
    along = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + at, along, mask=n < queries)
    top = tl.load(lse + at, mask=n < queries, other=0) / LN_2
    dq = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for first in range(0, keys, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        k = _load(key, m, key_row, keys, WIDTH, BLOCK_D)
        v = _load(value, m, value_row, keys, WIDTH, BLOCK_D)
        p = tl.exp2(_scores(q, k, m, keys, PRECISION) * scale - top[:, None])
        dp = tl.dot(g, tl.trans(v), input_precision=PRECISION)
        ds = p * (dp - along[:, None])
        dq = tl.dot(ds.to(k.dtype), k, acc=dq, input_precision=PRECISION)
    dq *= scale * LN_2
    _store(d_query + start * WIDTH, dq, n, heads * WIDTH, queries, WIDTH, BLOCK_D)


@triton.jit(do_not_specialize=["samples", "heads", "splits"])
def _backward_key_value(
    grad,
    query,
    key,
    value,
    lse,
    delta,
    d_key,
    d_value,
    grad_sample,
    grad_row,
    query_sample,
    query_row,
    key_sample,
    key_row,
    value_sample,
    value_row,
    samples,
    queries,
    keys,
    heads,
    splits,
    scale,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A split of the queries' part in the gradients of keys and values, (splits, B, M, C)."""
    block, sample, head = _place(keys, heads, BLOCK_M)
    split = tl.program_id(1)
    start = sample * queries * heads + head
    grad += sample * grad_sample + head * WIDTH
    query += sample * query_sample + head * WIDTH
    m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    k = _load(key + sample * key_sample + head * WIDTH, m, key_row, keys, WIDTH, BLOCK_D)
    v = _load(value + sample * value_sample + head * WIDTH, m, value_row, keys, WIDTH, BLOCK_D)
    dk = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    dv = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    share = tl.cdiv(tl.cdiv(queries, BLOCK_N), splits) * BLOCK_N
    for first in range(split * share, min(queries, (split + 1) * share), BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        at = start + n.to(tl.int64) * heads
        # Queries past the last have no gradient, which makes their part zero.
        g = _load(grad, n, grad_row, queries, WIDTH, BLOCK_D)
        q = _load(query, n, query_row, queries, WIDTH, BLOCK_D)
        top = tl.load(lse + at, mask=n < queries, other=0) / LN_2
        along = tl.load(delta + at, mask=n < queries, other=0)
        s = tl.dot(k, tl.trans(q), input_precision=PRECISION)
        p = tl.exp2(s * scale - top[None, :])
        dv = tl.dot(p.to(g.dtype), g, acc=dv, input_precision=PRECISION)
        dp = tl.dot(v, tl.trans(g), input_precision=PRECISION)
        ds = p * (dp - along[None, :])
        dk = tl.dot(ds.to(q.dtype), q, acc=dk, input_precision=PRECISION)
    start = ((split * samples + sample) * keys * heads + head) * WIDTH
    _store(d_key + start, dk * (scale * LN_2), m, heads * WIDTH, keys, WIDTH, BLOCK_D)
    _store(d_value + start, dv, m, heads * WIDTH, keys, WIDTH, BLOCK_D)


def sequence_reduced_attention(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Launches the forward kernel.

    Args:
        query: (B, N, C).
        key: (B, M, C).
        value: (B, M, C).
        num_heads: heads, each of at most 128 channels.

    Returns:
        (B, N, C), and (B, N, num_heads) float32: the logarithms of the sums of exponentials.
    """
    query, key, value = (rows_of_channels(x) for x in (query, key, value))
    batch, queries, channels = query.shape
    keys, width = key.shape[1], channels // num_heads
    out = query.new_empty(query.shape)
    lse = query.new_empty((batch, queries, num_heads), dtype=torch.float32)
    if out.numel() == 0:
        return out, lse

    def launch(how: Launch) -> None:
        blocks = triton.cdiv(queries, how.blocks["BLOCK_N"])
        wrap_triton(_forward)[(blocks * batch * num_heads,)](
            query,
            key,
            value,
            out,
            lse,
            *_strides(query, key, value),
            queries,
            keys,
            num_heads,
            LOG2_E * width**-0.5,
            WIDTH=width,
            PRECISION=input_precision(query),
            BLOCK_D=_padded(width),
            **how.options(),
        )

    name = "sequence_reduced_attention"
    candidates = _candidates(query, keys, width)
    launch(choose(name, _key(query, keys, num_heads), candidates, launch, query))
    return out, lse


def sequence_reduced_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the backward kernels.

    Args:
        grad: (B, N, C), of the output.
        query: (B, N, C).
        key: (B, M, C).
        value: (B, M, C).
        out: (B, N, C), contiguous, as the forward launch made it.
        lse: (B, N, num_heads), likewise.

    Returns:
        The gradients of query, key and value, contiguous.
    """
    grad, query, key, value = (rows_of_channels(x) for x in (grad, query, key, value))
    batch, queries, channels = query.shape
    keys, heads = key.shape[1], lse.shape[2]
    width = channels // heads
    d_query = query.new_empty(query.shape)
    if d_query.numel() == 0:
        return d_query, key.new_zeros(key.shape), value.new_zeros(value.shape)
    delta = torch.empty_like(lse)
    splits = _splits(batch * heads * triton.cdiv(keys, 64), triton.cdiv(queries, 256))
    parts = [key.new_empty((splits, *key.shape), dtype=torch.float32) for _ in range(2)]
    fixed = {"WIDTH": width, "PRECISION": input_precision(query), "BLOCK_D": _padded(width)}
    strides, scale = _strides(grad, query, key, value), LOG2_E * width**-0.5
    tensors = grad, query, key, value

    def launch_query(how: Launch) -> None:
        blocks = triton.cdiv(queries, how.blocks["BLOCK_N"])
        wrap_triton(_backward_query)[(blocks * batch * heads,)](
            *tensors,
            out,
            lse,
            delta,
            d_query,
            *strides,
            queries,
            keys,
            heads,
            scale,
            **fixed,
            **how.options(),
        )

    def launch_key_value(how: Launch) -> None:
        blocks = triton.cdiv(keys, how.blocks["BLOCK_M"])
        wrap_triton(_backward_key_value)[(blocks * batch * heads, splits)](
            *tensors,
            lse,
            delta,
            *parts,
            *strides,
            batch,
            queries,
            keys,
            heads,
            splits,
            scale,
            **fixed,
            **how.options(),
        )

    place = _key(query, keys, heads)
    candidates = [_tiles(query, width)]
    name = "sequence_reduced_attention_backward"
    launch_query(choose(f"{name}_query", place, candidates, launch_query, query))
    launch_key_value(choose(f"{name}_key_value", place, candidates, launch_key_value, query))
    d_key, d_value = (part.sum(dim=0).to(key.dtype) for part in parts)
    return d_query, d_key, d_value


def _strides(*tokens: Tensor) -> list[int]:
    return [step for x in tokens for step in x.stride()[:2]]


def _padded(size: int) -> int:
    return max(16, int(triton.next_power_of_2(size)))


def _splits(programs: int, most: int) -> int:
    """Into how many parts the queries go; by the shape alone, so that bits do not vary."""
    return max(1, min(-(-PROGRAMS // programs), most))


def _candidates(query: Tensor, keys: int, width: int) -> list[Launch]:
    """Ways of launching the forward kernel: all keys at once where they fit, and tiles of them.

    With these rows and warps no register spills on any of the chips of `make kernels`.
    """
    tiles, narrow = _tiles(query, width), _padded(width) <= 32
    blocks = {**tiles.blocks, "WHOLE": False}
    if query.dtype == torch.float32:
        return [Launch(blocks, tiles.num_warps, tiles.num_stages)]
    found = [Launch(blocks, num_warps=8 if narrow else 4)]
    if _padded(keys) <= MOST_WHOLE and _padded(keys) * _padded(width) <= MOST_WHOLE * 64:
        blocks = {"BLOCK_N": 16 if narrow else 32, "BLOCK_M": _padded(keys), "WHOLE": True}
        found.insert(0, Launch(blocks, num_warps=4 if narrow else 8))
    return found


def _tiles(query: Tensor, width: int) -> Launch:
    """Tiles of queries and keys whose products fit into registers."""
    if query.dtype == torch.float32:
        # Exact products run without tensor cores, and need registers for their operands.
        warps = 4 if _padded(width) <= 32 else 8
        return Launch({"BLOCK_N": 32, "BLOCK_M": 32}, num_warps=warps, num_stages=1)
    side = 64 if _padded(width) <= 64 else 32
    return Launch({"BLOCK_N": side, "BLOCK_M": side})


def _key(query: Tensor, keys: int, heads: int) -> tuple[int | str, ...]:
    return *query.shape, keys, heads, str(query.dtype)
