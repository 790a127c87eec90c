"""The plain version of every operation: slow, obvious, of any dtype, differentiable."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg.ops._lattice_keys import scales


def sequence_reduced_attention(
    query: Tensor, key: Tensor, value: Tensor, *, num_heads: int
) -> Tensor:
    """`softmax(Q K^T / sqrt(d)) V` for each head, one after the other.

    Args:
        query: (B, N, C) float.
        key: (B, M, C) float.
        value: (B, M, C) float.
        num_heads: heads, which share out the channels.

    Returns:
        (B, N, C) float.
    """
    width = query.shape[-1] // num_heads
    heads = []
    for i in range(num_heads):
        q, k, v = (x[..., i * width : (i + 1) * width] for x in (query, key, value))
        scores = q @ k.transpose(1, 2) / width**0.5
        heads.append(scores.softmax(dim=-1) @ v)
    return torch.cat(heads, dim=-1)


def sequence_reduction(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """A convolution whose stride is its kernel's side, as a sum of products, then LayerNorm.

    Args:
        tokens: (B, H, W, C) float.
        weight: (D, C, s, s) float.
        bias: (D) float.
        norm_weight: (D) float.
        norm_bias: (D) float.
        eps: of the LayerNorm.

    Returns:
        (B, ⌊H/s⌋, ⌊W/s⌋, D) float.
    """
    side = weight.shape[2]
    rows, columns = tokens.shape[1] // side * side, tokens.shape[2] // side * side
    hidden = bias
    for i in range(side):
        for j in range(side):
            hidden = hidden + tokens[:, i:rows:side, j:columns:side] @ weight[:, :, i, j].T
    return F.layer_norm(hidden, bias.shape, norm_weight, norm_bias, eps)


def depthwise_conv_gelu(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A depthwise 3×3 convolution as nine shifted pictures, then the exact GELU.

    Args:
        tokens: (B, H, W, C) float.
        weight: (C, 1, 3, 3) float.
        bias: (C) float.

    Returns:
        (B, H, W, C) float.
    """
    height, width = tokens.shape[1:3]
    padded = F.pad(tokens, (0, 0, 1, 1, 1, 1))
    out = bias.expand_as(tokens)
    for i in range(3):
        for j in range(3):
            out = out + padded[:, i : i + height, j : j + width] * weight[:, 0, i, j]
    return out * 0.5 * (1 + torch.erf(out / 2**0.5))


def mix_ffn(
    tokens: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    residual: Tensor | None = None,
) -> Tensor:
    """A linear layer, `depthwise_conv_gelu`, a linear layer, and a residual connection.

    Args:
        tokens: (B, H, W, C) float.
        fc1_weight: (M, C) float.
        fc1_bias: (M) float.
        conv_weight: (M, 1, 3, 3) float.
        conv_bias: (M) float.
        fc2_weight: (C, M) float.
        fc2_bias: (C) float.
        residual: (B, H, W, C) float, or None.

    Returns:
        (B, H, W, C) float.
    """
    hidden = F.linear(tokens, fc1_weight, fc1_bias)
    out = F.linear(depthwise_conv_gelu(hidden, conv_weight, conv_bias), fc2_weight, fc2_bias)
    return out if residual is None else residual + out


