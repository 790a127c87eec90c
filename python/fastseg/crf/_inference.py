"""Mean-field inference: the one place that runs it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from numpy.typing import NDArray

from fastseg import _rust
from fastseg._checks import number
from fastseg.crf import _memory
from fastseg.crf._kernels import Compatibility
from fastseg.crf._unary import Unary
from fastseg.errors import DtypeError

Progress: TypeAlias = Callable[[int, int], object]
Kernels: TypeAlias = Sequence[tuple[_rust.Kernel, Compatibility]]


def infer(
    unary: Unary,
    kernels: Kernels,
    *,
    iterations: int,
    tolerance: float | None = None,
    progress: Progress | None = None,
    labels: bool = False,
    workspace: _rust.Workspace,
) -> tuple[NDArray[Any], int]:
    """Runs mean-field updates from softmax(−U).

    Returns:
        (K, N) float32 probabilities, or (N,) labels, uint8 up to 256 of them and uint16 above; and
        the number of updates done.

    Raises:
        DataError: a value of the unary term cannot be used.
    """
    try:
        result, done, _ = _rust.infer(
            unary.values,
            unary.shape,
            clip=unary.clip,
            kernels=kernels,
            iterations=iterations,
            tolerance=tolerance,
            labels=labels,
            progress=progress,
            workspace=workspace,
        )
    except ValueError as error:
        match error.args:
            case ("unary value", label, point, _):
                raise unary.error(label, point) from None
        raise
    return result, done


def tolerance_value(tolerance: Any) -> float | None:
    """`tolerance` as a float that is not negative; None stays None."""
    return None if tolerance is None else number("tolerance", tolerance, least=0)


def progress_callback(progress: Any) -> Progress | None:
    """`progress` if it can be called; None stays None."""
    if progress is not None and not callable(progress):
        raise DtypeError(f"progress must be callable, got {type(progress).__name__}")
    return progress  # type: ignore[no-any-return]  # its parameters show when it is called


def require_memory(num_labels: int, shape: Sequence[int], result_bytes: int = 0) -> None:
    """Refuses early what would not fit: scores, Q, the corners and weights of two lattices.

    Args:
        num_labels: K.
        shape: the shape of the points of one image.
        result_bytes: what is needed beyond one image, for the results of a batch.

    Raises:
        MemoryError: it needs more than is available.
    """
    points = 1
    for size in shape:
        points *= int(size)
    what = f"inference over {'×'.join(map(str, shape))} points and {num_labels} labels"
    if result_bytes:
        what += " for each item of the batch"
    _memory.require(points * (8 * num_labels + 80) + result_bytes, what)
