"""What a run's data would stumble over, found before the teacher is loaded."""

from __future__ import annotations

from pathlib import Path

from fewstep.distill.batches import Batches
from fewstep.distill.data import list_videos, plan_data, read_clips
from fewstep.distill.data_report import check_usable, too_few
from fewstep.distill.recipe import Recipe
from fewstep.distill.run_folder import RunFolder
from fewstep.distill.settings import DatasetData, RolloutData, VideoData
from fewstep.teacher.atomic import check_unlocked
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.caption_files import read_captions, read_prompts
from fewstep.teacher.dataset import begun_manifest
from fewstep.teacher.dataset_reader import check_dataset, check_shard
from fewstep.teacher.decode_video import SUFFIXES, UnreadableVideo, check_video
from fewstep.teacher.given import columns_of, files_of, given_names, sources_of
from fewstep.teacher.manifest import Manifest, read_manifest
from fewstep.teacher.outline import Outline

_HEADERS = 2000  # files of which a dry run opens the header: some seconds


def asked_size(recipe: Recipe) -> VideoSize | None:
    """The size of clips that the recipe states."""
    return None if recipe.size is None else VideoSize(recipe.size.num_frames, recipe.size.height, recipe.size.width)


def clip_size(recipe: Recipe, teacher: Teacher) -> VideoSize:
    """The size of clips that a run makes for itself. Raises ValueError when neither recipe nor teacher states one."""
    size = asked_size(recipe) or teacher.default_size()
    if size is None:
        raise ValueError("the teacher states no size of its own: set size.num_frames, size.height and size.width")
    return size


def check_source(recipe: Recipe, run: RunFolder) -> None:
    """Raises ValueError when prompts, videos, captions or a dataset that is there cannot be read."""
    settings = recipe.data
    if isinstance(settings, DatasetData):
        read_manifest(settings.folder)
        return
    if isinstance(settings, RolloutData):
        read_prompts(settings.prompts)
    else:
        if settings.folder.resolve() == run.path.resolve():
            raise ValueError(f"{settings.folder} is the folder of the videos and of the run: {run.elsewhere}")
        _check_videos(settings, run.data)
    check_unlocked(run.data, run.elsewhere)
    begun_manifest(run.data, run.elsewhere)


def check_data(recipe: Recipe, outline: Outline, run: RunFolder, size: VideoSize | None = None) -> VideoSize:
    """The size of the clips that will be trained on. Of a further base model it is said: the first's.

    Raises ValueError when the family cannot make it, and when a dataset that is there is damaged, unfinished, of
    another teacher or size, was begun from other items, or lost more clips than `data.min_usable` allows.
    """
    settings, teacher, asked = recipe.data, outline.teacher, asked_size(recipe)
    teacher.default_fps()
    _check_given(recipe, teacher, run.data)
    if isinstance(settings, DatasetData):
        size = read_clips(settings.folder, teacher, asked).size
        _check_finished(settings.folder, outline)
        check_usable(settings, settings.folder)
    else:
        size = size or clip_size(recipe, teacher)
        begun = begun_manifest(run.data, run.elsewhere)
        if begun is not None:
            name = (recipe.teacher, *recipe.bases)[run.base]
            plan, _, _ = plan_data(settings, teacher, name, size, run.data, like=begun)
            _check_resume(run, outline, plan, begun)
            if begun.complete:
                check_usable(settings, run.data)
    try:
        teacher.latent_shape(*size)
    except ValueError as error:
        raise ValueError(f"the size of clips is {tuple(size)}, frames, height and width: {error}") from error
    return size


