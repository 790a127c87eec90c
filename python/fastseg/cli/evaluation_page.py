"""The page that `fastseg evaluate -o` writes: one HTML file that needs no other."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.cli.confusion_drawing import confusion_svg

SCORE_NAMES = {
    "mean_iou": ("mIoU", "mean IoU of the classes, counted over all images"),
    "mean_dice": ("mean Dice", "mean Dice (F1) of the classes, counted over all images"),
    "pixel_accuracy": ("pixel accuracy", "share of pixels labelled right"),
    "mean_accuracy": ("mean accuracy", "mean recall of the classes in the ground truth"),
    "frequency_weighted_iou": ("weighted IoU", "IoU weighted by how common the classes are"),
    "image_mean_iou": ("image mIoU", "mean over the images of each image's own mean IoU"),
    "class_mean_iou": ("class-wise image mIoU", "mean over classes of the mean over images"),
}
_CARDS = ("mean_iou", "mean_dice", "pixel_accuracy", "image_mean_iou", "frequency_weighted_iou")
_MOST_FAILURES = 200
_MOST_MISTAKES = 12

_STYLE = """
:root { color-scheme: light dark; --paper:#fbfaf7; --card:#fff; --ink:#23252b; --soft:#6d717c;
  --line:#e6e3dc; --bed:#f1efe9; --hit:#1f6f8b; --miss:#d1495b; --warn:#fff4e0;
  --warnline:#e9b44c; }
@media (prefers-color-scheme: dark) { :root { --paper:#16181d; --card:#1e2128; --ink:#e7e6e2;
  --soft:#9a9fab; --line:#2e323b; --bed:#242830; --hit:#4fb3d1; --miss:#ef6f7f; --warn:#33291a;
  --warnline:#a9772a; } }
* { box-sizing: border-box; }
body { margin:0; background:var(--paper); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif; }
main { max-width:1120px; margin:0 auto; padding:44px 28px 80px; }
h1 { font-size:30px; line-height:1.15; letter-spacing:-.02em; margin:0 0 6px; }
h2 { font-size:19px; letter-spacing:-.01em; margin:52px 0 14px; }
p { margin:0 0 10px; } .soft { color:var(--soft); } code { font-size:.92em; }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(165px,1fr)); gap:14px;
  margin:28px 0 8px; }
.card { background:var(--card); border:1px solid var(--line); border-radius:14px;
  padding:16px 18px 14px; }
.card b { display:block; font-size:30px; line-height:1.15; letter-spacing:-.02em;
  font-variant-numeric:tabular-nums; }
.card span { color:var(--soft); font-size:13px; }
.card:first-child b { color:var(--hit); }
.warning { background:var(--warn); border:1px solid var(--warnline); border-radius:14px;
  padding:14px 18px; margin:22px 0; } .warning ul { margin:8px 0 0; padding-left:20px; }
.wide { overflow-x:auto; }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums; font-size:14px; }
th { text-align:right; font-weight:600; color:var(--soft); font-size:12.5px; padding:6px 10px;
  border-bottom:1px solid var(--line); white-space:nowrap; }
