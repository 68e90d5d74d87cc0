"""The part of a teacher that decides at which times its denoiser is evaluated, and which numbers it gets for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewstep.teacher.schedule import Nodes, NoiseSchedule, Prediction, ScheduleKind
from fewstep.teacher.schedulers import follows_size, read_scheduler
from fewstep.teacher.source import VideoSize


class Scheduled:
    """The half of `Teacher` that reads its pipeline's scheduler.

    `schedule` is one for the whole life of a teacher, or, where the shift follows the size of the clips, the one of
    the size that `use_size` was last called with, at first the teacher's own.
    """

    pipeline: Any
    folder: Path

    # --- what a family says

    schedules: tuple[tuple[ScheduleKind, Prediction], ...] = ()
    """What the scheduler of a folder of the family may stand for; with another one it is refused."""
    nodes: Nodes = "even"
    """Where the pipeline's own steps lie, before the shift."""
    reversed_time: bool = False
    """Whether `predict` turns the output of a scheduler with `invert_sigmas` round, so that it is eps - x0 again."""
    timestep_dtype: torch.dtype = torch.float64
    """The dtype in which the pipeline hands times to the denoiser where it is used, whatever fewstep computes in."""

    usual_guidance: float = 5.0
    """Default classifier-free guidance, for denoisers that take none as an input."""

    @property
    def guided_evaluations(self) -> int:
        """How often the denoiser is asked about a clip at a guided step: 2 of classifier-free guidance."""
        return 2

    def shift_for(self, size: VideoSize) -> float | None:
        """The shift for clips of this size where it follows that (`use_dynamic_shifting`), of which None knows nothing.

        For families whose pipelines pass `mu` to the scheduler; `schedulers.shift_of_tokens` computes the usual one.
        """
        return None

    # --- what follows

    _given_shift: float | None = None
    _schedule: NoiseSchedule | None = None

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule. Raises ValueError for a scheduler that is not understood, or not one of the family's."""
        if self._schedule is None:
            self._schedule = self.schedule_for(self._size_at_first)
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: NoiseSchedule) -> None:
        self._schedule = schedule

    def default_size(self) -> VideoSize | None:
        """The size the teacher was made for, if it says one."""
        return None

    def use_shift(self, shift: float | None) -> None:
        """Reads the schedule, with this shift, above 0, in place of the scheduler's; None leaves that.

        Raises ValueError as `schedule` does.
        """
        self._given_shift, self._schedule = shift, None
        self._schedule = self.schedule_for(self._size_at_first)

    def use_size(self, size: VideoSize) -> None:
        """Says of which size the clips will be, for schedules that follow it."""
        if self._follows_size:
            self._schedule = self.schedule_for(size)

    def schedule_for(self, size: VideoSize | None) -> NoiseSchedule:
        """The schedule for clips of this size; the teacher's own where it does not follow that.

        Raises ValueError when it does, and neither the family nor the user says how.
        """
        # a shift that is fixed: the schedule is read once
        if self._schedule is not None and not self._follows_size:
            return self._schedule
        shift = self._given_shift
        # the shift grows with the clip: the family computes it from the size, as its pipeline does
        if self._follows_size:
            shift = None if size is None else self.shift_for(size)
            if shift is None:
                raise ValueError(
                    f"the shift of the scheduler in {self.folder} follows the size of the clips "
                    f"(use_dynamic_shifting), and {'no size is known' if size is None else 'how is not known'}: give "
                    "one with `shift` in the recipe, or --shift"
                )
        schedule = read_scheduler(self.pipeline.scheduler, shift, self.nodes, self.timestep_dtype)
        # before any step: with another model's schedule a network still makes clips, only bad ones
        self._check_kind(schedule)
        self._check_times(schedule)
        return replace(schedule, guided_evaluations=self.guided_evaluations)

    @property
    def _size_at_first(self) -> VideoSize | None:
        return self.default_size() if self._follows_size else None

    @property
    def _follows_size(self) -> bool:
        return self._given_shift is None and follows_size(self.pipeline.scheduler)

    def _check_times(self, schedule: NoiseSchedule) -> None:
        times = schedule.grid(4)
        # the network is not evaluated at the last time, where there is no noise, and EDM's number for it is infinite
        numbers = torch.cat([schedule.alpha(times), schedule.sigma(times), schedule.timestep(times[:-1])])
        if not (bool(torch.isfinite(numbers).all()) and bool((times.diff() < 0).all())):
            raise ValueError(
                f"the times of the schedule in {self.folder}/scheduler/scheduler_config.json do not fall from noise to "
                f"data, with shift {schedule.shift:g}: use the config that came with the weights, or another shift"
            )

    def _check_kind(self, schedule: NoiseSchedule) -> None:
        if schedule.reversed_time and not self.reversed_time:
            raise ValueError(
                f"{self.folder}/scheduler/scheduler_config.json has invert_sigmas, which turns time round, and that of "
                f"a {type(self.pipeline).__name__} is not: use the config that came with the weights"
            )
        if not self.schedules or (schedule.kind, schedule.prediction) in self.schedules:
            return
        scheduler, may_be = self.pipeline.scheduler, " or ".join(f"{kind} with {p}" for kind, p in self.schedules)
        # solvers such as UniPC serve both kinds of models, and use_flow_sigmas says which
        flows = all(kind == "flow" for kind, _ in self.schedules) and "use_flow_sigmas" in scheduler.config
        remedy = "set use_flow_sigmas to true there if its weights are of a flow model" if flows else "correct it"
        raise ValueError(
            f"{self.folder}/scheduler/scheduler_config.json is of a {type(scheduler).__name__} whose noise schedule is "
            f"{schedule.kind} with {schedule.prediction}-prediction, and a {type(self.pipeline).__name__} has "
            f"{may_be}: "
            f"{remedy}, or use the config that came with the weights"
        )
