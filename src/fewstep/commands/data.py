"""`fewstep data`: videos, rollouts or prompts, cached on disk as latents and text embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fewstep.commands.data_run import DType, load, run, size_of

data_app = typer.Typer(help="Cache videos, rollouts or prompts as latents and text embeddings.", no_args_is_help=True)

Store = Literal["float16", "float32"]
PromptsFile = Annotated[Path, typer.Argument(metavar="PROMPTS.txt", help="One prompt per line.")]
TeacherName = Annotated[str, typer.Option("--teacher", help="shapes, a pipeline's folder, or a hub id.")]
Out = Annotated[Path, typer.Option("--out", help="The dataset's folder; a run that stopped there goes on.")]
Frames = Annotated[int | None, typer.Option("--frames", help="Frames of a clip; the teacher's by default.")]
Height = Annotated[int | None, typer.Option("--height", help="Pixels; the teacher's by default.")]
Width = Annotated[int | None, typer.Option("--width", help="Pixels; the teacher's by default.")]
Rows = Annotated[int, typer.Option("--rows-per-shard", min=1, help="Items of each Parquet file.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Items at a time, as memory allows.")]
Stored = Annotated[Store, typer.Option("--store", help="Numbers on disk.")]
Computed = Annotated[DType, typer.Option("--dtype", help="Precision of the teacher.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda ...; the GPU if there is one.")]
Negative = Annotated[str, typer.Option("--negative-prompt", help="Prompt of the unconditional branch.")]


@data_app.command("videos")
def videos(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Video files, in sub-folders as well.")],
    out: Out,
    captions: Annotated[
        Path | None, typer.Option(help="A .csv or .jsonl table; without it clip.txt describes clip.mp4.")
    ] = None,
    teacher: TeacherName = "shapes",
    frames: Frames = None,
    height: Height = None,
    width: Width = None,
    fps: Annotated[float, typer.Option(help="Frames per second of the clips.")] = 8.0,
    start: Annotated[
        Literal["beginning", "centre"], typer.Option(help="Which part of a longer video to take.")
    ] = "centre",
    rows_per_shard: Rows = 64,
    batch: Batch = 1,
    store: Stored = "float16",
    dtype: Computed = "float32",
    device: Device = None,
    negative_prompt: Negative = "",
) -> None:
    """Encode a folder of captioned videos (mp4, webm, gif ...)."""
    from fewstep.teacher.caption_files import read_captions
    from fewstep.teacher.dataset_plan import plan_dataset
    from fewstep.teacher.dataset_sources import Videos, list_files
    from fewstep.teacher.decode_video import ClipShape

    files = list_files(folder, out)
    said = read_captions(files, folder, captions)
    model = load(teacher, dtype, device)
    size = size_of(model, frames, height, width)
    plan = plan_dataset(
        "videos",
        model,
        teacher,
        [(path.relative_to(folder).as_posix(), path.lstat().st_size, said.get(path)) for path in files],
        dtype=store,
        latent_shape=model.latent_shape(*size),
        negative_prompt=negative_prompt,
        source=str(folder.resolve()),
        rows_per_shard=rows_per_shard,
        fps=fps,
        start=start,
        **size._asdict(),
    )
    clip = ClipShape(*size, fps=fps)
    run(out, plan, model, Videos(model, folder, files, said, clip, start, batch))


@data_app.command("rollouts")
def rollouts(
    prompts: PromptsFile,
    out: Out,
    teacher: TeacherName = "shapes",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each sample.")] = 32,
    guidance: Annotated[float, typer.Option(help="u + guidance (c - u); 1 is none.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Decides every item's noise.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Samples of each prompt, from other noise.")] = 1,
    keep_noise: Annotated[bool, typer.Option(help="Store the noise beside its seed.")] = False,
    frames: Frames = None,
    height: Height = None,
    width: Width = None,
    rows_per_shard: Rows = 64,
    batch: Batch = 1,
    store: Stored = "float16",
    dtype: Computed = "float32",
    device: Device = None,
    negative_prompt: Negative = "",
) -> None:
    """Sample the teacher itself: no real video is needed."""
    from fewstep.teacher.dataset_plan import plan_dataset
    from fewstep.teacher.dataset_sources import Rollouts, read_prompts

    lines = read_prompts(prompts)
    model = load(teacher, dtype, device)
    size = size_of(model, frames, height, width)
    shape = model.latent_shape(*size)
    plan = plan_dataset(
        "rollouts",
        model,
        teacher,
        [[line] for line in lines] * count,
        dtype=store,
        latent_shape=shape,
        keep_noise=keep_noise,
        steps=steps,
        guidance=guidance,
        negative_prompt=negative_prompt,
        source=str(prompts.resolve()),
        rows_per_shard=rows_per_shard,
        seed=seed,
        **size._asdict(),
    )
    source = Rollouts(model, lines, shape, steps, guidance, seed, negative_prompt, keep_noise, batch)
    run(out, plan, model, source)


@data_app.command("prompts")
def prompts(
    prompts: PromptsFile,
    out: Out,
    teacher: TeacherName = "shapes",
    rows_per_shard: Rows = 1024,
    batch: Batch = 1,
    store: Stored = "float16",
    dtype: Computed = "float32",
    device: Device = None,
    negative_prompt: Negative = "",
) -> None:
    """Embed prompts alone, for training that needs no latents."""
    from fewstep.teacher.dataset_plan import plan_dataset
    from fewstep.teacher.dataset_sources import Prompts, read_prompts

    lines = read_prompts(prompts)
    model = load(teacher, dtype, device)
    plan = plan_dataset(
        "prompts",
        model,
        teacher,
        [[line] for line in lines],
        dtype=store,
        negative_prompt=negative_prompt,
        source=str(prompts.resolve()),
        rows_per_shard=rows_per_shard,
    )
    run(out, plan, model, Prompts(model, lines, batch))


@data_app.command("show")
def show(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A dataset's folder.")]) -> None:
    """Show what a dataset holds and how it was made."""
    from rich.console import Console
    from rich.table import Column, Table

    from fewstep.teacher.manifest import read_manifest

    manifest = read_manifest(folder)
    table = Table("field", Column("value", overflow="fold"), title=str(folder))
    state = "finished" if manifest.complete else "unfinished"
    table.add_row("state", f"{state}: {len(manifest.shards)} of {manifest.num_shards} shards")
    table.add_row("rows", f"{manifest.rows}, and {len(manifest.skipped)} skipped")
    for name, value in manifest.model_dump(mode="json", exclude_none=True).items():
        if name not in ("shards", "unconditional", "schedule", "tensors"):
            table.add_row(name, str(value))
    for name, value in manifest.schedule.model_dump(exclude_none=True).items():
        table.add_row(f"schedule {name}", str(value))
    for name, layout in manifest.tensors.items():
        table.add_row(name, f"{layout.dtype} ({', '.join(str(n or 'tokens') for n in layout.shape)})")
    Console().print(table)