def layer_norm_residual(
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    factor: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """The sum of x and the branch times a factor for each sample, and the LayerNorm of that.

    Args:
        x: (B, …, C) float.
        branch: (B, …, C) float.
        weight: (C) float.
        bias: (C) float.
        factor: (B) float; None: one.
        eps: of the LayerNorm.

    Returns:
        (B, …, C) float, twice.
    """
    if factor is not None:
        branch = torch.stack([f * b for f, b in zip(factor, branch, strict=True)])
    total = x + branch
    return total, layer_norm(total, weight, bias, eps=eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Deviations from the mean over the standard deviation, of the last axis.

    Args:
        x: (B, …, C) float.
        weight: (C) float.
        bias: (C) float.
        eps: added to the variance.

    Returns:
        (B, …, C) float.
    """
    deviation = (x.var(dim=-1, keepdim=True, correction=0) + eps).sqrt()
    return (x - x.mean(dim=-1, keepdim=True)) / deviation * weight + bias


def conv3x3(
    maps: Sequence[Tensor],
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    rate: int = 1,
    padding: int = 1,
    relu: bool = False,
) -> Tensor:
    """A 3×3 convolution of stacked maps as nine shifted pictures, scaled, shifted, rectified.

    Args:
        maps: (B, H, W, C) float each.
        weight: (K, all C, 3, 3) float.
        scale: (K) float.
        shift: (K) float.
        rate: pixels between taps.
        padding: zeros around the picture.
        relu: whether negative results become 0.

    Returns:
        (B, H + 2 · (padding - rate), …, K) float.
    """
    tokens = torch.cat(list(maps), dim=-1)
    height, width = (side + 2 * (padding - rate) for side in tokens.shape[1:3])
    padded = F.pad(tokens, (0, 0, padding, padding, padding, padding))
    out = tokens.new_zeros(tokens.shape[0], height, width, weight.shape[0])
    for i in range(3):
        for j in range(3):
            rows, columns = slice(i * rate, i * rate + height), slice(j * rate, j * rate + width)
            out = out + padded[:, rows, columns] @ weight[:, :, i, j].T
    out = out * scale + shift
    return (out.relu() if relu else out).contiguous()


def upsample_sum(maps: Sequence[Tensor], bias: Tensor) -> Tensor:
    """The sum of maps, each enlarged bilinearly to the size of the first, and a bias.

    Args:
        maps: (B, h, w, D) float each.
        bias: (D) float.

    Returns:
        (B, H, W, D) float.
    """
    total = bias.expand_as(maps[0])
    size = maps[0].shape[1:3]
    for x in maps:
        total = total + F.interpolate(
            x.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False
        ).permute(0, 2, 3, 1)
    return total.contiguous()


def folded_decoder(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor,
    classifier_weight: Tensor,
    classifier_bias: Tensor,
) -> Tensor:
    """The classifier of the ReLU of the sum of enlarged projections.

    Args:
        features: (B, h, w, C) float each, the largest first.
        weights: (D, C) float each.
        bias: (D) float.
        classifier_weight: (K, D) float.
        classifier_bias: (K) float.

    Returns:
        (B, K, H, W) float, of the first map's size.
    """
    maps = [F.linear(x, weight) for x, weight in zip(features, weights, strict=True)]
    hidden = upsample_sum(maps, bias).relu()
    return F.linear(hidden, classifier_weight, classifier_bias).permute(0, 3, 1, 2).contiguous()


def upsample_argmax(logits: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """The class with the largest of the bilinearly enlarged logits.

    Args:
        logits: (B, K, h, w) float.
        size: (H, W).
        align_corners: as in `torch.nn.functional.interpolate`.

    Returns:
        (B, H, W) int64.
    """
    full = F.interpolate(logits, size=list(size), mode="bilinear", align_corners=align_corners)
    return full.argmax(dim=1)


def upsample_confusion(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    align_corners: bool = False,
) -> Tensor:
    """How often each target meets each of the likeliest classes of the enlarged logits.

    Args:
        logits: (B, K, h, w) float.
        target: (B, H, W) int64.
        ignore_index: target of pixels that do not count.
        align_corners: as in `torch.nn.functional.interpolate`.

    Returns:
        (K, K) int64: rows are targets.
    """
    classes = logits.shape[1]
    labels = upsample_argmax(logits, target.shape[1:], align_corners=align_corners)
    counts = torch.zeros(classes, classes, dtype=torch.int64, device=logits.device)
    keep = target == target if ignore_index is None else target != ignore_index
    ones = keep.flatten().long()
    # Pixels that do not count add nothing, to the first row.
    cells = target.where(keep, 0).flatten(), labels.flatten()
    return counts.index_put(cells, ones, accumulate=True)


def upsample_cross_entropy(
    logits: Tensor, target: Tensor, *, ignore_index: int = 255, align_corners: bool = False
) -> Tensor:
    """The mean cross entropy of the bilinearly enlarged logits.

    Args:
        logits: (B, K, h, w) float.
        target: (B, H, W) int64.
        ignore_index: label of pixels that do not count.
        align_corners: as in `torch.nn.functional.interpolate`.

    Returns:
        A scalar; NaN where no pixel counts.
    """
    size = list(target.shape[-2:])
    full = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(full, target, ignore_index=ignore_index)


def permutohedral_embed(
    features: Tensor, lows: Sequence[int], units: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The simplex around each point, operation by operation in the order of the CPU's engine.

    A point on the border between two simplices falls into the one or the other by its last bit.

    Args:
        features: (d, N) float32.
        lows: (d), what is taken off each coordinate of a vertex.
        units: (d), what a step along each coordinate adds to its key.

    Returns:
        (d + 1, N) int64 keys and float32 weights of the corners.
    """
    d, points = features.shape
    elevated = features.new_zeros(d + 1, points)
    total = features.new_zeros(points)
    for j, scale in zip(range(d, 0, -1), reversed(scales(d)), strict=True):
        scaled = features[j - 1] * scale
        elevated[j] = total - j * scaled
        total = total + scaled
    elevated[0] = total

    nearest = (elevated * (1 / (d + 1))).round()
    excess = nearest.sum(0).long()
    offset = elevated - nearest * (d + 1)
    rank = torch.zeros_like(elevated, dtype=torch.int64)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            is_less = offset[i] < offset[j]
            rank[i] += is_less
            rank[j] += ~is_less
    rank += excess
    wrap = (rank < 0).long() - (rank > d).long()
    rank += wrap * (d + 1)
    nearest += wrap
    offset -= wrap * (d + 1)

    packing = features.new_tensor([lows, units], dtype=torch.int64)
    low, unit = packing[:, :, None]
    base = ((nearest[:d].long() - low) * unit).sum(0)
    keys = [base - (unit * (rank[:d] > d - r)).sum(0) + r for r in range(d + 1)]
    ranked = offset.gather(0, rank.argsort(0, descending=True)) * (1 / (d + 1))
    weights = ranked.diff(dim=0, prepend=torch.zeros_like(ranked[:1]))
    weights[0] += 1 - ranked[-1]
    return torch.stack(keys), weights


def permutohedral_splat(values: Tensor, weights: Tensor, corners: Tensor, count: int) -> Tensor:
    """Every point adds its value, weighted, to the corners of its simplex.

    Args:
        values: (N, K) float.
        weights: (d + 1, N) float32.
        corners: (d + 1, N) int32.
        count: how many vertices there are, M.

    Returns:
        (M, K) float.
    """
    vertices = values.new_zeros(count, values.shape[1])
    for corner, weight in zip(corners, weights, strict=True):
        vertices = vertices.index_add(0, corner, weight[:, None] * values)
    return vertices


def permutohedral_blur(vertices: Tensor, neighbours: Tensor, reverse: bool = False) -> Tensor:
    """½, 1, ½ along each axis in turn; a vertex that is not there counts as zero.

    Args:
        vertices: (M, K) float.
        neighbours: (d + 1, 2, M) int32, before and after; −1 where there is none.
        reverse: whether the last axis comes first.

    Returns:
        (M, K) float.
    """
    for axis in neighbours.flip(0) if reverse else neighbours:
        padded = torch.cat([vertices, torch.zeros_like(vertices[:1])])
        before, after = padded[axis]
        vertices = vertices + 0.5 * (before + after)
    return vertices


def permutohedral_slice(
    vertices: Tensor,
    weights: Tensor,
    corners: Tensor,
    scale: float = 1.0,
    start: Tensor | None = None,
) -> Tensor:
    """Every point gathers the weighted values of the corners of its simplex.

    Args:
        vertices: (M, K) float.
        weights: (d + 1, N) float32.
        corners: (d + 1, N) int32.
        scale: a factor.
        start: (N, K) float, what is added.

    Returns:
        (N, K) float.
    """
    gathered = vertices.new_zeros(corners.shape[1], vertices.shape[1])
    for corner, weight in zip(corners, weights, strict=True):
        gathered = gathered + weight[:, None] * vertices[corner]
    return scale * gathered if start is None else start + scale * gathered
