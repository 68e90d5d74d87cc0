"""Kandinsky 5 text-to-video (arXiv 2511.14993): a flow model that reads texts with no padding.

Its prompts are read by Qwen2.5-VL, within a template, token by token, and by CLIP as one vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_kandinsky import Kandinsky5TransformerDecoderBlock
from diffusers.pipelines.kandinsky5.pipeline_kandinsky import prompt_clean
from torch import Tensor, nn

from fewstep.teacher.base import TAP_DEPTHS
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.families.keys import POOLED_TEXT, TEXT_MASK
from fewstep.teacher.families.limits import check_positions, latent_grid
from fewstep.teacher.families.transformer import ScaledLatents, TransformerTeacher
from fewstep.teacher.given import KeptLatents
from fewstep.teacher.pipelines.index import read_json
from fewstep.teacher.schedule import Time
from fewstep.teacher.tokens import count_tokens, unknown_words

KANDINSKY_TEXT_LENGTH = 512  # the pipelines' own max_sequence_length


class KandinskyTeacher(ScaledLatents, TransformerTeacher):
    """Adapter for Kandinsky5T2VPipeline.

    Clips are asked for one by one, as in the pipeline's own call: nothing masks a text's padding, so that texts of
    several lengths cannot be asked for at once.
    """

    family_fps = 24.0
    other_encoders = ("text_encoder_2",)
    padded = frozenset({EMBEDDINGS, TEXT_MASK})

    @property
    def text_limit(self) -> int:
        """Qwen's tokens behind the template's beginning, and one that ends a message, which long prompts do without.

        CLIP reads 77 of its own.
        """
        return KANDINSKY_TEXT_LENGTH + 1

    def cleaned(self, prompt: str) -> str:
        """With entities such as &amp; resolved, and single blanks."""
        return str(prompt_clean(prompt))

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """With one that ends the message: Qwen's tokenizer adds none by itself."""
        return [count + 1 for count in count_tokens(self._tokenizer, [self.cleaned(prompt) for prompt in prompts])]

    def unknown_words(self, prompts: Sequence[str]) -> list[list[str]]:
        """By Qwen's tokenizer."""
        return unknown_words(self._tokenizer, [self.cleaned(prompt) for prompt in prompts])

    @property
    def _tokenizer(self) -> Any:
        """Within a processor, as the checkpoints have it, or by itself."""
        tokenizer = self.pipeline.tokenizer
        return getattr(tokenizer, "tokenizer", tokenizer)

    def embed(self, prompts: list[str]) -> Tensors:
        """One by one, as long as each is; zeros behind the shorter ones."""
        self._part("text_encoder_2")
        parts = []
        for prompt in prompts:
            text, pooled, _ = self.pipeline.encode_prompt(
                [prompt], max_sequence_length=KANDINSKY_TEXT_LENGTH, device=self.device
            )
            positive = {EMBEDDINGS: text, TEXT_MASK: torch.ones_like(text[..., 0]), POOLED_TEXT: pooled}
            parts.append(Conditions(positive, padded=self.padded))
        return Conditions.join(parts).positive

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The velocity eps - x0. The time is cast to what the denoiser is in, as the pipeline does."""
        denoiser, dtype = self._denoiser_and_dtype(network)
        times = self.schedule.timestep(t).expand(len(z_t)).to(z_t.device, dtype)
        seen = self.with_pictures(z_t, self.kept(conditions, z_t)).to(dtype)
        predictions = [
            self._one(denoiser, seen[i : i + 1], times[i : i + 1], conditions[i : i + 1]) for i in range(len(z_t))
        ]
        return torch.cat(predictions).movedim(-1, 1).to(z_t.dtype)

    def _one(self, network: Any, latents: Tensor, time: Tensor, conditions: Conditions) -> Tensor:
        """The denoiser's output (1, F, h, w, C) for one clip's latents, in its own layout."""
        seen, device = conditions.positive, latents.device
        # what `Conditions` padded is cut again: nothing masks it in the attention
        length = max(1, int(seen[TEXT_MASK].count_nonzero()))  # a sum in bfloat16 would be rounded
        # positions are counted in patches, and the scale of the rotary embeddings follows from the size in pixels
        grid = [n // p for n, p in zip(latents.shape[1:4], self._patch, strict=True)]
        height, width = (n * self.pipeline.vae_scale_factor_spatial for n in latents.shape[2:4])
        output: Tensor = network(
            hidden_states=latents,
            encoder_hidden_states=seen[EMBEDDINGS][:, :length].to(device, latents.dtype),
            pooled_projections=seen[POOLED_TEXT].to(device, latents.dtype),
            timestep=time,
            visual_rope_pos=[torch.arange(n, device=device) for n in grid],
            text_rope_pos=torch.arange(length, device=device),
            scale_factor=self.pipeline._get_scale_factor(height, width),
            return_dict=False,
        )
        return output

    def with_pictures(self, z: Tensor, kept: KeptLatents | None) -> Tensor:
        """(B, F, h, w, C'): with what is kept in place and, behind C channels, those for images and their mask."""
        pinned = z if kept is None else kept.pin(z)
        if self._config.visual_cond:
            mask = torch.zeros_like(z[:, :1])
            if kept is not None:
                mask += kept.mask
            pinned = torch.cat([pinned, torch.zeros_like(z), mask], dim=1)  # the pipelines' images are zeros, too
        return pinned.movedim(1, -1).contiguous()

    def features(
        self,
        z_t: Tensor,
        t: Time,
        conditions: Conditions,
        depths: Sequence[float] = TAP_DEPTHS,
        network: nn.Module | None = None,
    ) -> list[Tensor]:
        """One by one, too."""
        # texts as long as they are fit no batch, so that each clip has a pass of its own
        times = torch.as_tensor(t).expand(len(z_t))
        rows = [slice(i, i + 1) for i in range(len(z_t))]
        of_rows = [
            super(KandinskyTeacher, self).features(z_t[i], times[i], conditions[i], depths, network) for i in rows
        ]
        return [torch.cat(of_depth) for of_depth in zip(*of_rows, strict=True)]

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames must be 4 k + 1; height and width whole patches, and multiples of 16, as the pipeline asks."""
        per_frame, per_pixel = self.pipeline.vae_scale_factor_temporal, self.pipeline.vae_scale_factor_spatial
        _, rows, columns = self._patch
        sides = max(16, per_pixel * rows), max(16, per_pixel * columns)
        grid = latent_grid(num_frames, height, width, per_frame, per_pixel, sides)
        most = min(self._transformer.visual_rope_embeddings.max_pos)
        check_positions([n // p for n, p in zip(grid, self._patch, strict=True)], most)
        return self._config.out_visual_dim, *grid

    # --- what its folders may hold

    schedules = (("flow", "flow"),)
    block_classes = (Kandinsky5TransformerDecoderBlock,)  # diffusers counts the texts' blocks, too
    agreeing = (
        ("vae.latent_channels", "transformer.in_visual_dim"),
        ("vae.latent_channels", "transformer.out_visual_dim"),
        ("text_encoder_2.hidden_size", "transformer.in_text_dim2"),
    )

    @classmethod
    def check_folder(cls, folder: Path, index: dict[str, Any]) -> None:
        """No sparse attention."""
        super().check_folder(folder, index)
        config = folder / "transformer" / "config.json"
        kind = read_json(config).get("attention_type", "regular") if config.is_file() else "regular"
        if kind != "regular":
            raise ValueError(
                f"the transformer in {folder} has attention_type {kind!r}, which chooses blocks of tokens by itself, "
                "in a compiled kernel of a GPU, and was never run here: use a checkpoint with regular attention, as "
                "kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers"
            )

    # --- what exports ask

    ungraphable = "its denoiser is asked for clips one by one, each with a text as long as it is"

    def to_pipeline(self, z: Tensor) -> Tensor:
        """(B, F, h, w, C'), without images."""
        return self.with_pictures(z, None)

    def from_pipeline(self, latents: Tensor, shape: Sequence[int]) -> Tensor:
        """The clip's channels back."""
        return latents.movedim(-1, 1)
