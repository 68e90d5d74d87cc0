"""What a dry run tells, without loading a weight, is what the networks really have."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from torch import nn

from fewstep.commands import run_memory
from fewstep.commands.run_cost import _count
from fewstep.distill import disk_use
from fewstep.distill.draws import Draws
from fewstep.distill.estimate import stage_calls
from fewstep.distill.objectives.base import Batch
from fewstep.distill.objectives.supervision import Supervision
from fewstep.distill.recipe import Recipe, read_recipe
from fewstep.distill.step_cost import StepCounter
from fewstep.student.denoiser import Roles
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from tests.commands.typed import fewstep


def recipe(folder: Path, teacher: Path) -> Path:
    (folder / "prompts.txt").write_text("a ring\na box\n")
    judged = {"kind": "adversarial", "warmup": 3, "discriminator": {"width": 8, "backbone": "lora", "lora_rank": 2}}
    values = {
        "teacher": str(teacher), "out": str(folder / "run"), "device": "cpu",
        "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 4},
        "student": {"train": "lora", "lora": {"rank": 4, "alpha": 4}},
        "stages": [
            {"teacher_steps": 8, "student_steps": 4, "guidance": 2, "steps": 7, "objective": {"kind": "progressive"}},
            {"teacher_steps": 4, "student_steps": 2, "steps": 5, "objective": judged},
        ],
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    "family",
    ["tiny_wan_folder", "tiny_cogvideox_folder", pytest.param("tiny_animatediff_folder", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(("conditional", "backbone"), [("true", "lora"), ("false", "trained"), ("false", "frozen")])
def test_parameters_are_those_that_are_trained(
    request: pytest.FixtureRequest, tmp_path: Path, family: str, conditional: str, backbone: str
) -> None:
    folder, judged = request.getfixturevalue(family), "stages.1.objective"
    chosen = [f"{judged}.conditional={conditional}", f"{judged}.discriminator.backbone={backbone}"]
    plan = read_recipe(recipe(tmp_path, folder), chosen)
    outlined = outline_teacher(folder).teacher
    teacher = load_teacher(folder, device="cpu")
    roles = Roles(teacher, "lora", rank=4, alpha=4)
    size = teacher.default_size()
    assert size is not None
    clips = teacher.noise([0], teacher.latent_shape(*size))
    batch = Batch(clips, teacher.conditions(["a ring"]), Draws.seeded(0, 1), 0.0)
    built = plan.stages[1].objective.build(Supervision(4, 2), roles, batch)
    trained = numel(built.trainees()["discriminator"].module)
    held = plan.stages[1].objective.holds(outlined.denoiser)["discriminator"]
    assert held.frozen == 0
    if "unet" in teacher.pipeline.components:  # taps of a UNet differ in width, and all are counted as the widest
        assert trained <= held.trained < 1.2 * trained
    else:
        assert held.trained == trained
    assert _count(outlined, plan, plan.stages[1]) == {
        "num_parameters": sum(p.numel() for p in teacher.denoiser.parameters()),
        "num_adapters": sum(p.numel() for p in roles.parameters.values()),
    }


def numel(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.usefixtures("uncounted")
def test_the_tables_say_which_count_is_whose(tmp_path: Path, tiny_wan_folder: Path) -> None:
    path = recipe(tmp_path, tiny_wan_folder)
    code, output = fewstep("run", path, "--dry-run")
    assert code == 0
    plan: Recipe = read_recipe(path)
    for stage in plan.stages:
        calls = stage_calls(stage, outline_teacher(plan.teacher).teacher.schedule)
        expected = [calls.forward["supervisor"]]
        for role in ("student", "discriminator"):
            expected += [calls.forward.get(role, 0), calls.backward.get(role, 0)]
        facts = re.search(rf"{stage.name}\s*" + r"\s*".join(f"│ *{count:,} *" for count in expected), output)
        assert facts, (output, expected)


QUICKEST = '{"teacher_steps": 4, "student_steps": 2, "steps": 5, "objective": {"kind": "progressive"}}'
ONE = ("--set", f"stages=[{QUICKEST}]")


def test_a_dry_run_says_what_does_not_fit_and_writes_nothing(tmp_path: Path, tiny_wan_folder: Path) -> None:
    path = recipe(tmp_path, tiny_wan_folder)
    code, output = fewstep("run", path, *ONE, "--dry-run", "--device-memory", "0.0001", "--tflops", "2")
    assert code == 0, output
    assert "GiB of a step, with activations" in output and "hours at 2 TFLOP/s" in output
    assert re.search(r"2-step takes \S+ GiB and 0.0001 are there; one clip at a time, .*use shorter", output)
    assert re.search(r"the teacher takes \S+ GiB as it is loaded, and 0.0001 are there", output)
    assert re.search(r"takes up to \S+ GiB of disk \(clips \S+, checkpoints \S+, students \S+\); \S+ are free", output)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("uncounted")
def test_a_dry_run_warns_where_the_disk_is_too_small(
    tmp_path: Path, tiny_wan_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_use, "free_gib", lambda folder: 0.0)
    path = recipe(tmp_path, tiny_wan_folder)
    code, output = fewstep("run", path, "--dry-run")
    assert code == 0 and "without the clips' texts, which could not be counted" in output
    assert re.search(r"run takes up to \S+ GiB, and 0 are free on its disk: make room there, or choose another", output)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "all.bin").write_bytes(b"0" * 10**7)  # what a run has written already is part of it
    code, output = fewstep("run", path, "--dry-run")
    assert code == 0 and "make room there" not in output


def test_clips_that_do_not_fit_in_batches_are_made_one_at_a_time(tmp_path: Path, tiny_wan_folder: Path) -> None:
    plan = read_recipe(recipe(tmp_path, tiny_wan_folder), ["data.batch=4"])
    counter: Any = SimpleNamespace(clips_peak=lambda data: float(data.batch))
    assert run_memory._unmade(plan, counter, 2.0, 4.0, 6.0) is None
    assert run_memory._unmade(plan, counter, 2.0, None, 2.5) is None  # not counted
    fitting = "making clips takes 6 GiB, and 5 are there; it takes 3 with --set data.batch=1"
    assert run_memory._unmade(plan, counter, 2.0, 4.0, 5.0) == fitting
    assert "one clip at a time takes 3: use shorter" in str(run_memory._unmade(plan, counter, 2.0, 4.0, 2.5))
    assert "the teacher takes 2 GiB as it is loaded" in str(run_memory._unmade(plan, counter, 2.0, 4.0, 1.5))


def test_steps_are_counted_where_making_clips_cannot_be(
    tmp_path: Path, tiny_wan_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: StepCounter, data: object) -> float:
        raise ValueError("X cannot be followed on paper (no numbers)")

    monkeypatch.setattr(StepCounter, "clips_peak", refused)
    code, output = fewstep("run", recipe(tmp_path, tiny_wan_folder), *ONE, "--dry-run")
    assert code == 0 and "what making clips takes besides the teacher's weights is left out" in output
    assert "GiB of a step, with activations" in output


def hours_of(path: Path, *settings: str) -> dict[str, float]:
    """The last column of the table of hours."""
    overrides = [word for setting in settings for word in ("--set", setting)]
    code, output = fewstep("run", path, "--dry-run", "--tflops", "0.001", *overrides)
    assert code == 0, output
    table = output[output.index("hours at") :]
    return {name: float(hours) for name, hours in re.findall(r"^│ (data|\d-step) .*│ *(\S+) *│$", table, re.MULTILINE)}


@pytest.mark.slow
def test_hours_are_of_data_steps_and_what_is_done_once(tmp_path: Path, tiny_wan_folder: Path) -> None:
    path = recipe(tmp_path, tiny_wan_folder)
    hours = hours_of(path)
    more = hours_of(path, "data.count=3", "stages.1.objective.warmup=1000")
    assert hours.keys() == {"data", "4-step", "2-step"} and min(hours.values()) > 0
    assert more["data"] == pytest.approx(3 * hours["data"], rel=0.05)
    assert more["4-step"] == hours["4-step"] and more["2-step"] > 10 * hours["2-step"]
    assert hours_of(path, "stages.0.steps=14")["4-step"] > 1.9 * hours["4-step"]


def test_a_dry_run_counts_one_of_several_processes(tmp_path: Path, tiny_wan_folder: Path) -> None:
    path = recipe(tmp_path, tiny_wan_folder)
    code, output = fewstep("run", path, *ONE, "--dry-run", "--processes", "2", "--set", "parallel.kind=fsdp")
    assert code == 0 and "each of 2 processes, for its share of the batch, with networks sharded" in output, output
    code, output = fewstep("run", path, "--dry-run", "--processes", "7")
    assert code == 2 and "7 processes cannot share a batch of" in output


@pytest.mark.parametrize(("recipe", "why"), [("shapes-chain", "a chain runs in"), ("shapes-decoder", "is trained in")])
def test_what_runs_in_one_process_is_not_counted_for_several(recipe: str, why: str) -> None:
    code, output = fewstep("run", recipe, "--dry-run", "--processes", "2")
    assert code == 2 and f"{why} one process" in output


def test_what_only_a_dry_run_counts_with_is_refused_elsewhere(tmp_path: Path, tiny_wan_folder: Path) -> None:
    code, output = fewstep("run", recipe(tmp_path, tiny_wan_folder), "--tflops", "300")
    assert code == 2 and "--device-memory, --tflops and --processes are for --dry-run alone" in output
