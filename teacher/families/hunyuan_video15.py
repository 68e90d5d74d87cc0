"""HunyuanVideo 1.5, text-to-video and image-to-video (arXiv 2511.18870): a flow model guided by a part of its own.

Its prompts are read by Qwen2.5-VL, within a template; what stands in quotation marks is read by ByT5, letter by letter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.transformers.transformer_hunyuan_video15 import HunyuanVideo15TransformerBlock
from torch import Tensor, nn
from torch.nn import functional

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.families.keys import PICTURE_LATENTS, TEXT_MASK
from fewstep.teacher.families.limits import latent_grid
from fewstep.teacher.families.passed_sigmas import PassedSigmas
from fewstep.teacher.families.transformer import TransformerTeacher
from fewstep.teacher.given import Given, to_pil, to_pixels
from fewstep.teacher.schedule import Time
from fewstep.teacher.stock import Contract

GLYPHS, GLYPH_MASK = "glyphs", "glyph_mask"  # of the tokens; ByT5's (B, L, D) and their mask
PICTURE_TOKENS = "picture_tokens"  # latents (B, C, 1, h, w), SigLIP's (B, L, D)


# What guides by u + w (c - u) at every step, as `Teacher.guide` does.
_USUAL_GUIDER = {"guidance_rescale": 0.0, "use_original_formulation": False, "start": 0.0, "stop": 1.0}


def _check_guider(guider: Any, folder: Path) -> None:
    """Raises ValueError for a guider whose clips the teacher would not make."""
    kind, config = type(guider).__name__, guider.config
    other = [f"{name} {config[name]}" for name, usual in _USUAL_GUIDER.items() if config.get(name, usual) != usual]
    if kind != "ClassifierFreeGuidance" or other:
        raise ValueError(
            f"{folder} guides by {' with '.join([kind, *other])}, and fewstep's teachers by u + w (c - u) at "
            "every step: write a ClassifierFreeGuidance without other settings into its guider"
        )


class HunyuanVideo15Teacher(PassedSigmas, TransformerTeacher):
    """Adapter for HunyuanVideo15Pipeline."""

    family_fps = 24.0
    other_encoders: tuple[str, ...] = ("text_encoder_2",)
    padded = frozenset({EMBEDDINGS, TEXT_MASK, GLYPHS, GLYPH_MASK})

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        height, width = self._size_of(9, 16)
        self.family_size = VideoSize(121, height, width)
        # MeanFlow's network (arXiv 2505.13447) is asked about a pair of times (r, t), and a teacher about one
        if self._config.use_meanflow:
            raise ValueError(
                f"{folder}/transformer/config.json has use_meanflow: it is a student of pairs of times already, and "
                "fewstep's teachers see one time; use the model that it was made from"
            )
        _check_guider(pipeline.guider, folder)

    def _size_of(self, height: int, width: int) -> tuple[int, int]:
        """The size that the pipeline makes of images with these sides."""
        sides = self.pipeline.video_processor.calculate_default_height_width(height, width, self.pipeline.target_size)
        return int(sides[0]), int(sides[1])

    @property
    def text_limit(self) -> int:
        """Qwen's tokens behind the template's beginning, and one that ends a message, which long prompts do without.

        ByT5 reads 256 bytes of what stands in quotation marks.
        """
        return int(self.pipeline.tokenizer_max_length) + 1

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """With one that ends the message: Qwen's tokenizer adds none by itself."""
        return [count + 1 for count in super().count_tokens(prompts)]

    def embed(self, prompts: list[str]) -> Tensors:
        """Cut behind the longest prompt: the masks leave the rest out."""
        self._part("text_encoder_2")
        text, mask, glyphs, glyph_mask = self.pipeline.encode_prompt(
            prompts, device=self.device, batch_size=len(prompts)
        )
        # counted, as a sum in the masks' bfloat16 would be rounded
        length, glyph_length = (max(1, int(m.count_nonzero(dim=1).max())) for m in (mask, glyph_mask))
        conditions = {EMBEDDINGS: text[:, :length], TEXT_MASK: mask[:, :length]}
        return {**conditions, GLYPHS: glyphs[:, :glyph_length], GLYPH_MASK: glyph_mask[:, :glyph_length]}

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The velocity eps - x0. The time is cast to what the denoiser is in, as the pipeline does."""
        denoiser, dtype = self._denoiser_and_dtype(network)
        seen = conditions.positive
        picture, tokens = self._picture(z_t, conditions)
        inputs = {
            # the noise, and next to it the given image's latents with their mask, or zeros
            "hidden_states": torch.cat([z_t, picture], dim=1),
            "timestep": self.schedule.timestep(t).expand(len(z_t)),
            "encoder_hidden_states": seen[EMBEDDINGS],
            "encoder_attention_mask": seen[TEXT_MASK],
            "encoder_hidden_states_2": seen[GLYPHS],
            "encoder_attention_mask_2": seen[GLYPH_MASK],
            "image_embeds": tokens,
        }
        inputs = {name: tensor.to(z_t.device, dtype) for name, tensor in inputs.items()}
        output: Tensor = denoiser(**inputs, return_dict=False)[0]
        return output.to(z_t.dtype)

    def _picture(self, z_t: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """Latents with a mask (B, C + 1, F, h, w), and SigLIP's tokens: zeros, which the denoiser reads as none."""
        image_channels = z_t.new_zeros(len(z_t), z_t.shape[1] + 1, *z_t.shape[2:])
        count, width = self.pipeline.vision_num_semantic_tokens, self._config.image_embed_dim
        return image_channels, z_t.new_zeros(len(z_t), count, width)

    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mode, scaled; clip by clip, since the autoencoder's attention masks fit single ones only."""
        vae = self._part("vae")
        latents = [vae.encode(clip[None].to(vae.device, vae.dtype)).latent_dist.mode().float() for clip in video]
        return torch.cat(latents) * vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`."""
        vae = self._part("vae")
        scaled = (latents / vae.config.scaling_factor).to(vae.dtype)
        return torch.cat([vae.decode(clip[None], return_dict=False)[0].float() for clip in scaled])

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames must be 4 k + 1; height and width whole patches of 16 pixels."""
        per_frame, per_pixel = self.pipeline.vae_scale_factor_temporal, self.pipeline.vae_scale_factor_spatial
        side = per_pixel * self._config.patch_size
        return self._config.out_channels, *latent_grid(num_frames, height, width, per_frame, per_pixel, (side, side))

    # --- what its folders may hold

    schedules = (("flow", "flow"),)
    block_classes = (HunyuanVideo15TransformerBlock,)  # diffusers counts the patches' and the texts' embedders, too
    agreeing = (
        ("vae.latent_channels", "transformer.out_channels"),
        ("text_encoder.hidden_size", "transformer.text_embed_dim"),
        ("text_encoder_2.d_model", "transformer.text_embed_2_dim"),
        ("image_encoder.hidden_size", "transformer.image_embed_dim"),
    )

    # --- what exports ask

    def stock_parts(self) -> dict[str, dict[str, Any]]:
        """The guider, which the call takes no weight for, does nothing."""
        return {"guider": {"enabled": False}}

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Guidance is the guider's affair."""
        arguments = super().call_arguments(contract, given)
        del arguments["guidance_scale"]
        return arguments

    def fixed_lengths(self, conditions: Conditions) -> Conditions:
        """The texts with the padding that `embed` cut off."""
        # graphs that exports trace have texts of one length
        lengths = dict.fromkeys((EMBEDDINGS, TEXT_MASK), self.pipeline.tokenizer_max_length)
        lengths |= dict.fromkeys((GLYPHS, GLYPH_MASK), self.pipeline.tokenizer_2_max_length)

        def whole(branch: Tensors) -> Tensors:
            lacking = {name: lengths[name] - tensor.shape[1] for name, tensor in branch.items()}
            return {n: functional.pad(x, (*[0, 0] * (x.ndim - 2), 0, lacking[n])) for n, x in branch.items()}

        negative = conditions.negative
        return replace(
            conditions, positive=whole(conditions.positive), negative=None if negative is None else whole(negative)
        )


class HunyuanVideo15ImageTeacher(HunyuanVideo15Teacher):
    """Adapter for HunyuanVideo15ImageToVideoPipeline, whose clips are as large as it makes of their images."""

    takes = needs = ("first",)
    given_arguments = MappingProxyType({"first": "image"})
    other_encoders = ("text_encoder_2", "image_encoder")

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The image's latents and tokens."""
        self._part("image_encoder")
        pictures = [to_pil(picture, "first") for picture in given["first"]]
        tokens = [self.pipeline.encode_image(picture, 1, self.device, torch.float32) for picture in pictures]
        return {
            PICTURE_LATENTS: self.encode(to_pixels(given["first"]).to(self.device)),
            PICTURE_TOKENS: torch.cat(tokens),
        }

    def _picture(self, z_t: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
        image_channels, _ = super()._picture(z_t, conditions)
        picture = conditions.shared[PICTURE_LATENTS].to(z_t)
        image_channels[:, :, :1] = torch.cat([picture, torch.ones_like(picture[:, :1])], dim=1)
        return image_channels, conditions.shared[PICTURE_TOKENS]

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Of the sizes that the pipeline makes: it takes none, but looks at the image and its own target_size."""
        shape = super().latent_shape(num_frames, height, width)
        if (made := self._size_of(height, width)) != (height, width):
            raise ValueError(
                f"{height} x {width} pixels cannot be made: the pipeline makes {made[0]} x {made[1]} of such images "
                f"(target_size {self.pipeline.target_size}); use these"
            )
        return shape

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Without a size, which follows from the image."""
        arguments = super().call_arguments(contract, given)
        return {name: value for name, value in arguments.items() if name not in ("height", "width")}
