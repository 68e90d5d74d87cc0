"""CogVideoX 1.0 and 1.5 text-to-video (arXiv 2408.06072): v-prediction from pure noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import lcm
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock
from torch import Tensor, nn
from torch.nn.functional import pad

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.families.limits import check_frames, check_sides
from fewstep.teacher.families.transformer import TransformerTeacher
from fewstep.teacher.pipelines.index import config_number
from fewstep.teacher.schedule import Time
from fewstep.teacher.stock import Contract, StockScheduler

USUAL_TEXT_LENGTH = 226  # CogVideoXPipeline's, whatever its denoiser takes
BESIDE = "beside"  # latents (B, C, F, h, w) that the denoiser sees next to the noise, zeros behind them
OFFSET = 2.0  # what image-to-video pipelines tell denoisers with `ofs_embed_dim`, those of 1.5


class CogVideoXTeacher(TransformerTeacher):
    """Adapter for CogVideoXPipeline, whose denoiser takes latents as (B, F, C, h, w).

    The denoiser of 1.5 sees patches of `patch_size_t` frames. To fill the first one, latents begin with copies
    of their first frame: `encode` puts them there, `decode` drops them, and sampling makes them too.
    """

    channels = 1  # what the denoiser sees, in latents: more where something stands next to the noise

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        config = self._config
        self._per_pixel: int = pipeline.vae_scale_factor_spatial
        height, width = config.sample_height * self._per_pixel, config.sample_width * self._per_pixel
        self.family_fps, self.family_size = 8.0, VideoSize(config.sample_frames, height, width)
        if config.patch_size_t:  # 1.5, whose config says how far positions reach: 2400 each way in some
            self.family_fps = 16.0
            self.family_size = VideoSize(config.sample_frames, min(height, 768), min(width, 1360))

    @property
    def text_limit(self) -> int:
        """226, as the denoiser's config says."""
        return int(self._config.max_text_seq_length)

    def embed(self, prompts: list[str]) -> Tensors:
        """With all its padding: the denoiser was trained to attend to it."""
        (embeddings, _) = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.text_limit, device=self.device
        )
        return {EMBEDDINGS: embeddings}

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """v = alpha eps - sigma x0, or what else the scheduler says."""
        denoiser, dtype = self._denoiser_and_dtype(network)
        output = denoiser(
            self._input(z_t, conditions).transpose(1, 2).to(dtype),
            conditions.positive[EMBEDDINGS].to(z_t.device, dtype),
            self.schedule.timestep(t).expand(len(z_t)).to(z_t.device, torch.float32),
            image_rotary_emb=self._rotary(z_t),
            return_dict=False,
            **self._offset(z_t),
        )[0]
        return output.transpose(1, 2).to(z_t.dtype)

    def _input(self, z_t: Tensor, conditions: Conditions) -> Tensor:
        if BESIDE not in conditions.shared:
            return z_t
        given = conditions.shared[BESIDE].to(z_t)
        return torch.cat([z_t, pad(given, (0, 0, 0, 0, 0, z_t.shape[2] - given.shape[2]))], dim=1)

    def _offset(self, z_t: Tensor) -> dict[str, Tensor]:
        return {"ofs": z_t.new_full((1,), OFFSET)} if self._config.ofs_embed_dim else {}

    def _rotary(self, z_t: Tensor) -> tuple[Tensor, Tensor] | None:
        if not self._config.use_rotary_positional_embeddings:
            return None
        num_frames, height, width = z_t.shape[2:]
        return self.pipeline._prepare_rotary_positional_embeddings(
            height * self._per_pixel, width * self._per_pixel, num_frames, z_t.device
        )

    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mode, scaled.

        `invert_scale_latents` changes nothing: it is about the first frame of image-to-video pipelines.
        """
        vae = self._part("vae")
        latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
        copies = latents[:, :, :1].expand(-1, -1, self._patch[0] - 1, -1, -1)
        return torch.cat([copies, latents], dim=2) * vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`."""
        vae = self._part("vae")
        latents = latents[:, :, self._patch[0] - 1 :]
        return self.pipeline.decode_latents(latents.transpose(1, 2).to(vae.dtype)).float()

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames must be 8 k + 1: behind the first, the autoencoder decodes latent frames in pairs.

        Height and width must be whole patches, in 1.5 not beyond the positions that the denoiser knows.
        """
        per_frame = self.pipeline.vae_scale_factor_temporal
        check_frames(num_frames, per_frame * lcm(2, self._patch[0]))
        side = lcm(8, self._per_pixel * self._patch[1])  # CogVideoXPipeline refuses what 8 does not divide
        check_sides(height, width, (side, side))
        most = self._config.sample_height * self._per_pixel, self._config.sample_width * self._per_pixel
        if self._config.patch_size_t and (height > most[0] or width > most[1]):
            raise ValueError(f"{height} x {width} pixels cannot be made: use at most {most[0]} x {most[1]}")
        self._check_learned(VideoSize(num_frames, height, width))
        # copies of the first frame, which fill its patch, count as latent frames
        frames = (num_frames - 1) // per_frame + self._patch[0]
        return self._config.out_channels, frames, height // self._per_pixel, width // self._per_pixel

    def _check_learned(self, size: VideoSize) -> None:
        """Of another size the denoiser refuses clips, or has positions that it has not learned."""
        config, per_pixel = self._config, self._per_pixel
        own = VideoSize(config.sample_frames, config.sample_height * per_pixel, config.sample_width * per_pixel)
        if config.use_learned_positional_embeddings and size != own:
            raise ValueError(
                f"{tuple(size)}, frames, height and width, cannot be made: the denoiser has learned positions for "
                f"{tuple(own)} alone, use that size"
            )

    # --- what its folders may hold

    schedules = (("vp", "v"), ("vp", "eps"), ("vp", "x0"))
    block_classes = (CogVideoXBlock,)
    agreeing = (
        ("vae.latent_channels", "transformer.out_channels"),
        ("text_encoder.d_model", "transformer.text_embed_dim"),
    )

    @classmethod
    def check_folder(cls, folder: Path, index: dict[str, Any]) -> None:
        """As every family, and that the denoiser is this pipeline's: checkpoints of CogVideoX-Fun name another."""
        super().check_folder(folder, index)
        # denoisers of texts see latents alone, those of images and controls twice as many channels
        seen, latents = (config_number(folder, f"transformer.{side}_channels") for side in ("in", "out"))
        if seen is None or latents is None or seen == cls.channels * latents:
            return
        doubled = "CogVideoXFunControlPipeline if it follows control videos, CogVideoXImageToVideoPipeline if images"
        named = {1: "CogVideoXPipeline", 2: doubled}.get(seen // latents if seen % latents == 0 else 0)
        remedy = f"write {named} as _class_name into model_index.json" if named else "fewstep knows no such pipeline"
        raise ValueError(
            f"the denoiser in {folder} takes {seen} channels, and that of a {index.get('_class_name')} takes "
            f"{cls.channels * latents}: {remedy}"
        )

    # --- what exports ask

    def stock_scheduler(self, contract: Contract) -> StockScheduler:
        """The family's own DDIM, whose betas another one does not have."""
        scheduler = super().stock_scheduler(contract)
        own = isinstance(self.pipeline.scheduler, CogVideoXDDIMScheduler | CogVideoXDPMScheduler)
        return replace(scheduler, name=CogVideoXDDIMScheduler.__name__) if own else scheduler

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """With the denoiser's text length where the pipeline would take another."""
        arguments = super().call_arguments(contract, given)
        return (
            arguments if self.text_limit == USUAL_TEXT_LENGTH else arguments | {"max_sequence_length": self.text_limit}
        )

    def to_pipeline(self, z: Tensor) -> Tensor:
        """(B, F, C, h, w)."""
        return z.transpose(1, 2)

    def from_pipeline(self, latents: Tensor, shape: Sequence[int]) -> Tensor:
        """The same back."""
        return latents.transpose(1, 2)
