"""Models side by side: the same prompts, the same noise; every clip goes to disk and into the metrics as it is made."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from fewstep.eval.alarms import alarms
from fewstep.eval.clip_maker import ClipMaker, SampleSettings
from fewstep.eval.evaluation_file import EvaluationFile, EvaluationRow
from fewstep.eval.metrics.clips import Figures, Metric
from fewstep.eval.metrics.distance import Distance
from fewstep.eval.metrics.shapes import Progress
from fewstep.eval.models import ClipClaim, Model, chain_facts, decoder_facts
from fewstep.student.sampler import Sampler
from fewstep.teacher.base import Teacher
from fewstep.teacher.ranks import ALONE, Ranks


class Evaluation:
    """Measures models one after another. What is on disk is not made again, so a killed evaluation resumes.

    OUT/results.json, OUT/videos/NAME/00000.mp4 and so on, and in OUT/parts/NAME the numbers of each clip. The teacher
    must be measured first; its latents are kept as well, for students are compared with what it made of their noise.
    All `ranks` make clips, a batch each at a time; the first one alone takes figures from them.
    """

    def __init__(
        self,
        out: Path,
        file: EvaluationFile,
        samples: SampleSettings,
        metrics: Sequence[Metric],
        batch: int,
        teacher: tuple[Model, Sampler],
        ranks: Ranks = ALONE,
    ) -> None:
        self._out, self._file, self._samples, self._metrics, self._batch = out, file, samples, metrics, batch
        self._model, self._teacher = teacher
        self._ranks = ranks
        self._maker = ClipMaker(out, samples.main, batch, file.protocol["fps"], *teacher, ranks)
        self._floors: dict[str, float] = {}

    @property
    def rows(self) -> list[EvaluationRow]:
        """All rows that the folder holds."""
        return self._file.rows

    @property
    def prompts(self) -> Sequence[str]:
        """One for each clip."""
        return self._samples.main.prompts

    @torch.no_grad()
    def measure(self, model: Model, sampler: Sampler, progress: Progress) -> None:
        """Makes a model's clips and writes its row.

        Raises ValueError when the folder holds clips of another model of this name.
        """
        if self._ranks.first:
            ClipClaim(model, sampler, self._file.protocol["seed"]).keep(claim_file(self._out, model))
        metrics = [metric for metric in self._metrics if not metric.paired or metric.paired in self._pairs(sampler)]
        # one clip per prompt for most metrics, several of some prompts for diversity
        works = [
            self._maker.work(model, sampler, sample, [m for m in metrics if m.seeds == sample.seeds])
            for sample in (self._samples.main, self._samples.diverse)
        ]
        is_teacher, real = sampler is self._teacher, Figures()
        # the teacher is sampled once more from other noise: how far from itself is the floor of distances to it
        if is_teacher:
            works.append(self._maker.work(model, sampler, self._samples.other, self._to_other_clips))
            if self._ranks.first:
                real = self._real_references(progress)  # before sampling: a broken video shows here
        for work in works:
            self._maker.make(work, progress)
        if self._ranks.first:
            self._put(model, sampler, metrics, real)

    def _put(self, model: Model, sampler: Sampler, metrics: Sequence[Metric], real: Figures) -> None:
        """The figures of a model whose clips are there, and those of real clips, if any."""
        is_teacher = sampler is self._teacher
        # distances to the teacher are taken to its clips from other noise, and its own distance to these is their floor
        if is_teacher:
            for metric in self._to_other_clips:
                metric.reference = self._maker.store(model.name, self._samples.other).read(metric.name)
        row = self._row(model, sampler, metrics)
        self._file.put(row)
        self._compare_with_others(row, sampler, metrics)
        if is_teacher:
            self._floors |= {name: figure["value"] for name, figure in row["metrics"].items() if self._to_teacher(name)}
        if real:
            self._file.put(_real_row(real))

    def _row(self, model: Model, sampler: Sampler, metrics: Sequence[Metric]) -> EvaluationRow:
        figures: Figures = {}
        for metric in metrics:
            sample = self._samples.main if metric.seeds == 1 else self._samples.diverse
            # paired figures come with the clips; others get the teacher's on the same prompts to compare with
            alone = sampler is self._teacher or metric.paired
            of_teacher = None if alone else self._maker.store(self._model.name, sample).read(metric.name)
            figures |= metric.figures(self._maker.store(model.name, sample).read(metric.name), of_teacher)
        # next to a distance stands its floor: that of other real clips, or of the teacher to itself
        for name in figures.keys() & self._floors.keys():
            figures[name]["floor"] = self._floors[name]
        # the teacher's weights with other steps or guidance are the teacher still
        same = all(link.contract is None for link in sampler.links) and _weights(sampler) == _weights(self._teacher)
        return {
            "model": model.name,
            "source": model.source,
            "role": "teacher" if same or sampler is self._teacher else "student",
            "steps": sampler.steps,
            "evaluations": sampler.evaluations,
            "guidance": sampler.guidance.plain(),
            **chain_facts(sampler),
            **decoder_facts(sampler),
            "videos": f"videos/{model.name}",
            "metrics": figures,
            "warnings": alarms(figures),
        }

    def _compare_with_others(self, row: EvaluationRow, sampler: Sampler, metrics: Sequence[Metric]) -> None:
        """A student's figures less those of the teacher, and of each earlier student of the same step count."""
        sample, alike = self._samples.main, self._pairs(sampler)
        # with rows before its own only, so that each pair is compared once
        for other in itertools.takewhile(lambda earlier: earlier["model"] != row["model"], self._file.rows):
            teacher = other["model"] == self._model.name
            if row["role"] != "student" or not (alike if teacher else _alike(other, row)):
                continue
            own, its = (self._maker.store(earlier["model"], sample) for earlier in (row, other))
            differences: Figures = {}
            # clip by clip, which needs one clip per prompt and the other's numbers on disk
            for metric in metrics:
                if metric.seeds == 1 and its.holds(metric.name, len(sample.prompts)):
                    differences |= metric.difference(own.read(metric.name), its.read(metric.name))
            self._file.put_difference(row["model"], other["model"], differences)

    def _pairs(self, sampler: Sampler) -> set[str]:
        """Which of its data have counterparts among the teacher's; none for the teacher itself."""
        shapes = [sampled.teacher.latent_shape(*sampled.size) for sampled in (self._teacher, sampler)]
        if sampler is self._teacher or shapes[0] != shapes[1]:
            return set()
        return {"videos", "latents"} if _same_autoencoder(self._teacher.teacher, sampler.teacher) else {"videos"}

    def _real_references(self, progress: Progress) -> Figures:
        """Gives distances to real clips what they are taken to; the figures of other real clips, where there are any.

        Raises ValueError for a real clip that cannot be read.
        """
        metrics: Figures = {}
        for metric in self._distances:
            if metric.real is None:
                continue
            metric.reference = metric.features(metric.real.reference, self._batch, progress)
            # real clips that are no reference: how far they are from it is the floor
            if metric.real.floor is not None:
                metrics |= metric.figures(metric.features(metric.real.floor, self._batch, progress), None)
        self._floors |= {name: figure["value"] for name, figure in metrics.items()}
        return metrics

    @property
    def _to_other_clips(self) -> list[Distance]:
        """Distances to the teacher's clips of other noise."""
        return [metric for metric in self._distances if metric.real is None]

    def _to_teacher(self, name: str) -> bool:
        """Whether a figure is a distance to the teacher's other clips: its own is then the floor."""
        taken = (metric.name for metric in self._to_other_clips)
        return any(name == metric or name.startswith(f"{metric}-") for metric in taken)

    @property
    def _distances(self) -> list[Distance]:
        return [metric for metric in self._metrics if isinstance(metric, Distance)]


def claim_file(out: Path, model: Model) -> Path:
    """Where an evaluation remembers whose clips it holds under a model's name."""
    return out / "parts" / model.name / "model.json"


def _weights(sampler: Sampler) -> list[str]:
    """The sha256 of the teachers of all links."""
    return [link.teacher.sha256() for link in sampler.links]


def _alike(row: EvaluationRow, other: EvaluationRow) -> bool:
    """Whether both are students of the same step count."""
    return (row["role"], row["steps"]) == ("student", other["steps"])


def _real_row(figures: Figures) -> EvaluationRow:
    none = dict.fromkeys(("steps", "evaluations", "guidance", "videos"))
    return {"model": "real", "source": "", "role": "real", **none, "metrics": figures, "warnings": []}


def _same_autoencoder(first: Teacher, second: Teacher) -> bool:
    """Whether both mean the same by a latent."""
    if first is second:
        return True
    weights, others = (teacher.pipeline.vae.state_dict() for teacher in (first, second))
    return weights.keys() == others.keys() and all(
        w.shape == others[name].shape and torch.equal(w.cpu(), others[name].cpu()) for name, w in weights.items()
    )
