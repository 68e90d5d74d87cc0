"""Several processes: what one is asked for all do; who waits hears signals; who is left alone says so."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from accelerate import Accelerator

from fewstep.distill.processes import Request, agree
from fewstep.teacher.interrupts import Signals, Stop, noted_signals
from fewstep.teacher.ranks import ProcessEnded, among_processes, current_ranks
from tests.forked import run_scripts

TWO_PROCESSES = """
import os, signal, threading, time
from pathlib import Path
from accelerate import Accelerator
from fewstep.distill.processes import Request, agree
from fewstep.teacher.interrupts import Stop, noted_signals
from fewstep.teacher.ranks import ProcessEnded, current_ranks, join_processes

join_processes(cpu=True)
accelerator, folder = Accelerator(cpu=True), Path(__file__).parent
second = accelerator.process_index == 1
with noted_signals() as signals:
    assert agree(accelerator, signals) == Request(0, False)
    if second:
        signals.save = True
    assert agree(accelerator, signals) == Request(0, True)
    assert agree(accelerator, signals) == Request(0, False)
    current_ranks().wait()
    if second:  # asked to stop while it waits for the first
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        try:
            with signals.raising_stop():
                current_ranks().wait()
        except Stop as stop:
            folder.joinpath("second").write_text(f"stopped by {stop.name}")
    else:
        while not folder.joinpath("second").exists():
            time.sleep(0.01)
        try:
            agree(accelerator, signals)
        except ProcessEnded as error:
            folder.joinpath("first").write_text(str(error))
accelerator.end_training()  # a process group that is left to the interpreter's end may abort there
"""


def test_two_processes_agree_and_one_that_is_left_alone_says_so(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    run_scripts(2, script, logs=tmp_path)
    assert (tmp_path / "second").read_text() == "stopped by SIGTERM"
    assert "another process of this run has ended" in (tmp_path / "first").read_text()


def test_one_process_is_its_own_everyone() -> None:
    accelerator, signals = Accelerator(cpu=True), Signals()
    current_ranks().wait()
    signals.receive(signal.SIGUSR1)
    assert agree(accelerator, signals) == Request(0, True)
    signals.receive(signal.SIGTERM)
    assert agree(accelerator, signals) == Request(signal.SIGTERM, False)


def test_who_was_asked_to_stop_as_well_stops() -> None:
    """A signal to the whole group: the first process may be gone before the second has looked."""
    with pytest.raises(ProcessEnded), among_processes():
        raise RuntimeError("Connection closed by peer")
    with noted_signals(), pytest.raises(Stop), among_processes():
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("Connection closed by peer")
