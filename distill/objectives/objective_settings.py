"""What a recipe says of an objective, and all that the rest of the project asks of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from fewstep.distill.calls import Calls, PartCalls
from fewstep.distill.objectives.base import Batch, NetworkRoles, Objective, Settings
from fewstep.distill.objectives.supervision import Supervision
from fewstep.teacher.base import Teacher
from fewstep.teacher.bases import Kinds

if TYPE_CHECKING:
    from accelerate import Accelerator

    from fewstep.distill.batches import BatchSource
    from fewstep.distill.objectives.judged import Through
    from fewstep.distill.settings import Stage


@dataclass(frozen=True)
class Probe:
    """What is measured as a stage ends."""

    doing: str  # for the user who waits for it, as in "training fresh heads"
    measure: Callable[
        [NetworkRoles, NetworkRoles], dict[str, float]
    ]  # the finished student, what it began as -> figures by name


@dataclass(frozen=True)
class HeldParameters:
    """Parameters, in float32, of what an objective holds on each process besides the networks that stages have."""

    trained: int = 0  # they have gradients and Adam's moments too
    frozen: int = 0


class ObjectiveSettings(Settings, ABC):
    """The settings of one kind of objective, by the name `kind`; `registry.py` lists the kinds.

    Nothing else in the project tells kinds apart: it asks what stands here. What has no default must be said, so that
    no objective is trained or counted as if it were another one.
    """

    kind: str

    default_betas: ClassVar[tuple[float, float]]
    """Adam's betas for the student if a stage sets none; adversarial training needs no momentum."""
    is_regression: ClassVar[bool] = False
    """Whether it does nothing but follow its supervisor: others are compared with such students."""
    splits_clips: ClassVar[bool] = False
    """Whether it may train where each process computes a part of every clip: what reads `features` passes what it makes
    of them through `shared_gradient`, and nothing else reads a network's tokens."""
    has_discriminator: ClassVar[bool] = False
    """Whether its settings and figures are those of a discriminator, as `Adversarial` names them: reports show them."""

    def learns_from_supervisor(self, student_steps: int) -> bool:
        """Whether anything that a student of this many steps learns comes from a supervisor: guidance reaches it
        through that alone."""
        return True

    @property
    def through_samples(self) -> Through | None:
        """Where gradients go in whole samples of the student; None where it judges single steps."""
        return None

    @property
    def samples_supervisor(self) -> bool:
        """Whether a supervisor makes whole samples, and not only the steps that the stage draws."""
        return False

    @property
    def trains_copy(self) -> bool:
        """Whether it trains a copy of the teacher's network besides the student."""
        return False

    @property
    def phase(self) -> str:
        """What tables call a student that it has trained; lower case, one word."""
        return self.kind

    # --- what it does

    @abstractmethod
    def build(self, supervision: Supervision, roles: NetworkRoles, any_batch: Batch) -> Objective[Any]:
        """The objective of a stage; `any_batch` holds clips that sizes and statistics may be taken from, the same in
        every process."""

    @property
    def first_step(self) -> str:
        """What the first step does besides what every step does, for the user who waits for it, as in "trains the
        discriminator for 50 turns"; empty: nothing."""
        return ""

    def probing(
        self, supervision: Supervision, batches: BatchSource, batch: int, micro_batches: int, any_batch: Batch,
        accelerator: Accelerator,
    ) -> Probe | None:  # fmt: skip
        """What is measured at the end of a stage, `batch` clips at a time, `micro_batches` of which make a step; None:
        nothing."""
        return None

    # --- what is wrong

    def check(self, stage: Stage) -> None:
        """Raises ValueError, in a sentence, for settings that do not go with those of the stage."""

    def check_network(self, teacher: Teacher, network: nn.Module) -> None:
        """Raises ValueError when it cannot work with the teacher's denoiser, of which only the outline may be there."""

    # --- what it costs

    @abstractmethod
    def calls(self, stage: Stage, parts: PartCalls) -> Calls:
        """Of all steps of the stage, but for what `calls_once` counts. Networks smaller than the denoiser's are not
        counted."""

    def calls_once(self, stage: Stage, parts: PartCalls) -> Calls:
        """What a stage does once, however many steps it has: a warm-up within the first step, a probe at the end."""
        return Calls()

    @property
    def period(self) -> int:
        """Number of steps after which the work of a step begins anew."""
        return 1

    @abstractmethod
    def holds(self, network: nn.Module, kinds: Kinds | None = None) -> dict[str, HeldParameters]:
        """What it holds in memory besides the networks that stages have, by name; its trainees under their own.

        `network` is the teacher's denoiser, of which only the outline may be there.
        """
