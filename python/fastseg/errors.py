"""Every error that fastseg raises on purpose.

Each also derives from the built-in that a caller would guess, so `except ValueError` keeps working.
"""


class FastsegError(Exception):
    """Base of all errors that fastseg raises on purpose."""


class ShapeError(FastsegError, ValueError):
    """An array has the wrong number of axes, or two arrays disagree in size."""


class DtypeError(FastsegError, TypeError):
    """An array's dtype, or an argument's type, is one that the operation does not take."""


class DataError(FastsegError, ValueError):
    """Values are unusable: NaN, infinite, negative probabilities, features out of range."""


class LabelError(FastsegError, ValueError):
    """A label lies outside the range of classes."""


class ParameterError(FastsegError, ValueError):
    """A parameter (a sigma, a weight, a count, a name) is out of its range."""


class BackendError(FastsegError, RuntimeError):
    """A backend was asked for by name and cannot run here."""


class CheckpointError(FastsegError, ValueError):
    """A checkpoint does not fit the model, or is not one that fastseg knows."""
