"""Where steps start and end, and who says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fewstep.distill.draws import Draws
from fewstep.distill.objectives.base import Batch, NetworkRoles
from fewstep.distill.objectives.supervision import Supervision, Transition, draw_transition
from fewstep.teacher.rollout import endpoint
from fewstep.teacher.schedule import NoiseSchedule, shift_time

SCHEDULE = NoiseSchedule("flow", "flow", shift=5.0)


def draw(teacher_steps: int, student_steps: int, starts: Sequence[float] | None, count: int = 200) -> Transition:
    return draw_transition(SCHEDULE, teacher_steps, student_steps, starts, Draws.seeded(0, count))


def kinds(steps: Transition) -> Counter[tuple[float, float, int]]:
    """How often each (t, s, substeps) came."""
    rows = zip(steps.t.tolist(), steps.s.tolist(), steps.num_substeps.tolist(), strict=True)
    return Counter((round(t, 9), round(s, 9), n) for t, s, n in rows)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def shifted(t: float) -> float:
    return round(shift_time(t, 5.0), 9)


def test_without_starts_each_of_the_students_steps_is_as_likely() -> None:
    nodes = [round(t, 9) for t in SCHEDULE.grid(4).tolist()]
    counts = kinds(draw(32, 4, None, 800))
    assert set(counts) == {(t, s, 8) for t, s in pairwise(nodes)}
    assert all(abs(count - 200) < 50 for count in counts.values())


def test_starts_of_a_one_step_student_all_lead_to_data() -> None:
    counts = kinds(draw(8, 1, [0.25, 0.5, 0.75, 1.0], 800))
    assert set(counts) == {(shifted(t), 0.0, n) for t, n in ((0.25, 2), (0.5, 4), (0.75, 6), (1.0, 8))}
    assert all(abs(count - 200) < 50 for count in counts.values())


def test_starts_of_a_two_step_student_lead_to_the_node_below() -> None:
    """The middle node is a start of its own; the few substeps of a short way are rounded, but never to none."""
    middle = shifted(0.5)
    counts = kinds(draw(4, 2, [0.01, 0.25, 0.5, 0.75, 1.0]))
    assert set(counts) == {
        (shifted(0.01), 0.0, 1), (shifted(0.25), 0.0, 1), (middle, 0.0, 2), (shifted(0.75), middle, 1),
        (1.0, middle, 2),
    }  # fmt: skip


def test_starts_on_nodes_are_the_nodes() -> None:
    """0.3 of ten steps is 3.0000000000000004 / 10: still the third node, not just above it."""
    starts = [i / 10 for i in range(1, 11)]
    assert kinds(draw(20, 10, starts, 500)).keys() == kinds(draw(20, 10, None, 500)).keys()


@pytest.mark.parametrize(
    ("teacher_steps", "starts", "sentence"),
    [(5, None, "do not divide"), (4, [], "at least one"), (4, [0.0], "above 0"), (4, [0.5, 1.5], "up to 1")],
)
def test_refusals(teacher_steps: int, starts: list[float] | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        draw(teacher_steps, 2, starts)


def test_a_lesson_is_the_supervisors_guided_endpoint(roles: NetworkRoles, make_batch: Callable[..., Batch]) -> None:
    batch, schedule = make_batch(0, copies=3), roles.teacher.schedule
    for parameter in roles.supervisor.parameters():
        parameter.mul_(1.05)  # not the teacher any more
    lesson = Supervision(4, 1, guidance=3.0, starts=(0.25, 0.5, 1.0)).lesson(batch, roles)
    assert not lesson.z_s.requires_grad
    assert len(lesson.t.unique()) > 1
    for i in range(len(batch.x0)):
        part, t = slice(i, i + 1), float(lesson.t[i])
        num_substeps = round(4 * shift_time(t, 1 / schedule.shift))
        z_s = endpoint(
            roles.teacher, lesson.z_t[part], t, 0.0, num_substeps, batch.conditions[part], 3.0, roles.supervisor
        )
        close(lesson.z_s[part], z_s)
    close(schedule.step(lesson.z_t, lesson.target(schedule), lesson.t, lesson.s), lesson.z_s)


def test_a_lesson_follows_the_batchs_draws(roles: NetworkRoles, make_batch: Callable[..., Batch]) -> None:
    supervision = Supervision(4, 2)
    first, again, other = (supervision.lesson(make_batch(seed), roles) for seed in (0, 0, 1))
    assert torch.equal(first.z_s, again.z_s)
    assert not torch.equal(first.z_t, other.z_t)


def test_at_the_noisiest_time_a_lesson_starts_from_noise_alone(
    roles: NetworkRoles, make_batch: Callable[..., Batch]
) -> None:
    """A vp schedule that keeps some of the clip at t = 1, as most do; students are sampled from noise alone."""
    leaky = NoiseSchedule("vp", "eps", alphas_cumprod=tuple(torch.linspace(0.99, 0.02, 20).tolist()))
    batch = make_batch(0, copies=3)
    teacher = copy(roles.teacher)
    teacher.schedule = leaky
    cast = SimpleNamespace(teacher=teacher, supervisor=roles.supervisor)
    lesson = Supervision(2, 2).lesson(batch, cast)
    batch = make_batch(0, copies=3)
    draw_transition(leaky, 2, 2, None, batch.draws)
    noise, first = batch.noise(), lesson.t == 1
    assert 0 < first.sum() < len(first)
    assert torch.equal(lesson.z_t[first], noise[first])
    assert torch.equal(lesson.z_t[~first], leaky.add_noise(batch.x0, noise, lesson.t)[~first])
