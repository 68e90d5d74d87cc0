"""Adversarial progressive distillation: a discriminator judges the student's step (arXiv 2402.13929)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewstep.distill.discriminator import Discriminator
from fewstep.distill.objectives.base import STUDENT, Batch, NetworkRoles, Trainee
from fewstep.distill.objectives.judged import students_clips
from fewstep.distill.objectives.losses import discriminator_loss, generator_loss, gradient_penalty
from fewstep.distill.objectives.regression import regress
from fewstep.distill.objectives.renoise import draw_times
from fewstep.distill.objectives.scores import MEMORY, Scores
from fewstep.distill.objectives.supervision import Lesson, StudentStep, Supervision
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.schedule import NoiseSchedule
from fewstep.teacher.sharded import is_sharded, wanted_by_any

if TYPE_CHECKING:
    from fewstep.distill.objectives.adversarial_settings import Adversarial

DISCRIMINATOR = "discriminator"


@dataclass(frozen=True)
class AdversarialLesson:
    """What the turns of one round share: what is real, and from where the student makes the same."""

    batch: Batch
    real: Tensor  # (B, C, F, h, w) without gradients
    s: Tensor  # (B,) the time of both sides, before the discriminator's noise
    transition: Tensor  # (B,) int64 on the CPU: which of the student's transitions each clip is of
    num_judged: int  # turns that the discriminator has
    step: StudentStep | None = None  # None where nothing is learned from single steps
    supervisor_lesson: Lesson | None = None  # the supervisor's way through it; None where it is not needed
    noise: Tensor | None = None  # where the student's own clips begin, if they are judged
    drawn: int = 0  # the step of theirs from which on gradients pass, where one is drawn
    starts: list[Tensor] | None = None  # features of z_t, where a frozen backbone read it once for all turns
    shared: tuple[Tensor, Tensor | None] | None = None  # the student's side with its graph, made once for all turns


class AdversarialObjective:
    """Trains the student against a discriminator of the same stage.

    A stage's steps are the student's: the discriminator's warm-up happens within the first of them, as rounds of its
    own, so that step takes longer.
    """

    def __init__(
        self,
        settings: Adversarial,
        supervision: Supervision,
        discriminator: Discriminator,
        memory: float | None = MEMORY,
    ) -> None:
        """`memory` is that of the scores."""
        self.settings = settings
        self.subject = settings.subject
        self.supervision = supervision
        self.discriminator = discriminator
        self.scores = Scores(1 if settings.judges == "sample" else supervision.student_steps, memory)

    def trainees(self) -> dict[str, Trainee]:
        """The discriminator; its scores are kept with it."""
        both = nn.ModuleDict({"network": self.discriminator, "scores": self.scores})
        return {DISCRIMINATOR: Trainee(both, self.settings.lr, self.settings.betas, self.discriminator.timed())}

    def rounds(self, step: int) -> Iterator[tuple[str, ...]]:
        """Discriminator and student steps on the same clips; before the first, the warm-up on others."""
        if step == 0:
            for _ in range(self.settings.warmup):
                yield (DISCRIMINATOR,)
        # with a balance D's accuracy decides how many turns it has: none while it is far ahead of the student
        usual, balance = self.settings.discriminator_steps, self.settings.balance
        turns = usual if balance is None else balance.turns(self.scores.accuracy, usual)
        yield (*[DISCRIMINATOR] * turns, STUDENT)

    @torch.no_grad()
    def lesson(self, turns: tuple[str, ...], batch: Batch, roles: NetworkRoles, keep_graph: bool) -> AdversarialLesson:
        """What is real, and where the student begins; with keep_graph, what all turns would make alike as well."""
        anchored = STUDENT in turns and self.settings.anchor.weight > 0
        make = self._of_clips if self.settings.judges == "sample" else self._of_steps
        comparison = make(batch, roles, anchored, turns.count(DISCRIMINATOR))
        if not keep_graph:  # every turn makes what is large anew: rounds of many micro-batches hold many lessons
            return comparison
        if self.settings.discriminator.backbone == "frozen":  # it reads z_t once for all turns
            comparison = replace(comparison, starts=self._starts(comparison))
        if STUDENT in turns:
            with torch.enable_grad():
                comparison = replace(comparison, shared=self._students_side(comparison, roles))
        return comparison

    def loss(self, turn: str, lesson: AdversarialLesson, roles: NetworkRoles, step: int) -> dict[str, Tensor]:
        """Figures of a discriminator or student step; `r1` and `r2` (|grad D|^2 / 2) only where they count.

        Whether the discriminator's parameters take gradients is set for the turn, and stays so until the next call:
        backward comes in between.
        """
        judging = turn == DISCRIMINATOR
        # one player learns at a time: D from detached fakes, G through a D whose weights take no gradient
        self.discriminator.requires_grad_(judging)
        with torch.set_grad_enabled(not judging):
            # fake: the student's z_s = alpha_s x0 + sigma_s eps after one step from z_t, or its whole clip
            fake, x0 = lesson.shared or self._students_side(lesson, roles)
        batch, schedule = lesson.batch, roles.teacher.schedule
        # both sides get the same noise: what is left to see is what the student does
        s = draw_times(schedule, self.settings.noise, lesson.s, batch.progress, batch.draws)
        eps = batch.noise()
        real, fake = (schedule.renoise(z, lesson.s, s, eps) for z in (lesson.real, fake.detach() if judging else fake))
        with torch.set_grad_enabled(judging):
            starts = self._starts(lesson)

        # D(z, s'), conditional on the features of z_t where the settings say so
        def discriminate(z: Tensor, conditions: Conditions = batch.conditions) -> Tensor:
            # a clip with another's prompt is read with it from z_t on, or two prompts would give the fake away
            own = starts if conditions is batch.conditions else self._starts_with(conditions, lesson)
            logits: Tensor = self.discriminator(z, s, conditions, own)
            return logits

        if judging:
            return self._judge(discriminate, real, fake, lesson, roles.teacher.schedule, step)
        return self._learn(discriminate, real, fake, x0, lesson, roles)

    def watched(self) -> dict[str, float]:
        """The discriminator's accuracy at the transitions where it is most and least often right; empty before its
        first step. At some it may be at chance: steps that end in noise hold little that it could see."""
        seen = self.scores.averages[0][self.scores.weights > 0]
        return {"accuracy_at_most": float(seen.max()), "accuracy_at_least": float(seen.min())} if len(seen) else {}

    def ends(self, schedule: NoiseSchedule) -> Tensor:
        """The times (transitions,) at which the scores' transitions end."""
        return schedule.grid(self.supervision.student_steps)[-len(self.scores.weights) :]

    # --- what is compared

    def _of_steps(self, batch: Batch, roles: NetworkRoles, anchored: bool, num_judged: int) -> AdversarialLesson:
        schedule = roles.teacher.schedule
        # one transition t -> s per clip, between two neighbouring nodes of the student's grid
        step = self.supervision.draw(batch, schedule)
        supervised = anchored or self.subject.needs_supervisor(step.s)
        if not anchored and is_sharded(roles.supervisor):  # then all processes ask it, or none
            (supervised,) = wanted_by_any([supervised], batch.x0.device)
        supervisor_lesson = self.supervision.teach(step, batch, roles) if supervised else None
        return AdversarialLesson(
            batch,
            self.subject.real_of(step, supervisor_lesson, batch, schedule),
            self.subject.times_of(step),
            # scores are kept by where a step ends, which is always a node; where it starts may lie between two
            (schedule.grid(self.supervision.student_steps)[1:] - step.s[:, None]).abs().argmin(dim=1),
            num_judged,
            step,
            supervisor_lesson,
        )

    def _of_clips(self, batch: Batch, roles: NetworkRoles, anchored: bool, num_judged: int) -> AdversarialLesson:
        supervision, noise, at_data = self.supervision, batch.noise(), torch.zeros(len(batch.x0), dtype=torch.float64)
        # whole clips from noise (arXiv 2405.14867): real ones are data, or the supervisor's from the same noise
        drawn = int(torch.randint(supervision.student_steps, (1,), generator=batch.draws.shared))
        real = supervision.clips(noise, batch.conditions, roles) if self.settings.real == "supervisor" else batch.x0
        step = supervision.draw(batch, roles.teacher.schedule) if anchored else None
        supervisor_lesson = None if step is None else supervision.teach(step, batch, roles)
        return AdversarialLesson(
            batch, real, at_data, at_data.long(), num_judged, step, supervisor_lesson, noise, drawn
        )

    def _students_side(self, lesson: AdversarialLesson, roles: NetworkRoles) -> tuple[Tensor, Tensor | None]:
        """The student's endpoints or clips, and its prediction at z_t where they are of single steps."""
        if lesson.noise is not None:
            through = self.settings.through
            return students_clips(self.supervision, lesson.noise, lesson.batch, roles, through, lesson.drawn), None
        assert lesson.step is not None
        x0 = _predict(lesson.step, lesson.batch, roles)
        return self.subject.fake_of(lesson.step, x0, roles.teacher.schedule), x0

    def _starts(self, lesson: AdversarialLesson) -> list[Tensor] | None:
        return self._starts_with(lesson.batch.conditions, lesson) if lesson.starts is None else lesson.starts

    def _starts_with(self, conditions: Conditions, lesson: AdversarialLesson) -> list[Tensor] | None:
        if lesson.step is None or not self.settings.conditional:
            return None
        return self.discriminator.read(lesson.step.z_t, lesson.step.t, conditions)

    # --- the two turns

    def _judge(
        self,
        discriminate: Callable[..., Tensor],
        real: Tensor,
        fake: Tensor,
        lesson: AdversarialLesson,
        schedule: NoiseSchedule,
        step: int,
    ) -> dict[str, Tensor]:
        settings, both = self.settings, torch.cat([real, fake])
        logits = discriminate(both)
        of_real, of_fake = logits.chunk(2)
        # L_D; relativistic: E[softplus(D(fake) - D(real))], of pairs that share prompt, noise and transition
        loss = adversarial = discriminator_loss(settings.loss, of_real, of_fake)
        self.scores.update(lesson.transition, of_real, of_fake)
        figures = {
            "adversarial": adversarial.detach(),
            "logits_real": of_real.detach().mean(),
            "logits_fake": of_fake.detach().mean(),
            "accuracy": (of_real > of_fake).float().mean(),  # share of pairs that are ranked right
            **self.scores.figures(self.ends(schedule)),
        }
        # real clips with other clips' prompts count as fake, or D could do without the text
        if settings.mismatched:
            conditions = lesson.batch.others_conditions()
            others = discriminate(real, conditions)
            differ = ~conditions.equal_rows(lesson.batch.conditions)  # an equal prompt makes a clip no fake
            mismatched = discriminator_loss(settings.loss, of_real, others, differ.to(others))
            figures["mismatched"] = mismatched.detach()
            loss = loss + settings.mismatched * mismatched
        # R1 and R2, gamma/2 E|grad D|^2 on real and fake (arXiv 2501.05441), by finite differences (arXiv 2501.08316);
        # taken every k-th step, they count k times as much, which leaves their mean as it is (lazy, arXiv 1912.04958)
        if step % settings.penalty_every == 0 and (settings.r1 or settings.r2):
            noise = torch.cat([lesson.batch.noise(), lesson.batch.noise()])
            slopes = gradient_penalty(discriminate, both, settings.penalty_sigma, noise, logits)
            r1, r2 = (half.mean() for half in slopes.chunk(2))
            times = settings.penalty_every if step else 1  # the first step has all turns of the warm-up
            loss = loss + times * (settings.r1 * r1 + settings.r2 * r2)
            figures |= {"r1": r1.detach(), "r2": r2.detach()}
        return {"loss": loss, **figures}

    def _learn(
        self,
        discriminate: Callable[..., Tensor],
        real: Tensor,
        fake: Tensor,
        x0: Tensor | None,
        lesson: AdversarialLesson,
        roles: NetworkRoles,
    ) -> dict[str, Tensor]:
        settings, of_fake = self.settings, discriminate(fake)
        of_real = of_fake
        if settings.loss == "relativistic" or settings.balance is not None:  # other losses look at fakes alone
            with torch.no_grad():
                of_real = discriminate(real)
            if settings.balance is not None and not lesson.num_judged:
                self.scores.update(lesson.transition, of_real, of_fake.detach())  # it waits, and is measured meanwhile
        # transitions that D cannot tell apart have nothing to teach: their gradients are noise
        weights = None
        if settings.balance is not None:
            weights = settings.balance.trust(self.scores.accuracies[lesson.transition]).to(of_fake)
        adversarial = generator_loss(settings.loss, of_real, of_fake, weights)
        loss, figures = settings.weight * adversarial, {"adversarial": adversarial.detach()}
        if settings.balance is not None:
            figures["discriminator_steps"] = torch.tensor(float(lesson.num_judged))
        # L_G + weight * L_anchor: progressive distillation's own loss keeps the endpoint that the prompt asks for
        if lesson.supervisor_lesson is not None and settings.anchor.weight:
            anchor = self._anchor(x0, lesson, lesson.supervisor_lesson, roles)
            loss, figures["anchor"] = loss + settings.anchor.weight * anchor, anchor.detach()
        return {"loss": loss, **figures}

    def _anchor(
        self, x0: Tensor | None, lesson: AdversarialLesson, supervisor_lesson: Lesson, roles: NetworkRoles
    ) -> Tensor:
        schedule, anchor = roles.teacher.schedule, self.settings.anchor
        if x0 is None:  # samples are judged, and the anchor's own step was not taken yet
            assert lesson.step is not None
            x0 = _predict(lesson.step, lesson.batch, roles)
        own = roles.teacher.schedule_of(roles.student)
        kept = roles.teacher.kept(lesson.batch.conditions, x0)
        return regress(
            own, x0, supervisor_lesson.target(schedule), supervisor_lesson.t, anchor.loss, anchor.huber_c, kept
        )


def _predict(step: StudentStep, batch: Batch, roles: NetworkRoles) -> Tensor:
    return roles.teacher.denoise(step.z_t, step.t, batch.conditions, network=roles.student)
