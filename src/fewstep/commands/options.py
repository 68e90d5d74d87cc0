"""What verbs that ask a teacher share: its precision, its clip's size and rate, and checks of numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, cast

import typer

from fewstep.teacher.limits import MOST_FRAMES, MOST_GUIDANCE, MOST_PIXELS, MOST_SAMPLING_STEPS, MOST_SHIFT

if TYPE_CHECKING:
    from fewstep.commands.progress import Screen
    from fewstep.teacher.base import Teacher, VideoSize
    from fewstep.teacher.denoiser_inputs import ControlScale
    from fewstep.teacher.guidance import Guidance

_T = TypeVar("_T")
DType = Literal["auto", "float32", "bfloat16", "float16"]

PipelineStepsOption = Annotated[
    int | None,
    typer.Option("--steps", min=1, max=MOST_SAMPLING_STEPS, help="Steps of pipelines without @STEPS; 50 by default."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda ...; by default the GPU if there is one.")
]
FramesOption = Annotated[
    int | None, typer.Option("--frames", min=1, max=MOST_FRAMES, help="Frames of a clip; the teacher's by default.")
]
HeightOption = Annotated[
    int | None, typer.Option("--height", min=1, max=MOST_PIXELS, help="Pixels; the teacher's by default.")
]
WidthOption = Annotated[
    int | None, typer.Option("--width", min=1, max=MOST_PIXELS, help="Pixels; the teacher's by default.")
]
FpsOption = Annotated[float | None, typer.Option("--fps", help="Frames per second; the teacher's by default.")]
ShiftOption = Annotated[
    float | None,
    typer.Option(
        "--shift", min=0.001, max=MOST_SHIFT, help="Timestep shift towards noise; by default the model's own."
    ),
]
EmbeddedGuidanceOption = Annotated[
    float | None,
    typer.Option(
        "--embedded-guidance",
        min=0.0,
        max=MOST_GUIDANCE,
        help="Guidance passed to denoisers that take it as an input; by default the model's own.",
    ),
]
Control = Annotated[
    str | None,
    typer.Option(
        "--control-scale",
        help="Scale of the control branch: a number, where 1 adds all of it, or one for each control layer as in "
        "1,0.8,0.5; by default the model's own.",
    ),
]
DTypeOption = Annotated[
    DType,
    typer.Option(
        "--dtype",
        help="Precision of denoiser and text encoder; auto is bfloat16 where the device supports it natively, else "
        "float32.",
    ),
]

DecodersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--decoder",
        metavar="[NAME=]DIR",
        help="A small decoder, the run directory of a recipe such as shapes-decoder, for all models but the first, or "
        "for the one called NAME; may be repeated.",
    ),
]

LEVELS = "5@0.3-0.93 guides at these noise levels only, 4@0.875-1,3@0-0.875 gives each of two experts its own scale"

MAX_SEED = 2**63 - 1  # a signed 64-bit number, as Parquet stores it


def resolve_dtype(screen: Screen, dtype: DType, device: str | None, begun: str | None = None) -> DType:
    """The precision that `--dtype` means on this device; a line says what `auto` chose.

    `begun` is the precision of what is resumed, which `auto` keeps. Raises ValueError when there is no such device.
    """
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.precision import choose_precision

    choice = choose_precision(dtype, find_device(device), begun)
    if choice.line is not None:
        screen.say(choice.line)
    return cast("DType", choice.precision)


def load_named_teacher(name: str, dtype: DType, device: str | None, shift: float | None = None) -> Teacher:
    """The teacher, its denoiser and text encoder in this dtype, on the GPU if there is one; see `load_teacher`."""
    import torch

    from fewstep.teacher.load_teacher import load_teacher

    return load_teacher(name, getattr(torch, dtype), device, shift)


def say_text_losses(screen: Screen, teacher: Teacher, prompts: Iterable[str]) -> None:
    """Says which of these prompts, captions or negative prompts the text encoder does not read whole."""
    from fewstep.teacher.tokens import text_losses

    for line in text_losses(teacher, prompts):
        screen.warn(line)


def size_of(teacher: Teacher, frames: int | None, height: int | None, width: int | None) -> VideoSize:
    """The clip's size as asked for, else the teacher's own. Raises ValueError when it has none."""
    from fewstep.student.sampler import clip_size

    usual = teacher.default_size()
    return clip_size(() if usual is None else (usual,), frames, height, width)


def guidance_of(text: str) -> Guidance:
    """What `--guidance` asks for. Raises ValueError, naming the option, when it is neither a number nor 5@0.3-0.93."""
    from fewstep.teacher.guidance import Guidance

    try:
        return Guidance.of(text)
    except ValueError as error:
        raise ValueError(f"--{error}") from error


def optional_guidance_of(text: str | None) -> Guidance | None:
    """`guidance_of` where the option may be left out."""
    return None if text is None else guidance_of(text)


def optional_control_scale(text: str | None) -> ControlScale | None:
    """What `--control-scale` asks for. Raises ValueError, naming the option, for what are no numbers."""
    from fewstep.teacher.denoiser_inputs import one_scale

    try:
        return None if text is None else one_scale(text)
    except ValueError as error:
        raise ValueError(str(error).replace("control_scale", "--control-scale", 1)) from error


def named_sources(given: list[str]) -> dict[str, str]:
    """['student=runs/a', 'shapes'] -> {'student': 'runs/a', 'shapes': 'shapes'}, in this order.

    A source without a name is called like its last part. Raises ValueError when two have one name, or a name fits no
    file.
    """
    sources: dict[str, str] = {}
    for text in given:
        name, is_named, source = text.partition("=")
        if not is_named or "/" in name:  # the latter: a path with = in it
            name, source = re.sub(r"[^\w.-]+", "-", Path(text).name).strip("-"), text
        if not source or not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"{text!r} names no model: write SOURCE or NAME=SOURCE, the name of letters, digits, . _-")
        if name in sources:
            raise ValueError(f"two models are called {name}: give one another name, as in other={source}")
        sources[name] = source
    return sources


def parse_source(source: str) -> tuple[str, int | None, Guidance | None]:
    """'shapes@4:1.5' -> ('shapes', 4, 1.5): a source, and the steps and guidance it is asked for, None its own.

    Raises ValueError as `parse_chain_source`, and for several of them.
    """
    name, steps, guidance = parse_chain_source(source)
    return name, for_each(steps, 1, source)[0], for_each(guidance, 1, source)[0]


def parse_chain_source(source: str) -> tuple[str, list[int | None], list[Guidance | None]]:
    """'a+b@4+2:1.5' -> ('a+b', [4, 2], [1.5]): steps and guidance of each member of a chain, or one for all.

    Raises ValueError for guidance that is neither a number nor 5@0.3-0.93, and for what else stands behind an @.
    """
    from fewstep.teacher.guidance import Guidance

    # a folder whose own name ends so is that folder
    is_there = "@" in source and Path(source).expanduser().exists()
    match = None if is_there else re.fullmatch(r"(.*?)@([1-9]\d*(?:\+[1-9]\d*)*)(?::(\d.*))?", source)
    if match is None and "@" in source and not is_there:
        raise ValueError(f"{source!r} is no SOURCE@STEPS[:GUIDANCE], such as shapes@4 or shapes@50:7.5")
    if match is None:
        return source, [None], [None]
    counts: list[int] = [int(count) for count in match[2].split("+")]
    if max(counts) > MOST_SAMPLING_STEPS:
        raise ValueError(f"{source!r} asks for {max(counts)} steps: at most {MOST_SAMPLING_STEPS} can be asked for")
    weights: list[Guidance | None] = [None] if match[3] is None else [*map(Guidance.of, match[3].split("+"))]
    return match[1], [*counts], weights


def for_each(values: Sequence[_T], num: int, source: str) -> list[_T]:
    """What is said of each of `num` members: as many, or one for all. Raises ValueError for another number of them."""
    if len(values) not in (1, num):
        members = "one model" if num == 1 else f"a chain of {num}"
        raise ValueError(f"{source!r} says {len(values)} numbers of {members}: give one, or one for each member")
    return list(values) * (num if len(values) == 1 else 1)
