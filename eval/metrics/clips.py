"""What a metric sees and what it answers: a batch of clips in, a row of numbers per clip and figures out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torchmetrics
from torch import Tensor, distributed

from fewstep.eval.metrics.frechet import Interval, middle_95

Figures = dict[str, dict[str, Any]]  # as rows of results.json have them: name -> value, low, high, num, unit, better

BOOTSTRAP_DRAWS = 1000  # of a bootstrap


@dataclass(frozen=True)
class Clips:
    """Clips of one model, and those of the teacher from the same noise."""

    videos: Tensor  # (B, 3, F, H, W) in -1..1
    latents: Tensor  # (B, C, f, h, w)
    finite: Tensor  # (B,), whether the model made nothing but finite numbers; others are 0 in videos and latents
    prompts: Sequence[str]  # B
    teacher: Clips | None = None

    @staticmethod
    def of(videos: Tensor, latents: Tensor, prompts: Sequence[str], teacher: Clips | None = None) -> Clips:
        """As people see them: videos cut to -1..1."""
        finite = videos.flatten(1).isfinite().all(1) & latents.flatten(1).isfinite().all(1)
        shown = videos.nan_to_num(0, 0, 0).clamp(-1, 1)
        return Clips(shown, latents.nan_to_num(0, 0, 0), finite, prompts, teacher)


def teachers(metric: str, clips: Clips) -> Clips:
    """The teacher's clips from the same noise. Raises ValueError if a paired metric got none."""
    if clips.teacher is None:
        raise ValueError(f"{metric} compares clips with the teacher's: pass those of the same prompts and noise, too")
    return clips.teacher


class Metric(torchmetrics.Metric):
    """Numbers of each clip, and figures that are computed from these numbers only.

    An evaluation calls `measure` and `figures` itself, because it keeps the numbers on disk to resume from. Other
    loops use torchmetrics' `update`, `compute` and `reset`, which call the same two. With several processes, each
    updates with its own clips, and `compute` returns the figures of all clips to all of them, in the order of ranks: a
    bootstrap's interval depends on the order, the figure itself does not.

    `of_torchmetrics` are torchmetrics' arguments, such as `sync_on_compute`.
    """

    full_state_update = False
    is_differentiable = False
    name: str
    paired: Literal["", "videos", "latents"] = ""  # which of the teacher's data from the same noise is needed
    seeds = 1  # clips of one prompt that are measured together, as one row
    reads_prompts = False

    def __init__(self, name: str | None = None, **of_torchmetrics: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows, **of_torchmetrics})
        self.name = name or self.name
        # a MetricCollection takes metrics for one whose states have the same names and, after a batch, the same values
        self._rows, self._teacher_rows = (self._add_rows(of) for of in ("rows", "teacher_rows"))

    def _add_rows(self, of: str) -> str:
        """A state for rows of numbers: its name."""
        state = f"{self.name.replace('-', '_')}_{of}"
        self.add_state(state, [], dist_reduce_fx="cat")
        return state

    def protocol(self) -> dict[str, Any]:
        """Everything that its figures depend on, as JSON."""
        return {}

    @abstractmethod
    def measure(self, clips: Clips) -> Tensor:
        """A row of numbers for each clip (or for each prompt, where `seeds` is above 1): (B, ...)."""

    @abstractmethod
    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        """Figures from all rows of a model and those of the teacher; None for the teacher itself."""

    def difference(self, own: Tensor, other: Tensor) -> Figures:
        """Figures of a model less those of another one, row i of both from one prompt and noise.

        Empty where there are none. A figure of shares has the number of clips on which the two differ in `differing`.
        """
        return {}

    def update(self, videos: Tensor, prompts: Sequence[str] | None = None, teacher: Tensor | None = None) -> None:
        """Measures clips (B, 3, F, H, W) in -1..1; those of one prompt must be consecutive.

        prompts: one for each clip, for metrics that read them. teacher: the teacher's clips of the same prompts and
        noise: paired metrics compare with them, and others then also return ratios to the teacher's figures.
        Raises ValueError for clips of another shape, and without what the metric needs.
        """
        of_teacher = None if teacher is None else self._seen(teacher, prompts)
        clips = self._seen(videos, prompts, of_teacher)
        # ratios of unpaired figures need the teacher's numbers as well
        if not self.paired and of_teacher is not None:
            self._keep(self._teacher_rows, self.measure(of_teacher))
        self._keep(self._rows, self.measure(clips))

    def compute(self) -> dict[str, Tensor]:
        """Each figure by its name, and the ends of its 95 % interval as NAME-low and NAME-high, in float64.

        Raises ValueError before any clip was seen.
        """
        teacher = self._kept(self._teacher_rows)
        return self._flat(self.figures(self._all(self._rows), teacher if len(teacher) else None))

    def train(self, mode: bool = True) -> Self:
        """Nothing of a metric is trained: its networks stay as they are, in whatever is."""
        return super().train(False)

    def _flat(self, figures: Figures) -> dict[str, Tensor]:
        ends = {"": "value", "-low": "low", "-high": "high"}
        flat = {name + end: figure_values[key] for name, figure_values in figures.items() for end, key in ends.items()}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in flat.items()}

    def _seen(self, videos: Tensor, prompts: Sequence[str] | None, teacher: Clips | None = None) -> Clips:
        """The clips, whose videos are latents where these are compared."""
        latents = self.paired == "latents"
        if videos.ndim != 5 or not (latents or videos.shape[1] == 3) or not videos.is_floating_point():
            wanted = "latents (B, C, F, H, W)" if latents else "videos (B, 3, F, H, W) of floats in -1..1"
            raise ValueError(f"{self.name} takes {wanted}, not {videos.dtype} of shape {tuple(videos.shape)}")
        if len(videos) % self.seeds:
            raise ValueError(f"{self.name} compares {self.seeds} clips of each prompt, not {len(videos)} in all")
        if prompts is None and self.reads_prompts:
            raise ValueError(f"{self.name} compares clips with their prompts: pass prompts, one for each clip")
        if prompts is not None and len(prompts) != len(videos):
            raise ValueError(f"there are {len(videos)} clips and {len(prompts)} prompts: pass one for each clip")
        if teacher is not None and self.paired and teacher.videos.shape != videos.shape:
            raise ValueError(
                f"{self.name} compares clips one by one, of {tuple(videos.shape)} and {tuple(teacher.videos.shape)}: "
                "pass the teacher's clips of the same prompts and noise, at the same size"
            )
        return Clips.of(videos, videos, [""] * len(videos) if prompts is None else prompts, teacher)

    def _keep(self, state: str, rows: Tensor) -> None:
        getattr(self, state).append(rows.detach().to(self.device))

    def _kept(self, state: str) -> Tensor:
        """All rows of a state, on the CPU; (0,) without any."""
        rows: Tensor | list[Tensor] = getattr(self, state)
        parts = [rows] if isinstance(rows, Tensor) else rows
        return torch.cat(parts).cpu() if parts else torch.empty(0)

    def _all(self, state: str, what: str = "clips") -> Tensor:
        rows = self._kept(state)
        if not len(rows):
            raise ValueError(f"{self.name} has seen no {what} yet: call update with some first")
        return rows


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The rows (N, ...) of every process, in order. Processes that have none, and so do not know their shape, are left
    out, which torchmetrics' own gathering cannot do."""
    parts: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(parts, rows.cpu(), group)
    return [part.to(rows.device) for part in parts if len(part)] or [rows]


