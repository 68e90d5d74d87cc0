"""What an objective is to the trainer: the turns of a step, what they learn from, and what each of them minimises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from fewstep.distill.draws import Draws
from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions

STUDENT = "student"

Fraction = Annotated[float, Field(ge=0, le=1)]

LessonT = TypeVar("LessonT")


class Settings(BaseModel):
    """Frozen; unknown names are refused. A field's docstring is what editors show for it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class NetworkRoles(Protocol):
    """The networks of a stage, for `network=` of the teacher's methods."""

    @property
    def teacher(self) -> Teacher:
        """The adapter through which every network is called."""

    @property
    def student(self) -> nn.Module:
        """The network that is trained."""

    @property
    def supervisor(self) -> nn.Module:
        """The network whose endpoints the student learns: the teacher's own, or an earlier stage's student."""

    @property
    def backbone(self) -> nn.Module:
        """The teacher's own network, untouched: what a discriminator reads features from."""


@dataclass(frozen=True)
class StillRoles:
    """The networks of a stage with a student that is not trained."""

    teacher: Teacher
    student: nn.Module
    supervisor: nn.Module
    backbone: nn.Module


@dataclass(frozen=True)
class Batch:
    """The clips of one round. All that is random in the round comes from `draws`."""

    x0: Tensor  # (B, C, F, h, w) clean latents
    conditions: Conditions
    draws: Draws
    progress: float  # 0..1 of the stage
    before: Conditions | None = None  # of the clip before the first, which another process may have; None: the last

    def noise(self) -> Tensor:
        """Unit noise like x0, drawn on the CPU: the device does not matter."""
        shape = self.x0.shape[1:]
        return self.draws.each(lambda generator: torch.randn(1, *shape, generator=generator)).to(self.x0)

    def others_conditions(self) -> Conditions:
        """For each clip those of the one before it, which of a single clip is itself."""
        last = len(self.conditions) - 1
        # shifted by one clip, over all processes together: every prompt is used once
        first = self.conditions[last:] if self.before is None else self.before
        return Conditions.join([first, self.conditions[:last]] if last else [first])


@dataclass(frozen=True)
class TimedMethod:
    """A method of a trainee's modules that benchmarks time; each named one is a kind of call that they count.

    What it takes first is a tensor of clips, and what it returns are tensors.
    """

    owner: nn.Module
    method: str
    name: str = ""  # none: what it calls in turn is counted, and it is not
    trained: Sequence[nn.Parameter] = ()  # what its backward pass may reach besides its inputs
    whole: bool = False  # whether it goes through a network of the denoiser's size, as `Calls` are counted


@dataclass(frozen=True)
class Trainee:
    """What an objective trains besides the student, and Adam's settings for it.

    A network of it that is asked through `Teacher.denoise` is timed and counted anyway; `timed` says what else is.
    """

    module: nn.Module
    lr: float
    betas: tuple[float, float]
    timed: Sequence[TimedMethod] = ()


class Objective(Protocol[LessonT]):
    """One method of distillation. A step has rounds, a round has turns of the student or one trainee each."""

    def trainees(self) -> dict[str, Trainee]:
        """What it trains besides the student, by name: {} or {"discriminator": ...}."""

    def rounds(self, step: int) -> Iterable[tuple[str, ...]]:
        """The rounds of this step, each as the names of those whose turns it has, in order.

        The turns of one round share a lesson. The last turn of the last round is the student's. A run can be stopped
        between rounds before the student's first turn: a resume asks for the rounds again, and leaves out those done.
        """

    def lesson(self, turns: tuple[str, ...], batch: Batch, roles: NetworkRoles, keep_graph: bool) -> LessonT:
        """What the turns of a round learn from.

        keep_graph: what is large and the same in all turns, as the student's own forward pass with its graph, may be
        made once, here; else each turn makes it.
        """

    def loss(self, turn: str, lesson: LessonT, roles: NetworkRoles, step: int) -> dict[str, Tensor]:
        """Scalars by name: "loss" is minimised and sends gradient only to whose turn it is, the others are logged.

        The figures that are logged may differ from step to step.
        """

    def watched(self) -> dict[str, float]:
        """What `watch` of a recipe may have bands for besides the student's clips, such as `accuracy`, by name."""