def _check_given(recipe: Recipe, teacher: Teacher, made: Path) -> None:
    """Tells the teacher what its clips are made from. Raises ValueError for what it does not take or cannot do without,
    in the data and in the prompts of sample clips."""
    settings = recipe.data
    if isinstance(settings, DatasetData):
        teacher.take(tuple(read_manifest(settings.folder).given))
    elif isinstance(settings, RolloutData):
        teacher.take(given_names(read_prompts(settings.prompts)))
    else:
        teacher.check_encodes()
        sources_of(settings.given, teacher)
        if teacher.reads_text:
            _check_captions(settings, made)
    for prompt in recipe.logging.sampled:
        if missing := set(teacher.given) ^ set(files_of(prompt)):
            name = sorted(missing)[0]
            what = "lacks" if name in teacher.given else "comes with"
            raise ValueError(
                f"logging.prompts: {str(prompt)!r} {what} {name}, and clips of this run are made from prompts and "
                f"{' and '.join(teacher.given) or 'nothing else'}: write {{prompt: ..., given: {{{name}: FILE}}}}, or "
                "leave the prompts out"
            )


def check_foreseen(recipe: Recipe, run: RunFolder, reads_text: bool = True) -> str | None:
    """How many of a run's videos can be used at most, as captions, if any are read, and the headers of the first show.

    None where all can, and for data of other kinds or that is there already. Raises ValueError when they are a smaller
    fraction than `data.min_usable`.
    """
    settings, begun = recipe.data, begun_manifest(run.data, run.elsewhere)
    if not isinstance(settings, VideoData) or (begun is not None and begun.complete):
        return None
    files = list_videos(settings.folder, run.data)
    described = read_captions(files, settings.folder, settings.captions, columns_of(settings.given or {}))
    captions = described.for_teacher(reads_text, files).texts
    skipped = {
        path: reason for i, path in enumerate(files) if (reason := _foreseen(path, path in captions, i < _HEADERS))
    }
    if not skipped:
        return None
    first, usable = next(iter(skipped)), len(files) - len(skipped)
    name = first.relative_to(settings.folder)
    line = f"at most {usable} of {len(files)} clips usable, {len(skipped)} skipped (such as {name}: {skipped[first]})"
    if usable / len(files) < settings.min_usable:
        raise ValueError(too_few(line, settings.min_usable, usable / len(files), "mend the data"))
    return line


def _foreseen(path: Path, has_caption: bool, open_it: bool) -> str:
    """Why a file cannot become a clip; empty where nothing shows."""
    try:
        if open_it:
            check_video(path)
    except UnreadableVideo as error:
        return str(error)
    return "" if has_caption else "no caption"


def _check_videos(settings: VideoData, made: Path) -> None:
    files = list_videos(settings.folder, made)
    read_captions(files, settings.folder, settings.captions, columns_of(settings.given or {}))
    if not any(path.suffix.lower() in SUFFIXES for path in files):
        raise ValueError(
            f"{settings.folder} holds no videos: name a folder of {', '.join(sorted(SUFFIXES))} files with --set "
            "data.folder=DIR"
        )


def _check_captions(settings: VideoData, made: Path) -> None:
    files = list_videos(settings.folder, made)
    if not read_captions(files, settings.folder, settings.captions, columns_of(settings.given or {})).texts:
        where = f"in {settings.captions}" if settings.captions else "in a .txt file beside it"
        raise ValueError(f"none of the {len(files)} files in {settings.folder} has a caption {where}: write them first")


def _check_finished(folder: Path, outline: Outline) -> None:
    if outline.whole:
        Batches(folder, outline.teacher, seed=0, stage=0)
    else:  # which weights it is of shows once they are downloaded
        manifest = read_manifest(folder)
        check_dataset(folder, manifest, manifest.teacher_sha256)


def _check_resume(run: RunFolder, outline: Outline, plan: Manifest, begun: Manifest) -> None:
    """Whether the dataset that was begun can be continued, or is whole."""
    if not outline.whole:
        plan = plan.model_copy(update={"teacher_sha256": begun.teacher_sha256})
    plan.continues(begun, run.data, run.elsewhere)
    for shard in (*begun.shards, *([begun.unconditional] if begun.unconditional else [])):
        if (run.data / shard.name).is_file():  # one that is missing is made again
            check_shard(run.data, shard)
    if begun.complete and not begun.rows:
        check_dataset(run.data, begun, begun.teacher_sha256)
