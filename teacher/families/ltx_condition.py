"""LTX-Video 0.9.5 and later: clips that may begin, and may end, with a given image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import Conditions, Tensors
from fewstep.teacher.families.keys import GIVEN_LATENTS
from fewstep.teacher.families.ltx import LTXTeacher
from fewstep.teacher.families.ltx_parts import to_latents, to_tokens
from fewstep.teacher.given import Given, to_pixels
from fewstep.teacher.schedule import Nodes
from fewstep.teacher.stock import Contract, StockScheduler

LAST = "last_latents"  # of a last frame (B, C, 1, h, w): further tokens before the clip's
LAST_PLACE = "last_place"  # (B,): the number of that frame in the clip


class LTXConditionTeacher(LTXTeacher):
    """Adapter for LTXConditionPipeline. The first frame is in place, clean and at time 0; the last is further tokens.

    The pipeline's nodes are linear-quadratic, as Mochi's, its positions those of the last frame behind each latent one.
    It adds noise to given frames before every step (`image_cond_noise_scale`), by which no two clips of one noise are
    the same; here they stay clean, for teacher and student.
    """

    takes = ("first", "last")
    given_arguments = MappingProxyType({"first": "image", "last": "image"})
    nodes: Nodes = "linear-quadratic"
    text_length = 256

    def shift_for(self, size: VideoSize) -> float | None:
        """None: the pipeline passes no `mu`, so a scheduler that asks for one is refused."""
        return None

    def take(self, names: Sequence[str]) -> None:
        """One class for all."""
        super(LTXTeacher, self).take(names)

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The latents of each image, encoded alone."""
        # each image is encoded as a clip of one frame
        latents = {}
        if "first" in given:
            latents[GIVEN_LATENTS] = self.encode(to_pixels(given["first"]).to(self.device))
        if "last" in given:
            latents[LAST] = self.encode(to_pixels(given["last"]).to(self.device))
            latents[LAST_PLACE] = torch.full((count,), size.num_frames - 1.0, device=self.device)
        return latents

    def _inputs(self, tokens: Tensor, timestep: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
        if LAST not in conditions.shared:
            return tokens, timestep
        last = to_tokens(conditions.shared[LAST].to(tokens))
        times = timestep.view(len(tokens), -1).expand(tokens.shape[:2])
        return torch.cat([last, tokens], dim=1), torch.cat([times.new_zeros(last.shape[:2]), times], dim=1)

    def _positions(self, z_t: Tensor, conditions: Conditions) -> dict[str, Any]:
        places = self._places(z_t.shape[2:]).to(z_t.device).expand(len(z_t), -1, -1)
        if LAST in conditions.shared:
            # tokens of the last frame lie where the clip's last frame is, in pixels and frames
            last = places[:, :, : z_t.shape[3] * z_t.shape[4]].clone()  # a frame alone is at 0
            last[:, 0] += conditions.shared[LAST_PLACE].to(last)[:, None]
            places = torch.cat([last, places], dim=2)
        seconds = places[:, :1] * (1.0 / self.default_fps())
        return {"video_coords": torch.cat([seconds, places[:, 1:]], dim=1)}

    def _places(self, grid: Sequence[int]) -> Tensor:
        """(3, L): frame, row and column of each token, the first frame at 0 and the others 8 apart from 1 on."""
        frames, rows, columns = (torch.arange(float(side)) for side in grid)
        frames = (frames * self._per_frame + 1 - self._per_frame).clamp(min=0)
        axes = torch.meshgrid(frames, rows * self._per_pixel, columns * self._per_pixel, indexing="ij")
        return torch.stack([axis.flatten() for axis in axes])

    # --- what exports ask

    def stock_scheduler(self, contract: Contract) -> StockScheduler:
        """Its nodes are given with the call, where a shift would count twice."""
        scheduler = super().stock_scheduler(contract)
        return StockScheduler(scheduler.name, {**scheduler.settings, "shift": 1.0}, from_config=True)

    def stock_timesteps(self, scheduler: Any, contract: Contract) -> Tensor:
        """Those that the call gives."""
        scheduler.set_timesteps(timesteps=list(contract.timesteps))
        return torch.as_tensor(scheduler.timesteps, dtype=torch.float64)

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """With the nodes, and given images where they belong, without noise."""
        arguments = super().call_arguments(contract, given) | {"timesteps": list(contract.timesteps)}
        # given images as a list, each with the frame where it belongs
        names = [name for name in self.takes if name in (self.given if given is None else given)]
        if names:
            at = {"first": 0, "last": contract.size.num_frames - 1}
            arguments |= {"frame_index": [at[name] for name in names], "image_cond_noise_scale": 0.0}
            arguments["video"] = [None] * len(names)  # without it only the first image is looked at
        return arguments

    def noise_arguments(
        self, z: Tensor, contract: Contract, given: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """The pipeline begins with noise of its own, whatever `latents` are: it makes one step more, after which
        a callback puts ours in place of what came of it, with the modes of given images."""
        shared = self.encode_given(given or {}, contract.size, 1)
        if GIVEN_LATENTS in shared:
            z = torch.cat([shared[GIVEN_LATENTS], z[:, :, 1:]], dim=2)
        # tokens in the denoiser's order: further ones, such as the last frame's, before the clip's
        frames = ([shared[LAST]] if LAST in shared else []) + [z]
        tokens = torch.cat([to_tokens(frame) for frame in frames], dim=1)

        def begin(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
            return {"latents": tokens} if step == 0 else tensors

        # the first node twice: the step between them is thrown away, and the callback puts z in place of its result
        nodes = [contract.timesteps[0], *contract.timesteps]
        return {"timesteps": nodes, "num_inference_steps": len(nodes), "callback_on_step_end": begin}

    def from_pipeline(self, latents: Tensor, shape: Sequence[int]) -> Tensor:
        """They come back as ours."""
        return latents if latents.ndim == 5 else to_latents(latents, shape[2:])
