"""How many threads the Rust engine uses: one pool, shared by everything."""

import operator

from fastseg import _rust
from fastseg.errors import BackendError, DtypeError, ParameterError


def set_num_threads(threads: int) -> None:
    """Sets the number of threads of the one pool that everything in Rust shares.

    Results do not depend on it, bit for bit. Without a call it is the environment variable
    `FASTSEG_NUM_THREADS` (ignored if it is not a number from 1 to 1024), or else the number of
    processors this process may use. A process forked from one that has used the pool starts a
    pool of its own, of the same size.

    Args:
        threads: from 1 to 1024.

    Raises:
        DtypeError: `threads` is not an integer.
        ParameterError: `threads` is out of range.
        BackendError: the system cannot start as many; the pool stays as it was.

    Example:
        >>> import fastseg
        >>> fastseg.set_num_threads(2)
    """
    try:
        if isinstance(threads, bool):
            raise TypeError
        threads = operator.index(threads)
    except TypeError:
        raise DtypeError(f"threads must be an int, got {type(threads).__name__}") from None
    if not 1 <= threads <= _rust.MAX_THREADS:
        raise ParameterError(f"threads must be in 1..{_rust.MAX_THREADS}, got {threads}")
    try:
        _rust.set_num_threads(threads)
    except RuntimeError as error:
        raise BackendError(str(error)) from None


def get_num_threads() -> int:
    """The number of threads of the one pool that everything in Rust shares.

    Example:
        >>> import fastseg
        >>> fastseg.get_num_threads() >= 1
        True
    """
    return _rust.num_threads()
