"""A teacher at many and at few steps, judged in the shapes world: the problem that distillation solves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fewstep.eval.metrics.clips import wilson
from fewstep.eval.metrics.frechet import Interval
from fewstep.eval.metrics.shapes import (
    REAL_SEED,
    REFERENCE_SEED,
    Progress,
    ShapesJudgement,
    check_world,
    held_out_prompts,
    judge_real,
)
from fewstep.eval.results import ResultsFile
from fewstep.eval.shapes.sheet import comparison_sheet
from fewstep.teacher.base import Teacher
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.rollout import rollout
from fewstep.teacher.shapes.judge import judge_sha256, load_judge
from fewstep.teacher.shapes.world import ATTRIBUTES
from fewstep.teacher.videos.writing import to_uint8

STEPS_COLUMNS = {  # of the table as people see it
    "model": "model",
    "steps": "steps",
    "guidance": "guidance",  # a table may hold several
    "shapes_fd": "shapes-fd",
    "low": "low",
    "high": "high",
    "prompt_accuracy": "prompt accuracy",
    "seconds": "seconds / clip",
    "num": "N",
}


@dataclass(frozen=True)
class Protocol:
    """What every row of one table shares."""

    num: int
    guidance: Guidance
    seed: int
    reference: int = 2048  # real clips the distance is taken to
    batch: int = 32

    def noise_seeds(self, start: int, count: int) -> range:
        """Seeds of the initial noise of clips start, start + 1, ..."""
        first = self.seed * 1_000_003 + start
        return range(first, first + count)


class StepsTable:
    """The table on disk: rows that are there are not measured again, and none is ever lost.

    An outline of the teacher will do to see whether it can be made. Raises ValueError when the teacher is not of the
    shapes world, or `out` holds another teacher's, judge's or protocol's rows and is not to be made `fresh`.
    """

    def __init__(self, teacher: Teacher, protocol: Protocol, command: str, out: Path, fresh: bool = False) -> None:
        check_world(teacher)
        self.teacher, self.protocol = teacher, protocol
        self._file = ResultsFile(out, command, shared_figures(teacher, protocol), STEPS_COLUMNS, fresh)
        self.measured = 0
        self._reference: Tensor | None = None

    def row(self, steps: int | None, progress: Progress) -> dict[str, Any]:
        """The row of a step count, or for None that of real clips; measured and written if it is not there."""
        wanted = {"model": "real"} if steps is None else {"steps": steps, "guidance": self.protocol.guidance.plain()}
        known = self._file.find(wanted)
        if known is not None:
            return known
        # real clips are judged once, for all rows that are still to be measured
        if self._reference is None:
            self._reference = reference_features(self.protocol, progress)
        if steps is None:
            row = real_row(self.protocol, self._reference, progress)
        else:
            row = teacher_row(self.teacher, steps, self.protocol, self._reference, progress)
        self.measured += 1
        return self._file.add(row, order=lambda row: -row.get("steps", 1e9))


def shared_figures(teacher: Teacher, protocol: Protocol) -> dict[str, Any]:
    """What makes rows comparable, and stands in each of them."""
    return {
        "teacher_sha256": teacher.sha256(),
        "judge_sha256": judge_sha256(),
        "num": protocol.num,
        "seed": protocol.seed,
        "reference": protocol.reference,
    }


def real_row(protocol: Protocol, reference: Tensor, progress: Progress) -> dict[str, Any]:
    """The floor: as many other real clips against the same reference, and the judge's own accuracy on them."""
    judgement = judge_real(protocol.num, REAL_SEED + protocol.seed, progress=progress)
    return {"model": "real"} | row_figures(judgement, protocol, reference)


def reference_features(protocol: Protocol, progress: Progress) -> Tensor:
    """Features (reference, D) of real held-out clips."""
    return judge_real(protocol.reference, REFERENCE_SEED, progress=progress).features()


@torch.no_grad()
def teacher_row(
    teacher: Teacher, steps: int, protocol: Protocol, reference: Tensor, progress: Progress
) -> dict[str, Any]:
    """The figures of one step count; prompts and noise are the same at every count. Seconds are per clip."""
    judgement, seconds = ShapesJudgement(load_judge(device=str(teacher.device))), 0.0
    prompts = held_out_prompts(protocol.num, protocol.seed)
    for start in range(0, protocol.num, protocol.batch):
        some = prompts[start : start + protocol.batch]
        # from prompts to decoded clips; the copy to the CPU waits for the device
        began = time.perf_counter()
        videos = generate(teacher, some, protocol.noise_seeds(start, len(some)), steps, protocol.guidance).cpu()
        seconds += time.perf_counter() - began
        judgement.update(videos, some)
        progress(f"{steps} steps", start + len(some), protocol.num)
    row = {"model": "teacher", "steps": steps, "guidance": protocol.guidance.plain()}
    row |= row_figures(judgement, protocol, reference)
    return row | {"seconds": round(seconds / protocol.num, 4)}


@torch.no_grad()
def steps_sheet(teacher: Teacher, counts: Sequence[int], protocol: Protocol, rows: int = 6) -> Image.Image:
    """The table's first clips side by side: a row per prompt, a column per step count."""
    prompts = held_out_prompts(rows, protocol.seed)
    columns = {}
    for steps in counts:
        videos = generate(teacher, prompts, protocol.noise_seeds(0, rows), steps, protocol.guidance)
        columns[f"{steps} step{'s' * (steps > 1)}"] = [to_uint8(video) for video in videos]
    return comparison_sheet(columns, prompts)


def generate(
    teacher: Teacher, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: Guidance | float
) -> Tensor:
    """Videos (B, 3, F, H, W) in -1..1 at the teacher's own size."""
    size = check_world(teacher)
    z = teacher.noise(seeds, teacher.latent_shape(*size))
    return teacher.decode(rollout(teacher, z, teacher.conditions(prompts), teacher.schedule.grid(steps), guidance))


def row_figures(judgement: ShapesJudgement, protocol: Protocol, reference: Tensor) -> dict[str, Any]:
    """shapes-fd and prompt accuracy as a row has them, with 95 % intervals."""
    return judged_figures(judgement.distance(reference), judgement.agreements())


def judged_figures(distance: Interval, agreements: Tensor) -> dict[str, Any]:
    """The same of a distance, and of what the judge says of each attribute, as `ShapesJudgement.agreements`."""
    accuracy = wilson(int((agreements != 0).all(1).sum()), len(agreements))
    # what a prompt does not name is -1, which is neither right nor wrong
    named = {name: column[column >= 0].double() for name, column in zip(ATTRIBUTES, agreements.T, strict=True)}
    return {
        "shapes_fd": round(distance.value, 3),
        "low": round(max(0.0, distance.low), 3),
        "high": round(distance.high, 3),
        "prompt_accuracy": round(accuracy.value, 4),
        "accuracy_low": round(accuracy.low, 4),
        "accuracy_high": round(accuracy.high, 4),
        "accuracy_per_attribute": {n: round(float(right.mean()), 4) for n, right in named.items() if len(right)},
    }
