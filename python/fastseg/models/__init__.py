"""Segmentation models, FCN to SegFormer: one file per family, one convention for all.

A picture (B, C, H, W) goes in, logits (B, K, H, W) of its size come out.

Example:
    >>> import fastseg
    >>> "unet" in fastseg.list_models()
    True
"""

from fastseg.models._base import SegmentationModel, SegmentationOutput
from fastseg.models._registry import create_model, list_models, register
from fastseg.models.deconvnet import DeconvNet
from fastseg.models.deeplab import DeepLabV1, DeepLabV2, DeepLabV3, DeepLabV3Plus
from fastseg.models.export_onnx import export_onnx
from fastseg.models.fcn import FCN, FCNResNet
from fastseg.models.segformer import MixTransformer, SegFormer, SegFormerClassifier
from fastseg.models.segnet import SegNet
from fastseg.models.setr import SETR
from fastseg.models.unet import UNet
from fastseg.models.unet3p import UNet3Plus
from fastseg.models.unet_padded import EncoderUNet, PaddedUNet
from fastseg.models.unetpp import UNetPlusPlus

__all__ = [
    "DeconvNet",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "EncoderUNet",
    "FCN",
    "FCNResNet",
    "MixTransformer",
    "PaddedUNet",
    "SETR",
    "SegFormer",
    "SegFormerClassifier",
    "SegNet",
    "SegmentationModel",
    "SegmentationOutput",
    "UNet",
    "UNet3Plus",
    "UNetPlusPlus",
    "create_model",
    "export_onnx",
    "list_models",
    "register",
]
