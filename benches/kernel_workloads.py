"""What the kernels are proven with: the layers of SegFormer B0 and B2, and label maps.

A new kernel needs a line in `OPERATIONS`: a function that calls its operation with the shapes of a
stage, or of the decoder. Backward kernels come along by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fastseg import ops
from kernel_launches import Maker, Workload

# What tensors are made of, and whether float32 is multiplied as TF32: a program of its own for the
# kernels with matrix products, the same one for all others.
PRECISIONS = (
    (torch.float16, False),
    (torch.bfloat16, False),
    (torch.float32, False),
    (torch.float32, True),
)
HEADS, REDUCTIONS, STRIDES = (1, 2, 5, 8), (8, 4, 2, 1), (4, 8, 16, 32)


@dataclass(frozen=True)
class Network:
    """A SegFormer on a picture.

    Attributes:
        name: for readers.
        widths: channels of the stages.
        decoder: D, channels of the decoder.
        height: of the picture in pixels.
        width: of the picture in pixels.
        classes: K.
    """

    name: str
    widths: tuple[int, int, int, int]
    decoder: int
    height: int
    width: int
    classes: int

    def size(self, stage: int) -> tuple[int, int]:
        """Height and width of a stage's map."""
        return self.height // STRIDES[stage], self.width // STRIDES[stage]


NETWORKS = [
    Network(f"{name} {height}×{width}", widths, decoder, height, width, classes)
    for height, width, classes in [(512, 512, 150), (1024, 2048, 19)]
    for name, widths, decoder in [
        ("B0", (32, 64, 160, 256), 256),
        ("B2", (64, 128, 320, 512), 768),
    ]
]


def depthwise_conv_gelu(network: Network, stage: int, make: Maker) -> object:
    """The middle of Mix-FFN."""
    (h, w), c = network.size(stage), 4 * network.widths[stage]
    return ops.depthwise_conv_gelu(make(1, h, w, c), make(c, 1, 3, 3), make(c))


def sequence_reduced_attention(network: Network, stage: int, make: Maker) -> object:
    """Attention: every stage has as many keys as the picture has squares of 32 pixels."""
    (h, w), c = network.size(stage), network.widths[stage]
    keys = h * w // REDUCTIONS[stage] ** 2
    query, key, value = make(1, h * w, c), make(1, keys, c), make(1, keys, c)
    return ops.sequence_reduced_attention(query, key, value, num_heads=HEADS[stage])


def mix_ffn(network: Network, stage: int, make: Maker) -> object:
    """A narrow stage's Mix-FFN, in evaluation."""
    (h, w), c = network.size(stage), network.widths[stage]
    sizes = [(4 * c, c), (4 * c,), (4 * c, 1, 3, 3), (4 * c,), (c, 4 * c), (c,), (1, h, w, c)]
    # Where a gradient is needed the parts run.
    return ops.mix_ffn(*[make(*size).detach() for size in [(1, h, w, c), *sizes]])


def sequence_reduction(network: Network, stage: int, make: Maker) -> object:
    """What keys and values are made of."""
    (h, w), c, side = network.size(stage), network.widths[stage], REDUCTIONS[stage]
    factors = make(c, c, side, side), make(c), make(c), make(c)
    return ops.sequence_reduction(make(1, h, w, c), *factors)


def layer_norm_residual(network: Network, stage: int, make: Maker) -> object:
    """The residual connection after attention in training, and the LayerNorm before Mix-FFN."""
    (h, w), c = network.size(stage), network.widths[stage]
    x, branch, factor = make(1, h, w, c), make(1, h, w, c), make(1).detach()
    _, normed = ops.layer_norm_residual(x, branch, make(c), make(c), factor=factor)
    return normed


def upsample_sum(network: Network, make: Maker) -> object:
    """The decoder's sum, in training."""
    sizes = [network.size(stage) for stage in range(4)]
    return ops.upsample_sum(
        [make(1, h, w, network.decoder) for h, w in sizes], make(network.decoder)
    )


def folded_decoder(network: Network, make: Maker) -> object:
    """The whole decoder, in evaluation."""
    features = [make(1, *network.size(i), c) for i, c in enumerate(network.widths)]
    weights = [make(network.decoder, c) for c in network.widths]
    classifier = make(network.classes, network.decoder), make(network.classes)
    return ops.folded_decoder(features, weights, make(network.decoder), *classifier)


def _labels(network: Network, make: Maker) -> tuple[Tensor, Tensor]:
    """Logits at a quarter of the resolution, and labels."""
    target = make(1, network.height, network.width, dtype=torch.int64)
    return make(1, network.classes, *network.size(0)), target


def upsample_argmax(network: Network, make: Maker) -> object:
    """Label maps, in prediction."""
    logits, target = _labels(network, make)
    return ops.upsample_argmax(logits, target.shape[1:])


def upsample_confusion(network: Network, make: Maker) -> object:
    """Counts, in evaluation."""
    return ops.upsample_confusion(*_labels(network, make), ignore_index=255)


def upsample_cross_entropy(network: Network, make: Maker) -> object:
    """The loss, in training."""
    return ops.upsample_cross_entropy(*_labels(network, make))


# Operation, the function that calls it, and the stages that have it (None: once a network).
OPERATIONS: list[tuple[Callable[..., object], tuple[int, ...] | None]] = [
    (depthwise_conv_gelu, (0, 1, 2, 3)),
    (sequence_reduced_attention, (0, 1, 2, 3)),
    (mix_ffn, (0, 1)),
    (sequence_reduction, (0, 1, 2)),
    (layer_norm_residual, (0, 1, 2, 3)),
    (upsample_sum, None),
    (folded_decoder, None),
    (upsample_argmax, None),
    (upsample_confusion, None),
    (upsample_cross_entropy, None),
]


def refinement(network: Network, make: Maker) -> object:
    """One update of `fastseg.crf.refine` by colour, with four points to a vertex."""
    dimension, points = 5, network.height * network.width
    corners, vertices = (dimension + 1) * points, points // 4

    def integers(*shape: int) -> Tensor:
        return make(*shape, dtype=torch.int32)

    lows, units = [0] * dimension, [1] * dimension
    _, weights = torch.ops.fastseg.permutohedral_embed(
        make(dimension, points).detach(), lows, units, "triton"
    )
    lattice = ops.PermutohedralLattice(
        splat_weights=weights,
        slice_weights=weights,
        corners=integers(dimension + 1, points),
        order=integers(corners),
        starts=[integers(vertices + corners // 32 + 1), integers(vertices + 1)],
        turns=integers(vertices + corners // 32),
        neighbours=integers(dimension + 1, 2, vertices),
    )
    q = make(points, network.classes)
    return lattice.filter(q, start=make(points, network.classes, dtype=torch.float32))


def workloads() -> list[Workload]:
    """Every operation of every network in every precision, and refinement, which is in float32."""
    found = [
        Workload("refine", f"refining {n.name}", partial(refinement, n), torch.float32)
        for n in NETWORKS[::2]
    ]
    for network in NETWORKS:
        for call, stages in OPERATIONS:
            for precision in PRECISIONS:
                if stages is None:
                    found.append(_workload(call, network, precision))
                for stage in stages or ():
                    found.append(_workload(call, network, precision, stage))
    return found


def _workload(
    call: Callable[..., object], network: Network, precision: tuple[torch.dtype, bool], *stage: int
) -> Workload:
    place = " ".join([network.name, *(f"stage {index + 1}" for index in stage)])
    return Workload(call.__name__, place, lambda make: call(network, *stage, make), *precision)
