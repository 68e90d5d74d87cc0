"""What `fewstep run --dry-run` says of the disk: what the run directory will take, and what is free there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fewstep.commands.progress import Screen
    from fewstep.commands.run_cost import HeldInStage
    from fewstep.distill.disk_use import DiskUse
    from fewstep.distill.recipe import Recipe
    from fewstep.teacher.base import Teacher, VideoSize


def show_disk(
    plan: Recipe,
    teacher: Teacher,
    held: Sequence[HeldInStage],
    clips: Mapping[VideoSize, int] | None,
    text_numbers: int | None,
    num_processes: int,
    screen: Screen,
) -> None:
    """Prints a line, and warns where the disk is too small.

    held: of each stage. clips: how many of each size, None: not known yet. text_numbers: of a clip's text, None: they
    could not be counted.
    """
    from fewstep.distill.disk_use import DiskUse, checkpoints_gib, clips_gib, free_gib, student_gib, written_gib
    from fewstep.distill.run_folder import RunFolder

    checkpoints = [checkpoints_gib(plan, i, own.shares, num_processes) for i, own in enumerate(held)]
    use = DiskUse(
        clips_gib(plan, teacher, clips or {}, text_numbers or 0),
        max(checkpoints),  # a stage's go once it is finished
        sum(student_gib(plan, i, own.num_trained, own.num_adapters) for i, own in enumerate(held)),
    )
    free = free_gib(plan.out)
    typer.echo(f"{plan.out} takes up to {_parts(use)}{_left_out(clips, text_numbers)}; {free:.3g} are free", err=True)
    # what an earlier run has left there is part of it
    if use.total > free + written_gib(plan.out):
        screen.warn(
            f"{plan.out} takes up to {use.total:.3g} GiB, and {free:.3g} are free on its disk: make room there, or "
            f"{RunFolder(plan.out).elsewhere}"
        )


def _parts(use: DiskUse) -> str:
    return (
        f"{use.total:.3g} GiB of disk (clips {use.clips:.3g}, checkpoints {use.checkpoints:.3g}, students "
        f"{use.students:.3g})"
    )


def _left_out(clips: Mapping[VideoSize, int] | None, text_numbers: int | None) -> str:
    if clips is None:
        return ", without its clips, whose number is not known yet"
    return ", without the clips' texts, which could not be counted" if text_numbers is None else ""
