"""Random IP-Adapters (arXiv 2308.06721) for tiny UNets with motion modules, as diffusers' own tests make them."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import IPAdapterAttnProcessor
from diffusers.models.embeddings import ImageProjection
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

_IMAGE_DIM = 8


def tiny_image_encoder() -> dict[str, Any]:
    """The parts of a pipeline that embed a reference."""
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, projection_dim=_IMAGE_DIM, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8,
    )  # fmt: skip
    return {
        "image_encoder": CLIPVisionModelWithProjection(config),
        "feature_extractor": CLIPImageProcessorPil(size=32, crop_size=32),
    }


def load_tiny_ip_adapter(pipeline: Any) -> None:
    """Loads random weights of an adapter into the pipeline's UNet."""
    unet, actual, key = pipeline.unet, dict[str, Any](), 1
    text = unet.config.cross_attention_dim
    modules = dict(unet.named_modules())
    for name in unet.attn_processors:
        if name.endswith("attn1.processor") or "motion_module" in name:
            continue
        width = modules[name.removesuffix(".processor")].to_q.in_features
        processor: Any = IPAdapterAttnProcessor(hidden_size=width, cross_attention_dim=text)
        actual |= {
            f"{key}.{part}.weight": processor.state_dict()[f"{part}.0.weight"] for part in ("to_k_ip", "to_v_ip")
        }
        key += 2
    projection: Any = ImageProjection(cross_attention_dim=text, image_embed_dim=_IMAGE_DIM, num_image_text_embeds=4)
    state = {name.replace("image_embeds", "proj"): tensor for name, tensor in projection.state_dict().items()}
    pipeline.load_ip_adapter(
        {"image_proj": state, "ip_adapter": actual}, subfolder="", weight_name="", image_encoder_folder=None
    )
