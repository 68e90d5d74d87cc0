"""Checkpoints that are written while training continues: a copy in main memory, and a thread that writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Thread
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only


class BackgroundSave:
    """One checkpoint at a time. What goes wrong in its thread is raised by the next call here."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def begin(self, write: Callable[[], None]) -> None:
        """Runs `write` in a thread, once the one before is done. Raises as `finish`."""
        self.finish()
        self._thread = Thread(target=self._run, args=(write,), name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Waits until the checkpoint is written. Raises what kept it from that, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raises what went wrong so far, once; waits for nothing."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._error = error


def in_main_memory(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Copies on the CPU of all tensors in nested mappings, whole or sharded; all else as it is."""
    copied: dict[str, Any] = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), dict(nested))
    return copied
