"""The clips of a run: a dataset that is there, or one made from videos or the teacher's rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fewstep.distill.settings import DatasetData, RolloutData, VideoData
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.dataset.buckets import begin_buckets, best_size, datasets_in, deal_sizes, folder_of
from fewstep.teacher.dataset.caption_files import Captions, read_captions, read_prompts
from fewstep.teacher.dataset.manifest import MANIFEST_FILE, Manifest, Skip, read_manifest
from fewstep.teacher.dataset.plan import plan_dataset, unconditional_row
from fewstep.teacher.dataset.sources import Rollouts, VideoSource, list_files, video_item
from fewstep.teacher.dataset.writing import Source, write_dataset
from fewstep.teacher.given import (
    FROM_FILES,
    columns_of,
    frames_of_clips,
    given_names,
    identity_of,
    sources_of,
)
from fewstep.teacher.ranks import ALONE, Ranks
from fewstep.teacher.source import Sizes, as_sizes
from fewstep.teacher.videos.decoding import ClipShape
from fewstep.teacher.videos.shape import video_shape

_ROWS_PER_SHARD = 64
DatasetPlan = tuple[Manifest, Source, list[Skip]]  # the last: entries of captions that describe no video


@dataclass(frozen=True)
class TrainingClips:
    """A dataset, and what a student that learned from it is sampled with."""

    folder: Path
    sizes: tuple[VideoSize, ...]  # the first is the usual one
    fps: float
    negative_prompt: str
    given: tuple[str, ...] = ()  # what they are made from besides prompts
    of_bases: tuple[tuple[Path, str], ...] = ()  # the datasets of further base models, and their teachers' sha256

    @property
    def size(self) -> VideoSize:
        """The usual size."""
        return self.sizes[0]


def read_clips(folder: Path, teacher: Teacher, requested: Sizes = ()) -> TrainingClips:
    """What a dataset's manifests say of its clips, the teacher's own size and rate where they say nothing.

    Raises ValueError when it is of other sizes than asked for, if any are, or no size is known.
    """
    wanted, manifests = as_sizes(requested), [read_manifest(dataset) for dataset in datasets_in(folder)]
    stored = tuple(size for manifest in manifests if (size := manifest.size) is not None)
    if stored and wanted and set(stored) != set(wanted):
        raise ValueError(
            f"{folder} has clips of {_tuples(stored)} frames, height and width, not {_tuples(wanted)}: leave "
            f"`size` out "
            f"of the recipe, or name a dataset of {'that size' if len(wanted) == 1 else 'these sizes'}"
        )
    # the recipe's word comes first, then the dataset's, then the teacher's
    usual = teacher.default_size()
    sizes = wanted or stored or (() if usual is None else (usual,))
    if not sizes:
        raise ValueError(f"neither {folder} nor the teacher states a size of clips: set size in the recipe")
    for manifest in manifests:
        teacher.check_fps(manifest.fps, str(folder))
    first = manifests[0]
    fps, given = first.fps or teacher.default_fps(), tuple(first.given)
    return TrainingClips(folder, sizes, fps, first.negative_prompt, given)


def read_clips_of_bases(
    first: Path, others: Sequence[Path], teacher: Teacher, bases: Sequence[Teacher], requested: Sizes = ()
) -> TrainingClips:
    """`read_clips` of the teacher's own dataset and of those of further base models, `bases` in the same order.

    Raises ValueError when they are of other sizes or rates.
    """
    own = read_clips(first, teacher, requested)
    of_bases = []
    for folder, base in zip(others, bases, strict=True):
        clips = read_clips(folder, teacher, requested)
        if replace(clips, folder=first) != own:
            raise ValueError(f"{folder} and {first} have clips of different sizes, rates or prompts: make them again")
        of_bases.append((folder, base.sha256()))
    return replace(own, of_bases=tuple(of_bases))


def _tuples(sizes: Sequence[VideoSize]) -> str:
    return " and ".join(str(tuple(size)) for size in sizes)


@dataclass(frozen=True)
class SizeShare:
    """The clips of one size: where their dataset goes, and which of all samples or files they are made from."""

    size: VideoSize
    folder: Path
    items: Sequence[int]


def shares_of(settings: RolloutData | VideoData, teacher: Teacher, sizes: Sizes, out: Path) -> list[SizeShare]:
    """Which data become clips of which size. With several sizes all videos are opened.

    Raises ValueError for prompts that cannot be read, and a folder without videos.
    """
    wanted = as_sizes(sizes)
    if isinstance(settings, RolloutData):
        # samples fit any size, so sizes are dealt out evenly; a video goes where it fits best
        count = len(read_prompts(settings.prompts)) * settings.count
        chosen = deal_sizes(count, len(wanted), settings.seed)
    else:
        files, _ = captioned_videos(settings, out, teacher.reads_text)
        fps = teacher.default_fps()
        single = len(wanted) == 1
        chosen = [0 if single else best_size(video_shape(path), wanted, fps) for path in files]
    return [
        SizeShare(size, folder_of(out, size, wanted), [i for i, other in enumerate(chosen) if other == index])
        for index, size in enumerate(wanted)
    ]


def make_data(
    settings: RolloutData | VideoData | DatasetData,
    teacher: Teacher,
    name: str,
    sizes: Sizes,
    out: Path,
    on_clip: Callable[[int, int], None],
    elsewhere: str = "choose another folder",
    ranks: Ranks = ALONE,
) -> Path:
    """The dataset's folder: `out`, unless it is there already; a killed run resumes where it stopped.

    name: the teacher's, for the manifest. sizes: one, or several for a dataset of each. on_clip is called with the
    clips done and those planned, in the first of all `ranks`, which make it together. elsewhere says how another folder
    is chosen. Raises ValueError for prompts, videos or captions that cannot be read.
    """
    if isinstance(settings, DatasetData):
        return settings.folder
    shares = shares_of(settings, teacher, sizes, out)
    if ranks.first:
        begin_buckets(out, [share.size for share in shares], elsewhere)
    # progress begins with what an earlier run made
    done = sum(read_manifest(s.folder).num_done for s in shares if (s.folder / MANIFEST_FILE).exists())
    planned = sum(len(share.items) for share in shares)

    def advance() -> None:
        nonlocal done
        done += 1
        on_clip(done, planned)

    # one dataset for each size, made in turn; finished shards of an earlier run stay
    for share in shares:
        plan, source, left_out = plan_data(settings, teacher, name, share, out)
        unconditional = unconditional_row(teacher, settings.negative_prompt, share.size)
        strays = left_out if share is shares[0] else ()  # they are of no size: said once
        write_dataset(share.folder, plan, unconditional, source, advance, strays, elsewhere, ranks)
    return out


def list_videos(folder: Path, made: Path) -> list[Path]:
    """Every file below `folder` that is meant to be a video, without what the run around the dataset `made` wrote.

    Raises ValueError when there is no such folder, or nothing in it.
    """
    run = made.parent
    inside = folder.resolve().is_relative_to(run.resolve())
    return list_files(folder, made if inside else run)


def captioned_videos(settings: VideoData, out: Path, reads_text: bool = True) -> tuple[list[Path], Captions]:
    """The clips below the folder of the videos, and their captions, empty ones where no text is read.

    `out` is where the run's own dataset goes. What the captions give with a clip, such as its control video, is no
    clip. Raises ValueError for a folder without videos, and for captions that cannot be read.
    """
    files = list_videos(settings.folder, out)
    captions = read_captions(files, settings.folder, settings.captions, columns_of(settings.given or {}))
    clips = captions.clips_among(files)
    return clips, captions.for_teacher(reads_text, clips)


def plan_data(
    settings: RolloutData | VideoData,
    teacher: Teacher,
    name: str,
    share: SizeShare,
    out: Path,
    like: Manifest | None = None,
) -> DatasetPlan:
    """The manifest of the dataset of a share of the data, and what makes its rows; `out`: where all of them lie.

    `like` is a manifest that was begun there: with it an outline of the teacher will do, see `plan_dataset`. Raises
    ValueError for prompts, videos or captions that cannot be read, and for a size that the teacher cannot make.
    """
    teacher.use_size(share.size)
    if isinstance(settings, RolloutData):
        return _rollouts(settings, teacher, name, share, like)
    return _videos(settings, teacher, name, share, out, like)


def _rollouts(
    settings: RolloutData, teacher: Teacher, name: str, share: SizeShare, like: Manifest | None
) -> DatasetPlan:
    prompts = read_prompts(settings.prompts)
    teacher.take(given_names(prompts))
    shape, identities = teacher.latent_shape(*share.size), [identity_of(prompt) for prompt in prompts]
    # all that decides a sample is in the manifest, so that a recipe that changed is noticed
    plan = plan_dataset(
        "rollouts",
        teacher,
        name,
        [identities[i % len(prompts)] for i in share.items],
        latent_shape=shape,
        like=like,
        steps=settings.steps,
        guidance=settings.guidance,
        negative_prompt=settings.negative_prompt,
        seed=settings.seed,
        source=str(settings.prompts),
        rows_per_shard=_ROWS_PER_SHARD,
        given=dict.fromkeys(teacher.given, FROM_FILES),
        **share.size._asdict(),
    )
    source = Rollouts(
        teacher, prompts, shape, settings.steps, settings.guidance, settings.seed, settings.negative_prompt,
        batch_size=settings.batch, size=share.size, picked=share.items,
    )  # fmt: skip
    return plan, source, []


def _videos(
    settings: VideoData, teacher: Teacher, name: str, share: SizeShare, out: Path, like: Manifest | None
) -> DatasetPlan:
    given = sources_of(settings.given, teacher)
    clips, captions = captioned_videos(settings, out, teacher.reads_text)
    clip = ClipShape(*share.size, fps=teacher.default_fps())
    files = [clips[i] for i in share.items]
    plan = plan_dataset(
        "videos",
        teacher,
        name,
        [video_item(path, settings.folder, captions.texts.get(path)) for path in files],
        latent_shape=teacher.latent_shape(*share.size),
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
    source = VideoSource(teacher, settings.folder, files, captions.texts, clip, batch_size=settings.batch, given=own)
    return plan, source, [stray.skip() for stray in captions.strays]
