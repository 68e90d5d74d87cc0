"""The kinds of objectives that recipes may name: one line each."""

from __future__ import annotations

from functools import lru_cache
from inspect import isabstract
from typing import Annotated, Any, Union, get_args

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from fewstep.distill.objectives.adversarial_settings import Adversarial
from fewstep.distill.objectives.objective_settings import ObjectiveSettings
from fewstep.distill.objectives.progressive import Progressive

OBJECTIVES: dict[str, type[ObjectiveSettings]] = {}


def register(settings: type[ObjectiveSettings]) -> None:
    """Makes a kind known to recipes, their schema and all that asks what stages cost.

    Raises TypeError when it leaves unsaid what has no default, and when another one is of its kind.
    """
    kinds = get_args(settings.model_fields["kind"].annotation)
    if len(kinds) != 1:
        raise TypeError(f'{settings.__name__} has no kind: declare `kind: Literal["name"] = "name"`')
    # what has no default must be declared, or a new kind would be trained or counted as if it were another
    unsaid = sorted(settings.__abstractmethods__) if isabstract(settings) else []
    if not hasattr(settings, "default_betas"):
        unsaid.append("default_betas")
    if unsaid:
        raise TypeError(f"{settings.__name__} does not say its {', '.join(unsaid)}: see ObjectiveSettings")
    (kind,) = kinds
    if OBJECTIVES.setdefault(kind, settings) is not settings:
        raise TypeError(f"{OBJECTIVES[kind].__name__} is of the kind {kind} already: choose another")


register(Progressive)
register(Adversarial)


class _OfItsKind:
    """Has a value validated as the settings that its `kind` names, and described in a JSON schema as any of them.

    A plain union would know only those that were registered when the models that hold it were made.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(_validated)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(_union(tuple(OBJECTIVES.values())).core_schema)


AnyObjective = Annotated[ObjectiveSettings, _OfItsKind()]


def _validated(value: Any, info: ValidationInfo) -> ObjectiveSettings:
    return _union(tuple(OBJECTIVES.values())).validate_python(value, context=info.context)


@lru_cache
def _union(kinds: tuple[type[ObjectiveSettings], ...]) -> TypeAdapter[ObjectiveSettings]:
    union: Any = Annotated[Union[kinds], Field(discriminator="kind")]  # noqa: UP007
    return TypeAdapter(union)
