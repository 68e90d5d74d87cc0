"""`fewstep run` with a teacher that predicts eps: its student of one step is converted first, or refused."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewstep.distill.trainer import Trainer
from fewstep.student.contract import UNNAMED, read_contract
from fewstep.student.load_student import load_student
from fewstep.student.sampler import open_sampler
from tests.commands.typed import fewstep


@pytest.fixture(scope="module")
def teacher(tiny_animatediff_folder: Path) -> Path:
    """One that predicts eps."""
    return tiny_animatediff_folder


@pytest.fixture
def recipe(tmp_path: Path, teacher: Path) -> Path:
    return write(tmp_path, teacher, {"steps": 3})


@pytest.fixture(scope="module")
def whole(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert fewstep("run", write(folder, teacher, {"steps": 3}))[0] == 0
    return folder / "run"


def write(folder: Path, teacher: Path, convert: Any) -> Path:
    (folder / "prompts.txt").write_text("a ring\na dot\n")
    shared = {"steps": 1, "batch": 2, "objective": {"kind": "progressive"}}
    stages = [
        {"teacher_steps": 4, "student_steps": 2, **shared},
        {"teacher_steps": 2, "student_steps": 1, "convert": convert, **shared},
        {"teacher_steps": 2, "student_steps": 1, "name": "on", **shared},
    ]
    data = {"kind": "rollouts", "prompts": "prompts.txt", "steps": 2, "guidance": 1.0}
    path, out = folder / "eps.yaml", str(folder / "run")
    logging = {"every": 1, "tracker": "tensorboard"}
    path.write_text(
        yaml.safe_dump(
            {
                "teacher": str(teacher), "out": out, "device": "cpu", "precision": "float32", "data": data,
                "logging": logging, "stages": stages,
            }
        )
    )  # fmt: skip
    return path


def weights(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(run.glob("stages/*/*.safetensors"))}


def curve(run: Path, stage: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "curves" / f"{stage}.jsonl").read_text().splitlines()]


SENTENCE = (
    "1-step: its student starts as predicting eps, which cannot be sampled in one step: first converting it to v by 3 "
    "steps of regression on its own x0"
)


@pytest.mark.parametrize("train", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_the_relay_converts_by_itself_and_says_so(recipe: Path, tmp_path: Path, train: str) -> None:
    code, output = fewstep("run", recipe, "--set", f"student.train={train}", "--set", "student.lora.rank=4")
    text = " ".join(output.split())
    assert code == 0 and text.count(SENTENCE) == 1, output
    run = tmp_path / "run"
    contracts = [read_contract(run / "stages" / name) for name in ("2-step", "1-step", "on")]
    assert [contract.prediction for contract in contracts] == ["eps", "v", "v"]
    assert [contract.weights for contract in contracts] == [train] * 3
    assert [point["step"] for point in curve(run, "1-step.conversion")] == [1, 2, 3]
    assert not (run / "curves" / "on.conversion.jsonl").exists() and not (run / "state.pt").exists()
    student = load_student(run, 1, device="cpu")
    assert student.teacher.schedule_of(student.network).prediction == "v"
    clip = tmp_path / "clip.mp4"
    assert fewstep("sample", run, "--steps", 1, "--prompt", "a ring", "--out", clip)[0] == 0 and clip.stat().st_size
    code, output = fewstep("export", run, "--to", "diffusers", "--out", tmp_path / "export")
    config = json.loads((tmp_path / "export" / "scheduler" / "scheduler_config.json").read_text())
    assert code == 0 and config["prediction_type"] == "v_prediction", output
    unnamed = student.contract.model_copy(update={"teacher": UNNAMED})  # it lay in a folder
    assert open_sampler(tmp_path / "export", device="cpu").contract == unnamed


@pytest.mark.parametrize(
    ("stage", "turn"),
    [
        pytest.param("1-step.conversion", 1, marks=pytest.mark.slow),
        pytest.param("1-step.conversion", 3, marks=pytest.mark.slow),
        pytest.param("1-step", 0, marks=pytest.mark.slow),
    ],
)
def test_a_stop_in_a_conversion_or_after_it_loses_nothing(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, turn: int
) -> None:
    usual, stopped = Trainer._after_step, list[str]()

    def after_step(trainer: Trainer, signals: Any, say: Any) -> int:
        if not stopped and trainer.stage.name == stage and trainer.step == turn:
            stopped.append(stage)
            signals.receive(signal.SIGTERM)
        return usual(trainer, signals, say)

    monkeypatch.setattr(Trainer, "_after_step", after_step)
    code, output = fewstep("run", recipe)
    text = " ".join(output.split())
    assert code == 143 and stopped and f"stage {stage} is at step {turn} of" in text, output
    assert (tmp_path / "run" / "state.pt").is_file()
    code, output = fewstep("run", recipe)
    assert code == 0 and (SENTENCE in " ".join(output.split())) is (turn == 1), output
    assert weights(tmp_path / "run") == weights(whole)
    for name in ("1-step.conversion", "1-step"):
        assert curve(tmp_path / "run", name) == curve(whole, name)


def test_what_cannot_be_sampled_is_refused_before_weights_are_loaded(
    tmp_path: Path, teacher: Path, tiny_wan_folder: Path
) -> None:
    one = "stage 1-step takes one step with a student that predicts eps"
    flow = "stage 1-step asks to convert its student to v, but it starts as predicting flow, and only eps is converted"
    for place, convert, sentence in ((teacher, False, one), (tiny_wan_folder, {}, flow)):
        path = write(tmp_path, place, convert)
        for options in (["--dry-run"], []):
            code, output = fewstep("run", path, *options)
            assert code != 0 and re.search(sentence, " ".join(output.replace("│", " ").split())), output
            assert "loading the teacher" not in output and not (tmp_path / "run").exists()


@pytest.mark.usefixtures("uncounted")
def test_a_dry_run_counts_the_conversion(recipe: Path) -> None:
    code, output = fewstep("run", recipe, "--dry-run")
    assert code == 0 and re.search(r"1-step\.conversion\W+6\W+6\W+6\W", output), output
