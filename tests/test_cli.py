"""The command line: help for every verb, quick to start, and mistakes told in one sentence."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import cast

import pytest
import torch
import typer
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from typer import Exit
from typer.core import TyperGroup
from typer.testing import CliRunner

from fewstep import __version__, cli
from fewstep.teacher.interrupts import Stop, noted_signals

Verb = tuple[str, ...]


def verbs(group: object, above: Verb = ()) -> Iterator[tuple[Verb, object]]:
    """Every command under a group, with the words that call it."""
    for name, command in getattr(group, "commands", {}).items():
        yield (*above, name), command
        yield from verbs(command, (*above, name))


VERBS = dict(verbs(typer.main.get_command(cli.app)))


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_help_shows_every_verb_with_a_sentence() -> None:
    code, text = run("--help")
    assert code == 0
    for verb, command in VERBS.items():
        sentence = str(getattr(command, "help", None) or "").split("\n\n")[0]
        assert sentence.endswith("."), f"{' '.join(verb)} says nothing of itself"
        if len(verb) == 1:
            assert re.search(rf"{verb[0]}\s+{re.escape(sentence)}", text), verb


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help(verb: Verb) -> None:
    code, text = run(*verb, "--help")
    assert code == 0
    assert f"Usage: fewstep {' '.join(verb)}" in text.replace("root", "fewstep", 1)


@pytest.mark.parametrize("verb", [("data",), ("data", "videos"), ("data", "rollouts")], ids=" ".join)
def test_data_tells_its_exit_code(verb: Verb) -> None:
    assert "Exit code 3 means that something was skipped" in run(*verb, "--help")[1]


def test_version() -> None:
    assert run("--version") == (0, f"fewstep {__version__}\n")


def test_an_unknown_verb_is_refused() -> None:
    code, text = run("smaple")
    assert code == 2
    assert "smaple" in text


@pytest.mark.parametrize(("old", "new"), cli._MOVED.items())
def test_a_command_that_moved_says_where_it_is(old: str, new: str) -> None:
    code, text = run(*old.split(), "runs/shapes-demo", "--help")
    assert code == 2 and f"`fewstep {old}` is now `fewstep {new}`" in text
    assert tuple(new.split()) in VERBS and tuple(old.split()) not in VERBS


def test_the_command_line_starts_without_torch() -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'peft', 'torchmetrics', 'pyarrow'}"
    code = f"import sys, fewstep.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Budget(BaseModel):
    steps: int


@pytest.fixture(autouse=True)
def ctrl_c_of_pytest() -> Iterator[None]:
    """`main` leaves Ctrl-C to the system, as nothing comes after it."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of `fewstep` when a command raises `error`."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(cli.app, "registered_commands", [*cli.app.registered_commands])
    cli.app.command("fail")(fail)
    monkeypatch.setattr(sys, "argv", ["fewstep", "fail"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


FULL = "there is no space left on the disk; make room and run the same command again to resume"
SENTENCES = [
    (ValueError("steps is 0;\n it must be at least 1"), "steps is 0; it must be at least 1"),
    (ValueError(), "ValueError"),
    (FileNotFoundError(errno.ENOENT, "No such file", "clip.mp4"), "clip.mp4: No such file"),
    (OSError("weights are not in the cache"), "weights are not in the cache"),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), FULL),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "state.pt"), f"state.pt could not be written: {FULL}"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), FULL),
]


@pytest.mark.parametrize(("error", "sentence"), SENTENCES)
def test_a_mistake_is_told_in_one_sentence(
    error: Exception,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fail_with(error, monkeypatch) == 2
    assert capsys.readouterr().err == f"{sentence}\n"


def test_a_wrong_recipe_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValidationError) as wrong:
        Budget.model_validate({"steps": "many"})
    assert fail_with(wrong.value, monkeypatch) == 2
    assert capsys.readouterr().err.startswith("steps: Input should be a valid integer")


