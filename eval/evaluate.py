"""Models side by side: the same prompts, the same noise; every clip goes to disk and into the metrics as it is made."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewstep.eval.alarms import alarms
from fewstep.eval.clip_store import ClipStore
from fewstep.eval.evaluation_file import EvaluationFile, Row
from fewstep.eval.metrics.clips import Clips, Figures, Metric
from fewstep.eval.metrics.distance import Distance
from fewstep.eval.metrics.shapes import Progress
from fewstep.eval.models import Model, claim, decoder_said, links_said
from fewstep.student.sampler import Sampler
from fewstep.teacher.base import Teacher
from fewstep.teacher.video import to_uint8, write_video

_LATENTS = "latents"


@dataclass(frozen=True)
class Sample:
    """Clips that are made alike by every model: of each prompt `seeds`, each from noise of its own."""

    name: str
    prompts: Sequence[str]  # a row each
    first_seed: int
    seeds: int = 1

    def batch(self, rows: range) -> tuple[list[str], list[int]]:
        """Prompts and noise seeds of these rows' clips, those of a row beside each other."""
        clips = range(rows.start * self.seeds, rows.stop * self.seeds)
        return [self.prompts[i // self.seeds] for i in clips], [self.first_seed + i for i in clips]


@dataclass(frozen=True)
class Samples:
    """What an evaluation samples."""

    main: Sample
    diverse: Sample  # several clips of each of some prompts
    other: Sample  # the main prompts from other noise, of the teacher only: what distances to it are taken to


class Evaluation:
    """Measures models one after another. What is on disk is not made again, so a killed evaluation goes on.

    OUT/results.json, OUT/videos/NAME/00000.mp4 and so on, and in OUT/parts/NAME the numbers of each clip. The teacher
    must be measured first; its latents are kept as well, for students are compared with what it made of their noise.
    """

    def __init__(
        self,
        out: Path,
        file: EvaluationFile,
        samples: Samples,
        metrics: Sequence[Metric],
        batch: int,
        teacher: tuple[Model, Sampler],
    ) -> None:
        self._out, self._file, self._samples, self._metrics, self._batch = out, file, samples, metrics, batch
        self._model, self._teacher = teacher
        self._floors: dict[str, float] = {}

    @property
    def rows(self) -> list[Row]:
        """All rows that the folder holds."""
        return self._file.rows

    @property
    def prompts(self) -> Sequence[str]:
        """One for each clip."""
        return self._samples.main.prompts

    @torch.no_grad()
    def measure(self, model: Model, sampler: Sampler, progress: Progress) -> Row:
        """The row of a model, written at once.

        Raises ValueError when the folder holds clips of another model of this name.
        """
        claim(claim_file(self._out, model), model, sampler, self._file.protocol["seed"])
        first = sampler is self._teacher
        real = self._real_references(progress) if first else {}  # before sampling: a broken video shows here
        metrics = [metric for metric in self._metrics if not metric.paired or metric.paired in self._pairs(sampler)]
        for sample in (self._samples.main, self._samples.diverse):
            self._fill(model, sampler, sample, [m for m in metrics if m.seeds == sample.seeds], progress)
        if first:
            self._teacher_reference(progress)
        row = self._row(model, sampler, metrics)
        self._file.put(row)
        self._hold_against_others(row, sampler, metrics)
        if first:
            self._floors |= {name: figure["value"] for name, figure in row["metrics"].items() if self._to_teacher(name)}
        if real:
            self._file.put(_real_row(real))
        return row

    def _row(self, model: Model, sampler: Sampler, metrics: Sequence[Metric]) -> Row:
        found: Figures = {}
        for metric in metrics:
            sample = self._samples.main if metric.seeds == 1 else self._samples.diverse
            alone = sampler is self._teacher or metric.paired
            beside = None if alone else self._store(self._model.name, sample).read(metric.name)
            found |= metric.figures(self._store(model.name, sample).read(metric.name), beside)
        for name in found.keys() & self._floors.keys():
            found[name]["floor"] = self._floors[name]
        same = sampler.contract is None and sampler.teacher.sha256() == self._teacher.teacher.sha256()
        return {
            "model": model.name,
            "source": model.source,
            "role": "teacher" if same or sampler is self._teacher else "student",
            "steps": sampler.steps,
            "evaluations": sampler.evaluations,
            "guidance": sampler.guidance.plain(),
            **links_said(sampler),
            **decoder_said(sampler),
            "videos": f"videos/{model.name}",
            "metrics": found,
            "warnings": alarms(found),
        }

    def _hold_against_others(self, row: Row, sampler: Sampler, metrics: Sequence[Metric]) -> None:
        """A student's figures less those of the teacher, and of each student of as many steps that stands before it."""
        sample, alike = self._samples.main, self._pairs(sampler)
        for other in itertools.takewhile(lambda one: one["model"] != row["model"], self._file.rows):
            teacher = other["model"] == self._model.name
            if row["role"] != "student" or not (alike if teacher else _alike(other, row)):
                continue
            own, its, found = self._store(row["model"], sample), self._store(other["model"], sample), dict[str, Any]()
            for metric in metrics:
                if metric.seeds == 1 and its.holds(metric.name, len(sample.prompts)):
                    found |= metric.difference(own.read(metric.name), its.read(metric.name))
            self._file.put_difference(row["model"], other["model"], found)

    def _pairs(self, sampler: Sampler) -> set[str]:
        """What of its clips has a counterpart among the teacher's; nothing of the teacher itself."""
        shapes = [one.teacher.latent_shape(*one.size) for one in (self._teacher, sampler)]
        if sampler is self._teacher or shapes[0] != shapes[1]:
            return set()
        return {"videos", "latents"} if _same_autoencoder(self._teacher.teacher, sampler.teacher) else {"videos"}

    def _fill(
        self, model: Model, sampler: Sampler, sample: Sample, metrics: Sequence[Metric], progress: Progress
    ) -> None:
        """Makes and measures the clips of which something is missing."""
        main = sample is self._samples.main
        if not metrics and not main:
            return
        keeps_latents = main and sampler is self._teacher
        store, videos = self._store(model.name, sample), self._out / "videos" / model.name
        for rows in store.batches(len(sample.prompts), max(1, self._batch // sample.seeds)):
            missing = [metric for metric in metrics if metric.name not in store.names(rows)]
            files = [videos / f"{row:05d}.mp4" for row in rows] if main else []
            unkept = keeps_latents and _LATENTS not in store.names(rows)
            if missing or unkept or not all(file.exists() for file in files):
                clips = self._clips(sampler, sample, rows, store, any(metric.paired for metric in missing))
                _write(files, clips, self._file.protocol["fps"])
                kept = {_LATENTS: clips.latents} if keeps_latents else {}
                store.add(rows, kept | {metric.name: metric.measure(clips) for metric in missing})
            progress(f"{model.name}, {sample.name}", rows.stop, len(sample.prompts))

    def _clips(self, sampler: Sampler, sample: Sample, rows: range, store: ClipStore, paired: bool) -> Clips:
        prompts, seeds = sample.batch(rows)
        if _LATENTS in store.names(rows):
            latents = store.read(_LATENTS, rows).to(sampler.teacher.device)
        else:
            latents = sampler.sample(sampler.noise(seeds), sampler.conditions(prompts, seeds))
        teacher = None
        if paired:
            kept = self._store(self._model.name, sample).read(_LATENTS, rows).to(latents.device)
            teacher = Clips.of(self._teacher.teacher.decode(kept), kept, prompts)
        return Clips.of(sampler.decode(latents), latents, prompts, teacher)

    def _real_references(self, progress: Progress) -> Figures:
        """Gives distances to real clips what they are taken to; the figures of other real clips, where there are any.

        Raises ValueError for a real clip that cannot be read.
        """
        found: Figures = {}
        for metric in self._distances:
            if metric.real is None:
                continue
            metric.reference = metric.features(metric.real.reference, self._batch, progress)
            if metric.real.floor is not None:
                found |= metric.figures(metric.features(metric.real.floor, self._batch, progress), None)
        self._floors |= {name: figure["value"] for name, figure in found.items()}
        return found

    def _teacher_reference(self, progress: Progress) -> None:
        """Gives distances to the teacher its clips of other noise."""
        to_teacher = [metric for metric in self._distances if metric.real is None]
        self._fill(self._model, self._teacher, self._samples.other, to_teacher, progress)
        for metric in to_teacher:
            metric.reference = self._store(self._model.name, self._samples.other).read(metric.name)

    def _to_teacher(self, name: str) -> bool:
        """Whether a figure is a distance to the teacher's other clips: its own is then the floor."""
        taken = (metric.name for metric in self._distances if metric.real is None)
        return any(name == metric or name.startswith(f"{metric}-") for metric in taken)

    @property
    def _distances(self) -> list[Distance]:
        return [metric for metric in self._metrics if isinstance(metric, Distance)]

    def _store(self, name: str, sample: Sample) -> ClipStore:
        return ClipStore(self._out / "parts" / name / sample.name)


def claim_file(out: Path, model: Model) -> Path:
    """Where an evaluation remembers whose clips it holds under a model's name."""
    return out / "parts" / model.name / "model.json"


def _alike(one: Row, other: Row) -> bool:
    """Whether both are students of as many steps."""
    return (one["role"], one["steps"]) == ("student", other["steps"])


def _real_row(figures: Figures) -> Row:
    none = dict.fromkeys(("steps", "evaluations", "guidance", "videos"))
    return {"model": "real", "source": "", "role": "real", **none, "metrics": figures, "warnings": []}


def _write(files: Sequence[Path], clips: Clips, fps: float) -> None:
    for file, video in zip(files, clips.videos if files else (), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_video(file, to_uint8(video), fps)


def _same_autoencoder(first: Teacher, second: Teacher) -> bool:
    """Whether both mean the same by a latent."""
    if first is second:
        return True
    one, two = (teacher.pipeline.vae.state_dict() for teacher in (first, second))
    return one.keys() == two.keys() and all(
        w.shape == two[name].shape and torch.equal(w.cpu(), two[name].cpu()) for name, w in one.items()
    )
