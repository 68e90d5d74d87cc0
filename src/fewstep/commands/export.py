"""`fewstep export`: a student in a format that other tools load, proven by loading it there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fewstep.commands.options import DeviceOption
from fewstep.commands.progress import Screen
from fewstep.student.export.programs import PROGRAMS, describe_format
from fewstep.teacher.limits import MOST_RANK

if TYPE_CHECKING:
    import torch

    from fewstep.student.export.base import Exported, Options
    from fewstep.student.export.provenance import Provenance
    from fewstep.student.loading import Student

_FORMATS_HELP = " ".join(f"{name}: {describe_format(name)}." for name in PROGRAMS)
if TYPE_CHECKING:
    To = str
else:
    To = Literal[("all", *PROGRAMS)]


def export_command(
    source: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory, one of its stages, or another export.")
    ],
    to: Annotated[
        To,
        typer.Option(
            help=f"The format; `all` writes every format that fits, each into a folder of its own. {_FORMATS_HELP}"
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; it appears once it is complete.")],
    step_count: Annotated[
        int | None, typer.Option(min=1, help="The student of this many steps; by default the run's last one.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_RANK,
            help="Rank of the LoRA that is extracted from a fully trained student: 64 by default with --to lora; --to "
            "comfyui writes the whole model unless a rank is passed.",
        ),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="results.json for the model card; by default RUN/evaluation/results.json.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="The student's teacher, if it is not where the contract says.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Precision of the stored weights; by default the one in which the teacher was published."),
    ] = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Largest size of a pipeline's weight files, such as 5GB; 10GB by default."),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="ORG/NAME",
            help="The teacher's name on the hub, for contract, model card and snippet; local folders are never "
            "written there.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing export.")] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="REPO", help="Upload the finished export to this model on the hub.")
    ] = None,
    private: Annotated[bool, typer.Option(help="Keep the model on the hub private.")] = False,
    device: DeviceOption = None,
) -> None:
    """Write a student for other tools, load it there, and keep it if it gives the same latents from the same noise."""
    export_student(
        source, to, out, step_count, rank, results, teacher, dtype, max_shard_size, base_model, force, push_to_hub,
        private, device, Screen(stdout_is_data=True),
    )  # fmt: skip


def export_student(
    source: Path,
    to: To,
    out: Path,
    step_count: int | None,
    rank: int | None,
    results: Path | None,
    teacher: str | None,
    dtype: Literal["float32", "bfloat16", "float16"] | None,
    max_shard_size: str | None,
    base_model: str | None,
    force: bool,
    push_to_hub: str | None,
    private: bool,
    device: str | None,
    screen: Screen,
) -> Path:
    """What `export_command` does, under the same names: the folder that it writes."""
    screen.say(f"exporting {source} as {to}")
    from fewstep.student.export.base import Options
    from fewstep.student.export.hub import check_access, check_repo
    from fewstep.student.export.privacy import check_base_model
    from fewstep.student.export.provenance import read_provenance
    from fewstep.student.load_student import load_student

    options = Options(rank, base_model, dtype, max_shard_size)
    # what is in the way, here and on the hub, before the student is loaded
    _check_free(to, out, options, force)
    if base_model is not None:
        check_base_model(base_model)
    if push_to_hub is not None:
        if to == "all":
            raise ValueError("--push-to-hub takes one format, a model on the hub for each: name it with --to")
        check_repo(push_to_hub)
        screen.say(f"asking the hub whether you may push to {push_to_hub}")
        check_access(push_to_hub)
    # for the model card: which run it is of, and its figures
    provenance = read_provenance(source, step_count, results)
    origins = _check_apart(source, step_count, to, out, options, force, provenance)
    if provenance.outdated:
        screen.warn(
            "the run's evaluation has no clips of this student as it is now, so the model card says that it was not "
            "measured: evaluate it again, and pass --results"
        )
    chosen = _check_possible(source, step_count, teacher, to, rank, device, screen)
    screen.say("loading the student")
    student = load_student(source, step_count, teacher, device=chosen)
    if to == "all":
        _write_all(student, out, options, origins, provenance, force, screen)
    else:
        _write(student, to, out, options, provenance, force, screen)
    if push_to_hub is not None:
        from fewstep.student.export.hub import push

        screen.say(f"uploading it to {push_to_hub}")
        screen.result(push(out, push_to_hub, private))
    return out


def _check_possible(
    source: Path,
    steps: int | None,
    teacher: str | None,
    to: To,
    rank: int | None,
    device: str | None,
    screen: Screen,
) -> torch.device:
    """Says how much memory it takes; the device to export on: the CPU where none was asked for and a GPU is too small.

    Raises ValueError for a format that cannot hold this student, before it is loaded.
    """
    import torch

    from fewstep.student.export.base import find_format
    from fewstep.student.export.load_export import check_exportable, is_export, own_pipeline
    from fewstep.student.export.memory import memory_notice, outlined_student
    from fewstep.student.export.write_export import check_lora_base, check_rank
    from fewstep.teacher.loading import find_device

    check_exportable(source)
    outline, contract = outlined_student(source, steps, teacher)
    # an export of a LoRA may hold it merged
    adapted = contract.weights == "lora" and not is_export(source)
    format = None if to == "all" else find_format(to)
    if format is not None:
        format.check_teacher(outline)
        check_rank(rank, adapted)
        if own_pipeline(source) and teacher is None and (rank or format.usual_rank) is not None:
            check_lora_base(outline, contract)
    chosen = find_device(device)
    estimate, too_much = memory_notice(outline, chosen, adapted, format)
    if too_much and device is None and chosen.type != "cpu":
        screen.say(f"{estimate}: exporting on the CPU")
        chosen = torch.device("cpu")
        estimate, too_much = memory_notice(outline, chosen, adapted, format)
    if too_much:
        screen.warn(f"{estimate}: it may run out of memory")
    elif estimate:
        screen.say(estimate)
    return chosen


def _check_free(to: To, out: Path, options: Options, force: bool) -> None:
    """Raises ValueError for an output folder, an option or a library that is in the way, before anything is loaded."""
    from fewstep.student.export.base import check_shard_size, find_format
    from fewstep.student.export.whole_folder import check_export_folder

    if to == "all":
        if options.shard is not None:
            check_shard_size(options.shard)
        return
    find_format(to).check_needs()
    find_format(to).check_options(options)
    check_export_folder(out, force)


def _check_apart(
    source: Path, steps: int | None, to: To, out: Path, options: Options, force: bool, provenance: Provenance
) -> dict[str, dict[str, Any]]:
    """What exports of this student in every format are made from, where all are written: a finished one stays.

    Raises ValueError for an output folder that is in the student's own, or where another export is in the way.
    """
    from fewstep.student.export.every import check_every, origins_of
    from fewstep.student.export.load_export import is_export
    from fewstep.student.loading import find_stage
    from fewstep.student.weights import weights_sha256

    student = source if is_export(source) else find_stage(source, steps)
    if out.resolve().is_relative_to(student.resolve()):
        raise ValueError(f"{out} is in {student}, the student's own folder: choose another --out")
    if to != "all":
        return {}
    origins = origins_of(weights_sha256(student), provenance, options)
    check_every(out, force, origins)
    return origins


def _write(
    student: Student, to: To, out: Path, options: Options, provenance: Provenance, force: bool, screen: Screen
) -> None:
    from fewstep.student.export.write_export import write_export

    screen.say("writing it, and loading it back in the other tool")
    done = write_export(student, to, out, options, provenance, force)
    for note in done.notes:
        screen.result(note)
    _tell(done, screen)
    _tell_base(done, screen)


def _write_all(
    student: Student,
    out: Path,
    options: Options,
    origins: dict[str, dict[str, Any]],
    provenance: Provenance,
    force: bool,
    screen: Screen,
) -> None:
    from fewstep.student.export.every import export_every

    written = set[str]()

    def begun(name: str) -> None:
        written.add(name)
        screen.say(f"writing {name}, and loading it back in the other tool")

    done, refused = export_every(student, out, options, origins, provenance, force, begun)
    for exported in done:
        if exported.format in written:
            _tell(exported, screen)
        else:
            screen.result(f"{exported.folder}: of this student already, so it stays; --force writes it again")
    for name, why in refused.items():
        screen.result(f"not {name}: {why}")
    if not done:
        raise ValueError("no format fits this student")
    _tell_base(done[0], screen)


def _tell(done: Exported, screen: Screen) -> None:
    screen.result(
        f"{done.folder}: {done.format}, {done.size_mb:g} MB, latents differ by {done.relative_error:.2g} from the "
        f"student's own, {done.seconds:g} s"
    )


def _tell_base(done: Exported, screen: Screen) -> None:
    from fewstep.student.contract import UNNAMED, read_contract

    if read_contract(done.folder).teacher == UNNAMED:
        screen.result(
            f"The base model is called {UNNAMED} in it, as it lies in a folder, whose path is not written: "
            "--base-model ORG/NAME names it."
        )
