from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Kernel",
    "Lattice",
    "free_energy",
    "infer",
    "messages",
    "update",
    "border_reach",
    "border_weights",
    "boundary_counts",
    "connected_components",
    "near_boundary",
    "small_regions",
    "surface_distances",
    "distance_transform",
    "nearest_features",
    "squared_distance_transform",
    "jaccard_slopes",
    "Workspace",
    "kernel_cache_bytes",
    "kernel_cache_limit",
    "set_kernel_cache_limit",
    "conv3x3",
    "depthwise_conv_gelu",
    "depthwise_conv_gelu_backward",
    "folded_decoder",
    "sequence_reduced_attention",
    "sequence_reduced_attention_backward",
    "upsample_cross_entropy",
    "upsample_sum",
    "upsample_sum_backward",
    "upsample_argmax",
    "upsample_confusion",
    "upsample_top_k",
    "confusion_matrix",
    "build_info",
    "num_threads",
    "set_num_threads",
    "MAX_THREADS",
    "MAX_CLASSES",
]

_F32: TypeAlias = NDArray[np.float32]
_F64: TypeAlias = NDArray[np.float64]
_U8: TypeAlias = NDArray[np.uint8]
_Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
_Labels: TypeAlias = NDArray[np.unsignedinteger[Any]] | NDArray[np.signedinteger[Any]]
_Normalization: TypeAlias = Literal["none", "before", "after", "symmetric"]
_Kernels: TypeAlias = Sequence[tuple[Kernel, float | _F32]]

MAX_THREADS: Final[int]
MAX_CLASSES: Final[int]

def build_info() -> dict[str, Any]: ...
def num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def kernel_cache_bytes() -> int: ...
def kernel_cache_limit() -> int: ...
def set_kernel_cache_limit(limit: int) -> None: ...
def distance_transform(mask: _U8, shape: Sequence[int], spacing: Sequence[float]) -> _F32: ...
def squared_distance_transform(
    mask: _U8, shape: Sequence[int], spacing: Sequence[float]
) -> NDArray[np.int32] | NDArray[np.int64]: ...
def nearest_features(
    mask: _U8, shape: Sequence[int], spacing: Sequence[float]
) -> NDArray[np.int32]: ...
def surface_distances(
    pred: _Labels,
    target: _Labels,
    shape: Sequence[int],
    spacing: Sequence[float],
    *,
    labels: Sequence[int],
    count: int,
    ignored: int | None,
    cells: bool,
    weights: NDArray[np.float64],
) -> list[tuple[_F64, _F64, _F64, _F64]]: ...
def near_boundary(labels: _Labels, width: int, depth: int, edge: bool) -> _U8: ...
def boundary_counts(
    pred: _Labels,
    target: _Labels,
    width: int,
    depth: int,
    *,
    count: int,
    ignored: int | None,
) -> NDArray[np.int64]: ...
def border_reach(w0: float, sigma: float) -> int: ...
def border_weights(
    cells: NDArray[np.uint16] | NDArray[np.uint32],
    width: int,
    *,
    w0: float,
    sigma: float,
    class_weights: Sequence[float],
    everywhere: bool,
) -> _F32: ...
def connected_components(
    values: _Labels, shape: Sequence[int], background: int | None, connectivity: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]: ...
def small_regions(
    values: _Labels, shape: Sequence[int], background: int | None, connectivity: int, least: int
) -> _U8: ...

@final
class Workspace:
    def __new__(cls, limit: int) -> Workspace: ...
    @property
    def nbytes(self) -> int: ...
    limit: int
    def clear(self) -> None: ...

@final
class Lattice:
    def __new__(cls, features: _F32, shape: Sequence[int], workspace: Workspace) -> Lattice: ...
    def filter(self, values: _F32, transpose: bool) -> _F32: ...
    @property
    def dimension(self) -> int: ...
    @property
    def num_points(self) -> int: ...
    @property
    def num_vertices(self) -> int: ...

