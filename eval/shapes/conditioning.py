"""How well students keep what they are given, next to their teacher: several evaluations as one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fewstep.eval.report.inputs import FigureRecord, ModelRecord, read_evaluation

_FIGURES = {  # metric -> name of its figure in a row, and of its interval's ends
    "shapes-fd": ("shapes_fd", "low", "high"),
    "frame-psnr": ("frame_psnr", "frame_psnr_low", "frame_psnr_high"),
    "box-iou": ("box_iou", "box_iou_low", "box_iou_high"),
    "motion": ("motion", "motion_low", "motion_high"),
    "motion-ratio": ("motion_ratio", "motion_ratio_low", "motion_ratio_high"),
    "prompt-accuracy": ("prompt_accuracy", "accuracy_low", "accuracy_high"),
}
_DIFFERENCES = {  # less the teacher's, on the same prompts and noise
    "shapes-fd": "shapes_fd_delta",
    "frame-psnr": "frame_psnr_delta",
    "box-iou": "box_iou_delta",
    "prompt-accuracy": "accuracy_delta",
}
CONDITIONING_COLUMNS = {
    "kind": "what is given",
    "model": "model",
    "steps": "steps",
    "shapes_fd low high": "shapes-fd",
    "shapes_fd_ratio": "x the teacher's",
    "frame_psnr": "frame PSNR, dB",
    "frame_psnr_delta frame_psnr_delta_low frame_psnr_delta_high": "less the teacher's",
    "box_iou": "box IoU",
    "box_iou_delta box_iou_delta_low box_iou_delta_high": "less the teacher's",
    "motion_ratio motion_ratio_low motion_ratio_high": "motion, x the teacher's",
    "prompt_accuracy": "prompt accuracy",
    "num": "N",
}


def conditioning_rows(evaluations: Mapping[str, Path]) -> list[dict[str, Any]]:
    """A row per teacher and student of evaluations, kind of what is given -> folder of `fewstep evaluate`.

    Intervals are of 95 %; those of figures less the teacher's are paired, prompt by prompt. Raises ValueError for a
    folder that holds no evaluation.
    """
    return [row for kind, folder in evaluations.items() for row in _rows(kind, folder)]


def _rows(kind: str, folder: Path) -> Iterator[dict[str, Any]]:
    evaluation = read_evaluation(folder)
    measured = [row for row in evaluation.rows if row.role != "real"]
    if not measured:
        raise ValueError(f"{folder} has real clips only: evaluate a teacher and its students there")
    # the first model is the one that the others are compared with
    teacher = measured[0]
    shared = {name: evaluation.protocol.get(name) for name in ("num", "seed", "dtype")}
    for row in measured:
        guidance = None if row.guidance is None else row.guidance.plain()
        own = {"kind": kind, "model": row.model, "role": row.role, "steps": row.steps, "guidance": guidance}
        for metric, names in _FIGURES.items():
            own |= _interval(row.metrics.get(metric), names)
        if row is not teacher:
            own |= _to_teacher(row, teacher, evaluation.minus(row.model, teacher.model) or {})
        yield own | shared


def _to_teacher(row: ModelRecord, teacher: ModelRecord, differences: Mapping[str, FigureRecord]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for metric, name in _DIFFERENCES.items():
        figures |= _interval(differences.get(metric), (name, f"{name}_low", f"{name}_high"))
    own, its = (entry.metrics.get("shapes-fd", FigureRecord(value=None)).value for entry in (row, teacher))
    if own is not None and its:
        figures["shapes_fd_ratio"] = round(own / its, 4)
    return figures


def _interval(figure: FigureRecord | None, names: tuple[str, str, str]) -> dict[str, Any]:
    if figure is None:
        return {}
    ends = (figure.value, figure.low, figure.high)
    return {name: round(end, 4) for name, end in zip(names, ends, strict=True) if end is not None}
