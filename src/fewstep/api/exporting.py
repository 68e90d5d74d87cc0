"""`fewstep.export`: a student written for other tools from Python."""

from __future__ import annotations

from pathlib import Path

from fewstep.api.arguments import PathOrName, checked, in_one_sentence, python_call


@in_one_sentence
def export(
    source: PathOrName,
    to: str,
    out: PathOrName,
    *,
    step_count: int | None = None,
    rank: int | None = None,
    results: PathOrName | None = None,
    teacher: PathOrName | None = None,
    dtype: str | None = None,
    max_shard_size: str | None = None,
    base_model: str | None = None,
    force: bool = False,
    push_to_hub: str | None = None,
    private: bool = False,
    device: str | None = None,
    quiet: bool = False,
) -> Path:
    """Writes a student for other tools and proves it there, as `fewstep export` does: the folder of the export.

    source: a run, one of its stages, or another export. to: the format, such as "diffusers". quiet: shows nothing; what
    was measured is in the folder's export.json. All else is as `fewstep export --help` says. Raises ValueError in one
    sentence for what that refuses.
    """
    arguments = dict(locals())
    del arguments["quiet"]
    from fewstep.commands.export import export_command, export_student
    from fewstep.commands.progress import Screen

    screen = Screen(stdout_is_data=True, quiet=quiet)
    screen.command = python_call(export, arguments)
    return export_student(**checked(export_command, arguments), screen=screen)
