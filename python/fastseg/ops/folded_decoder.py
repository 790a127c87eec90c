"""SegFormer's decoder after the fold: projections at their own resolution, summed, classified."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from fastseg._engine import engine, flat, flats
from fastseg.errors import ShapeError
from fastseg.ops import reference
from fastseg.ops._autocast import lowered
from fastseg.ops._backends import chosen_backend, is_decomposed
from fastseg.ops._operation import operation
from fastseg.ops.token_linear import token_linear
from fastseg.ops.upsample_sum import check_maps, downsample, map_shapes, maps_problem, upsample_sum


def folded_decoder(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor,
    classifier_weight: Tensor,
    classifier_bias: Tensor,
) -> Tensor:
    """Computes `classifier(relu(Σ up(W_i x_i) + b))`.

    Fusing enlarged and concatenated maps by a 1×1 convolution equals summing maps that were fused
    before they were enlarged, because the weights of bilinear interpolation sum to one. So each
    map is projected at its own resolution, and the concatenation is never made. BatchNorm in
    evaluation mode is a factor and an offset of `weights` and `bias`.

    Args:
        features: (B, h, w, C) float each, token layout, the largest first.
        weights: (D, C) float each: the product of the fusion's and the projection's matrix.
        bias: (D) float.
        classifier_weight: (K, D) float.
        classifier_bias: (K) float.

    Returns:
        (B, K, H, W) float logits, of the first map's size.

    Raises:
        ShapeError: the shapes disagree.
        DtypeError: the features disagree in dtype.
        BackendError: a backend that was asked for by name cannot run.

    Convention:
        Weights are converted to the dtype of the features, and features under CUDA's autocast to
        its dtype, as those of a linear layer are. Corners are not aligned.

    Source:
        E. Xie et al.: SegFormer, 2021, eq. 4, rearranged; the function is the same.

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> features = [torch.randn(1, 8, 8, 4), torch.randn(1, 4, 4, 6)]
        >>> weights = [torch.randn(5, 4), torch.randn(5, 6)]
        >>> bias, classifier = torch.zeros(5), torch.randn(3, 5)
        >>> ops.folded_decoder(features, weights, bias, classifier, torch.zeros(3)).shape
        torch.Size([1, 3, 8, 8])
    """
    features, weights = list(features), list(weights)
    check_maps(features, "features")
    if bias.ndim != 1:
        raise ShapeError(f"bias: expected (D,), got {tuple(bias.shape)}")
    dim = bias.shape[0]
    wanted = [(dim, x.shape[3]) for x in features]
    if [tuple(weight.shape) for weight in weights] != wanted:
        raise ShapeError(
            f"weights: expected {wanted} to fit the features and the bias, got "
            f"{[tuple(weight.shape) for weight in weights]}"
        )
    if (
        classifier_weight.shape[1:] != (dim,)
        or classifier_bias.shape != classifier_weight.shape[:1]
    ):
        raise ShapeError(
            f"classifier_weight, classifier_bias: expected (K, {dim}) and (K,), got "
            f"{tuple(classifier_weight.shape)} and {tuple(classifier_bias.shape)}"
        )
    features = [lowered(x) for x in features]
    dtype = features[0].dtype
    weights = [weight.to(dtype) for weight in weights]
    vectors = [x.to(dtype) for x in (bias, classifier_weight, classifier_bias)]
    if is_decomposed():
        return reference.folded_decoder(features, weights, *vectors)
    out: Tensor = _folded_decoder(features, weights, *vectors, chosen_backend())
    return out


def _torch(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor,
    classifier_weight: Tensor,
    classifier_bias: Tensor,
) -> Tensor:
    size = features[0].shape[1:3]
    total = token_linear(features[0], weights[0], bias)
    for x, weight in zip(features[1:], weights[1:], strict=True):
        up = F.interpolate(
            token_linear(x, weight).permute(0, 3, 1, 2),
            size=size,
            mode="bilinear",
            align_corners=False,
        )
        total += up.permute(0, 2, 3, 1)
    logits = token_linear(total.relu_(), classifier_weight, classifier_bias)
    return logits.permute(0, 3, 1, 2).contiguous()


def _rust(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor,
    classifier_weight: Tensor,
    classifier_bias: Tensor,
) -> Tensor:
    batch, height, width = features[0].shape[:3]
    out = features[0].new_empty(batch, classifier_weight.shape[0], height, width)
    engine.folded_decoder(
        flats(list(features)),
        map_shapes(features),
        flats(list(weights)),
        flats([bias, classifier_weight, classifier_bias]),
        batch,
        flat(out),
    )
    return out


def _triton(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor,
    classifier_weight: Tensor,
    classifier_bias: Tensor,
) -> Tensor:
    from fastseg.kernels import folded_decoder as kernels

    maps = [token_linear(x, weight) for x, weight in zip(features, weights, strict=True)]
    return kernels.folded_decoder(maps, bias, classifier_weight, classifier_bias)


_FORWARD = {
    "reference": reference.folded_decoder,
    "torch": _torch,
    "rust": _rust,
    "triton": _triton,
}


@operation(_FORWARD, problem=maps_problem)
def _folded_decoder(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor,
    classifier_weight: Tensor,
    classifier_bias: Tensor,
    backend: str,
) -> Tensor:
    batch, height, width = features[0].shape[:3]
    return features[0].new_empty(batch, classifier_weight.shape[0], height, width)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    features, weights, bias, classifier_weight, _, ctx.backend = inputs
    ctx.count = len(features)
    ctx.save_for_backward(*features, *weights, bias, classifier_weight)


def _backward(ctx: Any, grad: Tensor) -> Any:
    saved = list(ctx.saved_tensors)
    features, weights = saved[: ctx.count], saved[ctx.count : 2 * ctx.count]
    bias, classifier_weight = saved[2 * ctx.count :]
    maps = [token_linear(x, weight) for x, weight in zip(features, weights, strict=True)]
    hidden = upsample_sum(maps, bias).relu()
    scores = grad.permute(0, 2, 3, 1).contiguous()
    d_hidden = token_linear(scores, classifier_weight.T) * (hidden > 0)
    d_maps = [d_hidden, *downsample(d_hidden, [x.shape for x in features[1:]], ctx.backend)]
    d_features = [token_linear(d, weight.T) for d, weight in zip(d_maps, weights, strict=True)]
    d_weights = [_outer(d, x) for d, x in zip(d_maps, features, strict=True)]
    d_bias, d_classifier_bias = d_hidden.sum(dim=(0, 1, 2)), grad.sum(dim=(0, 2, 3))
    return d_features, d_weights, d_bias, _outer(scores, hidden), d_classifier_bias, None


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """(L, R): the sum over all tokens of the outer products of two maps."""
    return left.flatten(0, 2).T @ right.flatten(0, 2)


_folded_decoder.register_autograd(_backward, setup_context=_setup_context)
