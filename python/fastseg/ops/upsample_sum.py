"""The sum of maps of different sizes, each enlarged to the first's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg._engine import engine, flat, flats
from fastseg.errors import DtypeError, ShapeError
from fastseg.ops import reference
from fastseg.ops._backends import chosen_backend, is_decomposed
from fastseg.ops._operation import operation


def upsample_sum(maps: Sequence[Tensor], bias: Tensor) -> Tensor:
    """Computes `Σ up(x_i) + b`: maps enlarged bilinearly to the size of the first, and summed.

    Args:
        maps: (B, h, w, D) float each, token layout; the first has the size of the result.
        bias: (D) float; converted to the dtype of the maps.

    Returns:
        (B, H, W, D) float, contiguous.

    Raises:
        ShapeError: there are no maps, or they disagree in batch or channels.
        DtypeError: the maps disagree in dtype.
        BackendError: a backend that was asked for by name cannot run.

    Convention:
        Corners are not aligned (`align_corners=False`).

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> maps = [torch.ones(1, 8, 8, 3), torch.ones(1, 4, 4, 3)]
        >>> ops.upsample_sum(maps, torch.zeros(3)).unique()
        tensor([2.])
    """
    maps = list(maps)
    check_maps(maps, "maps")
    if any(tuple(bias.shape) != x.shape[3:] for x in maps):
        raise ShapeError(
            f"maps, bias: expected (B, h, w, D) each and (D,), got "
            f"{[tuple(x.shape) for x in maps]} and {tuple(bias.shape)}"
        )
    bias = bias.to(maps[0].dtype)
    if is_decomposed():
        return reference.upsample_sum(maps, bias)
    out: Tensor = _upsample_sum(maps, bias, chosen_backend())
    return out


def check_maps(maps: list[Tensor], argument: str) -> None:
    """Raises an error unless maps are (B, h, w, C) of one batch size and dtype."""
    if not maps:
        raise ShapeError(f"{argument}: expected at least one map, got none")
    for x in maps:
        if x.ndim != 4 or x.shape[0] != maps[0].shape[0]:
            raise ShapeError(
                f"{argument}: expected (B, h, w, C) each, with one B, got "
                f"{[tuple(x.shape) for x in maps]}"
            )
        if x.dtype != maps[0].dtype or not x.is_floating_point():
            raise DtypeError(
                f"{argument}: expected one floating-point dtype, got {[x.dtype for x in maps]}"
            )


def _torch(maps: Sequence[Tensor], bias: Tensor) -> Tensor:
    size = maps[0].shape[1:3]
    total = maps[0] + bias
    for x in maps[1:]:
        up = F.interpolate(x.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
        total += up.permute(0, 2, 3, 1)
    return total.contiguous()


def _rust(maps: Sequence[Tensor], bias: Tensor) -> Tensor:
    out = maps[0].new_empty(maps[0].shape)
    shapes = map_shapes(maps)
    engine.upsample_sum(flats(list(maps)), shapes, flat(bias), out.shape[0], flat(out))
    return out


def map_shapes(maps: Sequence[Tensor]) -> list[tuple[int, int, int]]:
    """The (h, w, C) of (B, h, w, C) maps."""
    return [(x.shape[1], x.shape[2], x.shape[3]) for x in maps]


def _triton(maps: Sequence[Tensor], bias: Tensor) -> Tensor:
    from fastseg.kernels import upsample_sum as kernels

    return kernels.upsample_sum(maps, bias)


def maps_problem(maps: Sequence[Tensor], *others: Any) -> str | None:
    """What the Triton kernels cannot do with some maps, or None."""
    if len(maps) > 4:
        return f"takes up to four maps, got {len(maps)}"
    if any(x.numel() == 0 for x in maps) and maps[0].numel():
        return f"takes no empty map, got {[tuple(x.shape) for x in maps]}"
    return None


_FORWARD = {
    "reference": reference.upsample_sum,
    "torch": _torch,
    "rust": _rust,
    "triton": _triton,
}


@operation(_FORWARD, problem=maps_problem)
def _upsample_sum(maps: Sequence[Tensor], bias: Tensor, backend: str) -> Tensor:
    return maps[0].new_empty(maps[0].shape)


def _downsample_torch(grad: Tensor, heights: Sequence[int], widths: Sequence[int]) -> list[Tensor]:
    planar = grad.permute(0, 3, 1, 2)
    size = list(grad.shape[1:3])
    results = []
    for height, width in zip(heights, widths, strict=True):
        shape = [grad.shape[0], grad.shape[3], height, width]
        down = torch.ops.aten.upsample_bilinear2d_backward(planar, size, shape, False)
        results.append(down.permute(0, 2, 3, 1).contiguous())
    return results


def _downsample_reference(
    grad: Tensor, heights: Sequence[int], widths: Sequence[int]
) -> list[Tensor]:
    results = []
    for height, width in zip(heights, widths, strict=True):
        rows = _enlarging_matrix(height, grad.shape[1], grad)
        columns = _enlarging_matrix(width, grad.shape[2], grad)
        results.append(torch.einsum("byxc,yh,xw->bhwc", grad, rows, columns).contiguous())
    return results


def _enlarging_matrix(size: int, full: int, like: Tensor) -> Tensor:
    """(full, size): what bilinear enlargement along one axis multiplies with."""
    unit = torch.eye(size, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(unit, size=full, mode="linear", align_corners=False)[0].T


def _downsample_rust(grad: Tensor, heights: Sequence[int], widths: Sequence[int]) -> list[Tensor]:
    (shape,) = map_shapes([grad])
    results = []
    for height, width in zip(heights, widths, strict=True):
        down = grad.new_empty(grad.shape[0], height, width, grad.shape[3])
        engine.upsample_sum_backward(flat(grad), shape, grad.shape[0], (height, width), flat(down))
        results.append(down)
    return results


def _downsample_triton(grad: Tensor, heights: Sequence[int], widths: Sequence[int]) -> list[Tensor]:
    from fastseg.kernels import upsample_sum as kernels

    sizes = zip(heights, widths, strict=True)
    return [kernels.upsample_sum_backward(grad, height, width) for height, width in sizes]


_DOWNSAMPLE = {
    "reference": _downsample_reference,
    "torch": _downsample_torch,
    "rust": _downsample_rust,
    "triton": _downsample_triton,
}


@operation(_DOWNSAMPLE)
def _upsample_sum_backward(
    grad: Tensor, heights: Sequence[int], widths: Sequence[int], backend: str
) -> list[Tensor]:
    batch, channels = grad.shape[0], grad.shape[3]
    return [grad.new_empty(batch, h, w, channels) for h, w in zip(heights, widths, strict=True)]


def downsample(grad: Tensor, shapes: Sequence[Sequence[int]], backend: str) -> list[Tensor]:
    """The transpose of `upsample_sum`: the gradient of each map but the first.

    Args:
        grad: (B, H, W, D) float.
        shapes: of the maps but the first.
        backend: as `use_backend` names it, or "".

    Returns:
        (B, h, w, D) float each.
    """
    if not shapes:
        return []
    results: list[Tensor] = _upsample_sum_backward(
        grad, [shape[1] for shape in shapes], [shape[2] for shape in shapes], backend
    )
    return results


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    maps, _, ctx.backend = inputs
    ctx.shapes = [x.shape for x in maps[1:]]


def _backward(ctx: Any, grad: Tensor) -> Any:
    grad = grad.contiguous()
    return [grad, *downsample(grad, ctx.shapes, ctx.backend)], grad.sum(dim=(0, 1, 2)), None


_upsample_sum.register_autograd(_backward, setup_context=_setup_context)
