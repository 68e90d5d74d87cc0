"""Signals: noted where work must not be cut short, raised where nothing is lost by it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from fewstep.teacher import interrupts
from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.interrupts import Signals, Stop, noted_signals, requested_stop, stopped_by

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
SAVES = [signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.parametrize("number", STOPS)
def test_a_request_to_stop_is_only_noted(number: int) -> None:
    before = signal.getsignal(number)
    with noted_signals() as signals:
        assert not signals.stop
        signal.raise_signal(number)
        assert signals.stop == number == requested_stop() and not signals.save
    assert signal.getsignal(number) is before and requested_stop() == 0


@pytest.mark.parametrize("number", SAVES)
def test_a_request_to_save_is_only_noted_anywhere(number: int) -> None:
    with noted_signals() as signals, signals.raising_stop():
        signal.raise_signal(number)
        assert signals.save and not signals.stop


@pytest.mark.parametrize("number", STOPS)
def test_it_is_raised_where_nothing_is_lost(number: int) -> None:
    with noted_signals() as signals, pytest.raises(Stop) as stop, signals.raising_stop():
        signal.raise_signal(number)
    assert stop.value.exit_code == 128 + number


def test_an_earlier_request_is_raised_there_too() -> None:
    with noted_signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stop), signals.raising_stop():
            pytest.fail("the block was entered")


def test_what_was_noted_in_an_inner_block_is_raised_behind_it() -> None:
    steps = []
    with noted_signals() as signals, pytest.raises(Stop), signals.raising_stop():
        with noted_signals() as inner:
            assert inner is signals
            signal.raise_signal(signal.SIGTERM)
            steps.append("whole")
        steps.append("never")
    assert steps == ["whole"]


def test_an_attempt_ends_at_once_and_its_errors_pass() -> None:
    with noted_signals() as signals:
        assert signals.attempt(lambda: 3) == 3
        with pytest.raises(ZeroDivisionError):
            signals.attempt(lambda: 1 // 0)
        assert signals.attempt(lambda: signal.raise_signal(signal.SIGTERM)) is None and signals.stop == signal.SIGTERM
        assert signals.attempt(lambda: pytest.fail("begun after the stop")) is None


def test_an_attempt_knows_a_stop_in_another_error() -> None:
    def convert() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise RuntimeError("initialization failed") from error

    with noted_signals() as signals:
        assert signals.attempt(convert) is None and signals.stop == signal.SIGTERM


def test_a_forwarded_signal_is_the_same_request(pass_time: Callable[[float], None]) -> None:
    with noted_signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        pass_time(1.9)
        signal.raise_signal(signal.SIGTERM)  # as torchrun sends it on
        signal.raise_signal(signal.SIGINT)
        assert signals.stop == signal.SIGTERM


def test_a_second_request_stops_anywhere(pass_time: Callable[[float], None]) -> None:
    with noted_signals():
        signal.raise_signal(signal.SIGTERM)
        pass_time(2.1)
        with pytest.raises(Stop) as stop:
            signal.raise_signal(signal.SIGINT)
        assert stop.value.number == signal.SIGTERM  # the exit code is that of the first
        signal.raise_signal(signal.SIGINT)  # forwarded
        pass_time(2.1)
        with pytest.raises(Stop):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [*STOPS, *SAVES])
def test_ignored_signals_stay_ignored(number: int) -> None:
    """As under nohup, or in the background of a shell script."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with noted_signals() as signals, signals.raising_stop():
            signal.raise_signal(number)
            assert not signals.stop and not signals.save
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_stop_that_python_drops_is_raised_again() -> None:
    """Errors in finalisers are printed and forgotten."""

    class Closing:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with noted_signals() as signals, pytest.raises(Stop), signals.raising_stop():
        closing = Closing()
        del closing
        time.sleep(30)
        pytest.fail("the stop was lost")


def test_a_stop_waits_for_imports_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C++ code that sets up a library may end the process when an error comes through it."""
    script = "import signal\nsignal.raise_signal(signal.SIGTERM)\nwhole = True\n"
    (tmp_path / "signalled_library.py").write_text(script)
    monkeypatch.syspath_prepend(tmp_path)
    with noted_signals() as signals, pytest.raises(Stop), signals.raising_stop():
        assert import_module("signalled_library").whole
        assert signals.stop == signal.SIGTERM
        time.sleep(30)
        pytest.fail("the stop was lost")


def test_a_file_in_the_making_is_finished_first(tmp_path: Path) -> None:
    with noted_signals() as signals, pytest.raises(Stop), signals.raising_stop():
        with whole_file(tmp_path / "table.json") as part:
            part.write_text("{")
            signal.raise_signal(signal.SIGTERM)
            part.write_text("{}")
        pytest.fail("the stop was lost")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("table.json", "{}")]


def test_without_a_command_ctrl_c_is_pythons(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "table.json"):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the signal was lost")
    assert not list(tmp_path.iterdir())


def test_other_errors_in_finalisers_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    class Closing:
        def __del__(self) -> None:
            raise ZeroDivisionError

    shown = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.unraisablehook", lambda lost: shown.append(lost.exc_type))
        with noted_signals():
            closing = Closing()
            del closing
    assert shown == [ZeroDivisionError]


def test_other_threads_hear_nothing() -> None:
    heard = []

    def work() -> None:
        with noted_signals() as signals, signals.raising_stop():
            heard.append(signals.stop)

    with noted_signals():
        signal.raise_signal(signal.SIGTERM)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert heard == [0]


def test_a_request_is_found_behind_other_errors() -> None:
    stop = Stop(signal.SIGTERM, "kept")
    try:
        try:
            raise stop
        finally:
            raise OSError("the terminal is gone")
    except OSError as error:
        assert stopped_by(error) is stop
    assert stopped_by(ValueError("wrong")) is None


def test_names_are_those_that_people_know() -> None:
    assert [Stop(number).name for number in STOPS] == ["Ctrl-C", "SIGTERM", "SIGHUP"]


def test_children_leave_signals_to_their_parent() -> None:
    with noted_signals():
        child = os.fork()
        if child == 0:
            interrupts.ignore_signals()
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_signals_can_be_given_by_hand() -> None:
    signals = Signals()
    signals.receive(signal.SIGTERM)
    assert signals.stop == signal.SIGTERM
