"""Wan 2.1 and 2.2 (arXiv 2503.20314): flow models with one or two denoisers; here what all have, and text-to-video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor, nn
from torch.nn import functional

from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors, cut_padding
from fewstep.teacher.experts import Experts, parts_of
from fewstep.teacher.families.keys import GIVEN_LATENTS
from fewstep.teacher.families.limits import check_positions, latent_grid
from fewstep.teacher.families.wan_attention import WAN_TEXT_LENGTH, count_padding
from fewstep.teacher.families.wan_files import COMFYUI, COMFYUI_5B, WAN_NAMES
from fewstep.teacher.given import Given, KeptLatents, to_pixels
from fewstep.teacher.pipelines.index import index_path
from fewstep.teacher.schedule import Time
from fewstep.teacher.stock import ComfyUI, OriginalNames

_TOKENS_AT_ONCE = 64  # prompts are encoded at few lengths, which compiled encoders and rounding like
_PARTS = ("tokenizer", "text_encoder", "vae", "scheduler", "transformer")


class WanTeacher(Teacher):
    """Adapter for WanPipeline: Wan 2.1, Wan 2.2 with two experts, Wan 2.2 5B with a timestep per token."""

    splits_clips = True

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self._denoiser = _denoiser(pipeline)
        self._transformer: Any = pipeline.transformer  # of experts both have its architecture
        self._config = self._transformer.config
        self._in_place = bool(pipeline.config.get("expand_timesteps"))  # Wan 2.2 5B: a time for each token
        if self._in_place:
            self.takes, self.given_arguments = ("first",), MappingProxyType({"first": "image"})
        self.family_fps = 24.0 if self._in_place else 16.0
        # tokens of an image go before the text, whose length is then fixed, so it must stay whole there
        self._cut = self._config.added_kv_proj_dim is None and self._config.image_dim is None
        if self._cut:
            for transformer in parts_of(self._denoiser).values():
                count_padding(transformer)

    @property
    def text_limit(self) -> int:
        """WanPipeline's own default."""
        return WAN_TEXT_LENGTH

    def cleaned(self, prompt: str) -> str:
        """With entities such as &amp; resolved, and single blanks."""
        return str(prompt_clean(prompt))

    def embed(self, prompts: list[str]) -> Tensors:
        """Cut behind the longest prompt, where the denoiser can count what is cut.

        The text encoder masks padding, and the pipeline puts zeros in its place: so it need not be encoded.
        """
        longest = max(self.count_tokens(prompts)) + 1  # with one token of padding, which stands for all that is cut
        length = min(self.text_limit, -(-longest // _TOKENS_AT_ONCE) * _TOKENS_AT_ONCE)
        embeddings: Tensor = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=length, device=self.device
        )[0]
        return {EMBEDDINGS: cut_padding(embeddings) if self._cut else _whole(embeddings)}

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The velocity eps - x0."""
        network = self._denoiser if network is None else network
        if isinstance(network, Experts):
            return self.ask_experts(network, z_t, t, conditions)
        times = torch.as_tensor(t, dtype=torch.float64, device="cpu").expand(len(z_t))
        return self._forward(network, z_t, times, conditions)

    def _forward(self, network: Any, z_t: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        first = (network if hasattr(network, "patch_embedding") else self._transformer).patch_embedding
        dtype = first.weight.dtype  # diffusers' own .dtype walks through all modules, at every evaluation
        inputs: dict[str, Tensor] = {
            "hidden_states": z_t,
            "timestep": self._timesteps(z_t, times),
            "encoder_hidden_states": self._text(conditions),
            **self._given_inputs(z_t, times, conditions),
        }
        # times stay in float32: above 256, bfloat16 has even numbers at best
        inputs = {n: x.to(z_t.device, torch.float32 if n == "timestep" else dtype) for n, x in inputs.items()}
        usual = [inputs.pop(name) for name in ("hidden_states", "timestep", "encoder_hidden_states")]
        output: Tensor = network(*usual, **inputs, return_dict=False)[0]
        return output.to(z_t.dtype)

    def _text(self, conditions: Conditions) -> Tensor:
        """(B, L, D), whole again where a dataset cut its padding and the denoiser cannot count that."""
        text = conditions.positive[EMBEDDINGS]
        return text if self._cut else _whole(text)

    def _timesteps(self, z_t: Tensor, times: Tensor) -> Tensor:
        """(B,), or (B, tokens) for Wan 2.2 5B."""
        timestep = self.schedule.timestep(times)
        if self._in_place:
            timestep = timestep[:, None].expand(-1, self._grid(z_t).numel())
        return timestep

    def _given_inputs(self, z_t: Tensor, times: Tensor, conditions: Conditions) -> Tensors:
        """The denoiser's further arguments, or others than the usual ones, where something besides text is given."""
        kept = self.kept(conditions, z_t)
        if kept is None:
            return {}
        per_frame = self._timesteps(z_t, times).unflatten(1, self._grid(z_t)).clone()
        per_frame[:, 0] = 0  # what is clean is at time 0
        return {"hidden_states": kept.pin(z_t), "timestep": per_frame.flatten(1)}

    def take(self, names: Sequence[str]) -> None:
        """A folder of Wan 2.2 5B names the pipeline for texts; given a first frame, it is the one for images."""
        super().take(names)
        if self._in_place and self.given and isinstance(self.pipeline, WanPipeline):
            parts = {name: self.pipeline.components[name] for name in _PARTS}
            self.pipeline = WanImageToVideoPipeline(**parts, expand_timesteps=True)

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The latents of the first frame."""
        return {GIVEN_LATENTS: self.encode(to_pixels(given["first"]).to(self.device))} if given else {}

    def kept(self, conditions: Conditions, z: Tensor) -> KeptLatents | None:
        """The first frame, where it is in place, clean and at time 0."""
        if not self._in_place or GIVEN_LATENTS not in conditions.shared:
            return None
        return KeptLatents.first_frame(conditions.shared[GIVEN_LATENTS], z)

    @property
    def denoiser(self) -> nn.Module:
        """The transformer, or two of them as experts."""
        return self._denoiser

    def index_without(self, index: Mapping[str, Any], components: Sequence[str]) -> dict[str, Any]:
        """With a boundary only where there are two transformers."""
        entries = super().index_without(index, components)
        return entries | {"boundary_ratio": None} if components else entries

    def tokens_to_grid(self, tokens: Tensor, z_t: Tensor) -> Tensor:
        """(B, L, C) -> (B, C, F', h', w')."""
        return tokens.unflatten(1, self._grid(z_t)).movedim(-1, 1)

    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mode, normalised per channel."""
        vae = self._part("vae")
        latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
        mean, std = self._latent_statistics(latents)
        return (latents - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`."""
        vae = self._part("vae")
        mean, std = self._latent_statistics(latents)
        return vae.decode((latents * std + mean).to(vae.dtype), return_dict=False)[0].float()

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames must be 4 k + 1; height and width whole patches of the autoencoder and the denoiser."""
        per_frame, per_pixel = self.pipeline.vae_scale_factor_temporal, self.pipeline.vae_scale_factor_spatial
        _, patch_height, patch_width = self._config.patch_size
        sides = per_pixel * patch_height, per_pixel * patch_width
        grid = latent_grid(num_frames, height, width, per_frame, per_pixel, sides)
        patches = [side // patch for side, patch in zip(grid, self._config.patch_size, strict=True)]
        check_positions(patches, self._config.rope_max_seq_len)
        return self._config.out_channels, *grid

    def _grid(self, z_t: Tensor) -> torch.Size:
        return torch.Size(n // p for n, p in zip(z_t.shape[2:], self._config.patch_size, strict=True))

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        config = self._part("vae").config
        mean, std = (torch.tensor(x, device=latents.device) for x in (config.latents_mean, config.latents_std))
        return mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)

    # --- what its folders may hold

    schedules = (("flow", "flow"),)
    block_classes = (WanTransformerBlock,)
    agreeing = (
        ("vae.z_dim", "transformer.out_channels"),
        ("vae.z_dim", "transformer_2.out_channels"),
        ("text_encoder.d_model", "transformer.text_dim"),
        ("text_encoder.d_model", "transformer_2.text_dim"),
    )

    @classmethod
    def check_folder(cls, folder: Path, index: dict[str, Any]) -> None:
        """With `boundary_ratio` both experts must be there, and without it there is no second one."""
        super().check_folder(folder, index)
        boundary, path = index.get("boundary_ratio"), index_path(folder)
        first, second = (any(index.get(name) or ()) for name in ("transformer", "transformer_2"))
        number = isinstance(boundary, int | float) and not isinstance(boundary, bool)
        # which of the two is asked at a time must follow from the index alone
        if not first and (second or boundary):
            raise ValueError(
                f"{path} names no transformer, which is asked first: name it, alone or before transformer_2"
            )
        if boundary is not None and not (number and 0 < boundary <= 1):
            raise ValueError(
                f"{path} has boundary_ratio {boundary!r}: it is the time above which transformer is used, a number "
                "above 0 and up to 1, or null for one denoiser"
            )
        if second and boundary is None:
            raise ValueError(
                f"{path} names a transformer_2, but no boundary_ratio, so nothing says below which time it is used: "
                "restore it, such as 0.875 of Wan 2.2 A14B's text-to-video and 0.9 of its image-to-video, or name no "
                "transformer_2"
            )
        if boundary and not second:
            raise ValueError(
                f"{path} has boundary_ratio {boundary:g}, so that two experts share the times, but names no "
                "transformer_2: download it again, or set boundary_ratio to null if the model has one denoiser"
            )

    # --- what exports ask

    original_names: OriginalNames | None = WAN_NAMES

    def fixed_lengths(self, conditions: Conditions) -> Conditions:
        """The texts with the zeros behind them that `embed` cut off."""

        def whole(branch: Tensors) -> Tensors:
            return {**branch, EMBEDDINGS: _whole(branch[EMBEDDINGS])}

        negative = conditions.negative
        return replace(
            conditions, positive=whole(conditions.positive), negative=None if negative is None else whole(negative)
        )

    @property
    def comfyui(self) -> ComfyUI | None:
        """Its nodes for text-to-video; its workflows of images are not described yet."""
        if self.given:
            return None
        return COMFYUI_5B if self._config.out_channels == COMFYUI_5B.expected["out_channels"] else COMFYUI


def _whole(text: Tensor) -> Tensor:
    """(B, L, D) with the zeros that WanPipeline puts behind it."""
    return functional.pad(text, (0, 0, 0, WAN_TEXT_LENGTH - text.shape[1]))


def _denoiser(pipeline: Any) -> nn.Module:
    """As WanPipeline asks: `transformer` at times from boundary_ratio on, `transformer_2` below, if there is one."""
    boundary, second = pipeline.config.get("boundary_ratio"), pipeline.components.get("transformer_2")
    return pipeline.transformer if second is None else Experts(pipeline.transformer, second, boundary)
