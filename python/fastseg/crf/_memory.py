"""Refusing early what would not fit the memory."""

from pathlib import Path

_GIB = 1 << 30

# Of each version of Linux's control groups, which bound a container: the limit, what is used, and
# how the page cache, which can be dropped, is called among the details.
_CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


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


def available() -> int | None:
    """Bytes of memory that can be had without swapping; None where that is not known."""
    known = [free for free in (_of_machine(), *map(_of_group, _CONTROL_GROUPS)) if free is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    kibibytes = _entry(Path("/proc/meminfo"), "MemAvailable:")
    return None if kibibytes is None else kibibytes << 10


def _of_group(group: tuple[str, str, str]) -> int | None:
    limit_file, usage_name, cache_name = group
    folder = Path(limit_file).parent
    try:
        limit = int(Path(limit_file).read_text())
        used = int((folder / usage_name).read_text())
    except (OSError, ValueError):  # no such group, or the limit is "max"
        return None
    cached = _entry(folder / "memory.stat", cache_name) or 0
    return max(limit - used + cached, 0)


def _entry(file: Path, name: str) -> int | None:
    """The number that follows `name` in a file of names and numbers."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), None)
