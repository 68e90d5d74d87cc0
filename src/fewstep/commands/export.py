"""`fewstep export`: a student in a format that other tools load, proven by loading it there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fewstep.commands.asked import Device
from fewstep.commands.progress import Screen
from fewstep.teacher.limits import MOST_RANK

if TYPE_CHECKING:
    from fewstep.student.export.base import Exported

To = Literal["diffusers", "lora", "comfyui", "single-file", "part", "torchao-int8", "torchao-fp8", "gguf", "onnx"]


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, one stage's, or another export.")],
    to: Annotated[To, typer.Option(help="The format.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it appears once it is whole.")],
    step_count: Annotated[
        int | None, typer.Option(min=1, help="Which student of the run; by default the last one.")
    ] = None,
    rank: Annotated[
        int, typer.Option(min=1, max=MOST_RANK, help="Of the LoRA that is extracted from a fully trained student.")
    ] = 64,
    results: Annotated[
        Path | None, typer.Option(help="results.json for the model card; by default RUN/evaluation/results.json.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Where the student's teacher is, if not where its contract says.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an export that is there already.")] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="REPO", help="Upload the finished export to this model on the hub.")
    ] = None,
    private: Annotated[bool, typer.Option(help="Keep the model on the hub private.")] = False,
    device: Device = None,
) -> None:
    """Write a student for other tools, load it there, and keep it if it gives the same latents from the same noise."""
    export_student(
        source, to, out, step_count, rank, results, teacher, force, push_to_hub, private, device,
        Screen(stdout_is_data=True),
    )  # fmt: skip


def export_student(
    source: Path,
    to: To,
    out: Path,
    step_count: int | None,
    rank: int,
    results: Path | None,
    teacher: str | None,
    force: bool,
    push_to_hub: str | None,
    private: bool,
    device: str | None,
    screen: Screen,
) -> Path:
    """What `export` does, under the same names: the folder that it writes."""
    screen.say(f"exporting {source} as {to}")
    from fewstep.student.export.base import Options, find_format
    from fewstep.student.export.base import export as write
    from fewstep.student.export.hub import check_repo, push
    from fewstep.student.export.provenance import read_provenance
    from fewstep.student.export.whole_folder import check_free
    from fewstep.student.loading import load_student

    format = find_format(to)
    format.check_needs()
    check_free(out, force)
    if push_to_hub is not None:
        check_repo(push_to_hub)
    provenance = read_provenance(source, step_count, results)
    screen.say("loading the student")
    student = load_student(source, step_count, teacher, device=device)
    screen.say("writing it, and loading it back in the other tool")
    done = write(student, to, out, Options(rank=rank), provenance, force)
    _tell(done, screen)
    if push_to_hub is not None:
        screen.say(f"uploading it to {push_to_hub}")
        screen.result(push(out, push_to_hub, private))
    return out


def _tell(done: Exported, screen: Screen) -> None:
    for note in done.notes:
        screen.result(note)
    screen.result(
        f"{done.folder}: {done.format}, {done.size_mb:g} MB, latents differ by {done.relative_error:.2g} from the "
        f"student's own, {done.seconds:g} s"
    )
