"""SegFormer against transformers: whole models, the decoder, and a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from contests import Case, Contender, Contest, close

CLASSES = 150
SIZES = {
    "b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
}
# Both sides get the same weights; logits agree to this.
TOLERANCE = 1e-4


@cache
def theirs(size: str) -> Any:
    """transformers' model, with random weights and statistics."""
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    widths, depths, decoder = SIZES[size]
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=widths,
        depths=depths,
        decoder_hidden_size=decoder,
        num_labels=CLASSES,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    model = SegformerForSemanticSegmentation(config)
    norm = model.decode_head.batch_norm
    norm.running_mean.normal_(0, 0.5)
    norm.running_var.uniform_(0.5, 2)
    return model.eval()


@cache
def ours(size: str) -> Any:
    """fastseg's, with the same weights."""
    import tempfile

    import fastseg

    with tempfile.TemporaryDirectory() as folder:
        theirs(size).save_pretrained(folder)
        return fastseg.load(folder)


def picture(*shape: int) -> Callable[[], Iterator[Case]]:
    """Make a case of a normalised picture of noise: times do not depend on what it shows."""

    def cases() -> Iterator[Case]:
        random = np.random.default_rng(0)
        yield Case("noise", (random.standard_normal(shape, dtype=np.float32),))

    return cases


def inferring(run: Callable[..., Any]) -> Callable[..., Any]:
    """Run without recording for gradients."""

    def wrapped(*arguments: Any) -> Any:
        import torch

        with torch.inference_mode():
            return run(*arguments)

    return wrapped


@cache
def compiled(side: str, size: str) -> Any:
    """Compile one side's model."""
    import torch

    if side == "ours":
        return torch.compile(ours(size).native_logits, fullgraph=True)
    # Its first call installs hooks under a lock, which torch.compile cannot trace.
    with torch.inference_mode():
        theirs(size)(torch.zeros(1, 3, 64, 64))
    return torch.compile(theirs(size), fullgraph=True)


def contender(name: str, model: Callable[[], Any], run: Callable[..., Any]) -> Contender:
    """Make a contender that gets its model, built before the clock starts, and a tensor."""

    def prepare(image: np.ndarray) -> tuple[Any, ...]:
        import torch

        return model(), torch.from_numpy(image)

    return Contender(name, run, prepare=prepare, requires=("torch", "transformers"))


def our_eager(size: str) -> Contender:
    """Run fastseg's model."""
    run = inferring(lambda model, x: model.native_logits(x))
    return contender("fastseg", lambda: ours(size), run)


def their_eager(size: str) -> Contender:
    """Run transformers' model."""
    run = inferring(lambda model, x: model(x).logits)
    return contender("transformers", lambda: theirs(size), run)


def their_compiled(size: str) -> Contender:
    """Run transformers' model under torch.compile."""
    run = inferring(lambda model, x: model(x).logits)
    return contender("transformers_compiled", lambda: compiled("theirs", size), run)


def whole(size: str) -> Contest:
    """Compare fastseg in eager mode with transformers, eager and compiled."""
    return Contest(
        name=f"{size}_512_c150",
        cases=picture(1, 3, 512, 512),
        ours=our_eager(size),
        rivals=(their_eager(size), their_compiled(size)),
        agree=close(TOLERANCE),
    )


def large(size: str) -> Contest:
    """Compare time and memory on a larger picture, both in eager mode."""
    return Contest(
        name=f"{size}_1024_c150",
        cases=picture(1, 3, 1024, 1024),
        ours=our_eager(size),
        rivals=(their_eager(size),),
        agree=close(TOLERANCE),
        weighed=("transformers",),
    )


def both_compiled(size: str) -> Contest:
    """Compare both under torch.compile."""
    return Contest(
        name=f"{size}_512_c150_compiled",
        cases=picture(1, 3, 512, 512),
        ours=contender(
            "fastseg", lambda: compiled("ours", size), inferring(lambda model, x: model(x))
        ),
        rivals=(their_compiled(size),),
        agree=close(TOLERANCE),
    )


def decoder(size: str) -> Contest:
    """Compare the decoders alone, each on maps in the memory that its own encoder leaves."""

    def maps(image: np.ndarray) -> list[Any]:
        import torch

        with torch.inference_mode():
            return ours(size).encoder(torch.from_numpy(image))

    return Contest(
        name=f"decoder_{size}_512_c150",
        cases=picture(1, 3, 512, 512),
        ours=Contender(
            "fastseg",
            inferring(lambda maps: ours(size).decoder(maps)),
            prepare=lambda image: (maps(image),),
            requires=("torch", "transformers"),
        ),
        rivals=(
            Contender(
                "transformers",
                inferring(lambda maps: theirs(size).decode_head(maps)),
                prepare=lambda image: ([x.contiguous() for x in maps(image)],),
                requires=("torch", "transformers"),
            ),
        ),
        agree=close(TOLERANCE),
    )


def step(model: Any, loss_of: Callable[..., Any], image: Any) -> float:
    """Forward and backward of one training step; the weights stay."""
    import torch

    model.train()
    target = torch.zeros(image.shape[0], *image.shape[2:], dtype=torch.long)
    loss = loss_of(image, target)
    loss.backward()
    model.zero_grad(set_to_none=True)
    model.eval()
    return float(loss.detach())


def our_step(model: Any, image: Any) -> float:
    """Run fastseg's step."""
    import fastseg

    loss = fastseg.ops.upsample_cross_entropy
    return step(model, lambda x, target: loss(model.native_logits(x), target), image)


def their_step(model: Any, image: Any) -> float:
    """Run transformers' step."""
    return step(model, lambda x, target: model(x, labels=target).loss, image)


TRAINING = Contest(
    name="train_b0_2x256",
    cases=picture(2, 3, 256, 256),
    ours=contender("fastseg", lambda: ours("b0"), our_step),
    rivals=(contender("transformers", lambda: theirs("b0"), their_step),),
    agree=close(1e-3),
)

CONTESTS = [
    whole("b0"),
    whole("b2"),
    both_compiled("b0"),
    both_compiled("b2"),
    large("b2"),
    decoder("b2"),
    TRAINING,
]
