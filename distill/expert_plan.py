"""Which experts a stage trains and from where, as its recipe and its teacher decide it: no weights needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.distill.objectives.supervision import supervisor_times
from fewstep.distill.recipe import Recipe
from fewstep.distill.settings import Stage
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import HIGH, LOW, Experts
from fewstep.teacher.schedule import shift_time


@dataclass(frozen=True)
class ExpertPlan:
    """`trained`: names of the experts that learn; None where the denoiser is a single network. `starts`: where steps
    are learned from, as `Stage.starts` has them."""

    trained: tuple[str, ...] | None
    starts: tuple[float, ...] | None


def expert_plan(stage: Stage, teacher: Teacher) -> ExpertPlan:
    """What `stage.expert` means with this teacher.

    An expert learns if one of the student's nodes is its own, for else it is never asked; it learns at its own starts.
    Raises ValueError when the named expert has no node or no start, and for a teacher with a single network.
    """
    experts = teacher.denoiser
    if not isinstance(experts, Experts):
        if stage.expert is not None:
            raise ValueError(
                f"stage {stage.name} trains the {stage.expert} expert, but {teacher.folder} has a single denoiser: "
                "leave expert out"
            )
        return ExpertPlan(None, stage.starts)
    # who is asked at the student's nodes
    nodes = teacher.schedule.grid(stage.student_steps)[:-1]
    with_nodes = tuple(dict.fromkeys(experts.names_at(nodes)))
    trained = with_nodes if stage.expert is None else (stage.expert,)
    if not set(trained) <= set(with_nodes):
        raise ValueError(
            f"stage {stage.name} trains the {stage.expert} expert, which has none of its {stage.student_steps} nodes: "
            f"of the times {nodes_by_expert(experts, nodes)}; take more steps, or train the other one"
        )
    # and which starts fall on the trained experts' side of the boundary
    starts = stage.starts or tuple(1 - i / stage.student_steps for i in range(stage.student_steps))
    times = shift_time(torch.tensor(starts, dtype=torch.float64), teacher.schedule.shift)
    own = [start for start, name in zip(starts, experts.names_at(times), strict=True) if name in trained]
    if not own:
        raise ValueError(
            f"stage {stage.name} trains the {' and '.join(trained)} expert, to which none of its starts belongs: "
            f"of the times {nodes_by_expert(experts, times)}; leave starts out, or add one of its own"
        )
    return ExpertPlan(trained, stage.starts if len(own) == len(starts) else tuple(own))


def nodes_by_expert(experts: Experts, times: Tensor) -> str:
    """To whom times (n,) belong, in words."""
    named = list(zip(times.tolist(), experts.names_at(times), strict=True))
    of = {name: ", ".join(f"{time:.4g}" for time, owner in named if owner == name) or "none" for name in (HIGH, LOW)}
    return f"{HIGH} has {of[HIGH]}; {LOW} has {of[LOW]} (the boundary is {experts.boundary:g})"


def check_supervisor(recipe: Recipe, index: int, teacher: Teacher) -> None:
    """Raises ValueError when stage `index` learns from a student whose expert was not trained for such long steps."""
    supervisor = recipe.teacher_of(index)
    if supervisor is None or not isinstance(teacher.denoiser, Experts):
        return
    stage, supervisor_stage = recipe.stages[index], recipe.stages[supervisor]
    plan = expert_plan(stage, teacher)
    experts = _experts_used(stage, plan, teacher)
    # an expert that was not trained for this step count would be asked for steps that it never learned
    trained = trained_experts(recipe, supervisor, teacher) or frozenset()
    untrained = [name for name in experts if name not in trained]
    if untrained:
        raise ValueError(
            f"stage {stage.name} learns from {supervisor_stage.name}, whose {untrained[0]} expert was "
            f"never trained for {supervisor_stage.student_steps} steps: train it in a stage before "
            f"(expert: {untrained[0]}), or set `teacher: base`"
        )


def check_samples(recipe: Recipe, index: int, teacher: Teacher) -> None:
    """Raises ValueError when stage `index` judges whole samples of a student with an expert that learns nothing of it:
    one that was never trained for this step count, or whose step is the only one that gradients reach."""
    stage, experts = recipe.stages[index], teacher.denoiser
    through = stage.objective.through_samples
    if through is None or not isinstance(experts, Experts):
        return
    names = experts.names_at(teacher.schedule.grid(stage.student_steps)[:-1])
    untrained = [name for name in names if name not in (trained_experts(recipe, index, teacher) or frozenset())]
    if untrained:
        raise ValueError(
            f"stage {stage.name} judges whole samples, in which the {untrained[0]} expert takes steps that it never "
            f"learned: train it for {stage.student_steps} steps in a stage before (expert: {untrained[0]}), leave "
            "expert out, or set objective.judges to endpoint or clip"
        )
    if through != "all" and names[-1] not in (expert_plan(stage, teacher).trained or ()):
        raise ValueError(
            f"stage {stage.name} trains the {stage.expert} expert, and objective.through is {through}, which leaves "
            f"the gradient to steps of the {names[-1]} expert: set objective.through to all, or train that one"
        )


def _experts_used(stage: Stage, plan: ExpertPlan, teacher: Teacher) -> set[str]:
    """The experts of its supervisor that a stage asks on the way through its steps, or through whole samples."""
    experts = teacher.denoiser
    assert isinstance(experts, Experts)
    starts = None if stage.objective.samples_supervisor else plan.starts
    fractions = supervisor_times(stage.teacher_steps, stage.student_steps, starts)
    return set(experts.names_at(shift_time(torch.tensor(fractions, dtype=torch.float64), teacher.schedule.shift)))


def trained_experts(recipe: Recipe, index: int | None, teacher: Teacher) -> frozenset[str] | None:
    """The experts that learned this stage's number of steps, in it or in stages that it starts from; None where the
    denoiser is a single network."""
    if not isinstance(teacher.denoiser, Experts):
        return None
    names, steps = set[str](), None
    while index is not None and recipe.stages[index].student_steps == (steps or recipe.stages[index].student_steps):
        steps = recipe.stages[index].student_steps
        names |= set(expert_plan(recipe.stages[index], teacher).trained or ())
        index = recipe.start_of(index)
    return frozenset(names)
