"""A teacher's pipeline as diffusers itself, and ComfyUI, use it: what exports of its students must know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fewstep.teacher.denoiser_inputs import ControlScale
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.schedule import NoiseSchedule, Prediction, ScheduleKind
from fewstep.teacher.schedulers import prediction_type
from fewstep.teacher.source import VideoSize

Node = tuple[str, dict[str, Any]]  # of a ComfyUI workflow: its class and inputs


class Contract(Protocol):
    """How a student is sampled, as far as a pipeline needs it: what student.contract.SamplingContract says."""

    @property
    def steps(self) -> int: ...
    @property
    def kind(self) -> ScheduleKind: ...
    @property
    def prediction(self) -> Prediction: ...
    @property
    def shift(self) -> float: ...
    @property
    def times(self) -> tuple[float, ...]: ...
    @property
    def timesteps(self) -> tuple[float, ...]: ...
    @property
    def guidance(self) -> Guidance: ...
    @property
    def size(self) -> VideoSize: ...
    @property
    def control_scale(self) -> ControlScale: ...


@dataclass(frozen=True)
class StockScheduler:
    """A sampler of diffusers as code: the class and what it is made with, on top of the teacher's own config or not."""

    name: str
    settings: dict[str, Any]
    from_config: bool

    @property
    def code(self) -> str:
        """The Python expression, where `pipe` is the pipeline."""
        settings = [f"{key}={value!r}" for key, value in self.settings.items()]
        if self.from_config:
            return f"{self.name}.from_config({', '.join(['pipe.scheduler.config', *settings])})"
        return f"{self.name}({', '.join(settings)})"

    def make(self, pipe: Any) -> Any:
        """The scheduler itself, for the teacher's pipeline."""
        import diffusers

        made: Any = getattr(diffusers, self.name)
        return made.from_config(pipe.scheduler.config, **self.settings) if self.from_config else made(**self.settings)


@dataclass(frozen=True)
class OriginalNames:
    """A denoiser's tensors as its authors name them, and ComfyUI after them.

    to_original: a tensor's name in diffusers -> there, also of adapters on it. to_diffusers: all tensors under their
    original names -> under diffusers' names, by its own converter.
    """

    to_original: Callable[[str], str]
    to_diffusers: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

    def original(self, state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """All tensors under their original names behind `prefix`, on the CPU."""
        return {prefix + self.to_original(name): tensor.detach().cpu().contiguous() for name, tensor in state.items()}


@dataclass(frozen=True)
class ComfyUI:
    """What ComfyUI makes of a family's files. Only flow models are described, whose shift ModelSamplingSD3 sets.

    model: its name there. architecture: what GGUF files say for ComfyUI-GGUF. shift: ComfyUI's own. expected: settings
    of the denoiser that it takes for granted, expected_vae of the autoencoder. text_encoder, vae: the nodes that load
    them. noise: the node that makes empty latents, whose size the workflow fills in; it may refer to ["vae", 0].
    """

    model: str
    architecture: str
    shift: float
    expected: Mapping[str, Any]
    expected_vae: Mapping[str, Any]
    text_encoder: Node
    vae: Node
    noise: Node


def usual_scheduler(schedule: NoiseSchedule, contract: Contract) -> StockScheduler:
    """The sampler of diffusers that suits most students of a teacher with this schedule.

    Flow students: FlowMapEuler, the only one of evenly spaced nodes before the shift. eps, v and x0: DDIM with trailing
    nodes, which is fed pure noise as the student was; EulerDiscrete would scale it by sigma/sqrt(sigma^2 + 1).
    Raises ValueError when there is none.
    """
    if (contract.kind, contract.prediction) == ("flow", "flow"):
        settings: dict[str, Any] = {"shift": contract.shift}
        if schedule.num_train_timesteps != 1000:
            settings["num_train_timesteps"] = schedule.num_train_timesteps
        return StockScheduler("FlowMapEulerDiscreteScheduler", settings, from_config=False)
    if contract.kind == "vp" and contract.shift == 1.0:
        # DDIM with these settings steps as `NoiseSchedule.step` does, on the same nodes
        settings = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
        if contract.prediction != schedule.prediction:  # it was converted
            settings["prediction_type"] = prediction_type(contract.prediction)
        return StockScheduler("DDIMScheduler", settings, from_config=True)
    raise ValueError(
        f"no sampler of diffusers has the nodes of a {contract.kind} student with {contract.prediction}-prediction "
        f"and shift {contract.shift:g}: sample it with fewstep"
    )
