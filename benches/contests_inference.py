"""From picture to label map, and transformers' own models accelerated, against transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from contests import Case, Contender, Contest, DisagreementError, close

CLASSES = 150
SIZES = {
    "b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
}
NEEDS = ("torch", "torchvision", "transformers")
TOLERANCE = 1e-4
# Where two classes are level, rounding decides.
SAME_LABEL = 0.999


@cache
def theirs(size: str) -> Any:
    """Build transformers' model with random weights and statistics."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    widths, depths, decoder = SIZES[size]
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=widths, depths=depths, decoder_hidden_size=decoder, num_labels=CLASSES
    )
    model = SegformerForSemanticSegmentation(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            # With transformers' own random weights every pixel would get one label.
            torch.nn.init.normal_(parameter, std=0.05)
    norm = model.decode_head.batch_norm
    norm.running_mean.normal_(0, 0.5)
    norm.running_var.uniform_(0.5, 2)
    return model.eval()


@cache
def accelerated(size: str) -> Any:
    """Build the same, accelerated."""
    import copy

    import fastseg

    return fastseg.accelerate(copy.deepcopy(theirs(size)))


@cache
def ours(size: str) -> Any:
    """Build fastseg's model with the same weights and the same preprocessing."""
    import fastseg

    with tempfile.TemporaryDirectory() as folder:
        theirs(size).save_pretrained(folder)
        processor().save_pretrained(folder)
        return fastseg.load(folder)


@cache
def processor() -> Any:
    """Build transformers' image processor: 512×512, torchvision."""
    from transformers import SegformerImageProcessor

    return SegformerImageProcessor()


def photographs(height: int, width: int) -> Callable[[], Iterator[Case]]:
    """Make a smooth picture with some noise; times do not depend on what it shows."""

    def cases() -> Iterator[Case]:
        from PIL import Image

        random = np.random.default_rng(0)
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = random.integers(-8, 9, (height, width, 3))
        picture = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
        yield Case(f"noise over blobs, {height}×{width}", (picture,))

    return cases


def noise(*shape: int) -> Callable[[], Iterator[Case]]:
    """Make a normalised picture of noise."""

    def cases() -> Iterator[Case]:
        yield Case("noise", (np.random.default_rng(0).standard_normal(shape, dtype=np.float32),))

    return cases


def their_labels(model: Any, picture: np.ndarray) -> np.ndarray:
    """Do what transformers' users write: processor, model, post-processing at full size."""
    import torch

    with torch.inference_mode():
        outputs = model(**processor()(picture, return_tensors="pt"))
        (labels,) = processor().post_process_semantic_segmentation(outputs, [picture.shape[:2]])
    return labels.numpy()


def our_labels(model: Any, picture: np.ndarray) -> np.ndarray:
    """Predict with fastseg."""
    import fastseg

    return fastseg.predict(model, picture)


def nearly_the_same(found: Any, expected: Any) -> None:
    """Demand the same label nearly everywhere, and more than one label."""
    share = float(np.mean(found == expected))
    if share < SAME_LABEL or len(np.unique(expected)) < 2:
        raise DisagreementError(f"{share:.3%} of the labels agree")


def predicting(
    size: str, name: str, model: Callable[[str], Any], shape: tuple[int, int]
) -> Contest:
    """Compare picture to label map at full size."""
    return Contest(
        name=name,
        cases=photographs(*shape),
        ours=Contender(
            "fastseg", our_labels, prepare=lambda picture: (model(size), picture), requires=NEEDS
        ),
        rivals=(
            Contender(
                "transformers",
                their_labels,
                prepare=lambda picture: (theirs(size), picture),
                requires=NEEDS,
            ),
        ),
        agree=nearly_the_same,
    )


def logits(model: Any, image: Any) -> Any:
    """Run a model of transformers without recording for gradients."""
    import torch

    with torch.inference_mode():
        return model(image).logits


def accelerating(size: str) -> Contest:
    """Compare one model of transformers before and after `accelerate`."""

    def contender(name: str, model: Callable[[str], Any]) -> Contender:
        def prepare(image: np.ndarray) -> tuple[Any, ...]:
            import torch

            return model(size), torch.from_numpy(image)

        return Contender(name, logits, prepare=prepare, requires=NEEDS)

    return Contest(
        name=f"accelerate_{size}_512_c150",
        cases=noise(1, 3, 512, 512),
        ours=contender("fastseg", accelerated),
        rivals=(contender("transformers", theirs),),
        agree=close(TOLERANCE),
    )


CONTESTS = [
    predicting("b0", "predict_b0_683x1024_c150", ours, (683, 1024)),
    predicting("b0", "predict_b0_1536x2048_c150", ours, (1536, 2048)),
    predicting("b0", "predict_accelerated_b0_683x1024_c150", accelerated, (683, 1024)),
    accelerating("b0"),
    accelerating("b2"),
]
