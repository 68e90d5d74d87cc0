"""What a format may need of a teacher: each function says in words what is missing, or nothing where nothing is."""

from __future__ import annotations

from fewstep.student.denoiser import single_denoiser
from fewstep.teacher.base import Teacher
from fewstep.teacher.stock import ComfyUI, OriginalNames


def any_teacher(teacher: Teacher) -> str:
    """For formats that can hold the students of any teacher."""
    return ""


def one_graph(teacher: Teacher) -> str:
    """A forward that is the same for any batch and text."""
    return teacher.ungraphable


def lora_loader(teacher: Teacher) -> str:
    """`load_lora_weights` of the pipeline, else `load_lora_adapter` of its only denoiser."""
    kind, denoiser = type(teacher.pipeline), teacher.denoiser
    if hasattr(kind, "load_lora_weights") or hasattr(denoiser, "load_lora_adapter"):
        return ""
    return (
        f"diffusers' {kind.__name__} has no load_lora_weights, and its {type(denoiser).__name__} no load_lora_adapter"
    )


def single_file_loader(teacher: Teacher) -> str:
    """`from_single_file` of the denoiser, and the names that it expects."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    kind = type(single_denoiser(teacher))
    if not any(base.__name__ in SINGLE_FILE_LOADABLE_CLASSES for base in kind.__mro__):
        return f"diffusers does not load {kind.__name__} from a single file"
    if teacher.original_names is None:
        return f"the original names of the tensors of {kind.__name__} are not known to fewstep"
    return ""


def comfyui_loader(teacher: Teacher) -> str:
    """What ComfyUI makes of the family's files, which diffusers must load as well."""
    if teacher.comfyui is None:
        return f"what ComfyUI makes of {type(teacher.pipeline).__name__} is not known to fewstep"
    return single_file_loader(teacher)


def original_names(teacher: Teacher) -> OriginalNames:
    """Of the denoiser's tensors, once `single_file_loader` misses nothing."""
    assert teacher.original_names is not None
    return teacher.original_names


def comfyui_facts(teacher: Teacher) -> ComfyUI:
    """What ComfyUI makes of the family's files, once `comfyui_loader` misses nothing."""
    assert teacher.comfyui is not None
    return teacher.comfyui
