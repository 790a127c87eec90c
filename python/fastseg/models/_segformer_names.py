"""SegFormer's tensors by the names that Hugging Face's files give them, and its configuration."""

from __future__ import annotations

import re
from typing import Any

# Ours on the left, with stage i and block j; Hugging Face's, as files on its Hub have them and
# as every version of transformers reads and writes them, on the right.
HUB_NAMES = {
    "encoder.stages.{i}.patch_embed.proj": "segformer.encoder.patch_embeddings.{i}.proj",
    "encoder.stages.{i}.patch_embed.norm": "segformer.encoder.patch_embeddings.{i}.layer_norm",
    "encoder.stages.{i}.blocks.{j}.norm1": "segformer.encoder.block.{i}.{j}.layer_norm_1",
    "encoder.stages.{i}.blocks.{j}.norm2": "segformer.encoder.block.{i}.{j}.layer_norm_2",
    "encoder.stages.{i}.blocks.{j}.attention.query": (
        "segformer.encoder.block.{i}.{j}.attention.self.query"
    ),
    "encoder.stages.{i}.blocks.{j}.attention.key": (
        "segformer.encoder.block.{i}.{j}.attention.self.key"
    ),
    "encoder.stages.{i}.blocks.{j}.attention.value": (
        "segformer.encoder.block.{i}.{j}.attention.self.value"
    ),
    "encoder.stages.{i}.blocks.{j}.attention.proj": (
        "segformer.encoder.block.{i}.{j}.attention.output.dense"
    ),
    "encoder.stages.{i}.blocks.{j}.attention.reduce": (
        "segformer.encoder.block.{i}.{j}.attention.self.sr"
    ),
    "encoder.stages.{i}.blocks.{j}.attention.reduce_norm": (
        "segformer.encoder.block.{i}.{j}.attention.self.layer_norm"
    ),
    "encoder.stages.{i}.blocks.{j}.ffn.fc1": "segformer.encoder.block.{i}.{j}.mlp.dense1",
    "encoder.stages.{i}.blocks.{j}.ffn.dwconv": "segformer.encoder.block.{i}.{j}.mlp.dwconv.dwconv",
    "encoder.stages.{i}.blocks.{j}.ffn.fc2": "segformer.encoder.block.{i}.{j}.mlp.dense2",
    "encoder.stages.{i}.norm": "segformer.encoder.layer_norm.{i}",
    "decoder.projections.{i}": "decode_head.linear_c.{i}.proj",
    "decoder.fuse": "decode_head.linear_fuse",
    "decoder.norm": "decode_head.batch_norm",
    "decoder.classifier": "decode_head.classifier",
    "classifier": "classifier",
}
_NUMBER = re.compile(r"\.(\d+)(?=\.|$)")


def split_name(name: str) -> tuple[str, list[int], str]:
    """Takes one of our names apart: pattern with {i} and {j}, their values, and the leaf."""
    path, _, leaf = name.rpartition(".")
    numbers = [int(number) for number in _NUMBER.findall(path)]
    letters = iter("ij")
    return _NUMBER.sub(lambda _: f".{{{next(letters)}}}", path), numbers, leaf


def hub_name(name: str) -> str:
    """Hugging Face's name of one of our tensors."""
    pattern, numbers, leaf = split_name(name)
    return HUB_NAMES[pattern].format(**dict(zip("ij", numbers, strict=False))) + f".{leaf}"


def hub_config(config: dict[str, Any], id2label: dict[int, str] | None) -> dict[str, Any]:
    """The config.json that makes transformers build the same model."""
    classification = config.get("head") == "classification"
    names = id2label or {i: f"LABEL_{i}" for i in range(config["num_classes"])}
    return {
        "architectures": [
            "SegformerForImageClassification"
            if classification
            else "SegformerForSemanticSegmentation"
        ],
        "model_type": "segformer",
        "num_channels": config["in_channels"],
        "num_encoder_blocks": len(config["widths"]),
        "depths": config["depths"],
        "sr_ratios": config["reductions"],
        "hidden_sizes": config["widths"],
        "patch_sizes": config["patch_sizes"],
        "strides": config["strides"],
        "num_attention_heads": config["num_heads"],
        "mlp_ratios": config["mlp_ratios"],
        "hidden_act": "gelu",
        "hidden_dropout_prob": config["dropout"],
        "attention_probs_dropout_prob": config["attention_dropout"],
        "classifier_dropout_prob": config.get("classifier_dropout", 0.1),
        "initializer_range": 0.02,
        "drop_path_rate": config["drop_path_rate"],
        "layer_norm_eps": config["norm_eps"],
        "decoder_hidden_size": config.get("decoder_width", 256),
        "semantic_loss_ignore_index": 255,
        "reshape_last_stage": True,
        "id2label": {str(i): name for i, name in names.items()},
        "label2id": {name: i for i, name in names.items()},
        "torch_dtype": "float32",
        "fastseg": config,
    }
