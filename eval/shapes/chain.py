"""A chain as a whole, undistilled and distilled: seconds from a benchmark next to figures from an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.eval.evaluation_shape import check_shape
from fewstep.eval.report.inputs import Latency
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.limits import MOST_CLIPS

CHAIN_COLUMNS = {
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
    batch, timed_models = read_times(benchmark)
    rows = []
    for row in read_evaluation_rows(evaluation):
        timed = timed_models.get(row["model"])
        evaluations = row.get("evaluations")
        # other evaluations are other steps or guidance, whose seconds are not this row's
        if row["role"] != "real" and (timed is None or timed.evaluations != evaluations):
            continue
        seconds = {}
        if timed is not None and timed.total_seconds is not None:
            seconds = {"seconds": float(f"{timed.total_seconds / batch:.3g}")}
        settings = {"stage": _stages(row), "model": row["model"], "steps": _steps(row), "evaluations": evaluations}
        rows.append({**settings, **seconds, **evaluation_figures(row)})
    if not any("seconds" in row for row in rows):
        raise ValueError(f"{evaluation} and {benchmark} have no model in common: measure the same models in both")
    return rows


def evaluation_figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """shapes-fd and prompt accuracy of a row of an evaluation, with their intervals and the number of clips."""
    columns: dict[str, Any] = {}
    for name, column in _FIGURES.items():
        if figure := row["metrics"].get(name):
            columns[column] = figure["value"]
            columns |= {f"{column}_{end}": figure[end] for end in ("low", "high") if figure.get(end) is not None}
            # some prompts name nothing that could be right
            columns["num"] = max(columns.get("num", 0), figure.get("num") or 0)
    return columns


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


def read_evaluation_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an evaluation. Raises ValueError for another file."""
    rows = _read(path)["rows"]
    try:
        check_shape(rows, [])
    except ValueError as error:
        raise ValueError(_none(path, error)) from error
    return list(rows)


def read_times(path: Path) -> tuple[int, dict[str, Latency]]:
    """Of a benchmark: its batch, and what each model took. Raises ValueError for another file."""
    content = _read(path)
    try:
        batch = content["protocol"]["batch"]
        if type(batch) is not int or not 0 < batch <= MOST_CLIPS:
            raise ValueError("its batch is not a number of clips")
        return batch, {row.model: row for row in map(Latency.model_validate, content["rows"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(_none(path, error)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = parse_json(path.read_text("utf-8"))
        if not isinstance(content["rows"], list) or not isinstance(content["protocol"], dict):
            raise ValueError("it has no rows")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(_none(path, error)) from error
    return content


def _none(path: Path, error: Exception) -> str:
    return f"{path} is not a file of `fewstep evaluate` or `fewstep benchmark` ({error})"
