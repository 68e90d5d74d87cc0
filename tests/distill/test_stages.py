"""Gates: what a stage must reach, or the relay ends there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fewstep.distill.run_folder import RunFolder
from fewstep.distill.settings import Gate, Stage
from fewstep.distill.stages import check_gate, held_out_batches


def check(folder: Path, gate: dict[str, Any], **measured: float) -> None:
    """Asks the gate of a stage that was finished with these figures."""
    run: Any = RunFolder(folder)
    run.stage("4-step").mkdir(parents=True, exist_ok=True)
    (run.stage("4-step") / "result.json").write_text(json.dumps(measured))
    objective = {"kind": "progressive"}
    stage = Stage.model_validate(
        {"name": "4-step", "teacher_steps": 8, "student_steps": 4, "gate": gate, "objective": objective}
    )
    check_gate(stage, run)


@pytest.mark.parametrize(("value", "opens"), [(0.7, True), (0.9, True), (0.69, False), (math.nan, False)])
def test_a_lower_limit(value: float, opens: bool, tmp_path: Path) -> None:
    gate = {"metric": "prompt_accuracy", "at_least": 0.7}
    assert Gate.model_validate(gate).opens(value) is opens
    if opens:
        check(tmp_path, gate, prompt_accuracy=value)
        return
    with pytest.raises(ValueError, match=r"stage 4-step ended with prompt_accuracy (0.69|nan).* at least 0.7"):
        check(tmp_path, gate, prompt_accuracy=value)


@pytest.mark.parametrize(("value", "opens"), [(0.02, True), (0.01, True), (0.021, False), (math.nan, False)])
def test_an_upper_limit(value: float, opens: bool) -> None:
    assert Gate(metric="endpoint_error", at_most=0.02).opens(value) is opens


@pytest.mark.parametrize(
    ("batch", "accumulate", "processes", "sizes"),
    [
        (4, 1, 1, [8]),
        (4, 4, 1, [2, 2, 2, 2]),  # as many clips, a few at a time
        (4, 4, 2, [1, 1, 1, 1]),
        (64, 1, 1, [32]),
        (64, 8, 1, [16, 16]),
        (1, 1, 4, [1]),
    ],
)
def test_accumulation_measures_as_many_clips(batch: int, accumulate: int, processes: int, sizes: list[int]) -> None:
    class Source:
        """Positions and sizes that were asked for; one size of clips."""

        def of_each_size(self, position: int, size: int) -> list[Any]:
            return [(position, size)]

    stage = Stage.model_validate(
        {
            "name": "4-step", "teacher_steps": 8, "student_steps": 4, "batch": batch, "accumulate": accumulate,
            "objective": {"kind": "progressive"},
        }
    )  # fmt: skip
    source: Any = Source()
    held_out: list[Any] = list(held_out_batches(source, stage, processes))
    assert [size for _, size in held_out] == sizes
    assert len({position for position, _ in held_out}) == len(sizes)


def test_a_gate_on_what_was_not_measured_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage 4-step was finished without a gate on prompt_accuracy"):
        check(tmp_path, {"metric": "prompt_accuracy", "at_least": 0.7}, endpoint_error=0.01)
