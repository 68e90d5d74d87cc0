"""What a run's data would stumble over, found before the teacher is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewstep.distill.batches import Batches
from fewstep.distill.data import captioned_videos, plan_data, shares_of
from fewstep.distill.data_recipe import DataRecipe
from fewstep.distill.data_report import check_usable, too_few
from fewstep.distill.recipe import Recipe
from fewstep.distill.run_folder import RunFolder
from fewstep.distill.settings import DatasetData, RolloutData, VideoData
from fewstep.distill.size_checks import (
    check_batches,
    check_filled,
    check_long_enough,
    check_possible,
    clip_sizes,
    max_clips_by_size,
    planned_fps,
    planned_sizes,
)
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.dataset.buckets import check_buckets, datasets_in, folder_of
from fewstep.teacher.dataset.caption_files import read_prompts
from fewstep.teacher.dataset.manifest import Manifest, read_manifest
from fewstep.teacher.dataset.reader import check_dataset, check_shard
from fewstep.teacher.dataset.writing import existing_manifest
from fewstep.teacher.files.atomic import check_unlocked
from fewstep.teacher.given import check_given, files_of, frames_of_clips, given_error, given_names, sources_of
from fewstep.teacher.outline import Outline
from fewstep.teacher.videos.decoding import SUFFIXES, UnreadableVideo, check_video
from fewstep.teacher.videos.shape import seconds_of, too_short, video_shape

_HEADERS = 2000  # files of which a dry run opens the header: some seconds


def check_source(recipe: DataRecipe, run: RunFolder) -> None:
    """Raises ValueError when prompts, videos, captions or a dataset that is there cannot be read."""
    settings = recipe.data
    if isinstance(settings, DatasetData):
        for dataset in datasets_in(settings.folder):
            read_manifest(dataset)
        return
    if isinstance(settings, RolloutData):
        read_prompts(settings.prompts)
    else:
        if settings.folder.resolve() == run.path.resolve():
            raise ValueError(f"{settings.folder} is the folder of the videos and of the run: {run.elsewhere}")
        _check_videos(settings, run.data)
    # the run's own dataset, where one was begun: no other process may be writing it
    for dataset in datasets_in(run.data):
        check_unlocked(dataset, run.elsewhere)
        existing_manifest(dataset, run.elsewhere)


def check_data(
    recipe: Recipe, outline: Outline, run: RunFolder, sizes: Sequence[VideoSize] = ()
) -> tuple[VideoSize, ...]:
    """The sizes of the clips that will be trained on. Of a further base model they are said: the first's.

    Raises ValueError when the family cannot make one of them, or not all with one schedule, when there are too few
    clips of one, and when a dataset that is there is damaged, unfinished, of another teacher or size, was begun from
    other items, or lost more clips than `data.min_usable` allows.
    """
    settings, teacher = recipe.data, outline.teacher
    teacher.default_fps()
    # first, as the sizes of given images and videos follow from what is given
    _check_given(recipe, teacher, run.data)
    planned = tuple(sizes) or planned_sizes(recipe, teacher)
    check_possible(teacher, planned)
    check_given(recipe.logging.sampled, teacher.given_sizes(planned[0]), planned_fps(recipe, teacher))
    if isinstance(settings, DatasetData):
        _check_finished(settings.folder, outline)
        check_usable(settings, settings.folder)
        check_filled(recipe, settings.folder)
    else:
        _check_own(recipe, settings, outline, run, planned)
    return planned


def _check_own(
    recipe: Recipe, settings: RolloutData | VideoData, outline: Outline, run: RunFolder, sizes: Sequence[VideoSize]
) -> None:
    """What a run makes for itself, begun or not."""
    check_buckets(run.data, sizes, run.elsewhere)
    begun_in = {size: existing_manifest(folder_of(run.data, size, sizes), run.elsewhere) for size in sizes}
    complete = all(begun is not None and begun.complete for begun in begun_in.values())
    if isinstance(settings, RolloutData) and not complete:  # later none of these files is read again
        prompts = read_prompts(settings.prompts)
        for size in sizes:
            check_given(prompts, outline.teacher.given_sizes(size), outline.teacher.default_fps())
    # nothing was begun, and with one size no file has to be opened to know where its clip goes
    if len(sizes) == 1 and begun_in[sizes[0]] is None:
        return
    shares = shares_of(settings, outline.teacher, sizes, run.data)
    if len(sizes) > 1:
        if isinstance(settings, VideoData):
            check_long_enough(settings, sizes, outline.teacher.default_fps(), run.data)
        check_batches(recipe, max_clips_by_size(settings, outline.teacher, shares, run.data))
    name = (recipe.teacher, *recipe.bases)[run.base]
    # what was begun must be of the same items, in whole shards, or a resume would mix two datasets
    for share in shares:
        if (begun := begun_in[share.size]) is not None:
            plan, _, _ = plan_data(settings, outline.teacher, name, share, run.data, like=begun)
            _check_resume(share.folder, run.elsewhere, outline, plan, begun)
    if complete:
        check_usable(settings, run.data)
        check_filled(recipe, run.data)


def _check_given(recipe: Recipe, teacher: Teacher, made: Path) -> None:
    """Tells the teacher what its clips are made from. Raises ValueError for what it does not take or cannot do without,
    in the data and in the prompts of sample clips."""
    settings = recipe.data
    if isinstance(settings, DatasetData):
        teacher.take(tuple(read_manifest(datasets_in(settings.folder)[0]).given))
    elif isinstance(settings, RolloutData):
        teacher.take(given_names(read_prompts(settings.prompts)))
    else:
        teacher.check_encodes()
        sources_of(settings.given, teacher)
        if teacher.reads_text:
            _check_captions(settings, made)
    # sample clips come with what training clips come with, neither more nor less
    for prompt in recipe.logging.sampled:
        if missing := set(teacher.given) ^ set(files_of(prompt)):
            name = sorted(missing)[0]
            what = "lacks" if name in teacher.given else "comes with"
            raise ValueError(
                f"logging.prompts: {str(prompt)!r} {what} {name}, and clips of this run are made from prompts and "
                f"{' and '.join(teacher.given) or 'nothing else'}: write {{prompt: ..., given: {{{name}: FILE}}}}, or "
                "leave the prompts out"
            )


def check_clip_counts(recipe: DataRecipe, run: RunFolder, teacher: Teacher) -> str | None:
    """How many of a run's videos can be used at most, as captions, if any are read, and the headers of the first show.

    Of several sizes all are opened, and it shows which are too short for each of them. None where all can, and for data
    of other kinds or that is there already. Raises ValueError when they are a smaller fraction than `data.min_usable`.
    """
    settings, begun = recipe.data, [existing_manifest(folder, run.elsewhere) for folder in datasets_in(run.data)]
    if not isinstance(settings, VideoData) or all(manifest is not None and manifest.complete for manifest in begun):
        return None
    files, captions = captioned_videos(settings, run.data, teacher.reads_text)
    fps = teacher.default_fps()
    # the shortest clip of any size decides: a file that is too short for all of them is skipped
    least = min((seconds_of(size, fps) for size in recipe.sizes[1:] and recipe.sizes), default=0.0)
    of_clips = frames_of_clips(sources_of(settings.given, teacher))
    given = {n: size for n, size in teacher.given_sizes(clip_sizes(recipe, teacher)[0]).items() if n not in of_clips}
    skipped = {
        path: reason
        for i, path in enumerate(files)
        if (reason := _why_unusable(path, path in captions.texts, i < _HEADERS, least))
        or (i < _HEADERS and (reason := given_error(captions.texts[path], given, fps)))
    }
    if not skipped:
        return None
    first, usable = next(iter(skipped)), len(files) - len(skipped)
    name = first.relative_to(settings.folder)
    line = f"at most {usable} of {len(files)} clips usable, {len(skipped)} skipped (such as {name}: {skipped[first]})"
    if usable / len(files) < settings.min_usable:
        raise ValueError(too_few(line, settings.min_usable, usable / len(files), "fix the data"))
    return line


def _why_unusable(path: Path, has_caption: bool, open_it: bool, least: float) -> str:
    """Why a file cannot become a clip; empty where nothing shows. least: seconds that it must be longer than, 0 where
    that shows once it is decoded."""
    try:
        if open_it:
            check_video(path)
    except UnreadableVideo as error:
        return str(error)
    shape = video_shape(path) if least else None
    if shape is not None and shape.seconds <= least:
        return too_short(shape, least)
    return "" if has_caption else "no caption"


def _check_videos(settings: VideoData, made: Path) -> None:
    files, _ = captioned_videos(settings, made)
    if not any(path.suffix.lower() in SUFFIXES for path in files):
        raise ValueError(
            f"{settings.folder} holds no videos: name a folder of {', '.join(sorted(SUFFIXES))} files with --set "
            "data.folder=DIR"
        )


def _check_captions(settings: VideoData, made: Path) -> None:
    files, captions = captioned_videos(settings, made)
    if not captions.texts:
        where = f"in {settings.captions}" if settings.captions else "in a .txt file next to it"
        raise ValueError(f"none of the {len(files)} files in {settings.folder} has a caption {where}: write them first")


def _check_finished(folder: Path, outline: Outline) -> None:
    if outline.whole:
        Batches(folder, outline.teacher, seed=0, stage=0)
        return
    for dataset in datasets_in(folder):  # which weights they are of shows once they are downloaded
        manifest = read_manifest(dataset)
        check_dataset(dataset, manifest, manifest.teacher_sha256)


def _check_resume(folder: Path, elsewhere: str, outline: Outline, plan: Manifest, begun: Manifest) -> None:
    """Whether the dataset that was begun can be continued, or is whole."""
    if not outline.whole:
        plan = plan.model_copy(update={"teacher_sha256": begun.teacher_sha256})
    # where weights are not on this disk yet, all but their hash is compared
    plan.continues(begun, folder, elsewhere)
    for shard in (*begun.shards, *([begun.unconditional] if begun.unconditional else [])):
        if (folder / shard.name).is_file():  # one that is missing is made again
            check_shard(folder, shard)
    if begun.complete and not begun.rows:
        check_dataset(folder, begun, begun.teacher_sha256)
