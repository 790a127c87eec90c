"""Refusing early what would not fit the memory."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GIB = 1 << 30


def available() -> int | None:
    """Bytes of memory that can be had without swapping; None where that is not known."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def require(nbytes: int, what: str) -> None:
    """Raises MemoryError if `nbytes` are not available.

    Args:
        nbytes: what will be needed, about.
        what: what it is needed for.

    Raises:
        MemoryError: with both numbers and a remedy.
    """
    if nbytes < _GIB // 4:  # reading the amount would cost more than it saves
        return
    free = available()
    if free is not None and nbytes > free:
        raise MemoryError(
            f"{what} would need about {nbytes / _GIB:.1f} GiB of memory, and {free / _GIB:.1f} GiB "
            "are available: work on tiles or on a smaller image"
        )
