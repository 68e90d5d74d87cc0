"""The `fewstep` command: its verbs in one place, and one sentence for every mistake a user can mend."""

from __future__ import annotations

import errno
import os
from typing import Annotated

import typer
from typer.core import TyperGroup

from fewstep import __version__
from fewstep.commands.benchmark import benchmark
from fewstep.commands.data import data_app
from fewstep.commands.demo import demo
from fewstep.commands.evaluate import evaluate
from fewstep.commands.export import export
from fewstep.commands.export_table import export_table
from fewstep.commands.report import report
from fewstep.commands.run import run
from fewstep.commands.sample import sample
from fewstep.commands.student import student_app
from fewstep.commands.teacher import teacher_app
from fewstep.commands.vbench import vbench_app
from fewstep.waiting_threads import shorten_spinning


class _Verbs(TyperGroup):
    """Reports ValueError and OSError in one sentence; anything else is our fault and keeps its traceback."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            typer.secho("stopped; run the same command again to finish", err=True)
            raise typer.Exit(130) from error
        except BrokenPipeError:  # `fewstep ... | head`: typer ends quietly
            raise
        except Exception as error:
            if not isinstance(error, ValueError | OSError) and not _disk_is_full(error):
                raise
            typer.secho(_sentence(error), fg="red", err=True)
            raise typer.Exit(2) from error


def _disk_is_full(error: Exception) -> bool:
    """Whether there was no room to write; safetensors says so in an error of its own kind."""
    return os.strerror(errno.ENOSPC) in str(error)


def _sentence(error: Exception) -> str:
    """What went wrong, on one line."""
    from pydantic import ValidationError

    if _disk_is_full(error):
        return "no space left on the disk; make room and run the same command again to finish"
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("benchmark")(benchmark)
app.command("demo")(demo)
app.command("evaluate")(evaluate)
app.command("export")(export)
app.command("export-table")(export_table)
app.command("report")(report)
app.command("run")(run)
app.command("sample")(sample)
app.add_typer(data_app, name="data")
app.add_typer(student_app, name="student")
app.add_typer(teacher_app, name="teacher")
app.add_typer(vbench_app, name="vbench")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fewstep {__version__}")
        raise typer.Exit


@app.callback()
def _fewstep(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Distil video diffusion models into students of a few steps."""


def main() -> None:
    """Entry point of the `fewstep` command."""
    shorten_spinning()
    app()
