"""The clips of a model, made by all processes of an evaluation batch by batch, and measured as they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fewstep.eval.clip_store import ClipStore
from fewstep.eval.metrics.clips import Clips, Metric
from fewstep.eval.metrics.shapes import Progress
from fewstep.eval.models import Model
from fewstep.student.sampler import Sampler
from fewstep.teacher.files.shared_folder import wait_until_seen
from fewstep.teacher.ranks import ALONE, Ranks
from fewstep.teacher.videos.writing import to_uint8, write_video

_LATENTS = "latents"


@dataclass(frozen=True)
class Sample:
    """Clips that are made alike by every model: of each prompt `seeds`, each from noise of its own."""

    name: str
    prompts: Sequence[str]  # a row each
    first_seed: int
    seeds: int = 1

    def batch(self, rows: range) -> tuple[list[str], list[int]]:
        """Prompts and noise seeds of these rows' clips, those of a row next to each other."""
        clips = range(rows.start * self.seeds, rows.stop * self.seeds)
        return [self.prompts[i // self.seeds] for i in clips], [self.first_seed + i for i in clips]


@dataclass(frozen=True)
class SampleSettings:
    """What an evaluation samples."""

    main: Sample
    diverse: Sample  # several clips of each of some prompts
    other: Sample  # the main prompts from other noise, of the teacher only: what distances to it are taken to


@dataclass(frozen=True)
class ClipWork:
    """Clips of a model that are made and measured where something of them is missing."""

    model: Model
    sampler: Sampler
    sample: Sample
    metrics: Sequence[Metric]
    kept: frozenset[str]  # what is to be there of each clip
    files: Sequence[Path]  # of the clips, a row each; none where they are not kept
    batches: Sequence[range]


@dataclass(frozen=True)
class ClipMaker:
    """OUT/videos/NAME/00000.mp4 and so on of the main sample, and in OUT/parts/NAME the numbers of each clip.

    The teacher comes first: its latents are kept as well, for students are compared with what it made of their noise.
    """

    out: Path
    main: Sample
    batch: int
    fps: float
    model: Model  # the teacher
    teacher: Sampler
    ranks: Ranks = ALONE

    def store(self, name: str, sample: Sample) -> ClipStore:
        """What is there of a model's clips."""
        return ClipStore(self.out / "parts" / name / sample.name)

    def work(self, model: Model, sampler: Sampler, sample: Sample, metrics: Sequence[Metric]) -> ClipWork:
        """What is to be made, the same for all processes; batches that are there stay as they are."""
        main, rows = sample is self.main, len(sample.prompts)
        # the teacher's latents are kept, as students are compared with its clips from the same noise
        keeps_latents = main and sampler is self.teacher
        kept = frozenset([*(metric.name for metric in metrics), *([_LATENTS] if keeps_latents else [])])
        files = [self.out / "videos" / model.name / f"{row:05d}.mp4" for row in range(rows)] if main else []

        def batches() -> list[tuple[int, int]]:
            missing = self.store(model.name, sample).batches(rows, max(1, self.batch // sample.seeds))
            return [(batch.start, batch.stop) for batch in missing] if kept or main else []

        # the first process says what is missing, so that all deal out the same batches
        agreed = [range(*batch) for batch in self.ranks.from_first(batches)]
        return ClipWork(model, sampler, sample, metrics, kept, files, agreed)

    @torch.no_grad()
    def make(self, work: ClipWork, progress: Progress) -> None:
        """Makes what is missing, and returns once all processes have."""
        what, total, done = f"{work.model.name}, {work.sample.name}", len(work.sample.prompts), self.ranks.tally()
        store = self.store(work.model.name, work.sample)
        # batch by batch, each by whichever process is free
        for rows in self.ranks.deal(work.batches):
            if not _is_there(work, store, rows):
                self._make(work, store, rows)
            progress(what, done.add(len(rows)), total)
        self.ranks.wait(lambda: progress(what, done.add(), total))

        # on a shared disk, files of another process may show later than it says that they are there
        def is_seen() -> bool:
            there = self.store(work.model.name, work.sample)
            return all(_is_there(work, there, rows) for rows in work.batches)

        wait_until_seen(is_seen, self.out, self.ranks)

    def _make(self, work: ClipWork, store: ClipStore, rows: range) -> None:
        # numbers of an earlier evaluation stay; metrics that joined in since are measured of the same clips
        missing = [metric for metric in work.metrics if metric.name not in store.names(rows)]
        clips = self._clips(work, store, rows, any(metric.paired for metric in missing))
        _write(work.files[rows.start : rows.stop], clips, self.fps)
        latents = {_LATENTS: clips.latents} if _LATENTS in work.kept else {}
        store.add(rows, latents | {metric.name: metric.measure(clips) for metric in missing})

    def _clips(self, work: ClipWork, store: ClipStore, rows: range, paired: bool) -> Clips:
        sampler, (prompts, seeds) = work.sampler, work.sample.batch(rows)
        # what was sampled before is only decoded again
        if _LATENTS in store.names(rows):
            latents = store.read(_LATENTS, rows).to(sampler.teacher.device)
        else:
            latents = sampler.sample(sampler.noise(seeds), sampler.conditions(prompts, seeds))
        teacher = None
        # paired metrics compare with the teacher's clip from the same noise
        if paired:
            kept = self.store(self.model.name, work.sample).read(_LATENTS, rows).to(latents.device)
            teacher = Clips.of(self.teacher.decode(kept), kept, prompts)
        return Clips.of(sampler.decode(latents), latents, prompts, teacher)


def _is_there(work: ClipWork, store: ClipStore, rows: range) -> bool:
    """Whether nothing is missing of these rows' clips."""
    return work.kept <= store.names(rows) and all(file.exists() for file in work.files[rows.start : rows.stop])


def _write(files: Sequence[Path], clips: Clips, fps: float) -> None:
    for file, video in zip(files, clips.videos if files else (), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_video(file, to_uint8(video), fps)
