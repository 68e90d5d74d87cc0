"""The page as a file: whole, escaped, light, and with words where something is missing."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fewstep.commands.evaluate import models_of
from fewstep.eval.report import clips
from fewstep.eval.report.inputs import (
    BenchmarkRecord,
    Comparison,
    EvaluationRecord,
    OptionTrialRecord,
    RunRecord,
    read_evaluation,
)
from fewstep.eval.report.page import ReportInputs, render_page
from tests.eval.report.conftest import row


def data_of(page: str) -> dict[str, Any]:
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    data: dict[str, Any] = json.loads(content)
    return data


def test_whatever_comes_from_files_is_escaped(material: ReportInputs) -> None:
    page = render_page(material, count=6)
    assert page.count("</script>") == 2 and "<img" not in page
    assert "</script><script>window.broken" in str(data_of(page)["clip_sets"][0]["prompts"])


def test_without_an_evaluation_it_says_how_to_get_one(run_record: RunRecord) -> None:
    page = render_page(ReportInputs([run_record], [], []), count=6)
    assert "fewstep evaluate shapes runs/relay" in page and "fewstep benchmark shapes runs/relay" in page
    assert data_of(page)["plots"] == [] and len(data_of(page)["curves"]) == 1
    assert "Not evaluated yet" in page


def test_options_that_were_tried_stand_beside_their_errors(benchmark: BenchmarkRecord, run_record: RunRecord) -> None:
    tried = [
        OptionTrialRecord(option="--compile-blocks", kept=True, why="faster", seconds_without=2.0, seconds_with=1.6,
              relative_error=3e-7, psnr_db=121.0),
        OptionTrialRecord(option="--quantise int8", kept=False, why="quantised weights need torchao"),
    ]  # fmt: skip
    rows = [row.model_copy(update={"relative_error": 0.0123}) for row in benchmark.rows]
    page = render_page(
        ReportInputs([run_record], [], [benchmark.model_copy(update={"optimised": tried, "rows": rows})]), count=6
    )
    assert "error of the clip, tuned" in page and "0.0123" in page
    assert "--compile-blocks" in page and "1.25×" in page and "121 dB" in page and "<td>kept" in page
    assert "quantised weights need torchao" in page
    plain = render_page(ReportInputs([run_record], [], [benchmark]), count=6)
    assert "error of the clip" not in plain and "verdict</th>" not in plain


def test_the_seed_is_shown_where_it_is_known(material: ReportInputs, evaluation_folder: Path) -> None:
    assert "(seed " not in render_page(material, count=1) and "of seed" not in render_page(material, count=1)
    evaluation = read_evaluation(evaluation_folder)
    seeded = evaluation.model_copy(update={"protocol": evaluation.protocol | {"seed": 3}})
    page = render_page(ReportInputs([], [Comparison(evaluation_folder, seeded)], []), count=1)
    assert "the same noise and prompt (seed 3)" in page and "Seed 3. Ranges are 95 % intervals." in page


def test_without_a_benchmark_it_names_every_model(material: ReportInputs) -> None:
    page = render_page(ReportInputs([], [replace(material.comparisons[0], benchmark=None)], []), count=6)
    assert "fewstep benchmark teacher=shapes@50 teacher-4=shapes@4 4-step=runs/relay/stages/4-step" in page


def test_without_a_benchmark_it_names_chains_and_small_decoders(
    material: ReportInputs, evaluation_folder: Path
) -> None:
    guided, plain = {"steps": 16, "guidance": 3}, {"steps": 4, "guidance": 1}
    rows = [
        row("teacher", "teacher", "a+b", 32, 64, metrics={}, chain=[guided, guided | {"guidance": "5@0.3-0.93"}]),
        row("chain", "student", "runs/one+runs/two", 8, 8, metrics={}, chain=[plain, plain]),
        row("mixed", "student", "a+runs/two", 20, 36, metrics={}, chain=[guided, plain]),
        row("small", "student", "runs/relay/stages/4-step", 4, 4, metrics={}, decoder="runs/a decoder"),
    ]
    evaluation = EvaluationRecord.model_validate({"rows": rows})
    page = html.unescape(render_page(ReportInputs([], [Comparison(evaluation_folder, evaluation)], []), count=1))
    chains = "teacher=a+b@16+16:3+5@0.3-0.93 chain=runs/one+runs/two@4+4 mixed=a+runs/two@16+4:3+1"
    words = f"{chains} small=runs/relay/stages/4-step"
    assert f"fewstep benchmark {words} --decoder 'small=runs/a decoder'" in page
    models = models_of(words.split(), ["small=runs/a decoder"])
    assert [len(model.members) for model in models] == [2, 2, 2, 0] and models[3].decoder == "runs/a decoder"


def test_clips_are_as_many_as_there_is_room_for(material: ReportInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(data_of(render_page(material, count=2))["clip_sets"][0]["prompts"]) == 2
    monkeypatch.setattr(clips, "MAX_BYTES", 1)
    assert len(data_of(render_page(material, count=3))["clip_sets"][0]["prompts"]) == 1


def test_a_clip_that_is_not_there_leaves_a_gap(material: ReportInputs, evaluation_folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "evaluation" / "videos" / "teacher"
    kept.mkdir(parents=True)
    (kept / "00001.mp4").write_bytes((evaluation_folder / "videos" / "teacher" / "00001.mp4").read_bytes())
    (tmp_path / "evaluation" / "results.json").write_bytes((evaluation_folder / "results.json").read_bytes())
    folder = tmp_path / "evaluation"
    page = render_page(ReportInputs([], [Comparison(folder, read_evaluation(folder))], []), count=6)
    (clip_set,) = data_of(page)["clip_sets"]
    assert len(clip_set["prompts"]) == len(clip_set["models"]) == 1
    (kept / "00001.mp4").write_bytes(b"not a clip")
    with pytest.raises(ValueError, match="cannot be read as a clip"):
        render_page(ReportInputs([], [Comparison(folder, read_evaluation(folder))], []), count=6)


@pytest.mark.parametrize("text", ["{", '{"rows": []}', '{"rows": [{"steps": 4}]}', "[]"])
def test_a_file_of_another_kind_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results.json is not .* (run that|`fewstep evaluate`) again"):
        read_evaluation(tmp_path)
