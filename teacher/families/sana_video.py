"""SANA-Video (arXiv 2509.24695): a flow transformer with linear attention, from prompts or from a first frame too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import SanaImageToVideoPipeline, SanaVideoPipeline
from diffusers.models.transformers.transformer_sana_video import SanaVideoTransformerBlock
from torch import Tensor, nn

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.families.keys import GIVEN_LATENTS, TEXT_MASK
from fewstep.teacher.families.limits import check_positions, latent_grid
from fewstep.teacher.families.transformer import TransformerTeacher
from fewstep.teacher.given import Given, KeptLatents, to_pixels
from fewstep.teacher.pipelines.index import read_json
from fewstep.teacher.schedule import Time
from fewstep.teacher.source import call_defaults
from fewstep.teacher.stock import Contract

SANA_TEXT_LENGTH = 300  # SanaVideoPipeline's max_sequence_length
SIDES = {22: (704, 1280)}  # by the denoiser's sample_size; else of 480p
VAES = ("AutoencoderKLWan", "AutoencoderKLLTX2Video")


class SanaVideoTeacher(TransformerTeacher):
    """Adapter for SanaVideoPipeline. Prompts follow an instruction to the text encoder, negative ones do not.

    A first frame that is given is in place, clean and at time 0.
    """

    takes: tuple[str, ...] = ("first",)
    given_arguments = MappingProxyType({"first": "image"})
    padded = frozenset({EMBEDDINGS, TEXT_MASK})
    family_fps = 16.0

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self._instruction = call_defaults(type(pipeline))["complex_human_instruction"]
        _check_tokens(pipeline, folder)
        self.family_size = VideoSize(81, *SIDES.get(self._config.sample_size, (480, 832)))

    @property
    def text_limit(self) -> int:
        """One less than the pipeline's own length: it makes room for the instruction's end."""
        return SANA_TEXT_LENGTH - 1

    def cleaned(self, prompt: str) -> str:
        """In lower case, stripped."""
        return str(self.pipeline._text_preprocessing(prompt)[0])

    def embed(self, prompts: list[str]) -> Tensors:
        """Behind the instruction, which is cut off again; zeros where the mask is."""
        return self._encoded(prompts, self._instruction)

    def embed_negative(self, prompt: str, given: Given) -> Tensors:
        """As the pipeline does it: without the instruction."""
        return self._encoded([prompt], None)

    def _encoded(self, prompts: list[str], instruction: list[str] | None) -> Tensors:
        self.pipeline.tokenizer.padding_side = "right"
        # as the pipeline does for each branch: the instruction before prompts, nothing before negative ones
        if instruction is None:
            encoded = self.pipeline._get_gemma_prompt_embeds(
                prompts, self.device, self.pipeline.text_encoder.dtype, max_sequence_length=SANA_TEXT_LENGTH
            )
        else:
            encoded = self.pipeline.encode_prompt(
                prompts, False, device=self.device, complex_human_instruction=instruction
            )
        embeddings, mask = encoded[:2]
        return {EMBEDDINGS: embeddings * mask[..., None].to(embeddings), TEXT_MASK: mask.float()}

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The velocity eps - x0."""
        denoiser, dtype = self._denoiser_and_dtype(network)
        kept = self.kept(conditions, z_t)
        timestep = self.schedule.timestep(t).expand(len(z_t)).to(z_t.device, torch.float32)
        if kept is not None:  # a time per token, 0 for those of the frame
            z_t = kept.pin(z_t)
            grid = [n // p for n, p in zip(z_t.shape[2:], self._patch, strict=True)]
            timestep = timestep.view(-1, 1, 1, 1, 1).repeat(1, 1, *grid)
            timestep[:, :, 0] = 0
        output: Tensor = denoiser(
            z_t.to(dtype),
            conditions.positive[EMBEDDINGS].to(z_t.device, dtype),
            timestep,
            encoder_attention_mask=conditions.positive[TEXT_MASK].to(z_t.device),
            return_dict=False,
        )[0]
        return output[:, : z_t.shape[1]].to(z_t.dtype)  # the other half of some is a variance that is not used

    def take(self, names: Sequence[str]) -> None:
        """The checkpoints name the pipeline for texts; given a first frame, it is the one for images."""
        super().take(names)
        if self.given and isinstance(self.pipeline, SanaVideoPipeline):
            made: Any = SanaImageToVideoPipeline
            self.pipeline = made(**self.pipeline.components)

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The latents of the first frame."""
        return {GIVEN_LATENTS: self.encode(to_pixels(given["first"]).to(self.device))} if given else {}

    def kept(self, conditions: Conditions, z: Tensor) -> KeptLatents | None:
        """The first frame, where it is given."""
        return (
            KeptLatents.first_frame(conditions.shared[GIVEN_LATENTS], z) if GIVEN_LATENTS in conditions.shared else None
        )

    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mode, normalised per channel."""
        vae = self._part("vae")
        latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`."""
        vae = self._part("vae")
        mean, std = self._statistics(latents)
        return vae.decode((latents * std + mean).to(vae.dtype), return_dict=False)[0].float()

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        vae = self._part("vae")
        own = vae.config if "latents_mean" in vae.config else vae  # LTX-2's has them as buffers
        mean, std = (torch.as_tensor(x).to(latents).view(-1, 1, 1, 1) for x in (own.latents_mean, own.latents_std))
        return mean, std

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames must be whole groups behind the first; sides multiples of 32, as the pipeline asks."""
        per_frame, per_pixel = self.pipeline.vae_scale_factor_temporal, self.pipeline.vae_scale_factor_spatial
        patch = self._patch
        sides = lcm(32, per_pixel * patch[1]), lcm(32, per_pixel * patch[2])
        grid = latent_grid(num_frames, height, width, per_frame, per_pixel, sides)
        check_positions([n // p for n, p in zip(grid, patch, strict=True)], self._config.rope_max_seq_len)
        return self._config.in_channels, *grid

    # --- what its folders may hold

    schedules = (("flow", "flow"),)
    block_classes = (SanaVideoTransformerBlock,)
    agreeing = (
        ("vae.z_dim", "transformer.in_channels"),
        ("vae.latent_channels", "transformer.in_channels"),
        ("text_encoder.hidden_size", "transformer.caption_channels"),
    )

    @classmethod
    def check_folder(cls, folder: Path, index: dict[str, Any]) -> None:
        """No autoencoder of images, and no guidance as an input, which the pipeline never gives."""
        super().check_folder(folder, index)
        config = folder / "transformer" / "config.json"
        vae = (index.get("vae") or [None, None])[1]
        if vae not in VAES:
            raise ValueError(f"{folder} has {vae} as its vae, not one of videos: use a folder with {' or '.join(VAES)}")
        if config.is_file() and read_json(config).get("guidance_embeds"):
            raise ValueError(
                f"the transformer in {folder} has guidance_embeds, and SanaVideoPipeline passes it no guidance, so "
                "nothing can sample it: use the checkpoint that the published few-step one was distilled from"
            )

    # --- what exports ask

    frames_argument = "frames"

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Exactly the size that was trained instead of the nearest of the pipeline's own."""
        return {**super().call_arguments(contract, given), "use_resolution_binning": False}


class SanaVideoImageTeacher(SanaVideoTeacher):
    """Adapter for SanaImageToVideoPipeline, which cannot do without a first frame."""

    needs = ("first",)


def _check_tokens(pipeline: Any, folder: Path) -> None:
    """Raises ValueError where the tokenizer, if it is there, has tokens that the text encoder does not know."""
    known = pipeline.text_encoder.config.vocab_size
    if pipeline.tokenizer is not None and pipeline.tokenizer.vocab_size > known:
        raise ValueError(
            f"{folder}/tokenizer has {pipeline.tokenizer.vocab_size} tokens, and its text_encoder knows {known}: they "
            "are of different models; restore the tokenizer that came with the weights"
        )
