"""`fewstep sample`: clips from a teacher, or from a student on the nodes of its contract."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewstep.commands.options import (
    LEVELS,
    MAX_SEED,
    Control,
    DeviceOption,
    DType,
    DTypeOption,
    EmbeddedGuidanceOption,
    FpsOption,
    FramesOption,
    HeightOption,
    ShiftOption,
    WidthOption,
    optional_control_scale,
    optional_guidance_of,
    resolve_dtype,
    say_text_losses,
)
from fewstep.commands.progress import Screen
from fewstep.commands.tuning_options import (
    Attention,
    ChannelsLast,
    Compile,
    CompileBlocks,
    CudaGraphs,
    Overlap,
    QuantiseOption,
    QuantiseText,
    Slicing,
    Tiling,
    take_tuning,
)
from fewstep.teacher.limits import MOST_CLIPS, MOST_SAMPLING_STEPS

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.eval.latency.tuning import Tuning
    from fewstep.student.sampler import Sampler, SamplingOptions

Decoder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A small decoder instead of the teacher's: the run directory of a recipe such as shapes-decoder.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST_SAMPLING_STEPS, help="Number of steps; by default a student's own, and 50 for a teacher."
    ),
]
GuidanceWeight = Annotated[
    str | None,
    typer.Option(
        help="Guidance scale (classifier-free); by default a student's own, and the teacher's usual one, mostly 5; "
        f"{LEVELS}."
    ),
]
FirstSeed = Annotated[
    int, typer.Option(min=0, max=MAX_SEED, help="Seed of the first clip; each further clip takes the next number.")
]
GivenFiles = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FILE",
        help="An image or video that clips are made from besides prompts: first, last, reference, control, mask, pose "
        "or face; may be repeated. A .jsonl file of prompts names its own files.",
    ),
]


def sample(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="shapes, a diffusers folder, a hub id, the run directory of a student or a chain, or A+B.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="clip.mp4, clip.gif, or a .png: the one frame of an image, else a contact sheet."),
    ],
    prompt: Annotated[list[str] | None, typer.Option(help="What to show; may be repeated.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file with one prompt per line, or .jsonl.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What guidance steers away from.")] = "",
    steps: Steps = None,
    guidance: GuidanceWeight = None,
    embedded_guidance: EmbeddedGuidanceOption = None,
    control_scale: Control = None,
    shift: ShiftOption = None,
    teacher: Annotated[
        str | None, typer.Option(help="Where a student's teacher is, if not where its contract says.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Sample a student with other settings than it was trained for.")] = False,
    seed: FirstSeed = 0,
    frames: FramesOption = None,
    height: HeightOption = None,
    width: WidthOption = None,
    fps: FpsOption = None,
    batch: Annotated[int, typer.Option(min=1, max=MOST_CLIPS, help="Clips per batch; the clips stay the same.")] = 1,
    dtype: DTypeOption = "auto",
    device: DeviceOption = None,
    given: GivenFiles = None,
    decoder: Decoder = None,
    compile: Compile = False,
    compile_blocks: CompileBlocks = False,
    cuda_graphs: CudaGraphs = False,
    attention: Attention = None,
    quantise: QuantiseOption = None,
    quantise_text: QuantiseText = None,
    channels_last: ChannelsLast = False,
    tiling: Tiling = False,
    slicing: Slicing = False,
    overlap: Overlap = False,
) -> None:
    """Make clips from prompts with a teacher or a student."""
    screen = Screen(stdout_is_data=True)
    screen.say(f"loading {source} ({dtype})")
    from fewstep.eval.latency.tuning import check_tuning
    from fewstep.student.sampler import SamplingOptions
    from fewstep.teacher.dataset.caption_files import read_prompts
    from fewstep.teacher.given import check_given, given_names, parse_given
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.videos.writing import check_fps, check_suffix

    # the file, the device and the tuning, before anything is loaded
    check_suffix(out)
    if fps is not None:
        check_fps(fps)
    tuning = take_tuning(dict(ctx.params))
    check_tuning(tuning, find_device(device), batch)
    typed = [*(prompt or []), *([] if prompts is None else read_prompts(prompts))]
    wanted = _with_files(typed or [""], parse_given(given or []))
    names = given_names(wanted)
    weight, scale, size = optional_guidance_of(guidance), optional_control_scale(control_scale), (frames, height, width)
    options = SamplingOptions(steps, weight, shift, negative_prompt, *size, force, names, embedded_guidance, scale)
    if not typed:
        _check_unprompted(source, options, teacher)
    sampler = _open(source, options, teacher, resolve_dtype(screen, dtype, device), device, decoder, tuning)
    if negative_prompt and not sampler.guidance.guides:
        screen.warn(f"--negative-prompt has no effect: nothing is guided at --guidance {sampler.guidance}")
    say_text_losses(screen, sampler.teacher, [*wanted, negative_prompt] if sampler.guidance.guides else wanted)
    check_given(wanted, sampler.teacher.given_sizes(sampler.size), sampler.fps)
    if sampler.teacher.unheard:
        screen.say(sampler.teacher.unheard)
    with closing(_clips(sampler, wanted, seed, batch, overlap, screen)) as clips:  # the bar too, before an error
        _write(out, clips, wanted, sampler.fps if fps is None else fps)


def _open(
    source: str,
    options: SamplingOptions,
    teacher: str | None,
    dtype: DType,
    device: str | None,
    decoder: Path | None,
    tuning: Tuning,
) -> Sampler:
    """The sampler of any source, with a small decoder if there is one, tuned.

    Raises ValueError for a model or a decoder that is not there, or cannot be asked or tuned so.
    """
    from fewstep.eval.latency.tuning import tune
    from fewstep.student.background import check_background
    from fewstep.student.decoder.files import find_decoder, load_decoder

    # looked at before the model is loaded
    if decoder is not None:
        find_decoder(decoder)
    sampler = _open_model(source, options, teacher, dtype, device)
    if decoder is not None:
        sampler = replace(sampler, decoder=load_decoder(decoder, sampler.teacher))
    if tuning.overlap:
        check_background(sampler)
    tune([sampler], tuning)
    return sampler


def _open_model(
    source: str, options: SamplingOptions, teacher: str | None, dtype: DType, device: str | None
) -> Sampler:
    """With the teacher's own decoder."""
    import torch

    from fewstep.commands.evaluate import is_chain_source, model_of
    from fewstep.eval.models import open_model
    from fewstep.student.sampler import open_sampler

    if not is_chain_source(source):
        return open_sampler(source, options, teacher, getattr(torch, dtype), device, alone=True)
    model = model_of("chain", source, options.steps)
    if teacher is not None:
        raise ValueError("--teacher is that of one student, and a chain has several models: leave it out")
    if all(member.student for member in model.members) and (
        options.guidance or options.shift or options.negative_prompt
    ):
        raise ValueError(
            "the members of the chain are students, whose guidance, shift and negative prompt are distilled into "
            "them: leave --guidance, --shift and --negative-prompt out"
        )
    if model.student and (options.embedded_guidance, options.control_scale) != (None, None):
        raise ValueError(
            "the last member of the chain is a student, whose contract fixes these inputs of its denoiser: leave "
            "--embedded-guidance and --control-scale out"
        )
    return open_model(model, options, None, getattr(torch, dtype), device)


