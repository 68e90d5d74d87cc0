"""Wan Animate (arXiv 2509.14055): a character from an image moves as a pose and a face video do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan_animate import WanTransformerBlock
from torch import Tensor

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import Conditions, Tensors
from fewstep.teacher.families.keys import GIVEN_LATENTS
from fewstep.teacher.families.wan import WanTeacher
from fewstep.teacher.families.wan_image import IMAGE_TOKENS
from fewstep.teacher.given import Given, to_pil, to_pixels
from fewstep.teacher.stock import Contract

POSE, FACE = "pose_latents", "face"
FACE_SEEN = "face_seen"  # (B, 1): 1, and 0 in the unconditional branch, which sees a black face


class WanAnimateTeacher(WanTeacher):
    """Adapter for WanAnimatePipeline, whose clips are one segment here. With a background and a mask, which says where
    the character may be, a person in a video is replaced. Latents begin with a frame of their own for the image."""

    needs = ("reference", "pose", "face")
    takes = (*needs, "control", "mask")
    other_encoders = ("image_encoder",)
    given_arguments = MappingProxyType(
        {
            "reference": "image",
            "pose": "pose_video",
            "face": "face_video",
            "control": "background_video",
            "mask": "mask_video",
        }
    )
    block_classes = (WanTransformerBlock,)
    original_names = None  # diffusers' converter knows them, but only one way

    def given_sizes(self, size: VideoSize) -> dict[str, VideoSize]:
        """Faces are square, as large as the motion encoder reads them."""
        side = self._config.motion_encoder_size
        sizes = super().given_sizes(size)
        return sizes | {"face": size._replace(height=side, width=side)} if "face" in sizes else sizes

    def embed(self, prompts: list[str]) -> Tensors:
        """The texts, and that the face is seen."""
        return {**super().embed(prompts), FACE_SEEN: torch.ones(len(prompts), 1, device=self.device)}

    def unconditional(self, embedded: Tensors) -> Tensors:
        """Neither text nor face."""
        return {**embedded, FACE_SEEN: torch.zeros_like(embedded[FACE_SEEN])}

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """As the pipeline prepares its first segment; faces stay as they are until the denoiser reads them."""
        if ("control" in given) != ("mask" in given):
            raise ValueError(
                "a background (control) goes with a mask of where the character may be: give both, or none of them"
            )
        for part in ("vae", "image_encoder"):
            self._part(part)
        # the character's image becomes a frame before the clip, and poses latents of their own
        pictures = [to_pil(picture, "reference") for picture in given["reference"]]
        reference, pose = (to_pixels(given[name]).to(self.device) for name in ("reference", "pose"))
        # with a background and a mask only the masked area is new
        task = {"task": "replace", **self._replaced(given, size)} if "control" in given else {}
        # a frame for the image, then those of the segment, as the pipeline lays them out
        begin = self.pipeline.prepare_reference_image_latents(reference, count, device=self.device)
        behind = self.pipeline.prepare_prev_segment_cond_latents(
            batch_size=count, segment_frame_length=size.num_frames, height=size.height, width=size.width,
            device=self.device, **task,
        )  # fmt: skip
        return {
            GIVEN_LATENTS: torch.cat([begin, behind], dim=2).float(),
            IMAGE_TOKENS: self.pipeline.encode_image(pictures, self.device).float(),
            POSE: self.pipeline.prepare_pose_latents(pose, count, device=self.device).float(),
            FACE: given["face"].to(self.device),
        }

    def _replaced(self, given: Given, size: VideoSize) -> dict[str, Tensor]:
        masks = [to_pil(mask, "mask") for mask in given["mask"]]
        processor = self.pipeline.video_processor_for_mask
        grey = torch.cat([processor.preprocess_video(mask, height=size.height, width=size.width) for mask in masks])
        return {
            "background_video": to_pixels(given["control"]).to(self.device),
            "mask_video": grey.to(self.device, torch.float32),
        }

    def place_given(self, latents: Tensor, conditions: Conditions) -> Tensor:
        """The image's latents go before those of the clip."""
        picture = conditions.shared[GIVEN_LATENTS][:, -latents.shape[1] :, :1]
        return torch.cat([picture.to(latents), latents], dim=2)

    def decode(self, latents: Tensor) -> Tensor:
        """The clip alone."""
        return super().decode(latents[:, :, 1:])

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """One frame more, for the image."""
        channels, frames, rows, columns = super().latent_shape(num_frames, height, width)
        return channels, frames + 1, rows, columns

    def _given_inputs(self, z_t: Tensor, times: Tensor, conditions: Conditions) -> Tensors:
        shared, seen = conditions.shared, conditions.positive[FACE_SEEN].to(z_t.device).view(-1, 1, 1, 1, 1)
        return {
            "hidden_states": torch.cat([z_t, shared[GIVEN_LATENTS].to(z_t)], dim=1),
            "encoder_hidden_states_image": shared[IMAGE_TOKENS],
            "pose_hidden_states": shared[POSE],
            "face_pixel_values": to_pixels(shared[FACE].to(z_t.device)) * seen + (seen - 1),
        }

    # --- what exports ask

    frames_argument = "segment_frame_length"

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """The clip is one segment."""
        arguments = super().call_arguments(contract, given)
        return arguments | {"mode": "replace"} if "control" in self.given else arguments

    def from_pipeline(self, latents: Tensor, shape: Any) -> Tensor:
        """The pipeline gives them as its autoencoder takes them."""
        mean, std = self._latent_statistics(latents)
        return (latents - mean) / std
