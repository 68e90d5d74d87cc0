"""A student in diffusers' own hands: its pipeline class, its samplers, and nothing of ours in between."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.student.adapters import merge_adapters
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import the_denoiser
from fewstep.student.export.base import PROMPTS, Latents
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import parts_of
from fewstep.teacher.loading import without_bars
from fewstep.teacher.schedulers import prediction_type
from fewstep.teacher.source import EMBEDDED

_USUAL_TEXT_LENGTH = 226  # CogVideoXPipeline's, whatever its denoiser takes


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

    def make(self, teacher: Teacher) -> Any:
        """The scheduler itself."""
        import diffusers

        made: Any = getattr(diffusers, self.name)
        config = teacher.pipeline.scheduler.config
        return made.from_config(config, **self.settings) if self.from_config else made(**self.settings)


def stock_scheduler(student: Student) -> StockScheduler:
    """The sampler of diffusers whose nodes are the contract's when it is asked for its number of steps.

    Flow students: FlowMapEuler, the only one of evenly spaced nodes before the shift. eps, v and x0: DDIM with trailing
    nodes, which is fed pure noise as the student was; EulerDiscrete would scale it by sigma/sqrt(sigma^2 + 1).
    Raises ValueError when there is none.
    """
    contract, config = student.contract, student.teacher.pipeline.scheduler.config
    if (contract.kind, contract.prediction) == ("flow", "flow"):
        settings: dict[str, Any] = {"shift": contract.shift}
        if config.num_train_timesteps != 1000:
            settings["num_train_timesteps"] = config.num_train_timesteps
        found = StockScheduler("FlowMapEulerDiscreteScheduler", settings, from_config=False)
    elif contract.kind == "vp" and contract.shift == 1.0:
        is_cogvideox = type(student.teacher.pipeline.scheduler).__name__.startswith("CogVideoX")
        name = "CogVideoXDDIMScheduler" if is_cogvideox else "DDIMScheduler"
        settings = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
        if contract.prediction != student.teacher.schedule.prediction:  # it was converted
            settings["prediction_type"] = prediction_type(contract.prediction)
        found = StockScheduler(name, settings, from_config=True)
    else:
        raise ValueError(
            f"no sampler of diffusers has the nodes of a {contract.kind} student with {contract.prediction}-prediction "
            f"and shift {contract.shift:g}: sample it with fewstep"
        )
    _check_nodes(found.make(student.teacher), found.name, contract)
    return found


def _check_nodes(scheduler: Any, name: str, contract: SamplingContract) -> None:
    scheduler.set_timesteps(contract.steps)
    nodes = torch.as_tensor(scheduler.timesteps, dtype=torch.float64)
    wanted = torch.tensor(contract.timesteps, dtype=torch.float64)
    if len(nodes) != len(wanted) or float((nodes - wanted).abs().max()) > 1e-3:
        raise ValueError(
            f"{name} rounds its nodes to {[round(x, 1) for x in nodes.tolist()]} where the student has "
            f"{[round(x, 1) for x in contract.timesteps]}: only steps that divide "
            f"{scheduler.config.num_train_timesteps} can leave for it, such as 1, 2, 4 or 8"
        )


def denoiser_name(teacher: Teacher) -> str:
    """The pipeline's name for its denoiser: transformer, unet."""
    denoiser = the_denoiser(teacher)
    return next(name for name, part in teacher.pipeline.components.items() if part is denoiser)


def stock_pipeline(student: Student, **parts: Any) -> Any:
    """The teacher's pipeline as diffusers loads it, sampled as the student is; `parts` replace those of its folder.

    Text encoder and autoencoder, which no format changes, are shared with the teacher in memory.
    """
    teacher = student.teacher
    own = {"scheduler", *teacher.component_names().values()}
    shared = {name: part for name, part in teacher.pipeline.components.items() if part is not None and name not in own}
    loader: Any = type(teacher.pipeline)  # DiffusionPipeline would drop a `transformer` without a word
    with without_bars():
        pipe = loader.from_pretrained(teacher.folder, use_safetensors=True, **{**shared, **parts})
    pipe.scheduler = stock_scheduler(student).make(teacher)
    return pipe.to(teacher.device)


