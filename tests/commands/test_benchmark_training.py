"""`fewstep benchmark --training`: stages of a tiny recipe. Only the books are checked, never the speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fewstep.distill.step_time import StageTime
from tests.commands.typed import fewstep

QUICK = ("--repetitions", 2, "--warmup", 1, "--device", "cpu")
ADVERSARIAL = {"kind": "adversarial", "warmup": 3, "penalty_every": 2, "discriminator": {"width": 8}}


@pytest.fixture
def recipe(tmp_path: Path, tiny_wan_folder: Path) -> Path:
    """Two stages; neither its data nor its run is there."""
    settings: dict[str, Any] = {"steps": 6, "batch": 2, "lr": 1e-3}
    values = {
        "teacher": str(tiny_wan_folder),
        "out": str(tmp_path / "run"),
        "data": {"kind": "videos", "folder": "nowhere"},
        "stages": [
            settings | {"teacher_steps": 8, "student_steps": 4, "guidance": 3.0, "objective": {"kind": "progressive"}},
            settings | {"teacher_steps": 4, "student_steps": 2, "objective": ADVERSARIAL},
        ],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())["rows"])


def test_every_stage_gets_a_row(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = fewstep("benchmark", "--training", recipe, *QUICK)
    assert code == 0, output
    assert not (tmp_path / "run").exists()  # no run was begun, so none is made
    first, second = read(tmp_path / "runs" / "training.json")
    assert [(row["stage"], row["steps_per_round"], row["rounds"]) for row in (first, second)] == [
        ("4-step", 1, 2), ("2-step", 2, 2),
    ]  # fmt: skip
    for row in (first, second):
        parts = ("supervisor", "student", "discriminator", "optimizer", "other")
        assert (
            sum(row.get(f"{part}_seconds", 0) for part in parts) == pytest.approx(row["split_seconds"])
            and row["seconds"] > 0
            and row["ratio"] > 0
        )
        assert row["clips"] == row["expected_clips"] and row["peak_gib"] > 0
        assert (row["dtype"], row["batch"], row["train"], row["size"]) == ("float32", 2, "full", [9, 16, 16])
        assert row["threads"] == torch.get_num_threads() and row["versions"]["torch"] == torch.__version__
    assert first["clips"]["supervisor_forward"] == 2 * 2 * 2 and "discriminator" not in first["turns"]
    assert set(second["turns"]) == {"lesson", "discriminator", "student"}
    lines = (tmp_path / "runs" / "training.md").read_text().splitlines()
    assert len(lines) == 2 + 2 and "step / bare sum" in lines[0]
    assert "by turn, and compared with the bare sum" in output and "discriminator steps" in output


@pytest.mark.slow
def test_stages_and_settings_are_chosen(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("")  # a run is there, so the table goes there
    chosen = (
        "--stages",
        "2-step",
        "--set",
        "stages.2-step.batch=4",
        "--set",
        "student.train=lora",
        "--set",
        "gradient_checkpointing=true",
    )
    code, output = fewstep("benchmark", "--training", recipe, *chosen, "--dtype", "bfloat16", *QUICK)
    assert code == 0, output
    (row,) = read(tmp_path / "run" / "training.json")
    actual = (row["stage"], row["batch"], row["train"], row["dtype"], row["teacher"] == "shapes")
    assert actual == ("2-step", 4, "lora", "bfloat16", False)
    assert row["clips"] == row["expected_clips"] and row["clips"]["student_forward"] == 2 * 4  # half of them again


def test_a_stage_that_fails_does_not_stop_the_others(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = StageTime.run

    def no_memory(self: StageTime, *arguments: Any) -> None:
        if self.trainer.stage.name == "4-step":
            raise torch.OutOfMemoryError("tried to allocate 80 GiB\nand some more")
        run(self, *arguments)

    monkeypatch.setattr(StageTime, "run", no_memory)
    code, output = fewstep("benchmark", "--training", recipe, *QUICK, "--out", tmp_path / "t.json")
    assert code == 3 and "4-step failed: tried to allocate 80 GiB" in output
    assert [row["stage"] for row in read(tmp_path / "t.json")] == ["2-step"]
    code, output = fewstep(
        "benchmark", "--training", recipe, "--stages", "4-step", *QUICK, "--out", tmp_path / "u.json"
    )
    assert code == 2 and "4-step: tried to allocate 80 GiB" in output and not (tmp_path / "u.json").exists()


def test_other_files_are_not_replaced(recipe: Path, tmp_path: Path) -> None:
    held = tmp_path / "held.json"
    for text, sentence in (
        ("[1]", "is not a results table"),
        ('{"command": "", "rows": [{"model": "a"}]}', "is not a table"),
    ):
        held.write_text(text)
        code, output = fewstep("benchmark", "--training", recipe, "--out", held)
        assert code == 2 and sentence in output and held.read_text() == text
    code, output = fewstep("benchmark", "--training", recipe, "--out", tmp_path / "table.txt")
    assert code == 2 and ".json" in output


MISTAKES: list[tuple[list[str], str]] = [
    (
        ["shapes@50", "--training", "RECIPE"],
        "--training times a recipe's stages, not models: leave out one or the other",
    ),
    (["--training", "nothing"], "there is no recipe nothing"),
    (
        ["--training", "RECIPE", "--stages", "4-step,3-step"],
        "there is no stage '3-step': the recipe has 4-step, 2-step",
    ),
    (["--training", "RECIPE", "--batch", "4"], "--batch cannot be used with --training"),
    (
        ["--training", "RECIPE", "--compile", "--no-text"],
        "--compile, --text or --no-text cannot be used with --training",
    ),
    (
        ["--training", "RECIPE", "--random-weights", "wan2.1-t2v-1.3b"],
        "--random-weights cannot be used with --training",
    ),
    (["--training", "RECIPE", "--set", "stages.0.lr=fast"], "stages.0.lr"),
    (["--training", "RECIPE", "--dtype", "float16"], "use bfloat16, float32 or auto"),
    (["--training", "RECIPE", "--device", "cuda:99"], "cuda:99"),
    (["--training", "RECIPE", "--set", "teacher=nowhere"], "nowhere"),
    (["--training", "RECIPE", "--set", "size={num_frames: 6, height: 16, width: 16}"], "frames"),
    (["TINY", "--stages", "4-step"], "--stages can only be used with --training RECIPE"),
    (["TINY", "--set", "a=1", "--stages", "b"], "--set, --stages can only be used with --training RECIPE"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_mistakes_are_told_before_anything_is_loaded(
    arguments: list[str],
    sentence: str,
    recipe: Path,
    tiny_wan_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError("a teacher was loaded")

    monkeypatch.setattr("fewstep.teacher.load_teacher.load_teacher", loaded)
    given = [{"TINY": str(tiny_wan_folder), "RECIPE": str(recipe)}.get(text, text) for text in arguments]
    code, output = fewstep("benchmark", *given, "--out", tmp_path / "training.json")
    assert code == 2 and sentence in output and "Traceback" not in output
    assert not (tmp_path / "training.json").exists()
