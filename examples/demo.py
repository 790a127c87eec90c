"""Refine the mask of a lemur and write a before/after picture: `make demo`.

The photograph comes with its true matte. From the matte the demo makes what a segmentation
network with an output stride of 16 and little certainty would give: the share of foreground in
every 16 × 16 block, as logits, plus noise with a standard deviation of 2, enlarged to full size.
`fastseg.crf.refine` with its default parameters then finds the outline in the photograph.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import fastseg
from fastseg import crf, labelmaps

HERE = Path(__file__).resolve().parent
STRIDE = 16
NOISE = 2.0
BAND = 16

# The detail shown enlarged: x, y, width, height in pixels.
DETAIL = (150, 172, 136, 88)
PAPER, INK = (250, 250, 248), (32, 33, 36)
FADED = (86, 104, 132)
OUTLINE = (255, 92, 38)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=HERE / "out", help="folder")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    arguments = parser.parse_args()

    photo = np.asarray(Image.open(HERE / "lemur.png").convert("RGB"))
    matte = np.asarray(Image.open(HERE / "lemur_matte.png")).astype(np.float32) / 255
    truth = matte >= 0.5
    coarse = coarse_probabilities(truth, seed=arguments.seed)

    began = time.perf_counter()
    refined = crf.refine(coarse, photo)
    seconds = time.perf_counter() - began

    before, after = coarse > 0.5, refined > 0.5
    near = band(truth, BAND)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "before_after.png"
    page = before_after(
        photo,
        [
            ("The photograph", None),
            (f"Before: a coarse map, IoU {iou(before, truth):.3f}", coarse),
            (f"After fastseg: {1000 * seconds:.0f} ms, IoU {iou(after, truth):.3f}", refined),
            ("The true matte", matte),
        ],
    )
    page.save(path)

    height, width = truth.shape
    threads = fastseg.get_num_threads()
    print(f"photograph        {width} × {height}, CC0 by Mathias Appel (examples/README.md)")
    print(f"probability map   true mask in {STRIDE} × {STRIDE} blocks, noise of σ = {NOISE:g} on")
    print(f"                  the logits, seed {arguments.seed}; enlarged to full size")
    print(
        f"refined           in {1000 * seconds:.0f} ms on {threads} "
        f"{'thread' if threads == 1 else 'threads'}, default parameters"
    )
    print()
    print(f"{'':46}before    after")
    print(
        f"{'intersection over union with the true matte':46}{iou(before, truth):6.4f}   "
        f"{iou(after, truth):6.4f}"
    )
    print(
        f"{f'wrong pixels within {BAND} px of the outline':46}{wrong(before, truth, near):6.2%}   "
        f"{wrong(after, truth, near):6.2%}"
    )
    print()
    print(
        "A sharp animal before a blurred background is an easy picture, and the noise is made up:"
    )
    print("on the scores of a good network, expect gains of about a point of IoU or less.")
    print()
    print(f"picture           {_short(path)}")
    return 0


def coarse_probabilities(truth: np.ndarray, *, seed: int) -> np.ndarray:
    """Make the foreground probability (H, W) that a coarse, unsure network would give."""
    height, width = truth.shape
    rows, columns = -(-height // STRIDE), -(-width // STRIDE)
    padded = np.pad(
        truth.astype(np.float32),
        ((0, rows * STRIDE - height), (0, columns * STRIDE - width)),
        mode="edge",
    )
    share = padded.reshape(rows, STRIDE, columns, STRIDE).mean(axis=(1, 3)).clip(0.05, 0.95)
    rng = np.random.default_rng(seed)
    logits = np.log(share / (1 - share)) + NOISE * rng.standard_normal(share.shape)
    enlarged = Image.fromarray(logits.astype(np.float32)).resize(
        (columns * STRIDE, rows * STRIDE), Image.Resampling.BICUBIC
    )
    return 1 / (1 + np.exp(-np.asarray(enlarged)[:height, :width]))


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


def wrong(mask: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    return float((mask != truth)[where].mean())


def band(truth: np.ndarray, width: int) -> np.ndarray:
    """Mark the pixels within `width` steps of the outline."""
    marked = labelmaps.contours(truth)
    for _ in range(width):
        grown = marked.copy()
        grown[1:] |= marked[:-1]
        grown[:-1] |= marked[1:]
        grown[:, 1:] |= marked[:, :-1]
        grown[:, :-1] |= marked[:, 1:]
        marked = grown
    return marked


def before_after(photo: np.ndarray, panels: list[tuple[str, np.ndarray | None]]) -> Image.Image:
    """Lay out the panels side by side, with an enlarged detail below each."""
    height, width = photo.shape[:2]
    x, y, detail_width, detail_height = DETAIL
    zoom = width // detail_width
    gap, strip = 14, 48
    face = _font(30)
    page = Image.new(
        "RGB",
        (
            len(panels) * width + (len(panels) + 1) * gap,
            strip + height + gap + zoom * detail_height + gap,
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(page)
    for i, (caption, probability) in enumerate(panels):
        left = gap + i * (width + gap)
        draw.text((left, 7), caption, fill=INK, font=face)
        full = Image.fromarray(cut_out(photo, probability, line=2))
        frame = ImageDraw.Draw(full)
        frame.rectangle((x, y, x + detail_width, y + detail_height), outline=PAPER, width=2)
        page.paste(full, (left, strip))
        part = np.s_[y : y + detail_height, x : x + detail_width]
        size = (zoom * detail_width, zoom * detail_height)
        crop = np.asarray(Image.fromarray(photo[part]).resize(size, Image.Resampling.BICUBIC))
        large = None
        if probability is not None:
            large = np.asarray(
                Image.fromarray(probability[part].astype(np.float32)).resize(
                    size, Image.Resampling.BICUBIC
                )
            )
        page.paste(Image.fromarray(cut_out(crop, large, line=3)), (left, strip + height + gap))
    return page


def cut_out(photo: np.ndarray, probability: np.ndarray | None, *, line: int) -> np.ndarray:
    """Fade what is improbable to a greyish blue, and draw the line of one half."""
    if probability is None:
        return photo.copy()
    p = probability.clip(0, 1)[..., np.newaxis]
    grey = photo.mean(axis=2, keepdims=True)
    faded = 0.25 * grey + 0.75 * np.array(FADED)
    mixed = np.rint(p * photo + (1 - p) * faded).astype(np.uint8)
    mixed[labelmaps.contours(probability > 0.5, width=line)] = OUTLINE
    return mixed


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    # Pillow before 10.1 has one small font only.
    except TypeError:
        return ImageFont.load_default()


def _short(path: Path) -> Path:
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path.resolve()


if __name__ == "__main__":
    sys.exit(main())
