"""A student in diffusers' own hands: its pipeline class, its samplers, and nothing of ours in between."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from accelerate import init_empty_weights
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from fewstep.student.adapters import merge_adapters
from fewstep.student.contract import UNNAMED, SamplingContract
from fewstep.student.denoiser import single_denoiser
from fewstep.student.export.base import PROBE_PROMPTS, SampleLatents, Written
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import parts_of
from fewstep.teacher.exportable import by_argument
from fewstep.teacher.given import IMAGES, Given, noise_given
from fewstep.teacher.loading import without_bars
from fewstep.teacher.pipelines.index import CLASSICAL_INDEX
from fewstep.teacher.source import EMBEDDED
from fewstep.teacher.stock import StockScheduler

PUT_IN = "  # put in the base model's name on the hub, or its folder"


def stock_scheduler(student: Student) -> StockScheduler:
    """The sampler of diffusers whose nodes are the contract's when the pipeline is asked for its number of steps.

    Raises ValueError when there is none.
    """
    teacher, contract = student.teacher, student.contract
    scheduler = teacher.stock_scheduler(contract)
    _check_nodes(teacher, scheduler, contract)
    return scheduler


def _check_nodes(teacher: Teacher, stock: StockScheduler, contract: SamplingContract) -> None:
    scheduler = stock.make(teacher.pipeline)
    # samplers of diffusers may round their nodes, and a student is good at those that it was trained at only
    nodes = teacher.stock_timesteps(scheduler, contract)
    wanted = torch.tensor(contract.timesteps, dtype=torch.float64)
    if len(nodes) != len(wanted) or float((nodes - wanted).abs().max()) > 1e-3:
        raise ValueError(
            f"{stock.name} rounds its nodes to {[round(x, 1) for x in nodes.tolist()]} where the student has "
            f"{[round(x, 1) for x in contract.timesteps]}: only steps that divide "
            f"{scheduler.config.num_train_timesteps} can leave for it, such as 1, 2, 4 or 8"
        )


def denoiser_name(teacher: Teacher) -> str:
    """The pipeline's name for its denoiser: transformer, unet."""
    denoiser = single_denoiser(teacher)
    return next(name for name, part in teacher.pipeline.components.items() if part is denoiser)


def stock_pipeline(student: Student, **parts: Any) -> Any:
    """The teacher's pipeline as diffusers loads it, sampled as the student is; `parts` replace those of its folder.

    Text encoder and autoencoder, which no format changes, are shared with the teacher in memory. Raises ValueError for
    a modular pipeline, which this class of diffusers does not open.
    """
    teacher = student.teacher
    if not (teacher.folder / CLASSICAL_INDEX).is_file():
        raise ValueError(
            f"{teacher.folder} is a modular pipeline, which {type(teacher.pipeline).__name__}.from_pretrained does not "
            "open, so nothing could be put into it: export a whole pipeline, --to diffusers"
        )
    loader: Any = type(teacher.pipeline)  # DiffusionPipeline would drop a `transformer` without a word
    with without_bars():
        pipe = loader.from_pretrained(teacher.folder, use_safetensors=True, **{**unchanged_parts(teacher), **parts})
    pipe.scheduler = stock_scheduler(student).make(teacher.pipeline)
    for name, part in changed_parts(teacher).items():
        setattr(pipe, name, part)
    return pipe.to(teacher.device)


def unchanged_parts(teacher: Teacher) -> dict[str, Any]:
    """What no format changes of the teacher's pipeline, by the pipeline's names: all but denoisers and scheduler."""
    own = {"scheduler", *teacher.component_names().values()}
    return {name: part for name, part in teacher.pipeline.components.items() if part is not None and name not in own}


def can_share_denoisers(teacher: Teacher) -> bool:
    """Whether a LoRA may be loaded around the teacher's tensors: merging would write into them, and weights of few bits
    do not fit the modules that their config makes."""
    own: Any = parts_of(teacher.denoiser).values()
    few_bits = any(getattr(network.config, "quantization_config", None) for network in own)
    return not (teacher.fuses_lora or few_bits)


def shared_denoisers(teacher: Teacher) -> dict[str, nn.Module]:
    """The teacher's denoisers by the pipeline's names for them, made anew from their configs around the same tensors:
    diffusers' own modules, which take no memory. Only where `can_share_denoisers`, for those who change no weight in
    place."""
    own = {teacher.component_names()[name]: part for name, part in parts_of(teacher.denoiser).items()}
    return {name: _around_tensors_of(part) for name, part in own.items()}


def _around_tensors_of(network: Any) -> nn.Module:
    with init_empty_weights():  # buffers that no file has, such as those of rotary embeddings, are made all the same
        made: nn.Module = type(network).from_config(network.config)
    made.load_state_dict(network.state_dict(), assign=True)
    return made.to(network.device).requires_grad_(False).eval()


def changed_parts(teacher: Teacher) -> dict[str, Any]:
    """The parts with the settings of `Teacher.stock_parts`."""
    parts = {name: getattr(teacher.pipeline, name) for name in teacher.stock_parts()}
    return {name: type(part).from_config(part.config, **teacher.stock_parts()[name]) for name, part in parts.items()}


