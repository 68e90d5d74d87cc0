"""What the page's template and script are given of each evaluation, benchmark and run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.eval.caution import has_interval, is_above_ideal, why_inconclusive
from fewstep.eval.report import words
from fewstep.eval.report.adversarial import adversarial_stage, downsampled, is_of_transition, is_pictured
from fewstep.eval.report.clips import clip_set
from fewstep.eval.report.inputs import (
    BenchmarkRecord,
    Comparison,
    EvaluationRecord,
    FigureRecord,
    Latency,
    ModelRecord,
    RunRecord,
)

_TONES = 14  # of students: seven colours, then the same with dashed lines
_POINTS = 1000  # of one curve
_PARTS = ("text", "denoise", "decode")


class PageData:
    """What the page's script is given, and the colour of every model."""

    def __init__(self, comparisons: Sequence[Comparison], benchmarks: Sequence[BenchmarkRecord]) -> None:
        self.clip_sets: list[dict[str, Any]] = []
        self.plots: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []
        self.pictures: list[dict[str, Any]] = []
        self._tones: dict[str, int] = {}
        # a student has one colour everywhere: by its name, its stage's folder and its row in a benchmark
        for comparison in comparisons:
            for row in comparison.evaluation.rows:
                tone = self.tone(row.model) if row.role == "student" else 0
                self._tones |= {row.model: tone, _stage(row.source): tone}
                if latency := comparison.latency(row):
                    self._tones[latency.model] = tone
        for benchmark in benchmarks:
            self._tones.setdefault(benchmark.rows[0].model, 0)

    def tone(self, model: str) -> int:
        """Of a model's name, or a stage's folder; 0 is of whatever was not distilled."""
        return self._tones.setdefault(model, 1 + len(set(self._tones.values()) - {0}) % _TONES)


def _stage(folder: str | Path) -> str:
    return str(Path(folder).expanduser().resolve())


def comparison_section(data: PageData, comparison: Comparison, count: int) -> dict[str, Any]:
    folder, evaluation = comparison.folder, comparison.evaluation
    shown = {row.model: _paths(folder / row.videos, len(evaluation.prompts)) for row in evaluation.rows if row.videos}
    details = {row.model: _detail(row, comparison) for row in evaluation.rows}
    tones = {row.model: data.tone(row.model) for row in evaluation.rows}
    # what the page's script draws: quality over cost, a point for each model
    data.plots.append(
        {
            "metrics": [
                {"name": m, "about": words.about(m), "better": _better(evaluation, m)} for m in evaluation.metrics
            ],
            "models": [
                {
                    "name": row.model,
                    "role": row.role,
                    "tone": tones[row.model],
                    "detail": details[row.model],
                    "x": _costs(row, comparison),
                    "y": {name: _plotted(figure) for name, figure in row.metrics.items()},
                }
                for row in evaluation.rows
            ],
        }
    )
    # what the template writes: clips, models and the table of figures
    return {
        "name": folder.parent.name if folder.name == "evaluation" else folder.name,
        "clip_set": _add_clip_set(data, clip_set(shown, evaluation.prompts, count), details, tones),
        "plot": len(data.plots) - 1,
        "models": [(row.model, tones[row.model], details[row.model]) for row in evaluation.rows],
        "table": [_metric(evaluation, name) for name in evaluation.metrics],
        "seed": evaluation.protocol.get("seed"),
        "left_out": evaluation.protocol.get("left_out") or {},
        "command": evaluation.command,
        "protocol": _json(evaluation.protocol),
    }


def _plotted(figure: FigureRecord) -> dict[str, Any]:
    """For the plot; an interval of a handful of clips is no error bar."""
    values = figure.model_dump()
    return values if has_interval(values) else values | {"low": None, "high": None}


def _paths(folder: Path, count: int) -> list[Path]:
    return [folder / f"{i:05d}.mp4" for i in range(count)]


def _add_clip_set(
    data: PageData, clips: dict[str, Any] | None, details: dict[str, str], tones: dict[str, int]
) -> int | None:
    if clips is None:
        return None
    for model in clips["models"]:
        model |= {"tone": tones[model["name"]], "detail": details[model["name"]]}
    data.clip_sets.append(clips)
    return len(data.clip_sets) - 1


def _detail(row: ModelRecord, comparison: Comparison) -> str:
    """What a model is, in a line below its clip."""
    parts = [words.plural(row.steps, "step")] if row.steps else []
    if row.evaluations:
        parts.append(words.plural(row.evaluations, "evaluation"))
    latency = comparison.latency(row)
    if latency and latency.total_seconds is not None:
        parts.append(words.duration(latency.total_seconds))
    return " · ".join(parts) or ("real clips" if row.role == "real" else "")