@final
class Kernel:
    @staticmethod
    def spatial(
        shape: Sequence[int],
        sigmas: Sequence[float],
        *,
        normalization: _Normalization,
        workspace: Workspace,
    ) -> Kernel: ...
    @staticmethod
    def bilateral(
        shape: Sequence[int],
        sigmas: Sequence[float],
        image: _Pixels,
        color_sigmas: Sequence[float],
        *,
        normalization: _Normalization,
        workspace: Workspace,
    ) -> Kernel: ...
    @staticmethod
    def features(
        features: _F32,
        shape: Sequence[int],
        *,
        normalization: _Normalization,
        with_origin: bool,
        workspace: Workspace,
    ) -> Kernel: ...
    @property
    def num_points(self) -> int: ...
    @property
    def num_vertices(self) -> int: ...

def infer(
    unary: _F32,
    shape: Sequence[int],
    *,
    clip: float | None,
    kernels: _Kernels,
    iterations: int,
    tolerance: float | None,
    labels: bool,
    progress: Callable[[int, int], object] | None,
    workspace: Workspace,
) -> tuple[NDArray[Any], int, list[float]]: ...
def update(
    unary: _F32, q: _F32, shape: Sequence[int], *, kernels: _Kernels, workspace: Workspace
) -> _F32: ...
def messages(q: _F32, shape: Sequence[int], *, kernels: _Kernels, workspace: Workspace) -> _F32: ...
def free_energy(
    unary: _F32, q: _F32, shape: Sequence[int], *, kernels: _Kernels, workspace: Workspace
) -> float: ...

# (B, K, h, w); 16-bit floats come as their bits.
_Logits: TypeAlias = NDArray[np.float32] | NDArray[np.float64] | NDArray[np.uint16]

_Target: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int32] | NDArray[np.int64]

def upsample_argmax(
    logits: _Logits, *, height: int, width: int, align_corners: bool, brain: bool
) -> NDArray[Any]: ...
def upsample_confusion(
    logits: _Logits,
    target: _Target,
    *,
    align_corners: bool,
    brain: bool,
    ignore_index: int | None,
) -> NDArray[np.int64]: ...
def upsample_top_k(
    logits: _Logits, *, height: int, width: int, align_corners: bool, brain: bool, k: int
) -> tuple[NDArray[Any], _F32]: ...
def confusion_matrix(
    pred: _Labels,
    target: _Labels,
    *,
    classes: int,
    ignore: int | None,
    strict: bool,
    void: bool,
) -> NDArray[np.int64]: ...

# Flat, and written to where the name is `out`, `lse` or begins with `d_`.
_Map: TypeAlias = tuple[int, int, int]
_Shape4: TypeAlias = tuple[int, int, int, int]
_Shape5: TypeAlias = tuple[int, int, int, int, int]

def sequence_reduced_attention(
    query: _F32, key: _F32, value: _F32, shape: _Shape5, out: _F32, lse: _F32
) -> None: ...
def sequence_reduced_attention_backward(
    given: Sequence[_F32], shape: _Shape5, d_query: _F32, d_key: _F32, d_value: _F32
) -> None: ...
def jaccard_slopes(errors: _F32, truth: NDArray[np.bool_], row: int, slopes: _F32) -> None: ...
def conv3x3(
    maps: Sequence[tuple[_F32, int]],
    given: Sequence[_F32],
    shape: _Shape4,
    out: _F32,
    *,
    rate: int,
    padding: int,
    relu: bool,
) -> None: ...
def depthwise_conv_gelu(
    tokens: _F32, weight: _F32, bias: _F32, shape: _Shape4, out: _F32
) -> None: ...
def depthwise_conv_gelu_backward(
    given: Sequence[_F32], shape: _Shape4, d_tokens: _F32, d_weight: _F32, d_bias: _F32
) -> None: ...
def upsample_sum(
    data: Sequence[_F32], shapes: Sequence[_Map], bias: _F32, batch: int, out: _F32
) -> None: ...
def upsample_sum_backward(
    grad: _F32, shape: _Map, batch: int, size: tuple[int, int], out: _F32
) -> None: ...
def folded_decoder(
    features: Sequence[_F32],
    shapes: Sequence[_Map],
    weights: Sequence[_F32],
    matrices: Sequence[_F32],
    batch: int,
    out: _F32,
) -> None: ...
def upsample_cross_entropy(
    logits: _F32,
    target: NDArray[np.int64],
    shape: _Shape4,
    size: tuple[int, int],
    *,
    ignore_index: int,
    align_corners: bool,
    d_logits: _F32,
) -> float: ...