def _with_files(prompts: list[str], given: dict[str, Path]) -> list[str]:
    """The prompts, each with the files of --given, over which those of its own line go."""
    from fewstep.teacher.given import Prompt, files_of

    return [Prompt(prompt, {**given, **files_of(prompt)}) for prompt in prompts]


def _check_unprompted(source: str, options: SamplingOptions, teacher: str | None) -> None:
    """Raises ValueError where a model that reads prompts is given none; no weights are loaded."""
    from fewstep.commands.evaluate import is_chain_source
    from fewstep.student.outline import outline_sampler
    from fewstep.teacher.outline import outline_teacher

    def reads_text() -> bool:
        own = None if teacher is None else outline_teacher(teacher)
        return outline_sampler(source, options, own)[0].teacher.reads_text

    if is_chain_source(source) or reads_text():  # a chain begins with a prompt
        raise ValueError("there is nothing to show: pass --prompt, or --prompts with a file of one prompt per line")


def _clips(
    sampler: Sampler, prompts: list[str], seed: int, batch: int, overlap: bool, screen: Screen
) -> Generator[Tensor, None, None]:
    """One clip (3, F, H, W) in -1..1 per prompt; `overlap`: decoded while the next are denoised."""
    from fewstep.student.background import decoded_meanwhile

    starts = range(0, len(prompts), batch)

    def latents() -> Iterator[Tensor]:
        for start in starts:
            some = prompts[start : start + batch]
            yield sampler.latents(some, range(seed + start, seed + start + len(some)), step)

    def step(_: int) -> None:
        bar.update(bar.done + 1)

    with screen.bar("sampling") as bar:
        bar.begin("sampling", len(starts) * sampler.steps)
        for clips in decoded_meanwhile(sampler, latents()) if overlap else map(sampler.decode, latents()):
            yield from clips


def _write(out: Path, clips: Iterator[Tensor], prompts: list[str], fps: float) -> None:
    """A contact sheet, one clip, or numbered clips, each written as soon as it is made.

    Of a single clip of one frame a .png file is the image.
    """
    from PIL import Image

    from fewstep.teacher.videos.writing import SHEET_SUFFIX, contact_sheet, to_uint8, write_image, write_video

    if out.suffix.lower() == SHEET_SUFFIX and len(prompts) == 1:
        (frames,) = map(to_uint8, clips)
        write_image(out, Image.fromarray(frames[0]) if len(frames) == 1 else contact_sheet([frames], prompts))
        typer.echo(out)
        return
    if out.suffix.lower() == SHEET_SUFFIX:
        write_image(out, contact_sheet([to_uint8(clip) for clip in clips], prompts))
        typer.echo(out)
        return
    digits = len(str(len(prompts) - 1))
    for i, clip in enumerate(clips):
        path = out if len(prompts) == 1 else out.with_stem(f"{out.stem}-{i:0{digits}d}")
        write_video(path, to_uint8(clip), fps)
        typer.echo(path)