def figure(interval: Interval, num: int, unit: str = "", better: str = "") -> dict[str, Any]:
    """A figure as rows of results.json have it."""
    labels = {key: value for key, value in (("unit", unit), ("better", better)) if value}
    return {"value": interval.value, "low": interval.low, "high": interval.high, "num": num} | labels


def wilson(right: int, count: int) -> Interval:
    """A fraction with its 95 % Wilson score interval."""
    if count == 0:
        raise ValueError("no clips were judged: pass at least one")
    z, p = 1.959964, right / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (p * (1 - p) / count + z * z / (4 * count * count)) ** 0.5
    # at none and at all of them an end is the fraction itself, but for rounding
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def mean_interval(values: Tensor) -> Interval:
    """The mean of values (N,) and its 95 % interval, by a bootstrap over clips."""
    return ratio_interval(values, torch.ones_like(values))


def ratio_interval(own: Tensor, teacher: Tensor) -> Interval:
    """Sum of own (N,) over sum of teacher (N,), clip i of both from one prompt; 95 % by a bootstrap over clips.

    Raises ValueError when the teacher's sum is 0.
    """
    own, teacher = own.double(), teacher.double()
    if not teacher.sum() > 0:
        raise ValueError("the teacher's own figure is 0: there is no ratio to it")
    generator = torch.Generator().manual_seed(0)
    # one draw for both, so that clips of the same prompt stay together
    drawn = torch.randint(len(own), (BOOTSTRAP_DRAWS, len(own)), generator=generator)
    ratios = own[drawn].sum(1) / teacher[drawn].sum(1).clamp_min(1e-12)
    return Interval(float(own.sum() / teacher.sum()), *middle_95(ratios))
