"""The checkpoints of one stage in a run directory, whichever kind its networks ask for, written now or in a thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.distill import sharded_checkpoint as sharded
from fewstep.distill.background_save import BackgroundSave, in_main_memory
from fewstep.distill.checkpoint import HEALTHY_FILE, STATE_FILE, load_state, save_healthy, save_state, single_files
from fewstep.distill.processes import group_of_threads
from fewstep.teacher.ranks import among_processes


class StageCheckpoint:
    """Writes and finds checkpoints of `stage` in the run directory `folder`.

    Of sharded networks every process writes its part, else the main one (`is_main`) writes all.
    """

    def __init__(self, folder: Path, stage: str, sharded: bool, is_main: bool) -> None:
        self.folder, self.stage = folder, stage
        self._sharded, self._is_main = sharded, is_main
        self._background = BackgroundSave()

    @property
    def place(self) -> Path:
        """Where the last one is, or will be."""
        return self.folder / (sharded.STATE_FOLDER if self._sharded else STATE_FILE)

    def write(self, tensors: dict[str, Any], numbers: dict[str, Any], healthy: bool = False, group: Any = None) -> None:
        """Returns once it is on the disk. `healthy`: the one to roll back to. `group`: of processes, for a thread."""
        if self._sharded:
            with among_processes():
                sharded.save(self.folder, tensors, numbers, healthy, group)
            if not healthy and self._is_main:
                for before in single_files(self.folder):
                    before.unlink()
        elif self._is_main:
            (save_healthy if healthy else save_state)(self.folder, numbers | tensors)

    def begin_write(self, tensors: dict[str, Any], numbers: dict[str, Any]) -> None:
        """Copies the tensors to main memory, and has a thread write them."""
        if self._sharded or self._is_main:
            copied, group = in_main_memory(tensors), group_of_threads() if self._sharded else None
            self._background.begin(lambda: self.write(copied, numbers, group=group))

    def finish(self) -> None:
        """Waits for the thread. Raises what kept it from writing, once."""
        self._background.finish()

    def check(self) -> None:
        """Raises what has kept the thread from writing so far, once."""
        self._background.check()

    def find(self, healthy: bool = False) -> dict[str, Any] | Path | None:
        """The last one: what a single file holds, or the folder that processes wrote together."""
        self.finish()
        state = load_state(self.folder, self.stage, HEALTHY_FILE if healthy else STATE_FILE)
        written = sharded.find(self.folder, self.stage, healthy)
        if state is None or written is None:
            return state or written
        return written if sharded.read_numbers(written)["step"] > state["step"] else state