RESUME = "run the same command again to resume: what was finished is kept"


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, f"stopped by Ctrl-C; {RESUME}"),
        (Stop(signal.SIGTERM), 143, f"stopped by SIGTERM; {RESUME}"),
        (Stop(signal.SIGHUP), 129, f"stopped by SIGHUP; {RESUME}"),
        (Stop(signal.SIGTERM, "3 clips are there"), 143, "stopped by SIGTERM; 3 clips are there"),
    ],
)
def test_a_stop_says_how_to_resume(
    error: BaseException, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail_with(error, monkeypatch) == code
    assert capsys.readouterr().err == f"{sentence}\n"


def test_a_stop_keeps_rows_that_fresh_would_delete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fewstep", "fail", "--fresh"])
    with pytest.raises(Exit):
        invoke_with(lambda: signal.raise_signal(signal.SIGTERM), monkeypatch)
    assert "run the same command again without --fresh to resume" in capsys.readouterr().err


def fail_to_import() -> None:
    """As a library's C code does with an error that comes while it is being set up."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        raise ImportError("initialization failed")  # noqa: B904


def fail_to_load() -> None:
    """As torch's C code does, which drops the error that it meets."""
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    raise ValueError("could not determine the shape of object type 'torch.storage.UntypedStorage'")


def lose_the_terminal() -> None:
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def lose_the_reader() -> None:
    """rich's way of ending."""
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    raise SystemExit(1)


@pytest.mark.parametrize("work", [fail_to_import, fail_to_load, lose_the_terminal, lose_the_reader])
def test_what_a_stop_brings_about_is_the_stop(work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exit) as end:
        invoke_with(work, monkeypatch)
    assert end.value.exit_code == 143


def test_a_full_disk_while_stopping_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "state.pt")

    with pytest.raises(Exit) as end:
        invoke_with(work, monkeypatch)
    assert end.value.exit_code == 2
    assert capsys.readouterr().err == f"state.pt could not be written: {FULL}\n"


def test_processes_beside_the_first_say_which_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert fail_with(Stop(signal.SIGTERM, "kept"), monkeypatch) == 143
    assert capsys.readouterr().err == "process 1: stopped by SIGTERM; kept\n"


def test_a_sentence_that_nobody_can_read_changes_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr(typer, "secho", closed)
    assert fail_with(Stop(signal.SIGTERM), monkeypatch) == 143


def test_a_full_disk_in_a_thread_of_a_library_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ZeroDivisionError()):
            thread = threading.Thread(target=raiser(error))
            thread.start()
            thread.join()

    shown: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: shown.append(args.exc_type))
    monkeypatch.setattr(cli.app, "registered_commands", [*cli.app.registered_commands])
    cli.app.command("threads")(work)
    assert run("threads")[0] == 0
    assert shown == [ZeroDivisionError]


def raiser(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def invoke_with(work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Does the work as a command's, with signals heard as `main` lets them be."""
    monkeypatch.setattr(TyperGroup, "invoke", lambda self, ctx: work())
    group = typer.main.get_command(cli.app)
    with noted_signals():
        group.invoke(typer.Context(group))


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (["evaluate", "a@4"], "run it again with --batch 1 or --device cpu"),
        (["data", "videos", "DIR"], "run it again with --batch 1 or --device cpu"),
        (["run", "shapes-demo"], "run it again with --set data.batch=1 if clips were being made; for training"),
        (["export", "RUN"], "run it again with --device cpu"),
        (["report", "RUN"], "choose a smaller size, or a machine with more memory"),
    ],
)
def test_the_options_of_each_command_say_what_takes_less_memory(
    monkeypatch: pytest.MonkeyPatch, words: list[str], way: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["fewstep", *words])
    assert cli._less_memory(cast(TyperGroup, typer.main.get_command(cli.app))).startswith(way)


def test_memory_that_runs_out_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
    assert fail_with(error, monkeypatch) == 2
    assert capsys.readouterr().err == (
        "memory ran out (CUDA out of memory. Tried to allocate 9 GiB): choose a smaller size, or a machine with more "
        "memory\n"
    )


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_with(ZeroDivisionError(), monkeypatch)
