"""Building blocks that models share, each usable alone.

Example:
    >>> import torch
    >>> from fastseg import layers
    >>> layers.ASPP(8, out_channels=4)(torch.zeros(1, 8, 6, 6)).shape
    torch.Size([1, 4, 6, 6])
"""

from fastseg.layers.all_mlp_decoder import AllMLPDecoder, MMSegDecoder
from fastseg.layers.aspp import ASPP, ASPPSum, ImagePooling
from fastseg.layers.atrous import AtrousConv2d, ReceptiveField, receptive_field
from fastseg.layers.bilinear_upsampling import BilinearConvTranspose2d, bilinear_kernel
from fastseg.layers.checkpointing import checkpointed
from fastseg.layers.conv2d import Conv2d
from fastseg.layers.conv_norm_act import BatchNorm2d, ConvNormAct, FreshBatchNorm2d
from fastseg.layers.drop_path import DropPath
from fastseg.layers.efficient_self_attention import EfficientSelfAttention
from fastseg.layers.enlarged_conv import enlarged_conv
from fastseg.layers.fusion import center_crop, fuse_by_addition, fuse_by_concatenation
from fastseg.layers.max_unpooling import max_pool_with_indices, max_unpool
from fastseg.layers.mix_ffn import MixFFN
from fastseg.layers.overlap_patch_embed import OverlapPatchEmbed

__all__ = [
    "ASPP",
    "ASPPSum",
    "AllMLPDecoder",
    "AtrousConv2d",
    "BatchNorm2d",
    "BilinearConvTranspose2d",
    "Conv2d",
    "ConvNormAct",
    "DropPath",
    "EfficientSelfAttention",
    "FreshBatchNorm2d",
    "ImagePooling",
    "MMSegDecoder",
    "MixFFN",
    "OverlapPatchEmbed",
    "ReceptiveField",
    "bilinear_kernel",
    "center_crop",
    "checkpointed",
    "enlarged_conv",
    "fuse_by_addition",
    "fuse_by_concatenation",
    "max_pool_with_indices",
    "max_unpool",
    "receptive_field",
]
