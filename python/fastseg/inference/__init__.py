"""From pictures to label maps: preprocessing, whole pictures or windows, flips and scales.

Example:
    >>> import numpy as np
    >>> from fastseg import inference
    >>> picture = np.zeros((6, 8, 3), np.uint8)
    >>> inference.predict(lambda batch: batch, picture).shape
    (6, 8)
"""

from fastseg.inference.predict import predict
from fastseg.inference.preprocessing import Preprocessing

__all__ = ["Preprocessing", "predict"]