def _costs(row: ModelRecord, comparison: Comparison) -> dict[str, float | None]:
    """What a clip costs: seconds where they were measured, and evaluations of the network."""
    latency = comparison.latency(row)
    return {
        "total_seconds": latency.total_seconds if latency else None,
        "denoise_seconds": latency.denoise_seconds if latency else None,
        "evaluations": row.evaluations or row.steps,
    }


def _better(evaluation: EvaluationRecord, metric: str) -> str | None:
    return next((r.metrics[metric].better for r in evaluation.rows if metric in r.metrics), None)


def _metric(evaluation: EvaluationRecord, name: str) -> dict[str, Any]:
    figures = [row.metrics.get(name) for row in evaluation.rows]
    there = [figure for figure in figures if figure]
    # one N for the whole line, where all figures have the same
    counts = {figure.num for figure in there}
    better, num = _better(evaluation, name), counts.pop() if len(counts) == 1 else None
    few = next((words for figure in there if (words := why_inconclusive(figure.model_dump()))), "")
    notes = [there[0].unit, f"{better} is better" if better else "", f"N\u00a0{num}" if num else "", few]
    return {
        "name": name,
        "note": ", ".join(note for note in notes if note),
        "floor": next((figure.floor for figure in there if figure.floor is not None), None),
        "figures": figures,
    }


def latency_section(data: PageData, benchmark: BenchmarkRecord) -> dict[str, Any]:
    longest = max((_total(row) for row in benchmark.rows), default=0.0) or 1.0
    return {
        "rows": [_bar(data, row, longest) for row in benchmark.rows],
        "fit": benchmark.fit,
        "tuned": any(row.relative_error is not None for row in benchmark.rows),
        "optimised": benchmark.optimised,
        "command": benchmark.command,
        "protocol": _json(benchmark.protocol),
    }


def _total(row: Latency) -> float:
    return row.total_seconds or sum(getattr(row, f"{part}_seconds") or 0.0 for part in _PARTS)


def _bar(data: PageData, row: Latency, longest: float) -> dict[str, Any]:
    """Where each part of the bar begins and how long it is, in percent of the longest bar."""
    begin, parts = 0.0, []
    for part in _PARTS:
        seconds = getattr(row, f"{part}_seconds") or 0.0
        width = 100 * seconds / longest
        parts.append({"name": part, "x": round(begin, 3), "width": round(width, 3), "seconds": seconds})
        begin += width
    # how much of the ideal speed-up was reached; what is above it is not due to the student
    ideal, measured = row.ideal_speedup, row.denoise_speedup
    reached = round(100 * min(1.0, measured / ideal), 1) if ideal and measured else None
    above = is_above_ideal(row.model_dump())
    return {
        "row": row, "total": _total(row), "tone": data.tone(row.model), "parts": parts, "reached": reached,
        "above": above,
    }  # fmt: skip


def run_section(data: PageData, run: RunRecord, count: int, shown: bool) -> dict[str, Any]:
    """`shown`: with the run's own sample clips, where nothing was evaluated."""
    tones = {stage.name: data.tone(_stage(run.folder / "stages" / stage.name)) for stage in run.stages}
    # curves of all stages in one plot, each in its student's colour
    curves = [
        {"name": stage.name, "tone": tones[stage.name], "points": _thinned(stage.curve)}
        for stage in run.stages
        if stage.curve
    ]
    if curves:
        data.curves.append({"stages": curves})
    samples = {
        stage.name: [stage.samples / f"{i}.mp4" for i in range(len(run.prompts))]
        for stage in run.stages
        if shown and stage.samples
    }
    details = {stage.name: f"{words.plural(stage.student_steps, 'step')}, {stage.objective}" for stage in run.stages}
    return {
        "name": run.folder.name,
        "folder": str(run.folder),
        "teacher": run.teacher,
        "seed": run.seed,
        "stages": run.stages,
        "figures": list(dict.fromkeys(key for s in run.stages for key in s.result or {} if not is_of_transition(key))),
        "curves": len(data.curves) - 1 if curves else None,
        "adversarial": [
            adversarial_stage(data.pictures, stage, tones[stage.name]) for stage in run.stages if stage.judging
        ],
        "clip_set": _add_clip_set(data, clip_set(samples, run.prompts, count), details, tones),
    }


def _thinned(curve: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Figure -> its finite points, but for figures with plots of their own."""
    keys = dict.fromkeys(key for point in curve for key in point if key != "step" and not is_pictured(key))
    curves = {key: downsampled(curve, key, _POINTS) for key in keys}
    return {key: points for key, points in curves.items() if points}


def _json(protocol: dict[str, Any]) -> str:
    return json.dumps(protocol, indent=2, ensure_ascii=False)
