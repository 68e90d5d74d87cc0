"""What a run looks at: nothing to complain of in a student that is its supervisor, and what freezes or burns shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.distill.batches import Batches
from fewstep.distill.objectives.supervision import Supervision
from fewstep.distill.watch import MotionAndDiversity, endpoint_error
from fewstep.student.denoiser import Roles
from fewstep.teacher.base import Teacher

SAME, TWICE = Supervision(4, 4), Supervision(8, 4)


def test_a_student_that_is_its_supervisor_has_no_error(tiny_teacher: Teacher, tiny_dataset: Path) -> None:
    roles, batch = Roles(tiny_teacher), Batches(tiny_dataset, tiny_teacher, 0, 0).batch(0, 4, 0.0)
    assert endpoint_error(roles, [batch], SAME) < 1e-9
    assert endpoint_error(roles, [batch], TWICE) > 1e-4
    alike = {"motion": 1.0, "contrast": 1.0, "colour": 0.0, "diversity": 1.0}
    assert MotionAndDiversity(roles, batch, SAME).measure() == alike
    assert (
        "diversity"
        not in MotionAndDiversity(roles, Batches(tiny_dataset, tiny_teacher, 0, 0).batch(0, 1, 0.0), SAME).measure()
    )


def test_figures_are_of_the_same_clips_and_noise_every_time(tiny_teacher: Teacher, tiny_dataset: Path) -> None:
    roles, batch = Roles(tiny_teacher), Batches(tiny_dataset, tiny_teacher, 0, 0).batch(0, 4, 0.0)
    motion_and_diversity = MotionAndDiversity(roles, batch, TWICE)
    first = endpoint_error(roles, [batch], TWICE), motion_and_diversity.measure()
    assert first == (endpoint_error(roles, [batch], TWICE), motion_and_diversity.measure())
    assert first[1] == MotionAndDiversity(roles, batch, TWICE).measure()


def test_clips_may_go_through_a_few_at_a_time(tiny_teacher: Teacher, tiny_dataset: Path) -> None:
    roles, batch = Roles(tiny_teacher), Batches(tiny_dataset, tiny_teacher, 0, 0).batch(0, 4, 0.0)
    at_once, by_one = (MotionAndDiversity(roles, batch, TWICE, count).measure() for count in (4, 1))
    assert at_once == pytest.approx(by_one, rel=1e-4)


def test_an_expert_is_not_judged_by_what_the_other_has_yet_to_learn(
    tiny_experts: Teacher, tiny_experts_dataset: Path
) -> None:
    """Where the other is in charge the supervisor takes its own steps, on the way to the same clips."""
    batch = Batches(tiny_experts_dataset, tiny_experts, 0, 0).batch(0, 4, 0.0)

    def measure(*trained: str) -> dict[str, float]:
        return MotionAndDiversity(Roles(tiny_experts), batch, Supervision(4, 2), experts=frozenset(trained)).measure()

    alike = {"motion": 1.0, "contrast": 1.0, "colour": 0.0, "diversity": 1.0}
    assert measure() == pytest.approx(alike, abs=1e-6)
    of_one, of_both = measure("high"), measure("high", "low")
    assert of_one != pytest.approx(alike, abs=1e-6) and of_one != pytest.approx(of_both, abs=1e-6)
    whole = MotionAndDiversity(Roles(tiny_experts), batch, Supervision(4, 2)).measure()
    assert whole == of_both


def test_a_student_that_shows_nothing_has_no_contrast(tiny_teacher: Teacher, tiny_dataset: Path) -> None:
    roles, batch = Roles(tiny_teacher), Batches(tiny_dataset, tiny_teacher, 0, 0).batch(0, 4, 0.0)

    class Blank(torch.nn.Module):
        """Predicts the velocity that leads to zero."""

        def forward(
            self, z: torch.Tensor, timestep: torch.Tensor, *rest: object, **named: object
        ) -> tuple[torch.Tensor]:
            return (z / (timestep.view(-1, 1, 1, 1, 1) / 1000),)

    roles.student = Blank()
    measured = MotionAndDiversity(roles, batch, SAME).measure()
    assert measured["motion"] < 1e-4 and measured["contrast"] < 1e-4 and measured["diversity"] < 1e-4


def test_a_student_whose_colours_drift_shows(tiny_teacher: Teacher, tiny_dataset: Path) -> None:
    roles, batch = Roles(tiny_teacher), Batches(tiny_dataset, tiny_teacher, 0, 0).batch(0, 4, 0.0)
    own = roles.supervisor

    class Drifting(torch.nn.Module):
        """Its supervisor, whose clips all get lighter in each latent channel."""

        def forward(self, *latents: torch.Tensor, **named: torch.Tensor) -> tuple[torch.Tensor]:
            return (own(*latents, **named)[0] - 1.0,)

    roles.student = Drifting()
    measured = MotionAndDiversity(roles, batch, SAME).measure()
    assert measured["colour"] > 0.5 and measured["contrast"] == pytest.approx(1, abs=0.5)
