"""Where each library keeps SegFormer's tensors: tables of names, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastseg.models._segformer_names import HUB_NAMES

# In the tables, i is the stage from 0, s from 1, r from the last, j the block. "name|1/3" is the
# second third of a tensor along its first axis. "{leaf}" is "weight" or "bias"; it stands at the
# end, after a dot, where a name does not say otherwise.
_BLOCK = "encoder.stages.{i}.blocks.{j}."


@dataclass(frozen=True)
class Format:
    """How one library writes SegFormer down.

    Attributes:
        name: for messages.
        marker: a name that only this format has, after its prefix.
        names: theirs by ours.
        norm_eps: of LayerNorms in blocks and at the end of stages.
        embed_norm_eps: of LayerNorms of patches and of reduced keys and values.
        decoder: the variant of the decoder.
        unused: prefixes of tensors that the model never uses.
        encoder_prefix: what stands before the encoder's names, unless it was saved alone.
        align_corners: how the logits are enlarged to the picture's size.
    """

    name: str
    marker: str
    names: Mapping[str, str]
    norm_eps: float
    embed_norm_eps: float
    decoder: str = "all_mlp"
    unused: tuple[str, ...] = ()
    encoder_prefix: str = ""
    align_corners: bool = False


_NEWER = {
    "encoder.stages.{i}.patch_embed.proj": "segformer.stages.{i}.patch_embeddings.proj",
    "encoder.stages.{i}.patch_embed.norm": "segformer.stages.{i}.patch_embeddings.layer_norm",
    "encoder.stages.{i}.norm": "segformer.stages.{i}.layer_norm",
    "decoder.projections.{i}": "decode_head.linear_projections.{i}.proj",
    "decoder.fuse": "decode_head.linear_fuse",
    "decoder.norm": "decode_head.batch_norm",
    "decoder.classifier": "decode_head.classifier",
    "classifier": "classifier",
} | {
    _BLOCK + ours: "segformer.stages.{i}.blocks.{j}." + theirs
    for ours, theirs in {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attention.query": "attention.q_proj",
        "attention.key": "attention.k_proj",
        "attention.value": "attention.v_proj",
        "attention.proj": "attention.o_proj",
        "attention.reduce": "attention.sequence_reduction.sequence_reduction",
        "attention.reduce_norm": "attention.sequence_reduction.layer_norm",
        "ffn.fc1": "mlp.fc1",
        "ffn.dwconv": "mlp.dwconv.dwconv",
        "ffn.fc2": "mlp.fc2",
    }.items()
}

_NVLABS_ENCODER = {
    "encoder.stages.{i}.patch_embed.proj": "patch_embed{s}.proj",
    "encoder.stages.{i}.patch_embed.norm": "patch_embed{s}.norm",
    "encoder.stages.{i}.norm": "norm{s}",
} | {
    _BLOCK + ours: "block{s}.{j}." + theirs
    for ours, theirs in {
        "norm1": "norm1",
        "norm2": "norm2",
        "attention.query": "attn.q",
        "attention.key": "attn.kv|0/2",
        "attention.value": "attn.kv|1/2",
        "attention.proj": "attn.proj",
        "attention.reduce": "attn.sr",
        "attention.reduce_norm": "attn.norm",
        "ffn.fc1": "mlp.fc1",
        "ffn.dwconv": "mlp.dwconv.dwconv",
        "ffn.fc2": "mlp.fc2",
    }.items()
}

_MMSEG_ENCODER = {
    "encoder.stages.{i}.patch_embed.proj": "layers.{i}.0.projection",
    "encoder.stages.{i}.patch_embed.norm": "layers.{i}.0.norm",
    "encoder.stages.{i}.norm": "layers.{i}.2",
} | {
    _BLOCK + ours: "layers.{i}.1.{j}." + theirs
    for ours, theirs in {
        "norm1": "norm1",
        "norm2": "norm2",
        "attention.query": "attn.attn.in_proj_{leaf}|0/3",
        "attention.key": "attn.attn.in_proj_{leaf}|1/3",
        "attention.value": "attn.attn.in_proj_{leaf}|2/3",
        "attention.proj": "attn.attn.out_proj",
        "attention.reduce": "attn.sr",
        "attention.reduce_norm": "attn.norm",
        "ffn.fc1": "ffn.layers.0",
        "ffn.dwconv": "ffn.layers.1",
        "ffn.fc2": "ffn.layers.4",
    }.items()
}


def _within(prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    return {ours: prefix + theirs for ours, theirs in names.items()}


FORMATS = [
    Format(
        "Hugging Face (transformers before 5.9, and the Hub)",
        "encoder.patch_embeddings.0.proj.weight",
        HUB_NAMES,
        norm_eps=1e-5,
        embed_norm_eps=1e-5,
        encoder_prefix="segformer.",
    ),
    Format(
        "Hugging Face (transformers from 5.9 on, in memory)",
        "stages.0.patch_embeddings.proj.weight",
        _NEWER,
        norm_eps=1e-5,
        embed_norm_eps=1e-5,
        encoder_prefix="segformer.",
    ),
    Format(
        "segmentation_models.pytorch",
        "encoder.patch_embed1.proj.weight",
        _within("encoder.", _NVLABS_ENCODER)
        | {
            "decoder.projections.{i}": "decoder.mlp_stage.{r}.linear",
            "decoder.fuse": "decoder.fuse_stage.0",
            "decoder.norm": "decoder.fuse_stage.1",
            "decoder.classifier": "segmentation_head.0",
        },
        norm_eps=1e-6,
        embed_norm_eps=1e-5,
        align_corners=True,
    ),
    Format(
        "NVlabs",
        "patch_embed1.proj.weight",
        _within("backbone.", _NVLABS_ENCODER)
        | {
            "decoder.projections.{i}": "decode_head.linear_c{s}.proj",
            "decoder.fuse": "decode_head.linear_fuse.conv",
            "decoder.norm": "decode_head.linear_fuse.bn",
            "decoder.classifier": "decode_head.linear_pred",
            "classifier": "head",
        },
        norm_eps=1e-6,
        embed_norm_eps=1e-5,
        unused=("decode_head.conv_seg.",),
        encoder_prefix="backbone.",
    ),
    Format(
        "mmsegmentation",
        "layers.0.0.projection.weight",
        _within("backbone.", _MMSEG_ENCODER)
        | {
            "decoder.projections.{i}": "decode_head.convs.{i}.conv",
            "decoder.projection_norms.{i}": "decode_head.convs.{i}.bn",
            "decoder.fuse": "decode_head.fusion_conv.conv",
            "decoder.norm": "decode_head.fusion_conv.bn",
            "decoder.classifier": "decode_head.conv_seg",
        },
        norm_eps=1e-6,
        embed_norm_eps=1e-6,
        decoder="mmseg",
        unused=("data_preprocessor.",),
        encoder_prefix="backbone.",
    ),
]
