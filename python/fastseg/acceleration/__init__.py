"""Faster layers under another library's SegFormer: in place, reversible, same function.

Nothing is replaced but the `forward` of single modules, as an attribute of the instance: classes,
parameters, names and hooks stay what they are, and `restore` deletes the attribute.
"""

from fastseg.acceleration.accelerate import (
    AcceleratedLayer,
    AccelerationReport,
    accelerate,
    acceleration_report,
    restore,
)

__all__ = [
    "AcceleratedLayer",
    "AccelerationReport",
    "accelerate",
    "acceleration_report",
    "restore",
]
