"""An objective that fewstep does not ship: distribution matching (arXiv 2311.18828) at its barest: two trainees.

A network learns to denoise the student's clips. Where it and the supervisor disagree about one of them, noised, the
student moves to where the supervisor would have it. No other file knows of it but the test that registers it.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from fewstep.distill.calls import SUPERVISOR, Calls, PartCalls
from fewstep.distill.objectives.base import STUDENT, Batch, NetworkRoles, Trainee
from fewstep.distill.objectives.objective_settings import HeldParameters, ObjectiveSettings, Probe
from fewstep.distill.objectives.supervision import StudentStep, Supervision
from fewstep.teacher.bases import Kinds

if TYPE_CHECKING:
    from accelerate import Accelerator

    from fewstep.distill.batches import BatchSource
    from fewstep.distill.settings import Stage

FAKE = "fake"
_POSITION = 3 * 10**9  # batches that training never reaches


class Matching(ObjectiveSettings):
    """A second network learns the student's clips, and the student learns from where it and the supervisor differ."""

    default_betas = (0.5, 0.9)

    kind: Literal["matching"] = "matching"
    """Distribution matching."""
    lr: PositiveFloat = 1e-3
    """Learning rate of the second network, Adam."""
    warmup: NonNegativeInt = 3
    """Its steps before the student moves."""

    @property
    def phase(self) -> str:
        """As tables have it."""
        return "matched"

    def build(self, supervision: Supervision, roles: NetworkRoles, any_batch: Batch) -> MatchingObjective:
        """With a copy of the backbone, which is trained."""
        return MatchingObjective(self, supervision, deepcopy(roles.backbone).float().requires_grad_(True))

    @property
    def first_step(self) -> str:
        """The warm-up."""
        return f"trains the second network for {self.warmup} turns" if self.warmup else ""

    def probing(
        self, supervision: Supervision, batches: BatchSource, batch: int, micro_batches: int, any_batch: Batch,
        accelerator: Accelerator,
    ) -> Probe:  # fmt: skip
        """How far clips of one step are from the data's."""

        def far(roles: NetworkRoles) -> float:
            probe = batches.batch(_POSITION, batch, 1.0)
            step = supervision.draw(probe, roles.teacher.schedule)
            with torch.no_grad():
                x0 = roles.teacher.denoise(step.z_t, step.t, probe.conditions, network=roles.student)
            return float((x0 - probe.x0).square().mean())

        return Probe(
            "measuring how far it is from data",
            lambda finished, began_as: {"far": far(finished), "far_before": far(began_as)},
        )

    def check(self, stage: Stage) -> None:
        """Raises ValueError for guidance, which it does not ask the supervisor for."""
        if stage.guidance.guides:
            raise ValueError("matching asks its supervisor without guidance: set the stage's guidance to 1")

    def calls(self, stage: Stage, each: PartCalls) -> Calls:
        """Of the second network's turn, then of the student's."""
        step = each.forward + Calls.of(FAKE, stage.batch, stage.batch)
        step += each.learn + Calls.of(FAKE, stage.batch) + Calls.of(SUPERVISOR, stage.batch)
        return step * stage.steps

    def calls_once(self, stage: Stage, each: PartCalls) -> Calls:
        """Of the warm-up; the probe is too short to count."""
        return (each.forward + Calls.of(FAKE, stage.batch, stage.batch)) * self.warmup

    def holds(self, network: nn.Module, kinds: Kinds | None = None) -> dict[str, HeldParameters]:
        """The second network."""
        return {FAKE: HeldParameters(trained=sum(parameter.numel() for parameter in network.parameters()))}


@dataclass(frozen=True)
class Round:
    """What both turns learn from."""

    batch: Batch
    step: StudentStep


class MatchingObjective:
    """Trains both networks in turn."""

    def __init__(self, settings: Matching, supervision: Supervision, fake: nn.Module) -> None:
        self.settings, self.supervision, self.fake = settings, supervision, fake

    def trainees(self) -> dict[str, Trainee]:
        """The second network."""
        return {FAKE: Trainee(self.fake, self.settings.lr, self.settings.default_betas)}

    def rounds(self, step: int) -> Iterator[tuple[str, ...]]:
        """Its turn and the student's; before the first, its warm-up."""
        if step == 0:
            yield from [(FAKE,)] * self.settings.warmup
        yield (FAKE, STUDENT)

    def lesson(self, turns: tuple[str, ...], batch: Batch, roles: NetworkRoles, keep_graph: bool) -> Round:
        """Where the student begins."""
        return Round(batch, self.supervision.draw(batch, roles.teacher.schedule))

    def loss(self, turn: str, lesson: Round, roles: NetworkRoles, step: int) -> dict[str, Tensor]:
        """The second network's error, or the distance of the student's clip from where the supervisor would have it."""
        batch, teacher, began, learns = lesson.batch, roles.teacher, lesson.step, turn == STUDENT
        with torch.set_grad_enabled(learns):
            x0 = teacher.denoise(began.z_t, began.t, batch.conditions, network=roles.student)
        t = 0.1 + 0.8 * batch.draws.each(lambda g: torch.rand(1, dtype=torch.float64, generator=g))
        noised = teacher.schedule.add_noise(x0.detach(), batch.noise(), t)
        with torch.set_grad_enabled(not learns):
            fake = teacher.denoise(noised, t, batch.conditions, network=self.fake)
        if not learns:
            return {"loss": (fake - x0).square().mean()}
        with torch.no_grad():
            real = teacher.denoise(noised, t, batch.conditions, network=roles.supervisor)
        return {"loss": (x0 - (x0.detach() + real - fake)).square().mean()}

    def watched(self) -> dict[str, float]:
        """Nothing."""
        return {}
