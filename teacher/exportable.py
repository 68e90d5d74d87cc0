"""The part of a teacher that exports use: its pipeline in stock diffusers and in other tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fewstep.teacher.conditions import Conditions
from fewstep.teacher.given import to_pil
from fewstep.teacher.schedule import NoiseSchedule
from fewstep.teacher.stock import ComfyUI, Contract, OriginalNames, StockScheduler, usual_scheduler


class Exportable:
    """The part of `Teacher` that knows how its students leave. A family says what differs."""

    pipeline: Any
    reads_text: bool

    @property
    def schedule(self) -> NoiseSchedule:
        """See `Scheduled`."""
        raise NotImplementedError

    given_arguments: Mapping[str, str] = MappingProxyType({})  # what is given -> the pipeline's argument
    original_names: OriginalNames | None = None  # of the denoiser's tensors, as their authors have them, if known
    stock_settings: Mapping[str, Any] = MappingProxyType({})  # attributes of the pipeline that its class gets wrong
    frames_argument = "num_frames"  # how the pipeline's call names the frames of a clip
    makes_pictures = False  # whether the pipeline's call gives `images`, not `frames`
    ungraphable = ""  # why one graph cannot hold the denoiser for any batch and text
    fuses_lora = False  # whether the pipeline samples with a LoRA only once it is fused into the weights

    def stock_scheduler(self, contract: Contract) -> StockScheduler:
        """The sampler of diffusers with which the pipeline samples a student of this contract.

        Raises ValueError, with the reason, where there is none.
        """
        return usual_scheduler(self.schedule, contract)

    def set_up(self, pipeline: Any) -> None:
        """Gives a pipeline of diffusers the attributes of `stock_settings`."""
        for name, value in self.stock_settings.items():
            setattr(pipeline, name, value)

    def stock_timesteps(self, scheduler: Any, contract: Contract) -> Tensor:
        """The nodes (steps,), float64, that the pipeline's call takes of this stock scheduler."""
        scheduler.set_timesteps(contract.steps)
        return torch.as_tensor(scheduler.timesteps, dtype=torch.float64)

    def stock_rounding(self, contract: Contract) -> float:
        """The relative error of latents that the stock sampler's own arithmetic makes, which exports then allow; where
        it adds noise up at its full scale."""
        return 0.0

    def stock_parts(self) -> dict[str, dict[str, Any]]:
        """Parts of the pipeline with other settings for students, besides denoiser and scheduler: name -> settings."""
        return {}

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """What the pipeline is called with for one clip of a student, besides prompt (if `reads_text`), noise and kind
        of output.

        `given`: the images and videos that the clip is made from, by name: uint8, each (1, 3, F, H, W).
        Raises ValueError for what the pipeline does not take.
        """
        if strays := [name for name in given or {} if name not in self.given_arguments]:
            raise ValueError(f"{type(self.pipeline).__name__} takes no {', '.join(strays)}: give it prompts only")
        pictures = by_argument(self.given_arguments, {n: to_pil(video[0], n) for n, video in (given or {}).items()})
        size = dict(zip(self.size_arguments, contract.size, strict=True))
        return {"num_inference_steps": contract.steps, "guidance_scale": contract.guidance.weight, **size, **pictures}

    @property
    def size_arguments(self) -> tuple[str, str, str]:
        """How the pipeline's call names the sides of a clip, in the order of `VideoSize`."""
        return self.frames_argument, "height", "width"

    def noise_arguments(
        self, z: Tensor, contract: Contract, given: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """What the pipeline is called with so that one clip begins from the noise z (1, C, F, h, w).

        It replaces what `call_arguments` says by the same names, for pipelines that take noise in no plain way.
        """
        return {"latents": self.to_pipeline(z)}

    def to_pipeline(self, z: Tensor) -> Tensor:
        """Noise (B, C, F, h, w) in the layout of the pipeline's `latents`."""
        return z

    def given_out(self, latents: Tensor) -> Tensor:
        """Latents (B, C, F, h, w) with zeros where the pipeline's call gives none, as `from_pipeline` fills them."""
        return latents

    def from_pipeline(self, latents: Tensor, shape: Sequence[int]) -> Tensor:
        """What the pipeline's call gives with `output_type="latent"`, as (B, C, F, h, w), which is `shape`."""
        return latents

    def from_outputs(self, outputs: Sequence[Any], shape: Sequence[int]) -> Tensor:
        """`from_pipeline` of all that the call returns, for clips that are more than its first entry."""
        return self.from_pipeline(outputs[0], shape)

    def shared_part(self, network: Any) -> Any:
        """The part of a denoiser that alone was trained (`Teacher.restrict`), as a model of diffusers that its users
        share; None where the family has none."""
        return None

    shared_with = ""
    """Programs whose users share a `shared_part` as one file under its authors' names, which is `part_file`'s."""

    def part_file(self, part: Any) -> dict[str, Tensor]:
        """A `shared_part` as that file's tensors."""
        return {}

    def put_part(self, pipe: Any, part: Any) -> None:
        """Puts a `shared_part` into the pipeline of any base model."""
        raise NotImplementedError

    part_code = ""
    """Python that puts `part` into `pipe`."""

    def fixed_lengths(self, conditions: Conditions) -> Conditions:
        """The same conditions with all the padding that the pipeline has: as long whatever the prompts, for graphs."""
        return conditions

    @property
    def comfyui(self) -> ComfyUI | None:
        """What ComfyUI makes of the family's files, if it is known; it needs `original_names`."""
        return None


def by_argument(arguments: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by what is given -> by the pipeline's argument for it, a list where several share one."""
    shared: dict[str, list[Any]] = {}
    for name in values:
        shared.setdefault(arguments[name], []).append(values[name])
    several = {name for name in shared if list(arguments.values()).count(name) > 1}
    return {name: of_argument if name in several else of_argument[0] for name, of_argument in shared.items()}
