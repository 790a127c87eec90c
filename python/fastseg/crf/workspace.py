"""What is kept between calls: large arrays, and the spatial lattices of the last image sizes."""

from typing import NamedTuple

from fastseg import _rust
from fastseg._checks import integer
from fastseg.errors import DtypeError


class Workspace:
    """Keeps the large arrays of one call for the next, so that their memory is mapped only once.

    At image size the system's work of mapping fresh memory costs as much as an iteration or two.
    Large results are taken from it too, and come back to it when the last array over them is gone.
    Calls without a workspace share one of 768 MiB; pass your own to keep more, or none.
    It may be used from several threads at once.

    Args:
        limit: bytes, the most that is kept while not in use.

    Raises:
        DtypeError: `limit` is not an integer.
        ParameterError: `limit` is negative.

    Example:
        >>> from fastseg import crf
        >>> workspace = crf.Workspace(limit=1 << 30)
        >>> workspace.nbytes
        0
    """

    def __init__(self, limit: int = 1 << 30) -> None:
        self._rust = _rust.Workspace(integer("limit", limit, least=0))

    @property
    def nbytes(self) -> int:
        """Bytes that are kept and not in use."""
        return self._rust.nbytes

    @property
    def limit(self) -> int:
        """The most bytes that are kept while not in use."""
        return self._rust.limit

    def clear(self) -> None:
        """Gives all memory that is not in use back to the system."""
        self._rust.clear()

    def __repr__(self) -> str:
        return f"Workspace(limit={self.limit}, nbytes={self.nbytes})"


_SHARED = Workspace(limit=768 << 20)


def engine_workspace(workspace: Workspace | None) -> _rust.Workspace:
    """What the engine uses of `workspace`, or of the one that calls share."""
    if workspace is None:
        return _SHARED._rust
    if not isinstance(workspace, Workspace):
        raise DtypeError(
            f"workspace must be a fastseg.crf.Workspace, got {type(workspace).__name__}"
        )
    return workspace._rust


class CacheInfo(NamedTuple):
    """How much the cache of spatial lattices holds, and may hold.

    Attributes:
        nbytes: bytes that it holds.
        limit: bytes that it may hold.
    """

    nbytes: int
    limit: int


def cache_info() -> CacheInfo:
    """How much the cache of spatial lattices holds, and may hold.

    Returns:
        `nbytes` and `limit`, in bytes.

    Example:
        >>> from fastseg import crf
        >>> crf.set_cache_limit(64 << 20)
        >>> crf.cache_info().limit
        67108864
    """
    return CacheInfo(_rust.kernel_cache_bytes(), _rust.kernel_cache_limit())


def set_cache_limit(nbytes: int) -> None:
    """Bounds the cache of spatial lattices, which depend on the image's size and sigma alone.

    Those used longest ago are dropped first; 0 turns the cache off. The default is 128 MiB.

    Args:
        nbytes: bytes, the most that the cache may hold.

    Raises:
        DtypeError: `nbytes` is not an integer.
        ParameterError: `nbytes` is negative.

    Example:
        >>> from fastseg import crf
        >>> crf.set_cache_limit(128 << 20)
    """
    _rust.set_kernel_cache_limit(integer("nbytes", nbytes, least=0))


def clear_cache() -> None:
    """Drops all spatial lattices, and the memory kept by the workspace that calls share.

    Example:
        >>> from fastseg import crf
        >>> crf.clear_cache()
        >>> crf.cache_info().nbytes
        0
    """
    limit = _rust.kernel_cache_limit()
    _rust.set_kernel_cache_limit(0)
    _rust.set_kernel_cache_limit(limit)
    _SHARED.clear()