td { text-align:right; padding:6px 10px; border-bottom:1px solid var(--line); white-space:nowrap; }
th:first-child, td:first-child { text-align:left; padding-left:2px; }
tr.absent td { color:var(--soft); }
.swatch { display:inline-block; width:13px; height:13px; border-radius:4px; margin-right:9px;
  vertical-align:-1.5px; border:1px solid #0002; }
.bar { display:inline-block; vertical-align:middle; width:110px; height:9px; border-radius:5px;
  background:var(--bed); overflow:hidden; }
.share { display:inline-block; min-width:66px; }
.bar i { display:block; height:100%; background:var(--hit); border-radius:5px; }
.matrix { max-width:100%; height:auto; display:block; }
.matrix .bed { fill:var(--bed); } .matrix .hit { fill:var(--hit); }
.matrix .miss { fill:var(--miss); } .matrix .name { fill:var(--ink); font-size:11.5px; }
.matrix .axis { fill:var(--soft); font-size:12px; }
.matrix .number { fill:var(--ink); font-size:11px; pointer-events:none; }
.matrix .strong { fill:#fff; }
.split { display:grid; grid-template-columns:minmax(0,1.9fr) minmax(270px,1fr); gap:34px;
  align-items:start; }
@media (max-width:900px) { .split { grid-template-columns:1fr; } }
figure { margin:0 0 26px; background:var(--card); border:1px solid var(--line); border-radius:14px;
  padding:16px; }
figcaption { display:flex; flex-wrap:wrap; gap:4px 18px; margin-bottom:12px; }
figcaption b { overflow-wrap:anywhere; }
.panels { display:grid; grid-template-columns:repeat(3,1fr); gap:10px; }
.panels div { min-width:0; } .panels img { width:100%; border-radius:8px; display:block;
  image-rendering:auto; } .panels span { color:var(--soft); font-size:12.5px; }
.legend { display:flex; flex-wrap:wrap; gap:6px 18px; margin:0 0 18px; font-size:13.5px; }
footer { margin-top:60px; color:var(--soft); font-size:13px; }
"""


@dataclass(frozen=True)
class WorstImage:
    """One of the worst images, to look at.

    Attributes:
        name: Of its file.
        mean_iou: Mean IoU of the classes in it.
        accuracy: Share of pixels labelled right.
        mistake: Its commonest mistake, in words; empty for none.
        panels: Pictures (H, W, 3) uint8 with what stands below them.
    """

    name: str
    mean_iou: float
    accuracy: float
    mistake: str
    panels: Sequence[tuple[NDArray[np.uint8], str]]


@dataclass(frozen=True)
class Evaluation:
    """What the page tells.

    Attributes:
        title: Its heading.
        subtitle: What was compared with what.
        scores: By the names in `SCORE_NAMES`; NaN where there is nothing to say.
        classes: A row for each class, as `Tally.classes` makes them.
        names: Of the classes, and of predictions that are none where there are such.
        colors: (K, 3) uint8.
        confusion: (K, K) counts, or (K, K + 1).
        worst: The worst images.
        failures: File names and what is wrong with them.
    """

    title: str
    subtitle: str
    scores: dict[str, float]
    classes: Sequence[dict[str, Any]]
    names: Sequence[str]
    colors: NDArray[np.uint8]
    confusion: NDArray[np.int64]
    worst: Sequence[WorstImage]
    failures: Sequence[tuple[str, str]]


def evaluation_page(evaluation: Evaluation) -> str:
    """Write the page."""
    cards = "".join(
        f'<div class="card" title="{escape(SCORE_NAMES[name][1])}">'
        f"<b>{percent(evaluation.scores[name])}</b><span>{SCORE_NAMES[name][0]}</span></div>"
        for name in _CARDS
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(evaluation.title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{escape(evaluation.title)}</h1><p class="soft">{escape(evaluation.subtitle)}</p>'
        f'<div class="cards">{cards}</div>{_failures(evaluation)}'
        f"<h2>Classes</h2>{_class_table(evaluation)}"
        '<h2>What is taken for what</h2><div class="split"><div class="wide">'
        f"{confusion_svg(evaluation.confusion, evaluation.names)}</div>"
        f"<div>{_mistakes(evaluation)}</div></div>"
        f"{_worst(evaluation)}<h2>All scores</h2>{_all_scores(evaluation)}"
        "<footer>fastseg evaluate · IoU = TP / (TP + FP + FN); a class that occurs nowhere is left "
        "out of the means</footer></main></body></html>\n"
    )


def percent(share: float, digits: int = 1) -> str:
    """Write a share as per cent, and NaN as a dash."""
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f} %"


def _failures(evaluation: Evaluation) -> str:
    if not evaluation.failures:
        return ""
    items = "".join(
        f"<li><b>{escape(name)}</b>: {escape(message)}</li>"
        for name, message in evaluation.failures[:_MOST_FAILURES]
    )
    more = len(evaluation.failures) - _MOST_FAILURES
    if more > 0:
        items += f"<li>and {more} more</li>"
    count = len(evaluation.failures)
    return (
        f'<div class="warning"><b>{count} file{"s are" if count > 1 else " is"} not in these '
        f"scores.</b><ul>{items}</ul></div>"
    )


def _swatch(color: NDArray[np.uint8]) -> str:
    red, green, blue = color.tolist()
    return f'<i class="swatch" style="background:#{red:02x}{green:02x}{blue:02x}"></i>'


def _class_table(evaluation: Evaluation) -> str:
    total = max(1, sum(row["target_pixels"] for row in evaluation.classes))
    lines = []
    for row in evaluation.classes:
        label, iou = row["class"], row["iou"]
        bar = "" if math.isnan(iou) else f"{100 * iou:.1f}"
        share = row["target_pixels"] / total
        lines.append(
            f"<tr{' class=absent' if math.isnan(iou) else ''}>"
            f"<td>{_swatch(evaluation.colors[label])}{escape(evaluation.names[label])}</td>"
            f'<td><span class="bar"><i style="width:{bar or 0}%"></i></span>'
            f'<span class="share">{percent(iou)}</span></td>'
            f"<td>{percent(row['dice'])}</td><td>{percent(row['precision'])}</td>"
            f"<td>{percent(row['recall'])}</td><td>{percent(share, 2)}</td>"
            f"<td>{row['images']:,}</td></tr>"
        )
    return (
        '<div class="wide"><table><thead><tr><th>class</th><th>IoU</th><th>Dice</th>'
        "<th>precision</th><th>recall</th><th>of all pixels</th><th>images</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _mistakes(evaluation: Evaluation) -> str:
    mistakes = evaluation.confusion.copy()
    np.fill_diagonal(mistakes, 0)
    total = max(1, int(evaluation.confusion.sum()))
    lines = []
    for place in np.argsort(-mistakes, axis=None, kind="stable")[:_MOST_MISTAKES]:
        target, pred = np.unravel_index(int(place), mistakes.shape)
        pixels = int(mistakes[target, pred])
        if not pixels:
            break
        lines.append(
            f"<tr><td>{escape(evaluation.names[int(target)])} → "
            f"{escape(evaluation.names[int(pred)])}</td><td>{percent(pixels / total, 2)}</td></tr>"
        )
    if not lines:
        return '<p class="soft">No pixel is labelled wrong.</p>'
    return (
        "<table><thead><tr><th>commonest mistakes</th><th>of all pixels</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _worst(evaluation: Evaluation) -> str:
    if not evaluation.worst:
        return ""
    # Classes that the pictures below show, so that the legend is no longer than needed.
    present = evaluation.confusion.sum(axis=1) > 0
    legend = "".join(
        f"<span>{_swatch(color)}{escape(name)}</span>"
        for color, name, there in zip(
            evaluation.colors, evaluation.names, present.tolist(), strict=False
        )
        if there
    )
    figures = []
    for image in evaluation.worst:
        panels = "".join(
            f'<div><img alt="{escape(caption)}" src="{_embedded(picture)}">'
            f"<span>{escape(caption)}</span></div>"
            for picture, caption in image.panels
        )
        mistake = f'<span class="soft">{escape(image.mistake)}</span>' if image.mistake else ""
        figures.append(
            f"<figure><figcaption><b>{escape(image.name)}</b>"
            f"<span>mIoU {percent(image.mean_iou)}</span>"
            f"<span>{percent(image.accuracy)} right</span>{mistake}</figcaption>"
            f'<div class="panels">{panels}</div></figure>'
        )
    return f'<h2>The worst images</h2><div class="legend">{legend}</div>{"".join(figures)}'


def _embedded(picture: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _all_scores(evaluation: Evaluation) -> str:
    lines = "".join(
        f"<tr><td>{SCORE_NAMES[name][0]}</td><td>{percent(value, 2)}</td>"
        f'<td style="text-align:left" class="soft">{SCORE_NAMES[name][1]}</td></tr>'
        for name, value in evaluation.scores.items()
    )
    return f'<div class="wide"><table><tbody>{lines}</tbody></table></div>'
