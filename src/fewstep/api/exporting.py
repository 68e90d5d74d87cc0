"""`fewstep.export`: write a student for other tools from Python."""

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
    """Writes a student for other tools and verifies it there, as `fewstep export` does. Returns the export's folder.

    source: a run, one of its stages, or another export. to: the format, such as "diffusers". quiet: prints nothing;
    measurements are in the folder's export.json. All other arguments are explained by `fewstep export --help`. Raises
    ValueError, with a one-sentence message, for what the command refuses.
    """
    arguments = dict(locals())
    del arguments["quiet"]
    from fewstep.commands.export import export_command, export_student
    from fewstep.commands.progress import Screen

    screen = Screen(stdout_is_data=True, quiet=quiet)
    screen.command = python_call(export, arguments)
    return export_student(**checked(export_command, arguments), screen=screen)
