"""The `fewstep` command: its verbs in one place, and one sentence for every mistake a user can fix."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fewstep import __version__
from fewstep.commands.benchmark import benchmark_command
from fewstep.commands.data import data_app
from fewstep.commands.demo import demo
from fewstep.commands.evaluate import evaluate_command
from fewstep.commands.export import export_command
from fewstep.commands.launched import GROUPS, check_alone
from fewstep.commands.recipes import recipes_app
from fewstep.commands.report import report
from fewstep.commands.run import run
from fewstep.commands.sample import sample
from fewstep.commands.sentence import error_text, one_line
from fewstep.commands.shapes.app import shapes_app
from fewstep.commands.teacher import teacher_app
from fewstep.commands.vbench import vbench_app
from fewstep.library_chatter import quiet_imports
from fewstep.teacher.files.atomic import disk_full_errno
from fewstep.teacher.interrupts import Stop, noted_signals, requested_stop, stopped_by
from fewstep.teacher.ranks import num_launched
from fewstep.waiting_threads import shorten_spinning

_AGAIN = ("benchmark", "export", "recipes", "report", "sample")  # verbs that start from the beginning
_MOVED = {  # where commands of earlier versions are
    "export-table": "shapes exports",
    "student": "shapes",
    "student chain": "shapes chain",
    "student conditioned": "shapes conditioning",
    "student decoder": "shapes decoder",
    "student table": "shapes students",
    "teacher table": "shapes teacher",
}


class _Verbs(TyperGroup):
    """Reports stops, ValueError, OSError and a lack of memory in one sentence; anything else is our fault and keeps its
    traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with noted_signals(), _quiet_threads():
            return super().main(*args, **kwargs)

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        for words in (args[:2], args[:1]):
            if moved := _MOVED.get(" ".join(words)):
                ctx.fail(f"`fewstep {' '.join(words)}` is now `fewstep {moved}`")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            with noted_signals() as signals, signals.raising_stop():
                return super().invoke(ctx)
        except BaseException as error:
            # a full disk is reported as such, also where a stop came with it
            stop = None if disk_full_errno(error) is not None else _stop(error)
            if stop is not None:
                _say(f"stopped by {stop.name}; {stop.kept or _kept(ctx)}")
                raise typer.Exit(stop.exit_code) from error
            if isinstance(error, BrokenPipeError):  # `fewstep ... | head`: typer ends quietly
                raise
            if _is_out_of_memory(error):
                _say(f"memory ran out ({_sentence(error)[:200]}): {_less_memory(self)}", fg="red")
            elif isinstance(error, ValueError | OSError) or disk_full_errno(error) is not None or _of_no_home(error):
                _say(_sentence(error), fg="red")
            else:
                raise
            raise typer.Exit(2) from error


def _stop(error: BaseException) -> Stop | None:
    """The stop that an error comes from. Libraries may have made another error of it, and one that reaches the whole
    process group ends the reader of our output as well, or is the end of the terminal."""
    if isinstance(error, KeyboardInterrupt) and not isinstance(error, Stop):
        return Stop(signal.SIGINT)
    lost = isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EIO)
    number = requested_stop()
    expected = (isinstance(error, ValueError | OSError) and not _of_a_library(error)) or isinstance(error, typer.Exit)
    if number and (lost or not expected):
        return stopped_by(error) or Stop(number)
    return stopped_by(error)


def _of_a_library(error: BaseException) -> bool:
    """Whether a library raised it: its C code may make any error of a Stop that reaches it, without a cause."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and not str(frames[-1][0].f_globals.get("__name__")).startswith("fewstep.")


def _kept(ctx: typer.Context) -> str:
    """How to resume after a stop that does not say so itself."""
    if ctx.invoked_subcommand == "export" and "all" in sys.argv:
        return "run the same command again to resume: the formats that were finished are kept, without --force"
    if ctx.invoked_subcommand in _AGAIN:
        return "run the same command again"
    if "--fresh" in sys.argv:
        return "run the same command again without --fresh to resume: what was finished is kept"
    return "run the same command again to resume: what was finished is kept"


def _say(sentence: str, fg: str | None = None) -> None:
    """Prints to standard error, if anybody is there to read it."""
    rank = os.environ.get("RANK", "0")  # as torchrun and accelerate number the processes of a run
    with suppress(OSError):
        typer.secho(sentence if rank == "0" else f"process {rank}: {sentence}", fg=fg, err=True)


def _sentence(error: BaseException) -> str:
    """What went wrong, on one line."""
    return one_line(error_text(error)) or type(error).__name__


def _of_no_home(error: BaseException) -> bool:
    """Whether a path begins with ~ and the name of nobody here, as pathlib reports it."""
    return isinstance(error, RuntimeError) and "home directory" in str(error)


def _is_out_of_memory(error: BaseException) -> bool:
    if "torch" not in sys.modules:  # nothing that takes much memory was begun
        return isinstance(error, MemoryError)
    from fewstep.distill.out_of_memory import is_out_of_memory

    return is_out_of_memory(error)


def _less_memory(verbs: TyperGroup) -> str:
    """What to change of the command that was called, as its own options have it."""
    command: Any = verbs
    for word in sys.argv[1:]:
        command = getattr(command, "commands", {}).get(word, command)
    options = {parameter.name for parameter in command.params}
    if command.name == "run":
        return (
            "run it again with --set data.batch=1 if clips were being made; for training --dry-run --device-memory "
            "GIB names settings that take less"
        )
    ways = [way for name, way in (("batch", "--batch 1"), ("device", "--device cpu")) if name in options]
    return f"run it again with {' or '.join(ways)}" if ways else "choose a smaller size, or a machine with more memory"


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """A full disk that stops TensorBoard's thread is reported by the main thread instead."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is None or disk_full_errno(args.exc_value) is None:
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("benchmark")(benchmark_command)
app.command("demo")(demo)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.command("report")(report)
app.command("run")(run)
app.command("sample")(sample)
app.add_typer(data_app, name="data")
app.add_typer(recipes_app, name="recipes")
app.add_typer(shapes_app, name="shapes")
app.add_typer(teacher_app, name="teacher")
app.add_typer(vbench_app, name="vbench")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fewstep {__version__}")
        raise typer.Exit


@app.callback()
def _fewstep(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Distil video diffusion models into few-step students."""
    if context.invoked_subcommand is not None and context.invoked_subcommand not in GROUPS:
        check_alone(context.invoked_subcommand)


def main() -> None:
    """Entry point of the `fewstep` command."""
    shorten_spinning()
    quiet_imports()
    if num_launched() > 1:  # torch would show its C++ stack when another process is gone
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        app()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the interpreter would show a traceback of its own end
