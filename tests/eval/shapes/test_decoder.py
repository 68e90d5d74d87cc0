"""A decoder's table: figures of an evaluation next to seconds of benchmarks, with the decoder and without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.eval.shapes.decoder import decoder_rows


def write(folder: Path) -> tuple[Path, list[Path], Path]:
    figure = {"value": 50.0, "low": 45.0, "high": 55.0, "num": 512}
    rows: list[dict[str, Any]] = [
        {"model": "real", "role": "real", "metrics": {"shapes-fd": figure}},
        {"model": "own", "role": "student", "steps": 4, "evaluations": 4, "metrics": {"shapes-fd": figure}},
        {
            "model": "small", "role": "student", "steps": 4, "evaluations": 4, "decoder": "runs/x/decoder",
            "metrics": {"shapes-fd": figure | {"value": 51.0}},
        },
    ]  # fmt: skip
    (folder / "results.json").write_text(json.dumps({"protocol": {}, "rows": rows}))
    (folder / "result.json").write_text(json.dumps({"psnr_db": 30.0}))
    benchmarks = []
    for batch in (1, 4):
        seconds = {"total_seconds": 0.5 * batch, "ideal_speedup": 20.0, "speedup": 10.0}
        own: dict[str, Any] = seconds | {"model": "own", "decode_seconds": 0.25 * batch}
        small: dict[str, Any] = own | {"model": "small", "decode_seconds": 0.05 * batch, "speedup": 12.0}
        benchmarks.append(folder / f"benchmark-{batch}.json")
        benchmarks[-1].write_text(json.dumps({"protocol": {"batch": batch}, "rows": [own, small]}))
    return folder / "results.json", benchmarks, folder / "result.json"


def test_each_model_has_a_row_per_batch_and_the_share_of_decoding(tmp_path: Path) -> None:
    real, own, own4, small, small4 = decoder_rows(*write(tmp_path))
    assert (real["decoder"], "total_seconds" in real) == ("", False)
    assert (own["decoder"], own["batch"], own["decode_share"], own["of_ideal"]) == ("autoencoder", 1, 0.5, 0.5)
    assert (own4["batch"], own4["total_seconds"], "psnr" in own4) == (4, 2.0, False)
    assert (small["decoder"], small["psnr"], small["decode_share"], small["shapes_fd"]) == ("small", 30.0, 0.1, 51.0)
    assert small4["of_ideal"] == 0.6


def test_other_models_and_other_files_are_refused(tmp_path: Path) -> None:
    evaluation, benchmarks, result = write(tmp_path)
    other = json.loads(benchmarks[0].read_text())
    other["rows"] = [row | {"model": "other"} for row in other["rows"]]
    benchmarks[0].write_text(json.dumps(other))
    with pytest.raises(ValueError, match="no model in common"):
        decoder_rows(evaluation, benchmarks[:1], result)
    benchmarks[0].write_text("{}")
    with pytest.raises(ValueError, match="is not a file of `fewstep evaluate` or `fewstep benchmark`"):
        decoder_rows(evaluation, benchmarks, result)
