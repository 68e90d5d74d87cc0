"""HunyuanVideo image-to-video: clips that begin with an image, which Llava reads together with the prompt.

`latent_concat` (33 channels) sees the image's latents next to the noise, and a frame more than it shows;
`token_replace` (16 channels) has them in place, clean and at time 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video_image2video
from torch import Tensor

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.families.hunyuan_video import HunyuanVideoTeacher
from fewstep.teacher.families.keys import PICTURE_LATENTS, POOLED_TEXT, TEXT_MASK
from fewstep.teacher.given import Given, KeptLatents, to_pil, to_pixels
from fewstep.teacher.stock import Contract

_TEMPLATE = pipeline_hunyuan_video_image2video.DEFAULT_PROMPT_TEMPLATE
_NOISE = torch.tensor([0.999])  # of the pipeline's start, of which the rest is the image, in every frame
_USUAL = VideoSize(129, 720, 1280)  # of the pipeline, which shows 4 frames less where the image is next to the noise


class HunyuanVideoImageTeacher(HunyuanVideoTeacher):
    """Adapter for HunyuanVideoImageToVideoPipeline."""

    takes = needs = ("first",)
    given_arguments = MappingProxyType({"first": "image"})
    usual_embedded_guidance = 1.0

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        kind = self._config.image_condition_type
        if kind is None:
            raise ValueError(
                f"{folder}/transformer/config.json has no image_condition_type, which images need: restore it "
                "(latent_concat of the 33-channel model, token_replace of the 16-channel one)"
            )
        _check_tokens(pipeline, folder)
        # the two published models differ in where they see the image: next to the noise, or in its place
        self._beside = kind == "latent_concat"
        self._vision_tokens = _vision_tokens(pipeline.text_encoder.config.vision_config)
        start = _TEMPLATE["image_emb_start"]
        # a vision tower of another size makes another number of tokens, and the template says where they end
        self.template = {
            **_TEMPLATE,
            "image_emb_len": self._vision_tokens,
            "image_emb_end": start + self._vision_tokens,
        }

    @property
    def text_limit(self) -> int:
        """The one it begins with and 252: of 256 four are cut away, where a message ends and an assistant's begins."""
        return 253

    def embed_given(self, prompts: list[str], given: Given, negative: bool) -> Tensors:
        """One by one: the pipeline crops long prompts wrongly in batches."""
        self._part("text_encoder_2")
        every = 2 if negative or self._beside else 4  # of the image's tokens one is taken; the pipeline's negative: 2
        parts = [
            self.pipeline.encode_prompt(
                to_pil(picture, "first"),
                [prompt],
                prompt_template=self.template,
                image_embed_interleave=every,
                device=self.device,
            )
            for prompt, picture in zip(prompts, given["first"], strict=True)
        ]
        embeddings, pooled, mask = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return {EMBEDDINGS: embeddings, TEXT_MASK: mask, POOLED_TEXT: pooled}

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The image's latents."""
        return {PICTURE_LATENTS: super().encode(to_pixels(given["first"]).to(self.device))}

    def _input(self, z_t: Tensor, conditions: Conditions) -> Tensor:
        kept = self.kept(conditions, z_t)
        if kept is not None:
            return kept.pin(z_t)
        picture = conditions.shared[PICTURE_LATENTS].to(z_t)
        image_channels = z_t.new_zeros(len(z_t), z_t.shape[1] + 1, *z_t.shape[2:])
        image_channels[:, :, :1] = torch.cat([picture, torch.ones_like(picture[:, :1])], dim=1)
        return torch.cat([z_t, image_channels], dim=1)

    def kept(self, conditions: Conditions, z: Tensor) -> KeptLatents | None:
        """The first frame, where it is in place."""
        if self._beside:
            return None
        return KeptLatents.first_frame(conditions.shared[PICTURE_LATENTS], z)

    # --- latent_concat makes a latent frame that is not shown

    @property
    def _unseen(self) -> int:
        """Frames of the autoencoder that go with it."""
        return int(self.pipeline.vae_scale_factor_temporal) if self._beside else 0

    def encode(self, video: Tensor) -> Tensor:
        """The clip, behind copies of its first frame where such are not shown."""
        return super().encode(torch.cat([video[:, :, :1].expand(-1, -1, self._unseen, -1, -1), video], dim=2))

    def decode(self, latents: Tensor) -> Tensor:
        """What is shown."""
        return super().decode(latents)[:, :, self._unseen :]

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """With the latent frame that is not shown."""
        channels, frames, rows, columns = super().latent_shape(num_frames, height, width)
        return channels, frames + int(self._beside), rows, columns

    def default_size(self) -> VideoSize | None:
        """Of what is shown."""
        size = super().default_size()
        return size._replace(num_frames=size.num_frames - self._unseen) if size == _USUAL else size

    # --- what exports ask

    def call_arguments(self, contract: Contract, given: Given | None = None) -> dict[str, Any]:
        """With the frames that are not shown, and the template where the vision tower has other tokens."""
        arguments = super().call_arguments(contract, given)
        arguments["num_frames"] += self._unseen
        return (
            arguments
            if self._vision_tokens == _TEMPLATE["image_emb_len"]
            else arguments | {"prompt_template": self.template}
        )

    def noise_arguments(self, z: Tensor, contract: Contract, given: Given | None = None) -> dict[str, Any]:
        """What becomes z with a thousandth of the image in it, as the call mixes them."""
        assert given is not None  # the image is needed
        picture = super().encode(to_pixels(given["first"]).to(self.device)).to(z)
        # the call mixes `latents` with the image: that is undone beforehand, so that the mix is z
        share = _NOISE.to(z)
        return {"latents": (z - picture * (1 - share)) / share}

    def given_out(self, latents: Tensor) -> Tensor:
        """Without the latent frame that is not shown."""
        return self.from_pipeline(latents[:, :, 1:], latents.shape) if self._beside else latents

    def from_pipeline(self, latents: Tensor, shape: Sequence[int]) -> Tensor:
        """The call leaves out the latent frame that is not shown."""
        missing = latents.new_zeros(*latents.shape[:2], shape[2] - latents.shape[2], *latents.shape[3:])
        return torch.cat([missing, latents], dim=2)


def _check_tokens(pipeline: Any, folder: Path) -> None:
    """Raises ValueError where the tokenizer, if it is there, has not the marks by which the pipeline finds its way."""
    tokenizer, image = pipeline.tokenizer, pipeline.text_encoder.config.image_token_index
    if tokenizer is None:
        return
    known = tokenizer.get_vocab()
    if known.get("<image>") != image or "<|end_header_id|>" not in known:
        raise ValueError(
            f"{folder}/tokenizer has <image> as token {known.get('<image>')}, its text_encoder's config says {image}, "
            f"and {'a' if '<|end_header_id|>' in known else 'no'} <|end_header_id|>: the pipeline's template needs "
            "both; restore the tokenizer that came with the weights"
        )


def _vision_tokens(config: Any) -> int:
    return int((config.image_size // config.patch_size) ** 2)
