"""`fewstep benchmark`: tiny teachers and students timed side by side. Only the books are checked, never the speed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.eval.latency import optimise
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles
from fewstep.student.sampler import Sampler
from fewstep.teacher.base import Teacher
from tests.commands.typed import fewstep

QUICK = ("--repetitions", 2, "--warmup", 1, "--device", "cpu")
PARTS = ("text", "denoise", "decode", "total")


@pytest.fixture
def run(tiny_teacher: Teacher, tiny_wan_folder: Path, tmp_path: Path) -> Path:
    """A run whose 4-step and 2-step students are the teacher itself."""
    size = tiny_teacher.default_size()
    assert size is not None
    for steps in (4, 2):
        stage = tmp_path / "run" / "stages" / f"{steps}-step"
        stage.mkdir(parents=True)
        Roles(tiny_teacher).save(stage)
        SamplingContract.of(tiny_teacher, str(tiny_wan_folder), steps, "full", size, 3.0, "", 8).write(stage)
    return tmp_path / "run"


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_teacher_and_students_in_one_table(run: Path, tiny_wan_folder: Path) -> None:
    models = (f"teacher={tiny_wan_folder}", f"{run}@4", run / "stages" / "2-step", f"{tiny_wan_folder}@2:1")
    limited = f"limited={tiny_wan_folder}@8:5@0.3-0.93"  # 5 of its 8 steps begin between these noise levels
    code, output = fewstep("benchmark", *models, limited, "--steps", 8, *QUICK)
    assert code == 0, output
    results = read(run / "benchmark.json")
    rows = results["rows"]
    arguments = [(row["model"], row["steps"], row["guidance"], row["evaluations"]) for row in rows]
    tiny = tiny_wan_folder.name
    assert arguments == [
        ("teacher", 8, 3.0, 16), ("run-4", 4, 1.0, 4), ("2-step", 2, 1.0, 2), (f"{tiny}-2-1", 2, 1.0, 2),
        ("limited", 8, "5@0.3-0.93", 13),
    ]  # fmt: skip
    for row in rows:
        assert all(0 < row[f"{part}_seconds"] <= row[f"{part}_seconds_p95"] for part in PARTS)
        assert row["repetitions"] == 2 and row["peak_gib"] > 0
        assert row["seconds_per_120_frames"] == pytest.approx(
            row["total_seconds"] * 120 / results["protocol"]["size"][0]
        )
        assert row["speedup"] == pytest.approx(rows[0]["total_seconds"] / row["total_seconds"])
        assert row["denoise_speedup"] == pytest.approx(rows[0]["denoise_seconds"] / row["denoise_seconds"])
    ideal = [row["ideal_speedup"] for row in rows]
    assert ideal[:4] == [1, 4, 8, 8] and ideal[4] == pytest.approx(16 / 13)
    assert results["fit"]["seconds_per_evaluation"] > 0 and results["failed"] == {}
    protocol = results["protocol"]
    assert protocol["size"] == [9, 16, 16] and protocol["batch"] == 1 and protocol["dtype"] == "float32"
    assert protocol["versions"]["torch"] == torch.__version__ and protocol["threads"] == torch.get_num_threads()
    assert len((run / "benchmark.md").read_text().splitlines()) == 2 + len(rows)
    assert "per evaluation, by least squares" in output and "run-4" in output


def test_a_model_that_fails_does_not_stop_the_others(
    run: Path, tiny_wan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Sampler.sample

    def no_memory(self: Sampler, *arguments: Any) -> Tensor:
        if self.steps == 4:
            raise torch.OutOfMemoryError("tried to allocate 80 GiB\nand some more")
        return sample(self, *arguments)

    monkeypatch.setattr(Sampler, "sample", no_memory)
    out = tmp_path / "out" / "latency.json"
    models = (f"teacher={tiny_wan_folder}@3", f"{run}@4", f"{run}@2")
    code, output = fewstep("benchmark", *models, *QUICK, "--out", out)
    assert code == 3
    results = read(out)
    assert [row["model"] for row in results["rows"]] == ["teacher", "run-2"]
    assert results["failed"] == {"run-4": "tried to allocate 80 GiB"}
    assert "run-4 failed: tried to allocate 80 GiB" in output


def test_a_benchmark_that_is_stopped_keeps_its_rounds(
    tiny_wan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, requested = Sampler.sample, []

    def stopped(self: Sampler, *arguments: Any) -> Tensor:
        requested.append(self.name)
        if len(requested) == 6:  # two models: one warm-up, two rounds, of which the second is not whole
            raise KeyboardInterrupt
        return sample(self, *arguments)

    monkeypatch.setattr(Sampler, "sample", stopped)
    out = tmp_path / "latency.json"
    code, _ = fewstep("benchmark", f"{tiny_wan_folder}@2", f"few={tiny_wan_folder}@1", *QUICK, "--out", out)
    assert code == 130 and [row["repetitions"] for row in read(out)["rows"]] == [1, 1]


def test_random_weights_need_configs_only(tiny_wan_folder: Path, tmp_path: Path) -> None:
    configs, out = tmp_path / "configs", tmp_path / "latency.json"
    shutil.copytree(tiny_wan_folder, configs, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer"))
    arguments = ("benchmark", "--random-weights", configs, *QUICK, "--out", out)
    code, output = fewstep(*arguments, "--steps", 3, "--no-text", "--frames", 5, "--batch", 2)
    assert code == 0, output
    results = read(out)
    assert [(row["model"], row["evaluations"], row["text_seconds"]) for row in results["rows"]] == [
        ("teacher", 6, None), ("student", 4, None),
    ]  # fmt: skip
    assert results["protocol"]["size"] == [5, 16, 16] and results["protocol"]["text"] == "left out"
    assert fewstep(*arguments, "@2:3", "few=@1:1")[0] == 0
    assert [(row["model"], row["ideal_speedup"]) for row in read(out)["rows"]] == [("2-3", 1), ("few", 4)]
    assert fewstep(*arguments, "@2:3", "few=@1", "guided=@1:3")[0] == 0  # students are not guided, unless asked
    assert [(row["model"], row["evaluations"]) for row in read(out)["rows"]] == [("2-3", 4), ("few", 1), ("guided", 2)]
    code, output = fewstep(*arguments, "shapes@4")
    assert code == 2 and "shapes@4 is a model of its own" in output


def test_tuned_models_have_the_likeness_of_their_clips(run: Path, tiny_wan_folder: Path, tmp_path: Path) -> None:
    tuned = ("--slicing", "--channels-last", "--overlap", "--attention", "_native_math", "--batch", 2)
    out = tmp_path / "latency.json"
    code, output = fewstep("benchmark", f"{tiny_wan_folder}@3", f"{run}@2", *tuned, *QUICK, "--out", out)
    assert code == 0, output
    results = read(out)
    for row in results["rows"]:
        assert 0 <= row["relative_error"] < 1e-4 and row["max_difference"] < 1e-3
        parts = [row[f"{part}_seconds"] for part in ("text", "denoise", "decode")]
        assert row["total_seconds"] == pytest.approx(sum(parts), rel=0.2)
    protocol = results["protocol"]
    assert (protocol["slicing"], protocol["overlap"], protocol["compile"]) == (True, True, False)
    assert "decode is what is left to wait for" in protocol["overlap_seconds"] and "optimised" not in results
    assert " error | dB |" in out.with_suffix(".md").read_text().splitlines()[0]


def test_options_are_tried_and_all_models_timed_with_what_pays(
    run: Path, tiny_wan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pays = optimise.Optimiser._against
    monkeypatch.setattr(optimise, "candidates", lambda model, batch: iter([[("slicing", True)], [("tiling", True)]]))
    monkeypatch.setattr(  # seconds of so small a model say nothing: on a busy machine tiling may seem to pay, too
        optimise.Optimiser,
        "_against",
        lambda self, tried: "" if tried.option == "--slicing" else pays(self, tried) or "it gains by chance",
    )
    out, five = tmp_path / "latency.json", ("--batch", 2, *QUICK, "--repetitions", 5)
    code, output = fewstep("benchmark", f"{tiny_wan_folder}@3", f"{run}@2", "--optimise", "auto", *five, "--out", out)
    assert code == 0, output
    results = read(out)
    assert next((one["option"], one["kept"]) for one in results["optimised"]) == ("--slicing", True)
    assert all(one["seconds_with"] > 0 and one["relative_error"] < 1e-4 for one in results["optimised"])
    assert "trying options on run-2" in output and "timing with --slicing" in output and "--tiling: " in output
    assert results["protocol"]["slicing"] and results["protocol"]["max_error"] == 0.05
    assert all("relative_error" in row for row in results["rows"])


MISTAKES: list[tuple[list[str], str]] = [
    ([], "there is nothing to time: pass a TEACHER and STUDENTs"),
    (["nowhere"], "there is no folder nowhere"),
    (["a=shapes", "a=shapes@4"], "two models are called a: give one another name"),
    (["teacher="], "names no model: write SOURCE or NAME=SOURCE"),
    (["--random-weights", "wan9"], "there is no architecture wan9: use wan2.1-t2v-1.3b"),
    (["TINY", "--attention", "quick"], "has no attention backend quick"),
    (["TINY", "--compile", "--compile-blocks"], "compile the same networks in different ways: choose one"),
    (["TINY", "--cuda-graphs"], "--cuda-graphs need a CUDA GPU, and this is cpu"),
    (["TINY", "--slicing"], "--batch is 1: leave it out"),
    (
        ["TINY", "--quantise-text", "int8", "--no-text"],
        "--quantise-text needs the text encoder, which --no-text leaves out",
    ),
    (["TINY", "--max-error", "0.1"], "--max-error is the limit of --optimise auto: leave it out, or add that"),
    (["TINY", "--optimise", "auto", "--tiling"], "--optimise auto chooses the options itself: leave --tiling out"),
    (["TINY", "--optimise", "auto"], "use --repetitions 5 or more"),
    (["TINY", "--guidance", "nan"], "--guidance is nan"),
    (["TINY", "--frames", "6"], "frames"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_mistakes_are_told(arguments: list[str], sentence: str, tiny_wan_folder: Path, tmp_path: Path) -> None:
    given = [str(tiny_wan_folder) if text == "TINY" else text for text in arguments]
    code, output = fewstep("benchmark", *given, *QUICK, "--out", tmp_path / "latency.json")
    assert code == 2 and sentence in output and not (tmp_path / "latency.json").exists()
