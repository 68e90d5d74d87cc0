"""`fewstep shapes students`: a run's students next to their teacher, measured once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from fewstep.eval.results import read_results
from tests.commands.typed import fewstep

JUDGED = {"kind": "adversarial", "warmup": 0, "conditional": False, "discriminator": {"width": 8}}
STAGES: list[dict[str, object]] = [
    {"teacher_steps": 4, "student_steps": 2, "guidance": 2.0},
    {"teacher_steps": 2, "student_steps": 1, "objective": JUDGED},
    {"teacher_steps": 2, "student_steps": 1, "start": "2-step", "name": "1-step-mse"},
]
SHARED: dict[str, object] = {"steps": 1, "batch": 2, "objective": {"kind": "progressive"}}


@pytest.fixture(scope="module")
def run(few_steps: None, make_tiny_wan: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a random teacher that makes clips of the shapes world's size."""
    folder = tmp_path_factory.mktemp("student")
    make_tiny_wan(folder / "teacher")
    size = {"num_frames": 17, "height": 64, "width": 64, "fps": 8}
    (folder / "teacher" / "fewstep.json").write_text(json.dumps(size))
    (folder / "prompts.txt").write_text("a ring\na cross\n")
    recipe = {
        "teacher": str(folder / "teacher"), "out": str(folder / "run"), "device": "cpu", "logging": {"tracker": "none"},
        "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 2}, "stages": [SHARED | s for s in STAGES],
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert fewstep("run", folder / "tiny.yaml")[0] == 0
    return folder / "run"


def test_every_student_gets_a_row_and_none_is_measured_twice(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "relay.json"
    few = ["--num", 4, "--reference", 8, "--diversity", 1]
    command = ["shapes", "students", run, "--steps", "2", *few, "--out", out]
    code, output = fewstep(*command)
    assert code == 0, output
    _, rows = read_results(out)
    keys = ("model", "steps", "guidance", "phase", "stage")
    assert [tuple(row.get(key) for key in keys) for row in rows] == [
        ("real", None, None, None, None),
        ("teacher", 50, 2.0, None, None),  # with the guidance that the students have inside
        ("teacher", 2, 3.0, None, None),  # as it was asked for
        ("student", 2, 2.0, "mse", "2-step"),
        ("student", 1, 2.0, "mse", "1-step-mse"),
        ("student", 1, 2.0, "relaxed", "1-step"),
        ("student", 1, 2.0, "final", "1-step"),
    ]
    assert all(row["low"] <= row["shapes_fd"] <= row["high"] and row["num"] == 4 for row in rows)
    assert all(row["teacher_low"] <= row["teacher_fd"] <= row["teacher_high"] for row in rows[1:])
    seconds = {row["stage"]: row["train_seconds"] for row in rows[3:]}
    stages = {p.parent.name: json.loads(p.read_text())["train_seconds"] for p in run.glob("stages/*/result.json")}
    assert seconds["1-step-mse"] == pytest.approx(stages["2-step"] + stages["1-step-mse"], abs=0.11)
    own = {"motion", "ratio", "motion_to_teacher", "diversity"}
    students = [row for row in rows if row["model"] == "student"]
    assert all({f"{name}{end}" for name in own for end in ("", "_low", "_high")} <= row.keys() for row in students)
    assert "ratio" not in rows[1] and "diversity" not in rows[2] and 0 < rows[0]["motion"] < 2
    arm, baseline = rows[5], rows[4]
    assert arm["delta"] == pytest.approx(arm["shapes_fd"] - baseline["shapes_fd"], abs=2e-3)
    assert arm["delta_low"] <= arm["delta"] <= arm["delta_high"] and arm["delta_to"] == "1-step-mse"
    assert arm["ratio"] == pytest.approx(arm["shapes_fd"] / rows[1]["shapes_fd"], rel=1e-3)
    difference = 100 * (arm["prompt_accuracy"] - baseline["prompt_accuracy"])
    assert arm["accuracy_delta"] == pytest.approx(difference, abs=0.02) and "delta" not in baseline
    assert {row["recipe_seed"] for row in students} == {0} and "fresh_before" not in arm
    relaxed, final = ({**row, "phase": None} for row in rows[5:7])
    assert relaxed == final
    assert out.with_suffix(".png").stat().st_size > 0 and "1-step-mse" in out.with_suffix(".json").read_text()

    before = out.read_bytes()
    assert fewstep(*command)[0] == 0 and out.read_bytes() == before
    code, output = fewstep(*command, "--seed", 1)
    assert code == 2 and "holds figures of another seed" in output


@dataclass(frozen=True)
class Copy:
    """A run that a test may change, and its table, in which what is there is not measured again."""

    run: Path
    out: Path

    def call(self, *more: object) -> tuple[int, str]:
        few = ["--steps", 1, "--num", 2, "--reference", 4, "--diversity", 0, "--no-to-teacher", "--out", self.out]
        return fewstep("shapes", "students", self.run, *more, *few)

    def rows(self, *more: object) -> list[dict[str, Any]]:
        code, output = self.call(*more)
        assert code == 0, output
        return read_results(self.out)[1]


@pytest.fixture(scope="module")
def features(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds what was found of the clips of the run's students and of its teacher."""
    folder = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        Copy(run, folder / "relay.json").rows()
    return folder / "cache"


@pytest.fixture
def copy(run: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    """The finished run's, measured once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(shutil.copytree(features, tmp_path / "cache")))
    measured = Copy(Path(shutil.copytree(run, tmp_path / "copy")), tmp_path / "relay.json")
    measured.rows()
    return measured


@pytest.mark.slow
def test_a_student_that_was_trained_again_takes_its_old_rows_place(copy: Copy) -> None:
    before = {row.get("stage", row["model"]): row for row in copy.rows()}
    file = copy.run / "stages" / "2-step" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight * 0.9 for name, weight in load_file(file).items()}, file)
    rows = copy.rows()
    after = {row.get("stage", row["model"]): row for row in rows}
    assert len(rows) == 7 and after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == ["2-step"]


@pytest.mark.slow
def test_arms_are_chosen_and_compared_when_the_other_row_is_measured_later(copy: Copy) -> None:
    whole = {(row["stage"], row["phase"]): row for row in copy.rows() if row["model"] == "student"}
    copy.out.unlink()
    assert [row for row in copy.rows("--stages", "1-step") if "delta" in row] == []
    later = {(row.get("stage"), row.get("phase")): row for row in copy.rows("--stages", "1-step-mse")}
    assert whole["1-step", "relaxed"] == later["1-step", "relaxed"] and "delta" in later["1-step", "final"]
    assert "| relaxed | 1-step |" in copy.out.with_suffix(".md").read_text()
    code, output = copy.call("--stages", "1-step,1-stp")
    assert code == 2 and "choose among 2-step, 1-step, 1-step-mse" in " ".join(output.split())


@pytest.mark.slow
def test_clips_whose_features_are_gone_are_measured_again_or_said_to_be_missing(copy: Copy, tmp_path: Path) -> None:
    copy.out.unlink()
    copy.rows("--stages", "1-step-mse")
    shutil.rmtree(tmp_path / "cache")
    code, output = copy.call("--stages", "1-step")
    assert code == 0 and "1-step-mse are not on disk any more" in " ".join(output.split())
    assert all("delta" not in row for row in read_results(copy.out)[1])
    code, output = copy.call("--stages", "1-step,1-step-mse")
    assert code == 0 and "1-step-mse again (its features are not on disk)" in output
    assert [row["phase"] for row in read_results(copy.out)[1] if "delta" in row] == ["relaxed", "final"]


def test_what_a_stage_says_of_fresh_heads_stands_in_its_row(copy: Copy) -> None:
    result = copy.run / "stages" / "1-step" / "result.json"
    facts = json.loads(result.read_text())
    result.write_text(json.dumps(facts | {"fresh_heads_before": 0.91, "fresh_heads": 0.84}))
    phases = {row["phase"]: (row.get("fresh_before"), row.get("fresh_after")) for row in copy.rows() if "phase" in row}
    assert phases == {"mse": (None, None), "relaxed": (0.91, 0.84), "final": (0.91, 0.84)}
    assert "fresh heads after" in copy.out.with_suffix(".md").read_text()


def test_runs_of_other_seeds_have_means_over_seeds(copy: Copy, tmp_path: Path) -> None:
    other = Path(shutil.copytree(copy.run, tmp_path / "seed-1"))
    recipe = yaml.safe_load((other / "recipe.yaml").read_text())
    (other / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"seed": 1, "out": str(other)}))
    file = other / "stages" / "1-step" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight * 0.9 for name, weight in load_file(file).items()}, file)
    code, output = copy.call(other)
    rows = read_results(copy.out)[1]
    assert code == 0, output
    means = {(row["stage"], row["phase"]): row for row in rows if row["model"] == "over seeds"}
    assert means.keys() == {("2-step", "mse"), ("1-step", "relaxed"), ("1-step", "final"), ("1-step-mse", "mse")}
    arms = [row for row in rows if row.get("phase") == "relaxed" and row["model"] == "student"]
    mean = means["1-step", "relaxed"]
    assert [row["recipe_seed"] for row in arms] == mean["recipe_seeds"] == [0, 1]
    assert mean["delta"] == pytest.approx(sum(row["delta"] for row in arms) / 2, abs=2e-3)
    assert mean["delta_low"] <= mean["delta"] <= mean["delta_high"] and "delta" not in means["2-step", "mse"]
    before = copy.out.read_bytes()
    assert copy.call(other)[0] == 0 and copy.out.read_bytes() == before


def test_where_stages_were_added_the_last_of_a_line_is_another(copy: Copy, tmp_path: Path) -> None:
    recipe = yaml.safe_load((copy.run / "recipe.yaml").read_text())
    recipe["stages"].append({**recipe["stages"][1], "name": "1-step-longer", "start": "1-step"})
    (tmp_path / "longer.yaml").write_text(yaml.safe_dump({**recipe, "out": str(copy.run)}))
    assert fewstep("run", tmp_path / "longer.yaml")[0] == 0
    phases = [(row["phase"], row["stage"]) for row in copy.rows() if row.get("phase") in ("relaxed", "final")]
    assert phases == [("relaxed", "1-step"), ("relaxed", "1-step-longer"), ("final", "1-step-longer")]


def test_of_several_runs_a_table_says_which_is_which(
    run: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(shutil.copytree(features, tmp_path / "cache")))
    other = Path(shutil.copytree(run, tmp_path / "other"))
    for out, runs in ((tmp_path / "one.json", [run]), (tmp_path / "two.json", [run, other])):
        options = ["--steps", 1, "--num", 2, "--reference", 4, "--diversity", 0, "--no-to-teacher", "--out", out]
        assert fewstep("shapes", "students", *runs, *options)[0] == 0
    one, two = ((tmp_path / name).read_text() for name in ("one.md", "two.md"))
    assert one.startswith("| model |") and two.startswith("| run | model |")
    rows = [line.split(" | ")[0] for line in two.splitlines() if "student | 2" in line]
    assert rows == [f"| {run}", f"| {other}"]


def test_another_world_is_refused(tiny_wan_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the judge knows the shapes world only"):
        from fewstep.eval.shapes.relay import RelayTable
        from fewstep.eval.shapes.steps import Protocol
        from fewstep.teacher.guidance import Guidance
        from fewstep.teacher.load_teacher import load_teacher

        RelayTable(
            load_teacher(tiny_wan_folder, device="cpu"), Protocol(2, Guidance(), 0), "", tmp_path / "t.json", False
        )
