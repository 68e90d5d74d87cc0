"""Adversarial progressive distillation: a discriminator judges the student's step (arXiv 2402.13929)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from fewstep.distill.discriminator import Discriminator, DiscriminatorSettings
from fewstep.distill.objectives.base import STUDENT, Batch, Roles, Settings, Trainee
from fewstep.distill.objectives.losses import AdversarialLoss, discriminator_loss, generator_loss, gradient_penalty
from fewstep.distill.objectives.regression import Regression, regress
from fewstep.distill.objectives.renoise import Noise, UniformNoise, draw_times
from fewstep.distill.objectives.supervision import Lesson, Supervision

DISCRIMINATOR = "discriminator"

Decay = Annotated[float, Field(ge=0, lt=1)]
NO_MOMENTUM = (0.0, 0.99)  # Adam's betas of both players: with momentum a game with a moving opponent circles


class Anchor(Settings):
    """A regression of the endpoint beside the adversarial loss, which steadies it."""

    loss: Regression = "mse"
    """Mean squared error, or pseudo-Huber."""
    weight: NonNegativeFloat = 1.0
    """0 is none."""
    huber_c: PositiveFloat = 0.1
    """Where pseudo-Huber turns from squared to absolute, in units of the student's prediction."""


class Adversarial(Settings):
    """A discriminator that tells the supervisor's endpoints from the student's."""

    kind: Literal["adversarial"] = "adversarial"
    """A discriminator judges the student's step."""
    conditional: bool = True
    """The discriminator sees where a step started, too; false relaxes it to the endpoint alone."""
    loss: AdversarialLoss = "relativistic"
    """relativistic (RpGAN), non_saturating or hinge."""
    weight: NonNegativeFloat = 0.1
    """Of the student's adversarial loss beside the anchor."""
    anchor: Anchor = Anchor()
    """Regression of the endpoint."""
    r1: NonNegativeFloat = 0.5
    """gamma of gamma/2 |grad D|^2 at the supervisor's endpoints; 0 is off."""
    r2: NonNegativeFloat = 0.5
    """gamma of gamma/2 |grad D|^2 at the student's endpoints; 0 is off."""
    penalty_every: PositiveInt = 4
    """Every n-th step r1 and r2 count n times, in the others not at all; in the first, once in each turn of warm-up."""
    penalty_sigma: PositiveFloat = 0.01
    """Size of the finite difference that estimates the gradient, in units of the latents."""
    noise: Noise = UniformNoise()
    """How noisy the discriminator sees endpoints."""
    warmup: NonNegativeInt = 50
    """Discriminator steps before the student moves."""
    discriminator_steps: PositiveInt = 1
    """Discriminator steps per student step."""
    lr: PositiveFloat = 2e-4
    """Learning rate of the discriminator, Adam."""
    betas: tuple[Decay, Decay] = NO_MOMENTUM
    """Adam's, of the discriminator."""
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    """The network that judges."""


@dataclass(frozen=True)
class _View:
    """How the discriminator sees a lesson: real and fake endpoints with the same noise, all at one time per clip."""

    lesson: Lesson
    s: Tensor  # (B,) the endpoint's time after noising
    eps: Tensor

    def renoise(self, roles: Roles, z_s: Tensor) -> Tensor:
        return roles.teacher.schedule.renoise(z_s, self.lesson.s, self.s, self.eps)


class AdversarialObjective:
    """Trains the student against a discriminator of the same stage.

    A stage's steps are the student's: the discriminator's warm-up happens within the first of them, as turns of its
    own, so that step takes longer.
    """

    def __init__(self, settings: Adversarial, supervision: Supervision, discriminator: Discriminator) -> None:
        self.settings = settings
        self.supervision = supervision
        self.discriminator = discriminator

    def players(self) -> dict[str, Trainee]:
        """The discriminator."""
        return {DISCRIMINATOR: Trainee(self.discriminator, self.settings.lr, self.settings.betas)}

    def turns(self, step: int) -> tuple[str, ...]:
        """The discriminator's, then the student's; the first step begins with the warm-up."""
        count = self.settings.discriminator_steps + (self.settings.warmup if step == 0 else 0)
        return (*[DISCRIMINATOR] * count, STUDENT)

    def loss(self, turn: str, batch: Batch, roles: Roles, step: int) -> dict[str, Tensor]:
        """Figures of the discriminator's or the student's turn; `r1` and `r2` (|grad D|^2 / 2) only where they count.

        Whether the discriminator's parameters take gradients is set for the turn, and stays so until the next call:
        backward comes in between.
        """
        judging = turn == DISCRIMINATOR
        self.discriminator.requires_grad_(judging)
        view = self._view(batch, roles)
        lesson = view.lesson
        with torch.set_grad_enabled(not judging):
            x0 = roles.teacher.denoise(lesson.z_t, lesson.t, batch.conditions, network=roles.student)
            fake = view.renoise(roles, roles.teacher.schedule.step(lesson.z_t, x0, lesson.t, lesson.s))
        real = view.renoise(roles, lesson.z_s)
        start = (lesson.z_t, lesson.t) if self.settings.conditional else ()

        def discriminate(z_s: Tensor) -> Tensor:
            found: Tensor = self.discriminator(z_s, view.s, batch.conditions, *start)
            return found

        if judging:
            return self._judge(discriminate, real, fake, batch.generator, step)
        with torch.no_grad():
            real_logits = discriminate(real)
        adversarial = generator_loss(self.settings.loss, real_logits, discriminate(fake))
        anchor = self._anchor(roles, x0, lesson)
        loss = self.settings.weight * adversarial + self.settings.anchor.weight * anchor
        return {"loss": loss, "adversarial": adversarial.detach(), "anchor": anchor.detach()}

    def _view(self, batch: Batch, roles: Roles) -> _View:
        lesson = self.supervision.lesson(batch, roles)
        s = draw_times(roles.teacher.schedule, self.settings.noise, lesson.s, batch.progress, batch.generator)
        return _View(lesson, s, batch.noise())

    def _anchor(self, roles: Roles, x0: Tensor, lesson: Lesson) -> Tensor:
        own, anchor = roles.teacher.schedule_of(roles.student), self.settings.anchor
        return regress(own, x0, lesson.target(own), lesson.t, anchor.loss, anchor.huber_c)

    def _judge(
        self,
        discriminate: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        generator: torch.Generator,
        step: int,
    ) -> dict[str, Tensor]:
        both = torch.cat([real, fake])
        logits = discriminate(both)
        of_real, of_fake = logits.chunk(2)
        adversarial = discriminator_loss(self.settings.loss, of_real, of_fake)
        figures = {
            "loss": adversarial,
            "adversarial": adversarial.detach(),
            "logits_real": of_real.detach().mean(),
            "logits_fake": of_fake.detach().mean(),
            "accuracy": (of_real > of_fake).float().mean(),  # share of pairs that are ranked right
        }
        settings = self.settings
        if step % settings.penalty_every == 0 and (settings.r1 or settings.r2):
            slopes = gradient_penalty(discriminate, both, settings.penalty_sigma, generator, logits)
            r1, r2 = (half.mean() for half in slopes.chunk(2))
            times = settings.penalty_every if step else 1  # the first step has all turns of the warm-up
            figures["loss"] = adversarial + times * (settings.r1 * r1 + settings.r2 * r2)
            figures |= {"r1": r1.detach(), "r2": r2.detach()}
        return figures
