"""What a run will write into its directory: clips, checkpoints and students."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewstep.distill.estimate import BYTES, RoleMemory
from fewstep.distill.recipe import Recipe
from fewstep.distill.settings import DatasetData
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.files.atomic import nearest_existing
from fewstep.teacher.limits import GIB

_STORED = 2  # bytes of a number of latents or of a text: both are kept in half precision


@dataclass(frozen=True)
class DiskUse:
    """GiB that a run directory takes at most, in the stage with the largest checkpoints."""

    clips: float
    checkpoints: float
    students: float

    @property
    def total(self) -> float:
        """GiB."""
        return self.clips + self.checkpoints + self.students


def clips_gib(recipe: Recipe, teacher: Teacher, clips: Mapping[VideoSize, int], text_numbers: int) -> float:
    """Of the dataset that a run makes, one for each base model: `clips` of each size, each with a text of so many
    numbers. 0 where the dataset is there already."""
    if isinstance(recipe.data, DatasetData):
        return 0.0
    numbers = sum(count * (math.prod(teacher.latent_shape(*size)) + text_numbers) for size, count in clips.items())
    return numbers * _STORED * (1 + len(recipe.bases)) / GIB


def checkpoints_gib(recipe: Recipe, index: int, shares: Sequence[RoleMemory], num_processes: int) -> float:
    """Of the checkpoints that stage `index` keeps at once. shares: what its roles hold, see `stage_memory`."""
    trained = [share for share in shares if share.gradients]
    one = sum(share.weights + share.moments + share.average for share in trained)
    if recipe.average_of(index) == "cpu":  # which is none of the device's, and in the checkpoint all the same
        one += next(share.weights for share in trained if share.role == "student")
    # the last two are kept, and sharded ones while a third is written; a healthy one until another is whole
    kept = 3 if recipe.parallel.shards(num_processes) else 2
    return one * (kept + 2 * (recipe.watch.on_trigger == "roll_back"))


def student_gib(recipe: Recipe, index: int, num_trained: int, num_adapters: int) -> float:
    """Of what stage `index` leaves behind: adapters, or all weights of the networks that it trains."""
    return (num_adapters if recipe.keeps_adapters(index) else num_trained) * BYTES["float32"] / GIB


def written_gib(folder: Path) -> float:
    """Of all files that are in a folder, which need not be there."""
    files = (Path(above, name) for above, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files) / GIB


def free_gib(folder: Path) -> float:
    """Of the disk that a folder is on, or will be."""
    return shutil.disk_usage(nearest_existing(folder)).free / GIB
