"""The command line: help for every verb, quick to start, and mistakes told in one sentence."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from typer.testing import CliRunner

from fewstep import __version__, cli

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


@pytest.mark.parametrize(
    "verb", [("data",), ("data", "videos"), ("data", "rollouts"), ("data", "prompts")], ids=" ".join
)
def test_data_tells_its_exit_code(verb: Verb) -> None:
    assert "Exit code 3 means that something was skipped" in run(*verb, "--help")[1]


def test_version() -> None:
    assert run("--version") == (0, f"fewstep {__version__}\n")


def test_an_unknown_verb_is_refused() -> None:
    code, text = run("smaple")
    assert code == 2
    assert "smaple" in text


def test_the_command_line_starts_without_torch() -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'datasets', 'matplotlib', 'pyarrow'}"
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


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_with(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err == (
        "stopped by Ctrl-C; run the same command again to resume: what was finished is kept\n"
    )


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_with(ZeroDivisionError(), monkeypatch)