def pipeline_latents(pipe: Any, student: Student) -> SampleLatents:
    """The pipeline's own call as a source of latents, a clip at a time."""
    pipe.set_progress_bar_config(disable=True)
    teacher, contract = student.teacher, student.contract
    teacher.set_up(pipe)

    def clip_of(z: Tensor, prompt: str, given: Given) -> Tensor:
        arguments = teacher.call_arguments(contract, given) | teacher.noise_arguments(z, contract, given)
        words = {"prompt": prompt} if teacher.reads_text else {}
        # latents are what is compared: no autoencoder is needed
        outputs = pipe(**words, output_type="latent", return_dict=False, **arguments)
        return teacher.from_outputs(outputs, z.shape)

    def latents(z: Tensor, prompts: Sequence[str]) -> Tensor:
        given = noise_given(teacher.given_sizes(contract.size), len(prompts))  # as `Student.conditions_of_any`
        clips = [
            clip_of(z[i : i + 1], prompt, {name: video[i : i + 1] for name, video in given.items()})
            for i, prompt in enumerate(prompts)
        ]
        return torch.cat([clip.float() for clip in clips])

    return latents


def merged_network(student: Student) -> Any:
    """The student's denoiser as a plain network: adapters are added into the weights of a copy. One without any is the
    student's own, not to be changed."""
    return _merged(student.network)


def _merged(network: nn.Module) -> Any:
    if any(isinstance(module, BaseTunerLayer) for module in network.modules()):
        merge_adapters(network := deepcopy(network))
    return network


def merged_networks(student: Student) -> dict[str, Any]:
    """The student's own networks by the pipeline's names for them; an expert that is the teacher's is not among them.

    As `merged_network` has them.
    """
    components = {}
    for name, part in parts_of(student.network).items():
        if name in trained_names(student.contract):
            components[student.teacher.component_names()[name]] = _merged(part)
    return components


def trained_names(contract: SamplingContract) -> tuple[str, ...]:
    """The names of a student's networks that have weights of their own, as `parts_of` has them."""
    return tuple(expert.name for expert in contract.experts if expert.trained) if contract.experts else ("",)


def clip_code(student: Student) -> str:
    """The snippet's last lines: a clip from `pipe`, written as a GIF, or an image, as a PNG."""
    called = student.teacher.call_arguments(student.contract)
    arguments = "".join(f"    {key}={value!r},\n" for key, value in called.items())
    readers = {name: "load_image" if name in IMAGES else "load_video" for name in student.contract.given}
    read = {name: f"{reader}('{name}.{'png' if name in IMAGES else 'mp4'}')" for name, reader in readers.items()}
    # given images and videos as the pipeline's own arguments take them, one file or a list
    for argument, code in by_argument(student.teacher.given_arguments, read).items():
        value = code if isinstance(code, str) else f"[{', '.join(code)}]"
        arguments += f"    {argument}={value},\n"
    pictures = student.teacher.makes_pictures
    used = sorted({*readers.values(), *([] if pictures else ["export_to_gif"])})
    imports = f"from diffusers.utils import {', '.join(used)}\n\n" if used else ""
    rate = max(1, round(student.contract.fps))
    prompt = f"    prompt={PROBE_PROMPTS[0]!r},\n" if student.teacher.reads_text else ""
    settings = "".join(f"pipe.{name} = {value!r}\n" for name, value in student.teacher.stock_settings.items())
    return (
        f"{imports}{settings}"
        'pipe.to("cuda" if torch.cuda.is_available() else "cpu")\n'
        f"{'picture' if pictures else 'clip'} = pipe(\n"
        f"{prompt}{arguments}"
        "    generator=torch.Generator().manual_seed(0),\n"
        '    output_type="pil",\n'
        + (
            ').images[0]\npicture.save("picture.png")\n'
            if pictures
            else f').frames[0]\nexport_to_gif(clip, "clip.gif", fps={rate})\n'
        )
    )


def imports_code(*names: str) -> str:
    """The snippet's first lines; `names` are diffusers' own."""
    return f"import torch\nfrom diffusers import {', '.join(sorted(names))}\n"


def dtype_code(written: Written) -> str:
    """The argument of from_pretrained that loads the weights as they are stored, after a comma."""
    return f", dtype=torch.{written.precision}"


def base_place(name: str) -> tuple[str, str]:
    """What a snippet imports to know where the base model of this name is, and the code for that place."""
    if name in EMBEDDED:
        return "from fewstep.teacher.base import embedded_path  # it comes with fewstep\n", f"embedded_path({name!r})"
    return "", f'"{name}"'


def base_code(student: Student, arguments: str = "") -> str:
    """`pipe`, the base model's pipeline, and the student's sampler in it; both classes must be imported.

    `arguments` are further ones of from_pretrained, after a comma.
    """
    name = student.contract.teacher
    imported, place = base_place(name)
    hint = PUT_IN if name == UNNAMED else ""
    if "torch.float32" in arguments and not hint:
        hint = "  # with torch.bfloat16 it takes half of the memory"
    return (
        f"{imported}\npipe = {student.contract.pipeline}.from_pretrained({place}{arguments}){hint}\n"
        f"pipe.scheduler = {stock_scheduler(student).code}\n"
        + "".join(_part_code(name, settings) for name, settings in student.teacher.stock_parts().items())
    )


def _part_code(name: str, settings: dict[str, Any]) -> str:
    given = "".join(f", {key}={value!r}" for key, value in settings.items())
    return f"pipe.{name} = type(pipe.{name}).from_config(pipe.{name}.config{given})\n"
