"""Which sizes of clips a run trains on, how many clips there are of each, and what is wrong with that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from fewstep.distill.data import SizeShare, captioned_videos, read_clips, shares_of
from fewstep.distill.data_recipe import DataRecipe
from fewstep.distill.recipe import Recipe
from fewstep.distill.settings import DatasetData, RolloutData, VideoData
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.dataset.buckets import datasets_in
from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.source import size_text
from fewstep.teacher.videos.shape import long_enough, seconds_of, video_shape


def clip_sizes(recipe: DataRecipe, teacher: Teacher) -> tuple[VideoSize, ...]:
    """The sizes of clips that a run makes for itself. Raises ValueError when neither recipe nor teacher states one."""
    usual = teacher.default_size()
    sizes = recipe.sizes or (() if usual is None else (usual,))
    if not sizes:
        raise ValueError("the teacher states no size of its own: set size.num_frames, size.height and size.width")
    return sizes


def planned_sizes(recipe: DataRecipe, teacher: Teacher) -> tuple[VideoSize, ...]:
    """The sizes of clips that a run trains on, of a dataset that is there or of one that it makes."""
    if isinstance(recipe.data, DatasetData):
        return read_clips(recipe.data.folder, teacher, recipe.sizes).sizes
    return clip_sizes(recipe, teacher)


def planned_fps(recipe: DataRecipe, teacher: Teacher) -> float:
    """Frames per second of those clips."""
    if isinstance(recipe.data, DatasetData):
        return read_clips(recipe.data.folder, teacher, recipe.sizes).fps
    return teacher.default_fps()


def planned_clips(recipe: Recipe, teacher: Teacher, out: Path) -> dict[VideoSize, int]:
    """How many clips of each size a run trains on; of those that it makes in `out`, at most this many."""
    sizes, settings = planned_sizes(recipe, teacher), recipe.data
    if isinstance(settings, DatasetData):
        rows = {manifest.size: manifest.rows for manifest in map(read_manifest, datasets_in(settings.folder))}
        return {size: rows.get(size, sum(rows.values())) for size in sizes}  # one that says no size has one
    return max_clips_by_size(settings, teacher, shares_of(settings, teacher, sizes, out), out)


def largest_size(teacher: Teacher, sizes: Sequence[VideoSize]) -> VideoSize:
    """The size whose latents have most numbers: what memory and time of training must be enough for."""
    return max(sizes, key=lambda size: math.prod(teacher.latent_shape(*size)))


def check_possible(teacher: Teacher, sizes: Sequence[VideoSize]) -> None:
    """Raises ValueError for a size that the teacher cannot make, and where sizes have schedules of their own."""
    for size in sizes:
        try:
            teacher.latent_shape(*size)
        except ValueError as error:
            raise ValueError(f"the size of clips is {tuple(size)}, frames, height and width: {error}") from error
    # one contract has one set of nodes, whatever the size of the clips
    shifts = [teacher.schedule_for(size).shift for size in sizes]
    if len(set(shifts)) > 1:
        listed = ", ".join(f"{shift:g} for {size_text(size)}" for size, shift in zip(sizes, shifts, strict=True))
        raise ValueError(
            f"the teacher's shift follows the size of the clips ({listed}), and a student has the same nodes at every "
            "size: set one `shift` for all of them, or name one size"
        )


def max_clips_by_size(
    settings: RolloutData | VideoData, teacher: Teacher, shares: Sequence[SizeShare], out: Path
) -> dict[VideoSize, int]:
    """How many clips of each size there will be at most; of videos, as headers and captions show."""
    if isinstance(settings, RolloutData):
        return {share.size: len(share.items) for share in shares}
    clips, captions = captioned_videos(settings, out, teacher.reads_text)
    fps = teacher.default_fps()

    def usable(path: Path, size: VideoSize) -> bool:
        shape = video_shape(path)
        return path in captions.texts and shape is not None and long_enough(shape, size, fps)

    return {share.size: sum(usable(clips[i], share.size) for i in share.items) for share in shares}


def check_long_enough(settings: VideoData, sizes: Sequence[VideoSize], fps: float, out: Path) -> None:
    """Raises ValueError when every video is too short for each of the sizes."""
    clips, _ = captioned_videos(settings, out)
    shapes = [shape for path in clips if (shape := video_shape(path)) is not None]
    shortest = min(sizes, key=lambda size: size.num_frames)
    if shapes and not any(long_enough(shape, shortest, fps) for shape in shapes):
        raise ValueError(
            f"none of the {len(shapes)} videos in {settings.folder} is longer than {seconds_of(shortest, fps):.2f} s, "
            f"as clips of the shortest size, {size_text(shortest)}, must be at {fps:g} frames per second: name shorter "
            "sizes, or a folder of longer videos"
        )


def check_batches(recipe: Recipe, clips: Mapping[VideoSize, int]) -> None:
    """Raises ValueError when there are fewer clips of a size than a batch takes. clips: how many there are of each."""
    stage = max(recipe.stages, key=lambda stage: stage.batch)
    for size, count in clips.items():
        if count < stage.batch:
            raise ValueError(
                f"the size {size_text(size)} gets {count or 'no'} clip{'s' * (count != 1)}, and stage {stage.name} "
                f"takes batches of {stage.batch} of one size: leave this size out, add data that fits it"
                f"{', or set a smaller `batch`' * (count > 0)}"
            )


def check_filled(recipe: Recipe, folder: Path) -> None:
    """`check_batches` of a dataset of several sizes, of those that are complete."""
    manifests = [read_manifest(dataset) for dataset in datasets_in(folder)]
    if len(manifests) > 1:
        complete = {m.size: m.rows for m in manifests if m.size is not None and m.complete}
        check_batches(recipe, complete)
