"""Which stages convert their student first, as a recipe and what the teacher predicts decide it: no weights needed."""

from __future__ import annotations

from fewstep.distill.recipe import Recipe
from fewstep.distill.settings import Conversion, Stage
from fewstep.teacher.schedule import Prediction


def conversion_of(stage: Stage, start: Prediction) -> Conversion | None:
    """What the stage's student, which starts as predicting `start`, is converted to; None: it stays as it is.

    Raises ValueError when one step of eps is all that is left, and when something else than eps is to be converted.
    """
    wanted = stage.convert
    # x0 = (z - sigma eps) / alpha: alpha is small at t = 1, and no later step corrects the error
    if wanted is None and stage.student_steps == 1 and start == "eps":
        wanted = Conversion()
    if wanted is False and stage.student_steps == 1 and start == "eps":
        raise ValueError(
            f"stage {stage.name} takes one step with a student that predicts eps, whose errors there are sigma/alpha "
            "times as large in its clips, and `convert: false` leaves it so: leave convert out, which makes it v"
        )
    if not wanted or wanted.to == start:
        return None
    if start != "eps":
        raise ValueError(
            f"stage {stage.name} asks to convert its student to {wanted.to}, but it starts as predicting {start}, and "
            "only eps is converted: leave convert out"
        )
    return wanted


def planned_conversions(recipe: Recipe, teacher: Prediction) -> list[Conversion | None]:
    """`conversion_of` each stage when the teacher predicts `teacher`. Raises ValueError as that does."""
    return [conversion for conversion, _ in _followed(recipe, teacher)]


def planned_predictions(recipe: Recipe, teacher: Prediction) -> list[Prediction]:
    """What each stage's student predicts when the teacher predicts `teacher`. Raises ValueError as `conversion_of`."""
    return [predicted for _, predicted in _followed(recipe, teacher)]


def _followed(recipe: Recipe, teacher: Prediction) -> list[tuple[Conversion | None, Prediction]]:
    planned: list[tuple[Conversion | None, Prediction]] = []
    for index, stage in enumerate(recipe.stages):
        start = recipe.start_of(index)
        before = teacher if start is None else planned[start][1]
        # a student predicts what it started as predicting, unless it is converted
        conversion = conversion_of(stage, before)
        planned.append((conversion, before if conversion is None else conversion.to))
    return planned
