"""`fewstep data`: videos or rollouts, cached on disk as latents and text embeddings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from fewstep.commands.data_run import SKIPPED, Run, Store
from fewstep.commands.launched import check_alone
from fewstep.commands.options import (
    LEVELS,
    MAX_SEED,
    Control,
    DeviceOption,
    DTypeOption,
    EmbeddedGuidanceOption,
    FpsOption,
    FramesOption,
    HeightOption,
    ShiftOption,
    WidthOption,
    optional_control_scale,
    optional_guidance_of,
    say_text_losses,
    size_of,
)
from fewstep.commands.progress import Screen
from fewstep.teacher.limits import MOST_ITEMS, MOST_SAMPLING_STEPS

EXIT_CODES = "Exit code 3 means that something was skipped: skipped.jsonl in the dataset's folder says what and why."

data_app = typer.Typer(
    help="Cache videos or rollouts as latents and text embeddings.", epilog=EXIT_CODES, no_args_is_help=True
)

PromptsFile = Annotated[
    Path,
    typer.Argument(
        metavar="PROMPTS.txt", help="A text file with one prompt per line, or .jsonl that names files as well."
    ),
]
TeacherName = Annotated[str, typer.Option("--teacher", help="shapes, a pipeline's folder, or a hub id.")]
Out = Annotated[Path, typer.Option("--out", help="The dataset's folder; run the same command again to resume.")]
RowsOption = Annotated[int, typer.Option("--rows-per-shard", min=1, help="Items of each Parquet file.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Items per batch, as memory allows.")]
Stored = Annotated[Store, typer.Option("--store", help="Precision on disk.")]
Negative = Annotated[str, typer.Option("--negative-prompt", help="Prompt of the unconditional branch.")]


GivenSources = Annotated[
    list[str] | None,
    typer.Option(
        "--given",
        metavar="NAME=SOURCE",
        help="What clips are made from besides captions: first=FIRST_FRAME and last=LAST_FRAME of the clip itself, or "
        "control=COLUMN of the captions with files; may be given several times. By default what the teacher needs.",
    ),
]


@data_app.command("videos", epilog=EXIT_CODES)
def encode_videos(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Video files, also in subfolders.")],
    out: Out,
    captions: Annotated[
        Path | None, typer.Option(help="A .csv, .tsv or .jsonl table; without it clip.txt describes clip.mp4.")
    ] = None,
    teacher: TeacherName = "shapes",
    frames: FramesOption = None,
    height: HeightOption = None,
    width: WidthOption = None,
    fps: FpsOption = None,
    start: Annotated[
        Literal["beginning", "centre"], typer.Option(help="Which part of a longer video to take.")
    ] = "centre",
    rows_per_shard: RowsOption = 64,
    batch: BatchOption = 1,
    store: Stored = "float16",
    dtype: DTypeOption = "auto",
    device: DeviceOption = None,
    negative_prompt: Negative = "",
    given: GivenSources = None,
    shift: ShiftOption = None,
) -> None:
    """Encode a folder of captioned videos (mp4, webm, gif ...)."""
    screen = Screen()
    screen.say(f"looking for videos in {folder}")
    from fewstep.teacher.dataset.caption_files import read_captions
    from fewstep.teacher.dataset.sources import VideoSource, list_files, video_item
    from fewstep.teacher.given import columns_of, frames_of_clips, parse_sources, sources_of
    from fewstep.teacher.ranks import launched_ranks
    from fewstep.teacher.videos.decoding import ClipShape

    with launched_ranks(device) as ranks:
        job = Run(out, teacher, dtype, device, store, rows_per_shard, negative_prompt, screen, ranks, shift)
        # before anything is read: what lies in --out is never a source
        if ranks.first:
            job.check_out()
        files = list_files(folder, out)
        given_sources = parse_sources(given) if given else None
        described = read_captions(files, folder, captions, columns_of(given_sources or {}))
        # files that the captions give with clips, such as control videos, are no clips themselves
        files = described.clips_among(files)
        if described.unmatched:
            screen.warn(str(described.unmatched))
        model = job.load()
        model.check_encodes()
        described = described.for_teacher(model.reads_text, files)
        sources = sources_of(given_sources, model)
        say_text_losses(screen, model, [*described.texts.values(), negative_prompt])
        size = size_of(model, frames, height, width)
        # the timestep shift may follow the size of the clips
        model.use_size(size)
        model.check_fps(fps, "--fps")
        clip = ClipShape(*size, fps=model.default_fps() if fps is None else fps)
        job.make(
            "videos",
            model,
            folder,
            [video_item(path, folder, described.texts.get(path)) for path in files],
            VideoSource(model, folder, files, described.texts, clip, start, batch, frames_of_clips(sources)),
            [stray.skip() for stray in described.strays],
            latent_shape=model.latent_shape(*size),
            unmatched=described.unmatched,
            given=sources,
            start=start,
            **asdict(clip),
        )
    # without captions, a .txt file next to the videos may be about something else
    if ranks.first and captions is not None and described.strays:
        raise typer.Exit(SKIPPED)


@data_app.command("rollouts", epilog=EXIT_CODES)
def rollouts(
    prompts: PromptsFile,
    out: Out,
    teacher: TeacherName = "shapes",
    steps: Annotated[int, typer.Option(min=1, max=MOST_SAMPLING_STEPS, help="Steps of each sample.")] = 32,
    guidance: Annotated[
        str | None,
        typer.Option(
            help=f"Guidance scale w of u + w (c - u); 1 is none; {LEVELS}. By default the teacher's usual one."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the noise of all items.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=MOST_ITEMS, help="Samples per prompt, each from its own noise.")] = 1,
    embedded_guidance: EmbeddedGuidanceOption = None,
    control_scale: Control = None,
    shift: ShiftOption = None,
    keep_noise: Annotated[bool, typer.Option(help="Store the noise as well as its seed.")] = False,
    frames: FramesOption = None,
    height: HeightOption = None,
    width: WidthOption = None,
    rows_per_shard: RowsOption = 64,
    batch: BatchOption = 1,
    store: Stored = "float16",
    dtype: DTypeOption = "auto",
    device: DeviceOption = None,
    negative_prompt: Negative = "",
) -> None:
    """Sample the teacher itself: no real video is needed."""
    screen = Screen()
    screen.say(f"reading prompts from {prompts}")
    from fewstep.student.sampler import usual_guidance
    from fewstep.teacher.dataset.caption_files import read_prompts
    from fewstep.teacher.dataset.sources import Rollouts
    from fewstep.teacher.given import FROM_FILES, check_given, given_names, identity_of
    from fewstep.teacher.ranks import launched_ranks

    asked, scale = optional_guidance_of(guidance), optional_control_scale(control_scale)
    with launched_ranks(device) as ranks:
        job = Run(out, teacher, dtype, device, store, rows_per_shard, negative_prompt, screen, ranks, shift)
        if ranks.first:
            job.check_out()
        lines = read_prompts(prompts)
        model = job.load()
        model.set_inputs(embedded_guidance, scale)
        model.take(given_names(lines))
        weight = usual_guidance(model) if asked is None else asked
        if negative_prompt and not weight.guides:
            screen.warn(f"--negative-prompt has no effect: nothing is guided at --guidance {weight}")
        say_text_losses(screen, model, [*lines, negative_prompt])
        size = size_of(model, frames, height, width)
        shape = model.latent_shape(*size)
        model.use_size(size)
        # the files of all prompts are looked at before the first clip is made
        check_given(lines, model.given_sizes(size), model.default_fps())
        job.make(
            "rollouts",
            model,
            prompts,
            [identity_of(line) for line in lines] * count,
            Rollouts(model, lines, shape, steps, weight, seed, negative_prompt, keep_noise, batch, size),
            latent_shape=shape,
            keep_noise=keep_noise,
            steps=steps,
            guidance=weight,
            seed=seed,
            given=dict.fromkeys(model.given, FROM_FILES),
            **size._asdict(),
        )


@data_app.command("show")
def show_dataset(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset's folder.")]) -> None:
    """Show what a dataset holds and how it was made, for each of its sizes."""
    check_alone("data show")
    from fewstep.teacher.dataset.buckets import datasets_in

    for dataset in datasets_in(folder):
        _show(dataset)


def _show(folder: Path) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    from fewstep.commands.tables import print_table
    from fewstep.teacher.dataset.manifest import read_manifest

    manifest = read_manifest(folder)
    table = Table("field", Column("value", overflow="fold"), title=escape(str(folder)))
    state = "finished" if manifest.complete else "unfinished"
    table.add_row("state", f"{state}: {len(manifest.shards)} of {manifest.num_shards} shards")
    table.add_row("rows", f"{manifest.rows}, and {len(manifest.skipped)} skipped")
    for name, value in manifest.model_dump(mode="json", exclude_none=True).items():
        if name not in ("shards", "unconditional", "schedule", "tensors", "unmatched"):
            table.add_row(name, escape(str(value)))
    if manifest.unmatched:
        table.add_row("captions", escape(str(manifest.unmatched)))
    for name, value in manifest.schedule.model_dump(exclude_none=True).items():
        table.add_row(f"schedule {name}", str(value))
    for name, layout in manifest.tensors.items():
        table.add_row(name, str(layout))
    print_table(table)
