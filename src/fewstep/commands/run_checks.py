"""What `fewstep run` refuses, and so does its `--dry-run`: everything that can be seen without loading a weight."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewstep.distill.recipe import Recipe
    from fewstep.distill.run_folder import RunFolder
    from fewstep.teacher.base import Teacher, VideoSize
    from fewstep.teacher.outline import Outline


def check_run(plan: Recipe, folder: RunFolder, again: Sequence[str] = (), num_processes: int = 1) -> Outline:
    """The outline of the teacher, once nothing stands in the way of the run; nothing is written.

    The cheapest checks come first. Of a teacher on the hub only configs are downloaded. Raises ValueError for the
    first obstacle, such as a folder that cannot be written, a device that is not there, data that cannot be read, a
    teacher that is not whole, a size that it cannot make, or what an earlier run left behind.
    """
    from fewstep.distill.data_checks import check_data, check_source
    from fewstep.distill.parallel import check_sharded
    from fewstep.distill.split_clips import check_split
    from fewstep.distill.stage_checks import check_finished_stages, check_networks
    from fewstep.distill.taken_folders import check_not_taken
    from fewstep.distill.trackers import check_tracker
    from fewstep.student.decoder.files import find_decoder
    from fewstep.teacher.base_models import join_bases
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.outline import outline_teacher

    # what the run directory holds and the machine has
    trained_again = folder.check(plan, again)
    check_not_taken(folder.path, folder.elsewhere)
    folder.check_unlocked()
    check_tracker(plan.logging.tracker)
    find_device(plan.device)
    if plan.logging.decoder is not None:
        find_decoder(plan.logging.decoder)
    check_source(plan, folder)
    # the teacher without weights, with the inputs and the part of it that the recipe names
    outline = outline_teacher(plan.teacher, plan.shift)
    outline.teacher.set_inputs(plan.embedded_guidance, plan.control_scale)
    outline.teacher.restrict(plan.student.only)
    if plan.parallel.shards(num_processes):
        check_sharded(outline.teacher, [stage.guidance for stage in plan.stages])
    # further base models around that part
    bases = [outline_teacher(name) for name in plan.bases]
    named = dict(zip(plan.bases, (base.teacher for base in bases), strict=True))
    others = join_bases(outline.teacher, plan.bases, named.__getitem__) if plan.bases else []
    check_networks(plan, outline)
    sizes = check_data(plan, outline, folder)
    # each base model makes data of its own, at the same rate and sizes
    for number, (base, other) in enumerate(zip(bases, others, strict=True), start=1):
        check_rate(plan.bases[number - 1], other.default_fps(), outline.teacher.default_fps())
        whole = outline.whole and base.whole
        check_data(plan, replace(base, teacher=other, whole=whole), folder.of_base(number), sizes)
    if plan.parallel.context > 1:
        unsplit = [stage.name for stage in plan.stages if not stage.objective.splits_clips]
        check_split(outline.teacher, plan.parallel.context, sizes, unsplit)
    outline.teacher.use_size(sizes[0])
    check_gates(plan, outline.teacher, sizes[0])
    check_finished_stages(plan, folder, outline, trained_again)
    return outline


def again_line(again: Sequence[str], trained_again: Sequence[str]) -> str:
    """What `--again` means for what the folder holds, for the user."""
    lines = [f"trained again: {', '.join(trained_again)}"] if trained_again else []
    lines += [
        f"{name} has the settings that it was begun with, or has not begun: what is there of it is kept"
        for name in again
        if name not in trained_again
    ]
    return "\n".join(lines)


def check_rate(name: str, fps: float, first: float) -> None:
    """Raises ValueError when clips of a further base model would have another rate than those of the first."""
    if fps != first:
        raise ValueError(
            f"bases: {name} makes clips of {fps:g} frames per second, and the teacher of {first:g}: write the same fps "
            "into the fewstep.json of both, or leave it out there"
        )


def check_gates(plan: Recipe, teacher: Teacher, size: VideoSize) -> None:
    """Raises ValueError for a gate on prompt accuracy where the judge cannot read the clips."""
    from fewstep.eval.choose_metrics import judge_reads
    from fewstep.eval.metrics.shapes import check_world

    for stage in plan.stages:
        if stage.gate is None or stage.gate.metric != "prompt_accuracy":
            continue
        try:
            check_world(teacher)
            if not judge_reads(size):
                raise ValueError(f"the clips are {tuple(size)}, and the judge reads clips of its own size only")
        except ValueError as error:
            raise ValueError(
                f"the gate of stage {stage.name} uses prompt_accuracy, which cannot be measured here: {error}, or gate "
                "on endpoint_error"
            ) from error
