"""3×3 convolution with a quarter of the products, scale, shift and ReLU, in one step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg._engine import engine, flat, flats
from fastseg.errors import DtypeError, ParameterError, ShapeError
from fastseg.ops import reference
from fastseg.ops._backends import chosen_backend, is_decomposed
from fastseg.ops._operation import operation

# Rates and paddings from which on places of taps would not fit their numbers.
_FARTHEST = 1 << 31


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
    """Convolves maps, one stacked on the other: `relu(scale · (maps * weight) + shift)`.

    The engine computes 4×4 pixels of the result with 36 products per pair of channels instead of
    144 (Winograd), and reads the maps where they are: the stack is never made. Scale and shift are
    what BatchNorm is in evaluation.

    Args:
        maps: (B, H, W, C) float each, of one dtype, each with its own C.
        weight: (K, all C, 3, 3) of that dtype; there is at least one channel.
        scale: (K) of that dtype.
        shift: (K) of that dtype.
        rate: pixels between taps, from 1 on.
        padding: zeros around the picture, from 0 on; `rate` keeps the size.
        relu: whether negative results become 0.

    Returns:
        (B, H + 2 · (padding - rate), W + 2 · (padding - rate), K) float, contiguous.

    Raises:
        ShapeError: the shapes disagree, or the picture is smaller than the taps.
        DtypeError: the maps are not floating point, or the tensors are of several dtypes.
        ParameterError: `rate` or `padding` is out of range.
        BackendError: a backend that was asked for by name cannot run.

    Convention:
        Rounding differs from that of the plain sum, and is about twice as large.

    Source:
        A. Lavin, S. Gray: Fast Algorithms for Convolutional Neural Networks, CVPR 2016, with the
        points 0, ±√½, ±√2 and ∞.

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> x, y, w = torch.ones(1, 9, 7, 8), torch.ones(1, 9, 7, 2), torch.ones(4, 10, 3, 3)
        >>> ops.conv3x3([x, y], w, torch.ones(4), torch.zeros(4))[0, 1, 1].round()
        tensor([90., 90., 90., 90.])
    """
    _check_maps(maps)
    channels = sum(x.shape[3] for x in maps)
    if channels < 1 or weight.ndim != 4 or weight.shape[1:] != (channels, 3, 3):
        raise ShapeError(
            f"maps, weight: expected at least one channel, and (K, {channels}, 3, 3) for maps "
            f"{[tuple(x.shape) for x in maps]}, got {tuple(weight.shape)}"
        )
    if scale.shape != weight.shape[:1] or shift.shape != weight.shape[:1]:
        raise ShapeError(
            f"scale, shift: expected ({weight.shape[0]},) each, got {tuple(scale.shape)} and "
            f"{tuple(shift.shape)}"
        )
    if any(x.dtype != maps[0].dtype for x in (weight, scale, shift)):
        raise DtypeError(
            f"weight, scale, shift: expected {maps[0].dtype} as the maps, got {weight.dtype}, "
            f"{scale.dtype} and {shift.dtype}"
        )
    if not (1 <= rate < _FARTHEST and 0 <= padding < _FARTHEST):
        raise ParameterError(
            f"rate, padding: expected from 1 and from 0 on, to {_FARTHEST - 1}, got {rate} and "
            f"{padding}"
        )
    if min(maps[0].shape[1:3]) + 2 * (padding - rate) < 1:
        raise ShapeError(
            f"maps: a 3x3 kernel of rate {rate} with padding {padding} does not fit into "
            f"{tuple(maps[0].shape)}"
        )
    if is_decomposed():
        return _torch(maps, weight, scale, shift, rate, padding, relu)
    out: Tensor = _conv3x3(list(maps), weight, scale, shift, rate, padding, relu, chosen_backend())
    return out


def _check_maps(maps: Sequence[Tensor]) -> None:
    if isinstance(maps, Tensor) or not maps:
        raise ShapeError("maps: expected a sequence of at least one; a single map is [x]")
    if any(x.ndim != 4 or x.shape[:3] != maps[0].shape[:3] for x in maps):
        raise ShapeError(
            f"maps: expected (B, H, W, C) each, with one B, H and W, got "
            f"{[tuple(x.shape) for x in maps]}"
        )
    if not maps[0].is_floating_point() or any(x.dtype != maps[0].dtype for x in maps):
        raise DtypeError(f"maps: expected one floating-point dtype, got {[x.dtype for x in maps]}")


def _stacked(maps: Sequence[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.cat(list(maps), dim=-1)


def _convolution(maps: Sequence[Tensor], weight: Tensor, rate: int, padding: int) -> Tensor:
    picture = _stacked(maps).permute(0, 3, 1, 2)
    return F.conv2d(picture, weight, padding=padding, dilation=rate).permute(0, 2, 3, 1)


def _torch(
    maps: Sequence[Tensor],
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    rate: int,
    padding: int,
    relu: bool,
) -> Tensor:
    out = _convolution(maps, weight, rate, padding) * scale + shift
    return (out.relu() if relu else out).contiguous()


def _reference(
    maps: Sequence[Tensor],
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    rate: int,
    padding: int,
    relu: bool,
) -> Tensor:
    return reference.conv3x3(maps, weight, scale, shift, rate=rate, padding=padding, relu=relu)


def _rust(
    maps: Sequence[Tensor],
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    rate: int,
    padding: int,
    relu: bool,
) -> Tensor:
    out = _empty(maps, weight, rate, padding)
    batch, height, width, _ = maps[0].shape
    engine.conv3x3(
        [(flat(x), x.shape[3]) for x in maps],
        flats([weight, scale, shift]),
        (batch, height, width, weight.shape[0]),
        flat(out),
        rate=rate,
        padding=padding,
        relu=relu,
    )
    return out


def _empty(maps: Sequence[Tensor], weight: Tensor, rate: int, padding: int) -> Tensor:
    batch, height, width, _ = maps[0].shape
    more = 2 * (padding - rate)
    return maps[0].new_empty(batch, height + more, width + more, weight.shape[0])


_FORWARD = {"reference": _reference, "torch": _torch, "rust": _rust}


@operation(_FORWARD)
def _conv3x3(
    maps: Sequence[Tensor],
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    rate: int,
    padding: int,
    relu: bool,
    backend: str,
) -> Tensor:
    return _empty(maps, weight, rate, padding)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    maps, weight, scale, shift, ctx.rate, ctx.padding, ctx.relu, _ = inputs
    ctx.save_for_backward(weight, scale, shift, *maps)


def _backward(ctx: Any, grad: Tensor) -> Any:
    """The gradients by PyTorch's operators, whatever the backend."""
    weight, scale, shift, *maps = ctx.saved_tensors
    inner = _convolution(maps, weight, ctx.rate, ctx.padding)
    if ctx.relu:
        grad = grad * (inner * scale + shift > 0)
    d_maps, d_weight, _ = torch.ops.aten.convolution_backward(
        (grad * scale).permute(0, 3, 1, 2),
        _stacked(maps).permute(0, 3, 1, 2),
        weight,
        None,
        [1, 1],
        [ctx.padding] * 2,
        [ctx.rate] * 2,
        False,
        [0, 0],
        1,
        [True, True, False],
    )
    each = d_maps.permute(0, 2, 3, 1).split([x.shape[3] for x in maps], dim=-1)
    everywhere = (0, 1, 2)
    d_scale, d_shift = (grad * inner).sum(everywhere), grad.sum(everywhere)
    return list(each), d_weight, d_scale, d_shift, None, None, None, None


_conv3x3.register_autograd(_backward, setup_context=_setup_context)
