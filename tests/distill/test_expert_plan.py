"""Which experts a stage trains and from where, and what is refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import FlowMapEulerDiscreteScheduler

from fewstep.distill.draws import Draws
from fewstep.distill.expert_plan import ExpertPlan, check_samples, check_supervisor, expert_plan
from fewstep.distill.objectives.supervision import draw_transition
from fewstep.distill.recipe import Recipe
from fewstep.distill.settings import Stage
from fewstep.teacher.base import Teacher
from fewstep.teacher.outline import outline_teacher

PROGRESSIVE = {"kind": "progressive"}


def stage(student_steps: int = 4, **more: Any) -> Stage:
    values = {"name": "s", "teacher_steps": 8 * student_steps, "student_steps": student_steps, "objective": PROGRESSIVE}
    return Stage.model_validate(values | more)


@pytest.mark.parametrize(
    ("arguments", "trained", "starts"),
    [
        ({}, ("high", "low"), None),
        ({"expert": "high"}, ("high",), (1.0, 0.75)),
        ({"expert": "low"}, ("low",), (0.5, 0.25)),
        ({"expert": "low", "starts": [1.0, 0.4, 0.3]}, ("low",), (0.4, 0.3)),
        ({"starts": [0.4]}, ("high", "low"), (0.4,)),
        ({"student_steps": 1}, ("high",), None),  # low has no node, and so is never asked
        ({"student_steps": 1, "starts": [1.0, 0.5]}, ("high",), (1.0,)),
    ],
)
def test_experts_learn_at_their_own_starts(
    tiny_experts: Teacher, arguments: dict[str, Any], trained: tuple[str, ...], starts: tuple[float, ...] | None
) -> None:
    assert expert_plan(stage(**arguments), tiny_experts) == ExpertPlan(trained, starts)


def test_a_single_denoiser_needs_no_plan(tiny_teacher: Teacher) -> None:
    assert expert_plan(stage(starts=[1.0, 0.4]), tiny_teacher) == ExpertPlan(None, (1.0, 0.4))
    with pytest.raises(
        ValueError, match=r"stage s trains the low expert, but .* has a single denoiser: leave expert out"
    ):
        expert_plan(stage(expert="low"), tiny_teacher)


def test_only_an_experts_own_steps_are_drawn(tiny_experts: Teacher) -> None:
    schedule = tiny_experts.schedule
    for name, times in (("high", {1.0, 0.9375}), ("low", {0.833333, 0.625})):
        plan = expert_plan(stage(expert=name), tiny_experts)
        drawn = draw_transition(schedule, 32, 4, plan.starts, Draws.seeded(0, 64))
        assert {round(t, 6) for t in drawn.t.tolist()} == times
        assert drawn.num_substeps.tolist() == [8] * 64
        ends = {round(float(t), 9) for t in schedule.grid(4)}
        assert {round(t, 9) for t in drawn.s.tolist()} <= ends


def test_an_expert_without_a_node_is_refused(make_tiny_wan: Callable[..., None], tmp_path: Path) -> None:
    make_tiny_wan(tmp_path, experts=2, boundary_ratio=0.875)
    scheduler: Any = FlowMapEulerDiscreteScheduler(shift=8.0)
    scheduler.save_pretrained(tmp_path / "scheduler")
    teacher = outline_teacher(tmp_path).teacher
    sentence = (
        r"stage s trains the low expert, which has none of its 2 nodes: of the times high has 1, 0.8889; low has none "
        r"\(the boundary is 0.875\); take more steps, or train the other one"
    )
    with pytest.raises(ValueError, match=sentence):
        expert_plan(stage(2, expert="low"), teacher)
    assert expert_plan(stage(2), teacher).trained == ("high",)
    with pytest.raises(
        ValueError, match=r"trains the high expert, to which none of its starts belongs: .* high has none"
    ):
        expert_plan(stage(2, expert="high", starts=[0.3]), teacher)


def recipe(*stages: dict[str, Any]) -> Recipe:
    data = {"kind": "rollouts", "prompts": "prompts.txt"}
    return Recipe.model_validate({"data": data, "stages": [{"objective": PROGRESSIVE, **s} for s in stages]})


def samples(through: str, expert: str | None, **more: Any) -> dict[str, Any]:
    """A stage of 4 steps that judges whole samples."""
    objective = {"kind": "adversarial", "conditional": False, "real": "clips", "judges": "sample", "through": through}
    shared = {"name": "judged", "teacher_steps": 32, "student_steps": 4, "expert": expert}
    return {**shared, "objective": objective | more}


def test_every_expert_of_a_judged_sample_has_learned_its_steps(tiny_experts: Teacher) -> None:
    """And gradients reach the one that the stage trains: of four nodes the last two are low's."""
    before = {"name": "before", "teacher_steps": 32, "student_steps": 4}
    for through in ("all", "last", "drawn"):
        check_samples(recipe(samples(through, None)), 0, tiny_experts)
        check_samples(recipe(before, samples(through, "low")), 1, tiny_experts)
    check_samples(recipe(before, samples("all", "high")), 1, tiny_experts)
    for through in ("last", "drawn"):
        with pytest.raises(
            ValueError, match=f"trains the high expert, and objective.through is {through}, which leaves"
        ):
            check_samples(recipe(before, samples(through, "high")), 1, tiny_experts)
    with pytest.raises(
        ValueError, match="stage judged judges whole samples, in which the low expert takes steps that it"
    ):
        check_samples(recipe(samples("all", "high")), 0, tiny_experts)
    check_samples(recipe(before | {"expert": "high"}), 0, tiny_experts)  # of single steps


def test_a_supervisor_that_makes_samples_has_learned_all_of_their_steps(tiny_experts: Teacher) -> None:
    high = {"name": "high", "teacher_steps": 32, "student_steps": 8, "expert": "high"}
    own = {"teacher_steps": 8, "start": "base", "teacher": "high"}
    check_supervisor(recipe(high, samples("all", "high") | own), 1, tiny_experts)
    with pytest.raises(ValueError, match="whose low expert was never trained for 8 steps"):
        check_supervisor(recipe(high, samples("all", "high", real="supervisor") | own), 1, tiny_experts)


def test_a_supervisor_was_taught_where_it_is_asked(tiny_experts: Teacher) -> None:
    high = {"name": "high", "teacher_steps": 32, "student_steps": 8, "expert": "high"}
    low = high | {"name": "low", "expert": "low"}
    last = {"name": "last", "teacher_steps": 8, "student_steps": 4}
    check_supervisor(recipe(high, low, last), 2, tiny_experts)
    check_supervisor(recipe(high | {"expert": None}, last), 1, tiny_experts)
    with pytest.raises(
        ValueError, match="stage last learns from high, whose low expert was never trained for 8 steps: train"
    ):
        check_supervisor(recipe(high, last), 1, tiny_experts)
    # of 8 nodes at shift 5 the third, .893, is still high's, so from 1 and .9375 it alone is asked
    check_supervisor(recipe(high, last | {"expert": "high"}), 1, tiny_experts)
    with pytest.raises(ValueError, match="whose high expert was never trained for 8 steps"):
        check_supervisor(recipe(low, last | {"expert": "high"}), 1, tiny_experts)
    check_supervisor(recipe(high, last | {"teacher": "base"}), 1, tiny_experts)
