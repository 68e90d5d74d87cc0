"""What `fewstep run` shows: a bar for its clips and one for each stage, with the time that all stages have left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fewstep.commands.progress import Screen, WholeLeft

if TYPE_CHECKING:
    from fewstep.distill.estimate import StageWork


class RunScreen(Screen):
    """The screen of one run."""

    _stages: Sequence[StageWork] = ()

    def expect(self, stages: Sequence[StageWork]) -> None:
        """The stages that are not finished, in order: what the time left is reckoned with."""
        self._stages = stages

    @contextmanager
    def clips(self) -> Iterator[Callable[[int, int], None]]:
        """A bar for making the data, given the clips done and planned; without any report nothing shows."""
        with self.bar("data", "clip") as bar:

            def report(done: int, total: int) -> None:
                if bar.total is None:
                    if done > 1:
                        self.say(f"data: resumed at clip {done - 1} of {total}")
                    bar.begin("data", total, done - 1)
                bar.update(done)

            yield report

    def _whole_left(self, stage: str) -> WholeLeft | None:
        """Later stages take as long for as many calls as this one."""
        names = [work.name for work in self._stages]
        if stage not in names:
            return None
        this, *later = self._stages[names.index(stage) :]
        return lambda pace, left: pace * (left + sum(work.whole for work in later) / this.each)
