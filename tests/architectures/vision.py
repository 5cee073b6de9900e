"""Vision models of Hugging Face, from small configurations."""

from __future__ import annotations

from typing import Any

import transformers as hf
from architectures.entry import Architecture, image, text

_PATCHES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
_STAGES: dict[str, Any] = {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1]}


def _of(model: type, configuration: type, share: float = 0.3, size: int = 32, **options: Any) -> Architecture:
    return Architecture(lambda: model(configuration(**options)), lambda: image(size), share)


TRANSFORMERS = {
    "ViT": _of(hf.ViTForImageClassification, hf.ViTConfig, **_PATCHES, intermediate_size=64),
    "DeiT": _of(hf.DeiTForImageClassificationWithTeacher, hf.DeiTConfig, **_PATCHES, intermediate_size=64),
    "BEiT": _of(
        hf.BeitForImageClassification,
        hf.BeitConfig,
        **_PATCHES,
        intermediate_size=64,
        use_relative_position_bias=True,
    ),
    "DINOv2": _of(hf.Dinov2ForImageClassification, hf.Dinov2Config, **_PATCHES, mlp_ratio=2),
    "Swin": _of(
        hf.SwinForImageClassification,
        hf.SwinConfig,
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[1, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    "SegFormer": _of(
        hf.SegformerForSemanticSegmentation,
        hf.SegformerConfig,
        share=0.2,
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[4, 2],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[2, 4],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
    ),
    "MobileViT": _of(
        hf.MobileViTForImageClassification,
        hf.MobileViTConfig,
        size=64,
        image_size=64,
        patch_size=2,
        hidden_sizes=[8, 12, 16],
        neck_hidden_sizes=[4, 4, 8, 8, 8, 12, 16],
        num_attention_heads=4,
    ),
    "CLIP": Architecture(
        lambda: hf.CLIPModel(
            hf.CLIPConfig(
                text_config={
                    "vocab_size": 60,
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 4,
                    "max_position_embeddings": 32,
                    "bos_token_id": 0,
                    "eos_token_id": 59,
                },
                vision_config={**_PATCHES, "num_hidden_layers": 1, "intermediate_size": 64},
                projection_dim=16,
            )
        ),
        lambda: {**text(), **image()},
        share=0.25,
    ),
}

CONVOLUTIONS = {
    "ResNet": _of(
        hf.ResNetForImageClassification,
        hf.ResNetConfig,
        share=0.6,
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 2],
        layer_type="bottleneck",
    ),
    "RegNet": _of(
        hf.RegNetForImageClassification,
        hf.RegNetConfig,
        share=0.6,
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        groups_width=8,
        layer_type="y",
    ),
    "ConvNeXt": _of(hf.ConvNextForImageClassification, hf.ConvNextConfig, **_STAGES),
    "ConvNeXt V2": Architecture(
        lambda: hf.ConvNextV2ForImageClassification(hf.ConvNextV2Config(**_STAGES)),
        image,
        refused="computes a",  # its layers respond in proportion to the mean over all channels
    ),
    "MobileNetV2": _of(
        hf.MobileNetV2ForImageClassification, hf.MobileNetV2Config, share=0.6, depth_multiplier=0.1, image_size=32
    ),
    "EfficientNet": _of(
        hf.EfficientNetForImageClassification,
        hf.EfficientNetConfig,
        share=0.6,
        width_coefficient=0.1,
        depth_coefficient=0.1,
        image_size=32,
        hidden_dim=128,
    ),
    "PoolFormer": _of(
        hf.PoolFormerForImageClassification,
        hf.PoolFormerConfig,
        share=0.2,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        patch_sizes=[7, 3],
        strides=[4, 2],
        padding=[2, 1],
        num_encoder_blocks=2,
    ),
}

VISION = {**TRANSFORMERS, **CONVOLUTIONS}

__all__ = ["VISION"]
