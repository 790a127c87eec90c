"""Models from files of this and other libraries.

Example:
    >>> import fastseg, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastseg.create_model("segformer_b0", num_classes=2).save_pretrained(folder)
    ...     model = fastseg.load(folder)
    >>> model.config["name"]
    'segformer_b0'
"""

from fastseg.checkpoints.load import load

__all__ = ["load"]
