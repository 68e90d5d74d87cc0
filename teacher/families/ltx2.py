"""LTX-2 (arXiv 2601.03233): clips with their sound, two streams of one flow model, from texts and a first frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
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
from fewstep.teacher.families.keys import GIVEN_LATENTS, TEXT_MASK
from fewstep.teacher.families.ltx2_guidance import SOUND, SOUND_WEIGHT, VIDEO, stg_block
from fewstep.teacher.families.ltx2_parts import Grid, Streams, join_tokens
from fewstep.teacher.families.ltx_parts import LTXLatents, to_latents, to_tokens
from fewstep.teacher.given import Given, KeptLatents, to_pixels
from fewstep.teacher.schedule import Time
from fewstep.teacher.stock import Contract

SOUND_TEXT = "sound_embeddings"  # of the text, as the sound's stream sees it


class LTX2Teacher(LTXLatents):
    """Adapter for LTX2Pipeline; given a first frame, it is LTX2ImageToVideoPipeline.

    Latents hold both streams (`Streams`). Guidance is the pipeline's own: of a guided step 3 or 4 evaluations.
    """

    takes: tuple[str, ...] = ("first",)
    given_arguments = MappingProxyType({"first": "image"})
    family_fps = 24.0
    family_size = VideoSize(121, 512, 768)  # the pipeline's; its signature leaves the frames open
    padded: frozenset[str] = frozenset()  # learned registers stand where padding was
    other_encoders = ("connectors",)
    unencodable = "its clips have sound, and of videos only the frames are read: make data of rollouts instead"
    unheard = "clips have sound, which is not written: an exported student's pipeline gives it, too"

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        config = self._config
        self._newer = bool(config.cross_attn_mod)  # LTX-2.3 and later
        self._stg_block = stg_block(config.num_layers, self._newer) if config.perturbed_attn else None

    @property
    def guided_evaluations(self) -> int:
        """Of the prompt, of the negative one, without the other stream, and with a block that skips attention."""
        return 3 if self._stg_block is None else 4

    @property
    def text_limit(self) -> int:
        """The pipeline's own default."""
        return 1024

    def cleaned(self, prompt: str) -> str:
        """Without blanks around it."""
        return prompt.strip()

    def embed(self, prompts: list[str]) -> Tensors:
        """As the connectors make it of all layers of the text encoder, for each stream."""
        layers, mask, _, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.text_limit, device=self.device
        )
        side = self.pipeline.tokenizer.padding_side
        video, sound, mask = self._part("connectors")(layers, mask, padding_side=side)
        return {EMBEDDINGS: video, SOUND_TEXT: sound, TEXT_MASK: mask.to(video.dtype)}

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The velocities eps - x0 of both streams."""
        return self._ask(z_t, t, conditions, network)

    def _ask(self, z_t: Tensor, t: Time, conditions: Conditions, network: Any, **changed: Any) -> Tensor:
        (denoiser, dtype), device = self._denoiser_and_dtype(network), z_t.device
        streams, kept = self._streams(z_t), self.kept(conditions, z_t)
        # latents hold the video's and the sound's tokens, which the denoiser takes apart
        video, sound = streams.split(z_t if kept is None else kept.pin(z_t))
        times = torch.as_tensor(t, dtype=torch.float64, device="cpu").expand(len(z_t))
        times = self.schedule.timestep(times).to(device, torch.float32)
        text = {name: tensor.to(device, dtype) for name, tensor in conditions.positive.items()}
        frames, height, width = streams.grid
        # both streams are at the same time, but for a first frame, which is at 0
        outputs = denoiser(
            video.to(dtype), sound.to(dtype), text[EMBEDDINGS], text[SOUND_TEXT],
            self._video_times(times, streams, conditions), audio_timestep=times, sigma=times,
            encoder_attention_mask=text[TEXT_MASK], audio_encoder_attention_mask=text[TEXT_MASK],
            num_frames=frames, height=height, width=width, fps=self.default_fps(), audio_num_frames=streams.sound,
            use_cross_timestep=self._newer, return_dict=False, **changed,
        )  # fmt: skip
        return streams.join(*outputs).to(z_t.dtype)

    def _video_times(self, times: Tensor, streams: Streams, conditions: Conditions) -> Tensor:
        """(B,), or (B, L) with a first frame, which is at 0."""
        if GIVEN_LATENTS not in conditions.shared:
            return times
        frames, height, width = streams.grid
        free = (torch.arange(frames, device=times.device) > 0).float().repeat_interleave(height * width)
        return times[:, None] * free

    def guide(
        self, z_t: Tensor, t: Time, conditions: Conditions, weights: Tensor, network: nn.Module | None = None
    ) -> Tensor:
        """As the pipeline does: see `GuidanceTerms`. `weights` are of the video's prompt, the rest is the family's."""
        kept, schedule, streams = self.kept(conditions, z_t), self.schedule_of(network), self._streams(z_t)
        z, guided = z_t if kept is None else kept.pin(z_t), weights != 1
        times = torch.as_tensor(t).expand(len(z))

        def x0(rows: Tensor, seen: Conditions, **changed: Any) -> Tensor:
            # guidance acts on x0 of each stream, as the pipeline computes it
            return schedule.to_x0(self._ask(z[rows], times[rows], seen, network, **changed), z[rows], times[rows])

        negative = conditions.branches(guided)[: int(guided.sum())]
        whole, seen = x0(torch.ones_like(guided), conditions), conditions[guided]
        # c of the prompt, u of the negative one, and one forward in which the streams do not see each other
        c, u, isolated = whole[guided], x0(guided, negative), x0(guided, seen, isolate_modalities=True)
        blocks = [] if self._stg_block is None else [self._stg_block]
        # spatio-temporal guidance: one block passes over its attention; models without it have no such term
        perturbed = x0(guided, seen, spatio_temporal_guidance_blocks=blocks) if blocks else c
        video, sound = zip(*(streams.split(x) for x in (c, u, perturbed, isolated)), strict=True)
        # a guidance scale for the video that the caller gives; the sound's is the family's own
        weight = weights[guided].to(z.device, z.dtype).view(-1, 1, 1)
        guided_x0 = whole.clone()
        guided_x0[guided] = streams.join(VIDEO.guided(weight, *video), SOUND.guided(SOUND_WEIGHT, *sound))
        return guided_x0

    def take(self, names: Sequence[str]) -> None:
        """A folder of LTX2Pipeline serves texts; given a first frame, diffusers has another class for its parts."""
        super().take(names)
        if self.given and type(self.pipeline) is LTX2Pipeline:
            self.pipeline = LTX2ImageToVideoPipeline(**self.pipeline.components)

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The latents of the first frame, compressed as those that the model was trained with."""
        if not given:
            return {}
        compress = partial(apply_image_conditioning_crf, crf=resolve_default_image_crf(self._part("text_encoder")))
        pictures = [compress(np.ascontiguousarray(x[:, 0].movedim(0, -1).cpu().numpy())) for x in given["first"]]
        frames = torch.stack([torch.from_numpy(x).movedim(-1, 0) for x in pictures])[:, :, None]
        return {GIVEN_LATENTS: self.encode_video(to_pixels(frames).to(self.device))}

    def kept(self, conditions: Conditions, z: Tensor) -> KeptLatents | None:
        """What is neither video nor sound, and a first frame, in place, clean and at time 0."""
        streams, first = self._streams(z), conditions.shared.get(GIVEN_LATENTS)
        if first is None and not streams.nothing:
            return None
        mask, latents = streams.mask(z.device), torch.zeros_like(z)
        if first is not None:
            mask[:, :, 0] = True
            latents[:, :, :1] = first.to(z)
        return KeptLatents(latents, mask)

    def block_output(self, output: Any) -> Tensor:
        """The tokens of both streams, one behind the other."""
        return join_tokens(*output)

    def tokens_to_grid(self, tokens: Tensor, z_t: Tensor) -> Tensor:
        """(B, L, C) of both streams -> (B, C, F, h, w), as latents are laid out."""
        streams = self._streams(z_t)
        return streams.join(*streams.split_tokens(tokens))

    def encode(self, video: Tensor) -> Tensor:
        """Raises ValueError: a video's frames alone are not the whole clip."""
        self._part("vae")
        self.check_encodes()
        return self.encode_video(video)

    def decode(self, latents: Tensor) -> Tensor:
        """The video, without its sound."""
        vae, streams = self._part("vae"), self._streams(latents)
        video = self.denormalised(to_latents(streams.split(latents)[0], streams.grid)).to(vae.dtype)
        time = video.new_zeros(len(video)) if vae.config.timestep_conditioning else None
        return vae.decode(video, time, return_dict=False)[0].float()

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames must be 8 k + 1, height and width multiples of 32; the sound's frames come behind the video's."""
        channels, *grid = self.video_shape(num_frames, height, width)
        return channels, *self._streams_of((grid[0], grid[1], grid[2])).shape

    def _streams_of(self, grid: Grid) -> Streams:
        """Those of a clip whose video has this grid: as much sound as frames."""
        pipe = self.pipeline
        frames = (grid[0] - 1) * pipe.vae_temporal_compression_ratio + 1
        rate = pipe.audio_sampling_rate / pipe.audio_hop_length / float(pipe.audio_vae_temporal_compression_ratio)
        return Streams(grid, round(frames / self.default_fps() * rate))

    def _streams(self, z: Tensor) -> Streams:
        """Those of latents, of which only the frames of both together are known."""
        frames, height, width = z.shape[2:]
        candidates = (self._streams_of((number, height, width)) for number in range(1, frames + 1))
        return next(streams for streams in candidates if streams.shape[0] >= frames)

    # --- what its folders may hold

    agreeing = (
        ("vae.latent_channels", "transformer.in_channels"),
        ("transformer.audio_in_channels", "transformer.in_channels"),
        ("connectors.caption_channels", "transformer.caption_channels"),
    )

    # --- what exports ask

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Without any of the pipeline's guidance, of which a student has all that it needs."""
        arguments = super(LTXLatents, self).call_arguments(contract, given)
        for stream in ("", "audio_"):
            arguments |= {f"{stream}guidance_scale": 1.0, f"{stream}stg_scale": 0.0, f"{stream}modality_scale": 1.0}
            arguments[f"{stream}guidance_rescale"] = 0.0
        return arguments | {"frame_rate": self.default_fps(), "use_cross_timestep": self._newer}

    def noise_arguments(
        self, z: Tensor, contract: Contract, given: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """Each stream's own, the video's with the first frame in place: handed latents, the pipeline looks at none.
        It normalises both, as if they came of its autoencoders."""
        # the pipeline places the first frame only in latents that it draws itself
        if given:
            first = self.encode_given(given, contract.size, len(z))[GIVEN_LATENTS]
            z = torch.cat([first.to(z), z[:, :, 1:]], dim=2)
        streams = self._streams(z)
        video, sound = streams.split(z)
        mean, std = self._sound_statistics(z)
        return {
            "latents": self.denormalised(to_latents(video, streams.grid)),
            "audio_latents": sound * std + mean,
        }

    def from_outputs(self, outputs: Sequence[Any], shape: Sequence[int]) -> Tensor:
        """Of the pipeline's video and sound, both as its autoencoders have them, one tensor again."""
        video, sound = outputs
        mean, std = self._sound_statistics(sound)
        tokens = (sound.transpose(1, 2).flatten(2) - mean) / std
        frames, height, width = video.shape[2:]
        return self._streams_of((frames, height, width)).join(to_tokens(self.normalised(video)), tokens)

    def _sound_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        vae = self.pipeline.audio_vae
        return vae.latents_mean.to(like), vae.latents_std.to(like)


class LTX2ImageTeacher(LTX2Teacher):
    """Adapter for LTX2ImageToVideoPipeline."""

    needs = ("first",)
