"""LTX-2 (arXiv 2601.03233): video and sound at once, from texts and from a first frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from diffusers import LTX2ImageToVideoPipeline, LTX2Pipeline
from diffusers.pipelines.ltx2.utils import apply_image_conditioning_crf, resolve_default_image_crf
from torch import Tensor, nn

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.families.ltx2_guidance import LTX2Guidance
from fewstep.teacher.families.ltx2_parts import join, padding, split, tokens_of_sound
from fewstep.teacher.families.ltx_parts import MASK, LTXLatents, to_latents, to_tokens
from fewstep.teacher.given import Given, Kept, to_pixels
from fewstep.teacher.schedule import Time
from fewstep.teacher.stock import Contract

FRAMES = "given_latents"  # of a first frame in place (B, C, 1, h, w)
SOUND = "sound_embeddings"  # of the text, for the stream of sound (B, L, D)
_UNGUIDED = {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}


class LTX2Teacher(LTX2Guidance, LTXLatents):
    """Adapter for LTX2Pipeline; given a first frame, it is LTX2ImageToVideoPipeline.

    Latents are those of the sound, tokens filled up to whole frames with zeros, then those of the video.
    """

    takes: tuple[str, ...] = ("first",)
    given_arguments = MappingProxyType({"first": "image"})
    other_encoders = ("connectors",)
    family_fps, family_size = 24.0, VideoSize(121, 512, 768)
    padded: frozenset[str] = frozenset()  # learned registers stand where padding was
    not_in_videos = "the sound that it makes with each clip"

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self._transformer: Any = pipeline.transformer
        rate = pipeline.audio_sampling_rate / pipeline.audio_hop_length
        self._sound_rate = rate / float(pipeline.audio_vae_temporal_compression_ratio)  # tokens per second

    @property
    def text_limit(self) -> int:
        """The pipeline's own default."""
        return 1024

    def cleaned(self, prompt: str) -> str:
        """Without blanks around it."""
        return prompt.strip()

    def embed(self, prompts: list[str]) -> Tensors:
        """As the connectors leave it, for each stream."""
        embeddings, mask, _, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.text_limit, device=self.device
        )
        connectors = self._part("connectors")
        video, sound, mask = connectors(embeddings, mask, padding_side=self.pipeline.tokenizer.padding_side)
        return {EMBEDDINGS: video, SOUND: sound, MASK: mask.to(video.dtype)}

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The velocities eps - x0 of both streams."""
        return self.ask(z_t, t, conditions, network)

    def ask(
        self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None, **perturbed: Any
    ) -> Tensor:
        """`predict`, with further arguments of the denoiser, which guidance perturbs it by."""
        asked: Any = network or self._transformer
        dtype, kept = getattr(asked, "dtype", self._transformer.dtype), self.kept(conditions, z_t)
        video, sound = split(z_t if kept is None else kept.pin(z_t), self._sound_tokens)
        times = torch.as_tensor(t, dtype=torch.float64, device="cpu").expand(len(z_t))
        sigma = self.schedule.timestep(times).to(z_t.device, torch.float32)
        timestep = sigma
        if FRAMES in conditions.shared:  # what is clean is at time 0
            timestep = sigma[:, None].repeat(1, video[0, 0].numel())
            timestep[:, : video.shape[3] * video.shape[4]] = 0
        text = {name: tensor.to(z_t.device, dtype) for name, tensor in conditions.positive.items()}
        names = zip(("num_frames", "height", "width"), video.shape[2:], strict=True)
        found = asked(
            to_tokens(video).to(dtype),
            sound.to(dtype),
            text[EMBEDDINGS],
            text[SOUND],
            timestep=timestep,
            audio_timestep=sigma,
            sigma=sigma,
            encoder_attention_mask=text[MASK],
            audio_encoder_attention_mask=text[MASK],
            **dict(names),
            fps=self.default_fps(),
            audio_num_frames=sound.shape[1],
            use_cross_timestep=True,
            return_dict=False,
            **perturbed,
        )
        return join(to_latents(found[0], video.shape[2:]), found[1]).to(z_t.dtype)

    def _sound_tokens(self, latent_frames: int) -> int:
        return tokens_of_sound(latent_frames, self.pipeline.vae_temporal_compression_ratio, self._sound_rate, self)

    def take(self, names: Sequence[str]) -> None:
        """A folder of LTX2Pipeline serves texts; given a first frame, diffusers has another class for the same parts."""
        super().take(names)
        if self.given and type(self.pipeline) is LTX2Pipeline:
            self.pipeline = LTX2ImageToVideoPipeline(**self.pipeline.components)

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The latents of the first frame, through H.264 as the pipeline sends it: so frames of its training clips came."""
        if not given:
            return {}
        quality = resolve_default_image_crf(self.pipeline.text_encoder)
        pictures = [picture[:, 0].permute(1, 2, 0).cpu().numpy() for picture in given["first"]]
        if quality:
            pictures = [apply_image_conditioning_crf(np.ascontiguousarray(picture), quality) for picture in pictures]
        frames = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])
        return {FRAMES: self.encode_video(to_pixels(frames[:, :, None]).to(self.device))}

    def kept(self, conditions: Conditions, z: Tensor) -> Kept | None:
        """Zeros that fill up the frames of sound, and a first frame, in place, clean and at time 0."""
        video, sound = split(z, self._sound_tokens)
        mask = padding(video, sound)
        latents = torch.zeros_like(z)
        if FRAMES in conditions.shared:
            at = z.shape[2] - video.shape[2]
            mask[:, :, at] = True
            latents[:, :, at] = conditions.shared[FRAMES].to(z)[:, :, 0]
        return Kept(latents, mask) if bool(mask.any()) else None

    @property
    def denoiser(self) -> nn.Module:
        """The transformer."""
        found: nn.Module = self._transformer
        return found

    def tokens_to_grid(self, tokens: Tensor, z_t: Tensor) -> Tensor:
        """(B, L, C) of the video -> (B, C, F, h, w), zeros where the frames of sound are."""
        video, _ = split(z_t, self._sound_tokens)
        found = to_latents(tokens, video.shape[2:])
        missing = z_t.shape[2] - video.shape[2]
        return torch.cat([found.new_zeros(*found.shape[:2], missing, *found.shape[3:]), found], dim=2)

    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mode, normalised per channel, with zeros for a sound that no video file gives here."""
        latents = self.encode_video(video)
        return join(latents, latents.new_zeros(len(latents), self._sound_tokens(latents.shape[2]), latents.shape[1]))

    def decode(self, latents: Tensor) -> Tensor:
        """The video alone; exports give the sound, in diffusers."""
        vae = self._part("vae")
        video, _ = split(latents, self._sound_tokens)
        found = self.denormalised(self.noised(video))
        return vae.decode(found.to(vae.dtype), self.decode_time(video), return_dict=False)[0].float()

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames must be 8 k + 1, height and width multiples of 32; the frames of sound count."""
        channels, frames, rows, columns = self.video_shape(num_frames, height, width)
        return channels, frames - (-self._sound_tokens(frames) // (rows * columns)), rows, columns

    # --- what its folders may hold

    agreeing = (
        ("vae.latent_channels", "transformer.in_channels"),
        ("transformer.in_channels", "transformer.audio_in_channels"),  # the two streams share one tensor
    )

    # --- what exports ask

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """With every kind of guidance switched off: it is on by default."""
        found = super().call_arguments(contract, given)
        return found | _UNGUIDED | {f"audio_{name}": value for name, value in {"guidance_scale": 1.0, **_UNGUIDED}.items()}

    def noise_arguments(
        self, z: Tensor, contract: Contract, given: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """Of both streams, as their autoencoders have them, since the pipeline normalises what it is handed."""
        video, sound = split(z, self._sound_tokens)
        if given:
            first = self.encode_given(given, contract.size, 1)[FRAMES]
            video = torch.cat([first.to(video), video[:, :, 1:]], dim=2)
        mean, std = self._sound_statistics(sound)
        return {"latents": self.denormalised(video), "audio_latents": sound * std + mean}

    def from_outputs(self, outputs: Sequence[Any], shape: Sequence[int]) -> Tensor:
        """Both streams (B, C, F, h, w) and (B, C', L, M) back in one tensor."""
        video, sound = outputs
        mean, std = self._latent_statistics(video)
        latents = (video - mean) * self._part("vae").config.scaling_factor / std
        tokens = sound.transpose(1, 2).flatten(2)
        mean, std = self._sound_statistics(tokens)
        return join(latents, (tokens - mean) / std)

    def _sound_statistics(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        vae = self._part("audio_vae")
        return vae.latents_mean.to(sound), vae.latents_std.to(sound)


class LTX2ImageTeacher(LTX2Teacher):
    """Adapter for LTX2ImageToVideoPipeline."""

    needs = ("first",)