def call_arguments(student: Student) -> dict[str, Any]:
    """What the pipeline is called with for one clip of the student, beside prompt and noise."""
    contract = student.contract
    found: dict[str, Any] = {"num_inference_steps": contract.steps, "guidance_scale": contract.guidance.weight}
    found |= contract.size._asdict()
    first, *_ = parts_of(student.teacher.denoiser).values()
    length = getattr(first.config, "max_text_seq_length", _USUAL_TEXT_LENGTH)
    return found if length == _USUAL_TEXT_LENGTH else found | {"max_sequence_length": length}


def pipeline_latents(pipe: Any, student: Student) -> Latents:
    """The pipeline's own call as a source of latents, a clip at a time."""
    pipe.set_progress_bar_config(disable=True)
    frames_first = student.contract.pipeline == "CogVideoXPipeline"  # its latents are (B, F, C, h, w)
    arguments = call_arguments(student)

    def one(z: Tensor, prompt: str) -> Tensor:
        noise = z.transpose(1, 2) if frames_first else z
        found = pipe(prompt, latents=noise, output_type="latent", **arguments).frames
        return found.transpose(1, 2) if frames_first else found

    def latents(z: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.cat([one(z[i : i + 1], prompt).float() for i, prompt in enumerate(prompts)])

    return latents


def merged_network(student: Student) -> Any:
    """The student's denoiser as a plain network of its own: adapters are added into its weights."""
    network: nn.Module = deepcopy(student.network)
    merge_adapters(network)
    return network


def merged_networks(student: Student) -> dict[str, Any]:
    """The student's own networks by the pipeline's names for them; an expert that is the teacher's is not among them.

    Adapters are added into their weights.
    """
    found = {}
    for name, part in parts_of(student.network).items():
        if name in trained_names(student.contract):
            merge_adapters(network := deepcopy(part))
            found[student.teacher.component_names()[name]] = network
    return found


def trained_names(contract: SamplingContract) -> tuple[str, ...]:
    """The names of a student's networks that have weights of their own, as `parts_of` has them."""
    return tuple(expert.name for expert in contract.experts if expert.trained) if contract.experts else ("",)


def clip_code(student: Student) -> str:
    """The snippet's last lines: a clip from `pipe`, written as a GIF."""
    arguments = "".join(f"    {key}={value!r},\n" for key, value in call_arguments(student).items())
    return (
        'pipe.to("cuda" if torch.cuda.is_available() else "cpu")\n'
        "clip = pipe(\n"
        f"    {PROMPTS[0]!r},\n"
        f"{arguments}"
        "    generator=torch.Generator().manual_seed(0),\n"
        '    output_type="pil",\n'
        ").frames[0]\n"
        f'export_to_gif(clip, "clip.gif", fps={max(1, round(student.contract.fps))})\n'
    )


def imports_code(*names: str) -> str:
    """The snippet's first lines; `names` are diffusers' own."""
    return (
        f"import torch\nfrom diffusers import {', '.join(sorted(names))}\nfrom diffusers.utils import export_to_gif\n"
    )


def base_code(student: Student, arguments: str = "") -> str:
    """`pipe`, the base model's pipeline, and the student's sampler in it; both classes must be imported.

    `arguments` are further ones of from_pretrained, after a comma.
    """
    name = student.contract.teacher
    imported, place = "", repr(name)
    if name == EMBEDDED:
        imported, place = "from fewstep.teacher.base import embedded_path  # it comes with fewstep\n", "embedded_path()"
    return (
        f"{imported}\npipe = {student.contract.pipeline}.from_pretrained({place}{arguments})\n"
        f"pipe.scheduler = {stock_scheduler(student).code}\n"
    )
