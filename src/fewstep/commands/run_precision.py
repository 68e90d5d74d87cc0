"""The precision of a run: what `precision: auto` means, decided once for the whole run and all of its processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from fewstep.distill.data_recipe import DataRecipe
    from fewstep.distill.decoder.recipe import DecoderRecipe
    from fewstep.teacher.precision import Choice
    from fewstep.teacher.ranks import Ranks

_R = TypeVar("_R", bound="DataRecipe")


def resolve_precision(plan: _R) -> tuple[_R, str | None]:
    """The recipe with float32 or bfloat16 in place of auto, and a line for the user where there is something to say.

    A run that is resumed keeps the precision that its recipe.yaml holds. Raises ValueError when there is no such
    device.
    """
    choice = _choice(plan, plan.precision)
    return plan.model_copy(update={"precision": choice.precision}), choice.line


def resolve_decoder(plan: DecoderRecipe) -> tuple[DecoderRecipe, list[str]]:
    """`resolve_precision` of a decoder's recipe, whose own passes have a precision of their own: the recipe, and the
    lines."""
    plan, line = resolve_precision(plan)
    choice = _choice(plan, plan.decoder.precision, "decoder")
    decoder = plan.decoder.model_copy(update={"precision": choice.precision})
    lines = [line, choice.line and f"decoder.{choice.line}"]
    return plan.model_copy(update={"decoder": decoder}), [line for line in lines if line]


def _choice(plan: DataRecipe, requested: str, section: str | None = None) -> Choice:
    """Of the recipe's precision, or of that of a section of it."""
    from fewstep.distill.run_folder import RunFolder
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.precision import choose_precision

    return choose_precision(requested, find_device(plan.device), RunFolder(plan.out).recorded_precision(section))


def resolve_for_all(plan: _R, ranks: Ranks) -> tuple[_R, str | None]:
    """`resolve_precision` by the first process, for every process: their devices may differ, their precision may not.

    Only the first one has the line. Raises as `resolve_precision` and `Ranks.check`.
    """

    def resolved() -> list[str | None]:
        resolved_plan, line = resolve_precision(plan)
        return [resolved_plan.precision, line]

    precision, line = ranks.from_first(resolved)
    return plan.model_copy(update={"precision": precision}), line if ranks.first else None
