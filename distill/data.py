"""The clips of a run: a dataset that is there, or one made from videos or the teacher's rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fewstep.distill.settings import DatasetData, RolloutData, VideoData
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.caption_files import read_captions, read_prompts
from fewstep.teacher.dataset import Source, write_dataset
from fewstep.teacher.dataset_plan import plan_dataset, unconditional_row
from fewstep.teacher.dataset_sources import Rollouts, Videos, list_files
from fewstep.teacher.decode_video import ClipShape
from fewstep.teacher.given import (
    FILES,
    columns_of,
    frames_of_clips,
    given_identity,
    given_names,
    identity_of,
    sources_of,
)
from fewstep.teacher.manifest import FILE_NAME, Manifest, Skip, read_manifest

_ROWS_PER_SHARD = 64
Plan = tuple[Manifest, Source, list[Skip]]  # the last: entries of captions that describe no video


@dataclass(frozen=True)
class Clips:
    """A dataset, and what a student that learned from it is sampled with."""

    folder: Path
    size: VideoSize
    fps: float
    negative_prompt: str
    given: tuple[str, ...] = ()  # what they are made from besides prompts
    of_bases: tuple[tuple[Path, str], ...] = ()  # the datasets of further base models, and their teachers' sha256


def read_clips(folder: Path, teacher: Teacher, asked: VideoSize | None = None) -> Clips:
    """What a dataset's manifest says of its clips, the teacher's own size and rate where it says nothing.

    Raises ValueError when it is of another size than asked for, or no size is known.
    """
    manifest, said = read_manifest(folder), None
    if manifest.num_frames and manifest.height and manifest.width:
        said = VideoSize(manifest.num_frames, manifest.height, manifest.width)
    if said and asked and said != asked:
        raise ValueError(
            f"{folder} has clips of {tuple(said)} frames, height and width, not {tuple(asked)}: leave `size` out of "
            "the recipe, or name a dataset of that size"
        )
    size = said or asked or teacher.default_size()
    if size is None:
        raise ValueError(f"neither {folder} nor the teacher states a size of clips: set size in the recipe")
    teacher.check_fps(manifest.fps, str(folder))
    fps, given = manifest.fps or teacher.default_fps(), tuple(manifest.given)
    return Clips(folder, size, fps, manifest.negative_prompt, given)


def read_clips_of_bases(
    first: Path, others: Sequence[Path], teacher: Teacher, bases: Sequence[Teacher], asked: VideoSize | None = None
) -> Clips:
    """`read_clips` of the teacher's own dataset and of those of further base models, `bases` in the same order.

    Raises ValueError when they are of other sizes or rates.
    """
    own = read_clips(first, teacher, asked)
    of_bases = []
    for folder, base in zip(others, bases, strict=True):
        found = read_clips(folder, teacher, asked)
        if replace(found, folder=first) != own:
            raise ValueError(f"{folder} and {first} have clips of different sizes, rates or prompts: make them again")
        of_bases.append((folder, base.sha256()))
    return replace(own, of_bases=tuple(of_bases))


def make_data(
    settings: RolloutData | VideoData | DatasetData,
    teacher: Teacher,
    name: str,
    size: VideoSize,
    out: Path,
    on_clip: Callable[[int, int], None],
    elsewhere: str = "choose another folder",
) -> Path:
    """The dataset's folder: `out`, unless it is there already; a killed run goes on where it stopped.

    name: the teacher's, for the manifest. on_clip is called with the clips done and those planned. elsewhere says how
    another folder is chosen. Raises ValueError for prompts, videos or captions that cannot be read.
    """
    if isinstance(settings, DatasetData):
        return settings.folder
    plan, source, left_out = plan_data(settings, teacher, name, size, out)
    unconditional = unconditional_row(teacher, settings.negative_prompt, size)
    done = read_manifest(out).num_done if (out / FILE_NAME).exists() else 0

    def advance() -> None:
        nonlocal done
        done += 1
        on_clip(done, plan.items)

    write_dataset(out, plan, unconditional, source, advance, left_out, elsewhere)
    return out


def list_videos(folder: Path, made: Path) -> list[Path]:
    """Every file below `folder` that is meant to be a video, without what the run around the dataset `made` wrote.

    Raises ValueError when there is no such folder, or nothing in it.
    """
    run = made.parent
    inside = folder.resolve().is_relative_to(run.resolve())
    return list_files(folder, made if inside else run)


def plan_data(
    settings: RolloutData | VideoData,
    teacher: Teacher,
    name: str,
    size: VideoSize,
    out: Path,
    like: Manifest | None = None,
) -> Plan:
    """The manifest of the dataset in `out`, and what makes its rows.

    `like` is a manifest that was begun there: with it an outline of the teacher will do, see `plan_dataset`. Raises
    ValueError for prompts, videos or captions that cannot be read, and for a size that the teacher cannot make.
    """
    teacher.use_size(size)
    if isinstance(settings, RolloutData):
        return _rollouts(settings, teacher, name, size, like)
    return _videos(settings, teacher, name, size, out, like)


def _rollouts(settings: RolloutData, teacher: Teacher, name: str, size: VideoSize, like: Manifest | None) -> Plan:
    prompts = read_prompts(settings.prompts)
    teacher.take(given_names(prompts))
    shape = teacher.latent_shape(*size)
    plan = plan_dataset(
        "rollouts",
        teacher,
        name,
        [identity_of(prompt) for prompt in prompts] * settings.count,
        latent_shape=shape,
        like=like,
        steps=settings.steps,
        guidance=settings.guidance,
        negative_prompt=settings.negative_prompt,
        seed=settings.seed,
        source=str(settings.prompts),
        rows_per_shard=_ROWS_PER_SHARD,
        given=dict.fromkeys(teacher.given, FILES),
        **size._asdict(),
    )
    source = Rollouts(
        teacher, prompts, shape, settings.steps, settings.guidance, settings.seed, settings.negative_prompt,
        batch_size=settings.batch, size=size,
    )  # fmt: skip
    return plan, source, []


def _videos(
    settings: VideoData, teacher: Teacher, name: str, size: VideoSize, out: Path, like: Manifest | None
) -> Plan:
    files = list_videos(settings.folder, out)
    given = sources_of(settings.given, teacher)
    captions = read_captions(files, settings.folder, settings.captions, columns_of(given))
    captions = captions.for_teacher(teacher.reads_text, files)
    clip = ClipShape(*size, fps=teacher.default_fps())
    relative = [path.relative_to(settings.folder).as_posix() for path in files]
    plan = plan_dataset(
        "videos",
        teacher,
        name,
        [
            (at, path.lstat().st_size, captions.texts.get(path), *given_identity(captions.texts.get(path)))
            for at, path in zip(relative, files, strict=True)
        ],
        latent_shape=teacher.latent_shape(*size),
        like=like,
        negative_prompt=settings.negative_prompt,
        source=str(settings.folder),
        rows_per_shard=_ROWS_PER_SHARD,
        start="centre",
        unmatched=captions.unmatched,
        given=given,
        **asdict(clip),
    )
    own = frames_of_clips(given)
    source = Videos(teacher, settings.folder, files, captions.texts, clip, batch_size=settings.batch, given=own)
    return plan, source, [stray.skip() for stray in captions.strays]
