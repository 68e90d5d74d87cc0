"""What a page needs of the recipe that a run keeps, whatever version wrote it: only this is checked."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from fewstep.teacher.limited import NumSteps, SamplingSteps

_Name = Annotated[str, Field(pattern=r"^\w[\w-]*$", max_length=200)]


class _Kept(BaseModel):
    model_config = ConfigDict(extra="allow")


class KeptGate(_Kept):
    """What a stage was to reach."""

    metric: str
    at_most: FiniteFloat | None
    at_least: FiniteFloat | None


class KeptObjective(_Kept):
    """What a stage minimised."""

    kind: str
    conditional: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """All that is said."""
        return self.model_dump()


class KeptStage(_Kept):
    """A stage."""

    name: _Name
    teacher_steps: SamplingSteps
    student_steps: SamplingSteps
    steps: NumSteps
    objective: KeptObjective
    gate: KeptGate | None
    start: str | None = None


class _Logging(_Kept):
    prompts: list[str | dict[str, Any]]


class KeptRecipe(_Kept):
    """The recipe."""

    teacher: str
    seed: int | None = None
    logging: _Logging
    stages: list[KeptStage]
