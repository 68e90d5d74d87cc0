"""The recipe of a chain: models one after the other, each distilled on what the distilled one before it makes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator, model_validator

from fewstep.distill.objectives.base import Settings
from fewstep.distill.overrides import apply
from fewstep.distill.packaged import find_recipe, recipe_settings
from fewstep.distill.recipe import Recipe, read_recipe
from fewstep.distill.settings import OutFolder, RolloutData
from fewstep.distill.validation_errors import error_sentences
from fewstep.student.chain import USUAL, check_chain_frames
from fewstep.teacher.files.yaml_text import load_yaml
from fewstep.teacher.limited import SamplingSteps

GIVEN_FOLDER = "given"  # the folder of what later members are given while they are distilled


class MemberSettings(Settings):
    """A model of the chain: one that is distilled here, or one that takes part as it is."""

    name: str
    """Unique; the folder of its run inside the chain's."""
    recipe: str | None = None
    """A YAML file, next to the chain's own, or a packaged one: it is followed in the folder `name`."""
    model: str | None = None
    """In place of a recipe: a finished run, one of its stages, an export, or a teacher, as it is."""
    steps: SamplingSteps | None = None
    """Which of its students makes what later members are distilled on; null: the last."""
    given: dict[str, str] = USUAL
    """What it is given of the clip before it: first, last or reference: FIRST_FRAME or LAST_FRAME; control, pose ...:
    WHOLE_CLIP; of a clip of fewer frames, control: SPREAD_CLIP and mask: SPREAD_GAPS. The first member is given
    nothing."""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if name in (GIVEN_FOLDER, "out", "chain") or not re.fullmatch(r"[a-zA-Z][\w-]*", name, re.ASCII):
            raise ValueError(f"{name!r} cannot name a member: use a word of letters, digits, - and _, such as clip")
        return name

    @field_validator("given")
    @classmethod
    def _can_be_given(cls, given: dict[str, str]) -> dict[str, str]:
        check_chain_frames(given)
        return given

    @model_validator(mode="after")
    def _one_source(self) -> MemberSettings:
        if (self.recipe is None) == (self.model is None):
            raise ValueError(f"{self.name} has one of recipe and model: a recipe is followed, a model taken as it is")
        return self


class ChainSettings(Settings):
    """What a chain's recipe says."""

    out: OutFolder = Path("runs/chain")
    """The folder of the chain; each member's run lies in it."""
    chain: tuple[MemberSettings, ...]
    """The members, in order."""

    @model_validator(mode="after")
    def _chain_holds(self) -> ChainSettings:
        names = [member.name for member in self.chain]
        if len(names) < 2:
            raise ValueError("chain has fewer than two members: follow the recipe of one by itself")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"chain has two members called {twice[0]}: choose another name")
        return self


@dataclass(frozen=True)
class Chain:
    """A chain, and the recipe of each member that is distilled, in the member's folder; None of the others."""

    out: Path
    members: tuple[MemberSettings, ...]
    plans: tuple[Recipe | None, ...]

    @property
    def sources(self) -> list[tuple[str, dict[str, str]]]:
        """Of each member: its run, from the chain's folder, or its model; and what it is given."""
        return [
            (member.name if member.model is None else _absolute(member.model), member.given if index else {})
            for index, member in enumerate(self.members)
        ]


def is_chain_recipe(path: str) -> bool:
    """Whether a recipe is a chain's. Raises ValueError when there is no such recipe; what is no YAML is not one."""
    return "chain" in recipe_settings(path)


def read_chain(path: str, overrides: Sequence[str] = ()) -> Chain:
    """The chain of a YAML file, or of a packaged one by its name.

    `overrides`: `out=DIR` of the chain, else a member's name before a setting of its recipe, as in
    frame.stages.0.steps=50, or clip.model=DIR of one without a recipe. Raises ValueError naming everything that is
    wrong in the chain, or in a member's recipe.
    """
    file = find_recipe(path)
    values = load_yaml(file.read_text("utf-8-sig"))
    names = [str(entry.get("name")) for entry in values["chain"] if isinstance(entry, dict)] if _lists(values) else []
    of_members: dict[Any, list[str]] = {name: [] for name in names}
    # settings of a member go to its own recipe; the chain itself has only `out` and members' models
    for override in overrides:
        name, _, setting = override.partition(".")
        if name in of_members and setting.startswith("model="):
            apply(f"chain.{names.index(name)}.{setting}", values)
        elif name in of_members:
            of_members[name].append(setting)
        elif override.split("=")[0] == "out":
            apply(override, values)
        else:
            raise ValueError(f"--set {override}: a chain has `out` and its members, {', '.join(map(str, names))}")
    try:
        settings = ChainSettings.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{file}: {'; '.join(error_sentences(error, ChainSettings.model_json_schema()))}") from error
    # each member's recipe is read and checked like one by itself
    plans = tuple(_plan(settings, index, of_members, file.parent) for index in range(len(settings.chain)))
    if len(precisions := {plan.precision for plan in plans if plan is not None}) > 1:
        raise ValueError(f"{file}: its members' precisions are {', '.join(sorted(precisions))}: choose one for all")
    return Chain(settings.out, settings.chain, plans)


def _plan(settings: ChainSettings, index: int, overrides: dict[Any, list[str]], folder: Path) -> Recipe | None:
    member = settings.chain[index]
    if member.recipe is None:
        if overrides[member.name]:
            raise ValueError(f"--set {member.name}.{overrides[member.name][0]}: {member.name} has no recipe to change")
        return None
    own_recipe = folder / member.recipe
    plan = read_recipe(own_recipe if own_recipe.is_file() else member.recipe, overrides[member.name])
    plan = plan.model_copy(update={"out": settings.out / member.name})
    if member.steps not in (None, *(counts := [stage.student_steps for stage in plan.stages])):
        raise ValueError(
            f"{member.name} has no student of {member.steps} steps, on which later members would be distilled: set "
            f"steps to one of {', '.join(map(str, counts))}"
        )
    # what the member before makes is given with prompts, of which rollouts are made
    if index and not isinstance(plan.data, RolloutData):
        raise ValueError(
            f"{member.name} is distilled on what {settings.chain[index - 1].name} makes, and the data of its recipe "
            f"are {plan.data.kind}: set data.kind to rollouts, or distil it by itself and name its run as `model`"
        )
    return plan


def _absolute(model: str) -> str:
    """A folder wherever the chain is used from; a hub id or a name as it is."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.exists() else model


def _lists(values: Any) -> bool:
    return isinstance(values, dict) and isinstance(values.get("chain"), list)
