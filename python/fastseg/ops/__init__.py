"""Fused operations, each a `torch.library` operator with several implementations.

Every operation is `torch.ops.fastseg.<name>`, works under `torch.compile(fullgraph=True)` and
`torch.export`, has gradients, and a plain version of the same name in `fastseg.ops.reference`.

Example:
    >>> import torch
    >>> from fastseg import ops
    >>> with ops.use_backend("torch"):
    ...     ops.upsample_argmax(torch.zeros(1, 2, 4, 4), (8, 8)).shape
    torch.Size([1, 8, 8])
"""

from fastseg.ops import reference
from fastseg.ops._backends import decomposed, use_backend
from fastseg.ops.conv3x3 import conv3x3
from fastseg.ops.depthwise_conv_gelu import depthwise_conv_gelu
from fastseg.ops.folded_decoder import folded_decoder
from fastseg.ops.layer_norm import layer_norm
from fastseg.ops.layer_norm_residual import layer_norm_residual
from fastseg.ops.mix_ffn import mix_ffn
from fastseg.ops.permutohedral_lattice import PermutohedralLattice, permutohedral_lattice
from fastseg.ops.sequence_reduced_attention import sequence_reduced_attention
from fastseg.ops.sequence_reduction import sequence_reduction
from fastseg.ops.token_linear import token_linear
from fastseg.ops.upsample_argmax import upsample_argmax
from fastseg.ops.upsample_confusion import upsample_confusion
from fastseg.ops.upsample_cross_entropy import upsample_cross_entropy
from fastseg.ops.upsample_sum import upsample_sum

__all__ = [
    "PermutohedralLattice",
    "conv3x3",
    "decomposed",
    "depthwise_conv_gelu",
    "folded_decoder",
    "permutohedral_lattice",
    "mix_ffn",
    "layer_norm",
    "layer_norm_residual",
    "reference",
    "sequence_reduced_attention",
    "sequence_reduction",
    "token_linear",
    "upsample_argmax",
    "upsample_confusion",
    "upsample_cross_entropy",
    "upsample_sum",
    "use_backend",
]
