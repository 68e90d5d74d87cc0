"""An evaluation, a benchmark and a run made by hand: every clip shows which frame it is at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.eval.report.inputs import (
    BandRecord,
    BenchmarkRecord,
    Comparison,
    Judging,
    RunRecord,
    StageRecord,
    read_benchmark,
    read_evaluation,
)
from fewstep.eval.report.page import ReportInputs
from fewstep.teacher.videos.writing import write_video

FRAMES, SIDE, FPS = 17, 64, 8
HOSTILE = '</script><script>window.broken = true</script><img src="https://example.com/x.png">'
PROMPTS = [
    "a small red ring circles over a dark striped background",
    f"a cross {HOSTILE}",
    "a large green square grows",
]
MODELS = ["teacher", "teacher-4", "4-step", "1-step"]


def clip(model: int, prompt: int) -> Any:
    """Frames (F, H, W, 3): the upper left corner is as bright as the frame is late, and a square crosses the rest."""
    frames = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
    frames[:, :, :, :] = (40 + 20 * prompt, 46, 70)
    for i, frame in enumerate(frames):
        frame[:16, :16] = 20 + 12 * i
        left, top = 4 + 2 * i, 26 + 3 * model
        frame[top : top + 20, left : left + 20] = [(230, 90, 60), (70, 190, 150), (240, 200, 90)][prompt]
    return frames


def figures(fd: float, accuracy: float, **more: float) -> dict[str, Any]:
    values = {
        "shapes-fd": {
            "value": fd, "low": 0.85 * fd, "high": 1.18 * fd, "floor": 5.2, "num": 512, "better": "lower",
        },
        "prompt-accuracy": {
            "value": accuracy, "low": accuracy - 0.03, "high": accuracy + 0.02, "num": 512, "better": "higher",
        },
    }  # fmt: skip
    return values | {name.replace("_", "-"): {"value": value, "num": 512} for name, value in more.items()}


TOLD_STATIC = "moves only 31 % as much as the teacher: it may have become static"


def row(model: str, role: str, source: str, steps: int, evaluations: int, **more: Any) -> dict[str, Any]:
    entry = {"model": model, "role": role, "source": source, "steps": steps, "evaluations": evaluations}
    return entry | {"videos": f"videos/{model}", "warnings": []} | more


ROWS = [
    row("teacher", "teacher", "shapes", 50, 100, metrics=figures(37.2, 0.93)),
    {"model": "real", "role": "real", "metrics": {"shapes-fd": {"value": 5.2, "low": 3.2, "high": 8.0, "num": 512}}},
    row("teacher-4", "teacher", "shapes", 4, 8, metrics=figures(82.8, 0.62)),
    row("4-step", "student", "runs/relay/stages/4-step", 4, 4, metrics=figures(38.2, 0.91, psnr=24.6)),
    row("1-step", "student", "runs/relay/stages/1-step", 1, 1, metrics=figures(121, 0.41), warnings=[TOLD_STATIC]),
]


def latency_row(model: str, evaluations: int) -> dict[str, Any]:
    denoise, rest = 0.006 * evaluations + 0.0005, 0.013
    return {
        "model": model, "evaluations": evaluations, "text_seconds": 0.004, "denoise_seconds": denoise,
        "decode_seconds": 0.009, "total_seconds": denoise + rest, "total_seconds_p95": 1.1 * (denoise + rest),
        "peak_gib": 0.31, "speedup": 0.6135 / (denoise + rest), "denoise_speedup": 0.6005 / denoise,
        "ideal_speedup": 100 / evaluations,
    }  # fmt: skip


def curve(steps: int, first: float) -> list[dict[str, Any]]:
    noise = np.random.default_rng(0).normal(0, 0.06, steps)
    losses = first * (0.25 + np.exp(-np.arange(steps) / 90)) * (1 + noise)
    return [{"step": step, "student/loss": float(losses[step])} for step in range(1, steps, 10)]


@pytest.fixture(scope="session")
def evaluation_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `fewstep evaluate` leaves it."""
    folder = tmp_path_factory.mktemp("relay") / "evaluation"
    for model, name in enumerate(MODELS):
        (folder / "videos" / name).mkdir(parents=True)
        for prompt in range(len(PROMPTS)):
            write_video(folder / "videos" / name / f"{prompt:05d}.mp4", clip(model, prompt), FPS)
    results = {
        "command": "fewstep evaluate shapes shapes@4 runs/relay@4 runs/relay@1 --num 512",
        "protocol": {"num": 512, "frames": FRAMES, "note": HOSTILE}, "rows": ROWS, "prompts": PROMPTS,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkRecord:
    """As `fewstep benchmark` writes it."""
    path = tmp_path_factory.mktemp("benchmark") / "benchmark.json"
    rows = [latency_row(name, n) for name, n in zip(MODELS, (100, 8, 4, 1), strict=True)]
    fit = {"fixed_seconds": 0.013, "seconds_per_evaluation": 0.006}
    path.write_text(
        json.dumps({"command": "fewstep benchmark shapes", "protocol": {"batch": 1}, "rows": rows, "fit": fit})
    )
    return read_benchmark(path)


@pytest.fixture(scope="session")
def run_record() -> RunRecord:
    """A relay whose last stage was stopped."""
    result = {"endpoint_error": 0.031, "motion": 0.98, "contrast": 1.01, "steps": 480, "train_seconds": 812.4}
    stages = [
        StageRecord("8-step", 32, 8, "progressive", 480, regression=True, result=result, curve=curve(480, 0.2)),
        StageRecord(
            "4-step", 8, 4, "progressive", 240, regression=True, result=result | {"steps": 240}, curve=curve(240, 0.12)
        ),
        StageRecord("1-step", 4, 1, "adversarial", 240, curve=curve(130, 0.3), judging=Judging()),
    ]
    return RunRecord(Path("runs/relay"), "shapes", ["a ring"], stages)


ENDS = ("0.968", "0.909", "0.769", "0")  # the times at which four steps end, as curves name them


def game(steps: int) -> list[dict[str, Any]]:
    """A curve of which the discriminator sees less with time, but at data, and waits when it sees much."""
    noise, points = np.random.default_rng(1), list[dict[str, Any]]()
    for step in range(1, steps, 10):
        point = {"step": step, "student/loss": 0.1, "student/discriminator_steps": float(noise.integers(0, 3))}
        for i, end in enumerate(ENDS):
            seen = (0.9 if end == "0" else 0.5 + 0.3 * float(np.exp(-step / (60 * (i + 1))))) + noise.normal(0, 0.01)
            point |= {f"discriminator/{name}_to_{end}": value for name, value in (
                ("accuracy", seen), ("logits_real", seen - 0.5), ("logits_fake", 0.5 - seen),
            )}  # fmt: skip
        points.append(point)
    return points


@pytest.fixture(scope="session")
def adversarial_run() -> RunRecord:
    """Regression to four steps, and an adversarial stage that was probed by fresh heads."""
    judging = Judging(real="clips_at_data", conditional=False, balance=BandRecord(low=0.6, high=0.9, most=3), probe=100)
    result = {"endpoint_error": 0.031, "steps": 400, "train_seconds": 213.0}
    probed = result | {"fresh_heads_before": 0.8412, "fresh_heads": 0.7789}
    probed |= {"fresh_heads_before_to_0.909": 0.6612, "fresh_heads_to_0.909": 0.9731, "fresh_heads_to_0": 0.7123}
    regression: dict[str, Any] = {"regression": True, "result": result}
    stages = [
        StageRecord("8-step", 32, 8, "progressive", 480, **regression, curve=curve(480, 0.2)),
        StageRecord("4-step", 8, 4, "progressive", 240, **regression, curve=curve(240, 0.12), start="8-step"),
        StageRecord(
            "4-step-relaxed", 8, 4, "adversarial, relaxed", 400, result=probed, curve=game(400), start="4-step",
            judging=judging,
        ),
    ]  # fmt: skip
    return RunRecord(Path("runs/game"), "shapes", ["a ring"], stages)


@pytest.fixture(scope="session")
def material(evaluation_folder: Path, benchmark: BenchmarkRecord, run_record: RunRecord) -> ReportInputs:
    """All that a report can show."""
    comparison = Comparison(evaluation_folder, read_evaluation(evaluation_folder), benchmark)
    return ReportInputs([run_record], [comparison], [benchmark])
