"""Small decoders next to the autoencoder that they learned from: seconds of benchmarks, figures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.eval.report.inputs import Latency
from fewstep.eval.shapes.chain import evaluation_figures, read_evaluation_rows, read_times
from fewstep.teacher.files.json_text import parse_json

DECODER_COLUMNS = {
    "model": "model",
    "decoder": "decoder",
    "batch": "batch",
    "decode_seconds": "decode, s",
    "total_seconds": "whole, s",
    "decode_share": "decode / whole",
    "speedup": "whole ×",
    "ideal_speedup": "ideal ×",
    "of_ideal": "of the ideal",
    "psnr": "PSNR, dB",
    "shapes_fd": "shapes-fd",
    "shapes_fd_low": "low",
    "shapes_fd_high": "high",
    "prompt_accuracy": "prompt accuracy",
    "num": "N",
}


def decoder_rows(evaluation: Path, benchmarks: Sequence[Path], result: Path) -> list[dict[str, Any]]:
    """A row for each model of the evaluation in each benchmark that has it; real clips have no seconds.

    `result` is what the training of the small decoder measured, whose PSNR is against the autoencoder. Raises
    ValueError when a file cannot be read, or no benchmark has a model of the evaluation.
    """
    psnr_db = parse_json(result.read_text("utf-8"))["psnr_db"]
    timed = [read_times(path) for path in benchmarks]
    rows = []
    for row in read_evaluation_rows(evaluation):
        small = row.get("decoder") is not None
        labels = {
            "model": row["model"],
            "decoder": "" if row["role"] == "real" else "small" if small else "autoencoder",
        }
        figures = evaluation_figures(row) | ({"psnr": psnr_db} if small else {})
        # a row for each benchmark that timed it, such as with several batches
        of_model = [(batch, models[row["model"]]) for batch, models in timed if row["model"] in models]
        rows += [{**labels, "batch": batch, **_seconds(model), **figures} for batch, model in of_model]
        if row["role"] == "real":
            rows.append({**labels, **figures})
    if not any("total_seconds" in row for row in rows):
        raise ValueError(f"{evaluation} and the benchmarks have no model in common: measure the same models in both")
    return rows


def _seconds(model: Latency) -> Mapping[str, Any]:
    """Of a batch."""
    if model.decode_seconds is None or model.total_seconds is None:
        raise ValueError(f"the benchmark of {model.model} has no seconds of decoding: time it again")
    figures = {
        "decode_seconds": model.decode_seconds,
        "total_seconds": model.total_seconds,
        "decode_share": model.decode_seconds / model.total_seconds,
        "speedup": model.speedup,
        "ideal_speedup": model.ideal_speedup,
    }
    if model.speedup and model.ideal_speedup:
        figures["of_ideal"] = model.speedup / model.ideal_speedup
    return {name: None if value is None else float(f"{value:.3g}") for name, value in figures.items()}
