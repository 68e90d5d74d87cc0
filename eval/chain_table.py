"""A chain as a whole, undistilled and distilled: seconds from a benchmark beside figures from an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.eval.evaluation_file import read_evaluation
from fewstep.eval.report.inputs import read_benchmark
from fewstep.teacher.limits import MOST_CLIPS

COLUMNS = {
    "stage": "stage",
    "model": "model",
    "steps": "steps",
    "evaluations": "evaluations",
    "seconds": "seconds / clip",
    "shapes_fd": "shapes-fd",
    "shapes_fd_low": "low",
    "shapes_fd_high": "high",
    "prompt_accuracy": "prompt accuracy",
    "prompt_accuracy_low": "low",
    "prompt_accuracy_high": "high",
    "num": "N",
}
_FIGURES = {"shapes-fd": "shapes_fd", "prompt-accuracy": "prompt_accuracy"}


def chain_rows(evaluation: Path, benchmark: Path) -> list[dict[str, Any]]:
    """A row for each model that both files hold, in the evaluation's order; real clips have no seconds.

    Raises ValueError when a file cannot be read, or they share no model of as many evaluations.
    """
    timed_models = {row.model: row for row in read_benchmark(benchmark).rows}
    batch = _batch(benchmark)
    found = []
    for row in read_evaluation(evaluation.parent)["rows"]:
        timed = timed_models.get(row["model"])
        evaluations = row.get("evaluations")
        if row["role"] != "real" and (timed is None or timed.evaluations != evaluations):
            continue
        seconds = {}
        if timed is not None and timed.total_seconds is not None:
            seconds = {"seconds": float(f"{timed.total_seconds / batch:.3g}")}
        asked = {"stage": _stages(row), "model": row["model"], "steps": _steps(row), "evaluations": evaluations}
        found.append({**asked, **seconds, **_figures(row)})
    if not any("seconds" in row for row in found):
        raise ValueError(f"{evaluation} and {benchmark} have no model in common: measure the same models in both")
    return found


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name, column in _FIGURES.items():
        if figure := row["metrics"].get(name):
            said[column] = figure["value"]
            said |= {f"{column}_{end}": figure[end] for end in ("low", "high") if figure.get(end) is not None}
            said["num"] = max(
                said.get("num", 0), figure.get("num") or 0
            )  # some prompts name nothing that could be right
    return said


def _links(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(row.get("chain") or [row])


def _stages(row: Mapping[str, Any]) -> str:
    """The stage of each link; undistilled of teachers, and of real clips nothing."""
    if row["role"] == "real":
        return ""
    paths = [Path(link.get("source", "")) for link in _links(row)]
    names = [path.name if path.parent.name == "stages" else "undistilled" for path in paths]
    return names[0] if len(set(names)) == 1 else "+".join(names)


def _steps(row: Mapping[str, Any]) -> str:
    return "" if row["role"] == "real" else "+".join(str(link.get("steps")) for link in _links(row))


def _batch(benchmark: Path) -> int:
    batch = read_benchmark(benchmark).protocol.get("batch")
    if type(batch) is not int or not 0 < batch <= MOST_CLIPS:
        raise ValueError(f"{benchmark} says no batch: run `fewstep benchmark` again")
    return batch
