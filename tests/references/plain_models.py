"""Models the way public implementations compute them, on the weights of ours.

Enlarge, concatenate, convolve, normalise, rectify: one operation after the other, in PyTorch's
default layout. Tests compare our models' logits with these; benches compare the time.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg import layers


def _plain(block: Any, x: Tensor) -> Tensor:
    """A block of convolutions, BatchNorms and ReLUs, layer by layer."""
    for layer in block:
        x = _plain(layer, x) if isinstance(layer, nn.Sequential) else _one(layer, x)
    return x


def _one(layer: Any, x: Tensor) -> Tensor:
    """A layer as PyTorch computes it."""
    for kind in (nn.Conv2d, nn.BatchNorm2d):
        if isinstance(layer, kind):
            return kind.forward(layer, x)
    return layer(x)


@cache
def _plain_backbone(backbone: nn.Module) -> nn.Module:
    """A copy of an encoder, of PyTorch's own layers."""
    plain = deepcopy(backbone)
    for layer in plain.modules():
        for ours, theirs in (
            (layers.Conv2d, nn.Conv2d),
            (layers.FreshBatchNorm2d, nn.BatchNorm2d),
        ):
            if isinstance(layer, ours):
                layer.__class__ = theirs
    return plain


def _enlarged(x: Tensor, like: Tensor, *, align_corners: bool = False) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=align_corners)


def fcn(model: Any, image: Tensor) -> Tensor:
    """FCN on VGG-16, cropped at the offsets of the Caffe networks."""
    pooled = [image]
    for block in model.blocks:
        pooled.append(F.max_pool2d(_plain(block, pooled[-1]), 2, ceil_mode=True))
    scores = model.score(model.fc7(model.fc6(pooled[5]).relu()).relu())
    pool3, pool4 = pooled[3], pooled[4]
    if model.at_once:
        pool3, pool4 = pool3 * 0.0001, pool4 * 0.01
    if model.finest < 32:
        scores = model.up2(scores)
        scores = scores + _cropped(model.score_pool4(pool4), 5, scores)
    if model.finest < 16:
        scores = model.up4(scores)
        scores = scores + _cropped(model.score_pool3(pool3), 9, scores)
    return _cropped(model.up(scores), {32: 19, 16: 27, 8: 31}[model.finest], image)


def _cropped(x: Tensor, offset: int, like: Tensor) -> Tensor:
    height, width = like.shape[-2:]
    return x[..., offset:, offset:][..., :height, :width]


def unetpp(model: Any, image: Tensor) -> Tensor:
    """U-Net++ with bilinear enlargement: column by column."""
    node, depth = model.nodes, model.depth
    columns = [[_plain(node["0_0"], image)]]
    for row in range(1, depth + 1):
        columns[0].append(_plain(node[f"{row}_0"], F.max_pool2d(columns[0][-1], 2)))
    for column in range(1, depth + 1):
        columns.append([])
        for row in range(depth + 1 - column):
            before = [columns[c][row] for c in range(column)]
            below = _enlarged(columns[column - 1][row + 1], before[0], align_corners=True)
            inputs = torch.cat([*before, below], dim=1)
            columns[column].append(_plain(node[f"{row}_{column}"], inputs))
    return model.heads[f"L{depth}"](columns[depth][0])


def unet3p(model: Any, image: Tensor) -> Tensor:
    """U-Net 3+: every scale is brought to the node's size, then convolved."""
    x, encoded = image, []
    for level, block in enumerate(model.encoder):
        x = _plain(block, F.max_pool2d(x, 2, ceil_mode=True) if level else x)
        encoded.append(x)
    bottom = len(encoded) - 1
    decoded = {bottom: encoded[bottom]}
    for level in reversed(range(bottom)):
        parts = []
        for source, block in enumerate(model.branches[level]):
            if source < level:
                x = F.max_pool2d(encoded[source], 2 ** (level - source), ceil_mode=True)
            elif source == level:
                x = encoded[source]
            else:
                x = _enlarged(decoded[source], encoded[level])
            parts.append(_plain(block, x))
        decoded[level] = _plain(model.nodes[level], torch.cat(parts, dim=1))
    return model.heads[0](decoded[0])


def segnet(model: Any, image: Tensor) -> Tensor:
    """SegNet with PyTorch's own unpooling."""
    x, kept = image, []
    for block in model.encoder:
        x = _plain(block, x)
        size = x.shape[-2:]
        x, indices = F.max_pool2d(x, 2, return_indices=True)
        kept.append((indices, size))
    for block in [*model.decoder, model.last]:
        indices, size = kept.pop()
        x = _plain(block, F.max_unpool2d(x, indices, 2, output_size=size))
    return model.classifier(x)


def deeplab_v3plus(model: Any, image: Tensor) -> Tensor:
    """DeepLab v3+: the pyramid's map is enlarged, stacked on the fine one, and convolved."""
    low, x = _plain_backbone(model.backbone)(image)
    branches = [_plain(conv, x) for conv in list(model.aspp.convs)[:-1]]
    branches.append(_enlarged(_plain(model.aspp.convs[-1], x), x))
    x = _plain(model.aspp.project, torch.cat(branches, dim=1))
    low = _plain(model.low, low)
    x = _plain(model.fuse, torch.cat([_enlarged(x, low), low], dim=1))
    return _enlarged(model.classifier(_plain(model.refine, x)), image)


def setr_pup(model: Any, image: Tensor) -> Tensor:
    """SETR-PUP: doubled after each convolution, classified at the picture's size."""
    x = _tokens(model, image)[-1]
    for conv in model.decoder.convs:
        x = F.interpolate(_plain(conv, x), scale_factor=2, mode="bilinear")
    return model.decoder.classifier(x)


def setr_mla(model: Any, image: Tensor) -> Tensor:
    """SETR-MLA: the streams are enlarged four times, stacked and classified."""
    maps = _tokens(model, image, model.decoder.norms)
    total: Any = 0
    streams = []
    for x, reduce in reversed(list(zip(maps, model.decoder.reduce, strict=True))):
        total = total + _plain(reduce, x)
        streams.insert(0, total)
    heads = [
        F.interpolate(_plain(head, _plain(smooth, x)), scale_factor=4, mode="bilinear")
        for x, smooth, head in zip(streams, model.decoder.smooth, model.decoder.heads, strict=True)
    ]
    return _enlarged(model.decoder.classifier(torch.cat(heads, dim=1)), image)


def _tokens(model: Any, image: Tensor, norms: Any = None) -> list[Tensor]:
    """The taps as maps, for pictures of the size that the positions are kept for."""
    vit = model.encoder
    x = vit.patch_embed.proj(image).flatten(2).transpose(1, 2)
    rows, columns = vit.patch_embed.grid_size
    x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1) + vit.pos_embed
    maps = []
    for number, block in enumerate(vit.blocks, start=1):
        x = block(x)
        if number in model.taps:
            tap = vit.norm(x) if norms is None else norms[len(maps)](x)
            maps.append(tap[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)))
    return maps
