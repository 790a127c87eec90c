"""ONNX graphs against the model they were made from, in onnxruntime."""

import numpy as np
import pytest
import torch

import fastseg
from fastseg.errors import ParameterError
from references import hugging_face_segformer

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def model():
    model = fastseg.create_model(
        "segformer_b0",
        num_classes=5,
        widths=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 3, 4],
        decoder_width=24,
    )
    return hugging_face_segformer.randomised(model).eval()


def run(path, image):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image.numpy()})[0]


@pytest.mark.filterwarnings("ignore")
def test_logits_and_labels_of_any_size(model, tmp_path) -> None:
    logits = fastseg.models.export_onnx(model, tmp_path / "logits.onnx", size=(64, 96))
    labels = fastseg.models.export_onnx(model, tmp_path / "labels.onnx", size=(64, 96), argmax=True)
    graph = onnx.load(logits).graph
    kinds = [node.op_type for node in graph.node]
    # The fold is kept: nothing is concatenated but sizes, and each stage is projected alone.
    wide = [n for n in graph.node if n.op_type == "Concat" and "cat" in n.name and "up" in n.name]
    assert not wide
    assert "Resize" in kinds
    for size in [(64, 96), (61, 130), (33, 29)]:
        image = torch.randn(1, 3, *size)
        with torch.inference_mode():
            expected = model(image)
        np.testing.assert_allclose(run(logits, image), expected, rtol=0, atol=2e-4)
        found = run(labels, image)
        assert found.shape == (1, *size)
        assert (found == expected.argmax(1).numpy()).mean() > 0.999


def test_old_opsets_are_refused(model, tmp_path) -> None:
    with pytest.raises(ParameterError, match="17 or more"):
        fastseg.models.export_onnx(model, tmp_path / "model.onnx", opset=16)
