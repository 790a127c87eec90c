"""Models as ONNX graphs."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from fastseg.errors import BackendError, ParameterError
from fastseg.models._base import SegmentationModel
from fastseg.ops import decomposed, upsample_argmax

OPSET = 18


class _Traced(nn.Module):
    """What goes into the graph."""

    def __init__(self, model: SegmentationModel, argmax: bool) -> None:
        super().__init__()
        self.model = model
        self.argmax = argmax

    def forward(self, image: Tensor) -> Tensor:
        if not self.argmax:
            logits: Tensor = self.model(image)
            return logits
        size = image.shape[-2:]
        corners = self.model.align_corners
        return upsample_argmax(self.model.native_logits(image), size, align_corners=corners)


def export_onnx(
    model: SegmentationModel,
    path: str | Path,
    *,
    size: tuple[int, int] = (512, 512),
    dynamic: bool = True,
    argmax: bool = False,
    opset: int = OPSET,
) -> Path:
    """Writes a model as an ONNX graph of standard operators, in evaluation mode.

    SegFormer's decoder stays folded: each stage is projected at its own resolution, and the graph
    has no concatenation. Input `image` is (B, C, H, W); output `logits` (B, K, H, W), or `labels`
    (B, H, W) int64 with `argmax`.

    Args:
        model: any model of `fastseg.create_model`, on the CPU.
        path: the file to write.
        size: (H, W) that the model is traced with.
        dynamic: whether the graph takes any batch, height and width, or those traced alone.
        argmax: whether the graph enlarges the logits and picks the class, too.
        opset: version of ONNX' operators, from 17 on.

    Returns:
        The file.

    Raises:
        ParameterError: `opset` is too old, or the model is in a state that cannot be exported.
        BackendError: onnx or onnxscript is not installed.

    Example:
        >>> import fastseg, tempfile
        >>> from pathlib import Path
        >>> model = fastseg.create_model("segformer_b0", num_classes=2)
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
        ...     fastseg.models.export_onnx(model, Path(folder) / "model.onnx")
    """
    if opset < 17:
        raise ParameterError(f"opset: expected 17 or more, got {opset}")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BackendError(
            f"export_onnx needs {error.name}: pip install 'fastseg-rs[export]'"
        ) from None
    weights = next(model.parameters())
    # Two pictures: a batch of one would be taken for a constant.
    image = torch.zeros(2, model.in_channels, *size, dtype=weights.dtype, device=weights.device)
    axis = torch.export.Dim.DYNAMIC
    shapes = {"image": {0: axis, 2: axis, 3: axis}} if dynamic else None
    training = model.training
    traced = _Traced(model, argmax).eval()
    target = Path(path)
    try:
        with (
            decomposed(),
            torch.no_grad(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            # The exporter warns of its own future.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                traced,
                (image,),
                dynamo=True,
                input_names=["image"],
                output_names=["labels" if argmax else "logits"],
                dynamic_shapes=shapes,
                opset_version=opset,
                verbose=False,
            )
    finally:
        model.train(training)
    assert program is not None  # without a path, the exporter returns the program
    program.save(target)
    return target
