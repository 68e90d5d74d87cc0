"""A trained student: its weights, its contract and its teacher's pipeline around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from fewstep.student.contract import CONTRACT_FILE, SamplingContract, read_contract
from fewstep.student.decoder.files import DECODER_FOLDER
from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.files.yaml_text import load_yaml
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout


@dataclass(frozen=True)
class Student:
    """A network of few steps, asked through its teacher's adapter."""

    teacher: Teacher
    network: nn.Module
    contract: SamplingContract

    def sample(self, z: Tensor, conditions: Conditions, on_step: Callable[[int], None] | None = None) -> Tensor:
        """Latents (B, C, F, h, w) from unit noise z of that shape, on the contract's nodes."""
        return rollout(self.teacher, z, conditions, self.contract.grid, self.contract.guidance, on_step, self.network)

    def conditions_of_any(self, prompts: Sequence[str]) -> Conditions:
        """Of these prompts, with images of noise where something is given: for what does not depend on them."""
        return self.teacher.conditions_of_any(prompts, self.contract.negative_prompt, self.contract.size)


def is_run(folder: Path) -> bool:
    """Whether it is a run directory, of which a stage need not be finished yet."""
    return (folder / "stages").is_dir() or bool(_order(folder))


def find_stage(folder: Path, steps: int | None = None) -> Path:
    """The last finished stage in a run directory, in its recipe's order, that was trained for this many steps, if
    given.

    A stage's own folder is itself. Raises ValueError when there is none, and for a stage of another step count.
    """
    if (folder / CONTRACT_FILE).is_file():
        if steps is not None:
            read_contract(folder).check(steps)
        return folder
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: pass a run directory, or one of its stages")
    # in the recipe's order, as a copy of the folder may have lost the files' times
    order = _order(folder)
    stages = sorted(
        (folder / "stages").glob(f"*/{CONTRACT_FILE}"),
        key=lambda path: (order.get(path.parent.name, -1), path.stat().st_mtime_ns),
    )
    if not stages and (folder / DECODER_FOLDER).is_dir():
        raise ValueError(
            f"{folder} holds a small decoder, no student: its folder {DECODER_FOLDER} is in diffusers' format "
            "already, and --decoder of `fewstep sample`, `evaluate` and `benchmark` takes it"
        )
    if not stages:
        raise ValueError(f"{folder} has no finished stage yet: run its recipe to the end of a stage")
    counts = {path.parent: read_contract(path.parent).steps for path in stages}
    fitting = [stage for stage, count in counts.items() if steps in (None, count)]
    if not fitting:
        there = ", ".join(f"{stage.name} ({count})" for stage, count in counts.items())
        raise ValueError(
            f"no student in {folder} was trained for {steps} steps, and none works at other nodes than its own; there "
            f"are {there}: ask for one of these, distil one for {steps}, or `fewstep sample --force`"
        )
    return fitting[-1]


def _order(run: Path) -> dict[str, int]:
    """Where each stage stands in a run's recipe, if that is there: the times of files do not outlive a copy."""
    try:
        stages = load_yaml((run / "recipe.yaml").read_text("utf-8"))["stages"]
        return {str(stage["name"]): index for index, stage in enumerate(stages)}
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return {}


def teacher_of(
    contract: SamplingContract, teacher: Teacher | str | None, dtype: torch.dtype, device: torch.device | str | None
) -> Teacher:
    """The teacher of a student, with the student's own shift; one that is loaded already as it is.

    Raises ValueError when it cannot be loaded, or is another one.
    """
    if not isinstance(teacher, Teacher):
        teacher = load_teacher(teacher or contract.named_teacher, dtype, device, contract.shift)
    contract.check_teacher(teacher)
    return teacher
