"""How much of a control branch is added: a teacher's number, its students', and the stock pipeline's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep import load_pipeline
from fewstep.commands.evaluate import models_of
from fewstep.commands.run_checks import check_run
from fewstep.commands.run_screen import RunScreen
from fewstep.commands.run_stages import follow_stages
from fewstep.commands.survey_tries import least_recipe, least_size, write_noise_files
from fewstep.distill.data_report import other_inputs
from fewstep.distill.recipe import Recipe
from fewstep.distill.run_folder import RunFolder
from fewstep.distill.settings import RolloutData
from fewstep.eval.models import with_student_defaults
from fewstep.student.contract import SamplingContract
from fewstep.student.export.base import Options
from fewstep.student.export.write_export import write_export
from fewstep.student.load_student import load_student
from fewstep.student.loading import Student
from fewstep.student.sampler import SamplingOptions, open_sampler, teacher_sampler
from fewstep.teacher.base import Teacher
from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.given import Given, noise_given
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from tests.commands.typed import fewstep
from tests.teacher.stored import stored_rows
from tests.tiny_controlnet import save_tiny_controlnet
from tests.tiny_pipelines import save_tiny_given_wan, save_tiny_wan

STEPS = 4  # they divide 1000, as trailing nodes of diffusers ask for


@dataclass(frozen=True)
class Case:
    """A pipeline with a control branch, what it is given, and a scale; argument: the stock call's name for that."""

    save: Callable[[Path], None]
    given: Sequence[str]
    scale: float | list[float]
    argument: str


CASES = {
    "vace": Case(lambda folder: save_tiny_given_wan(folder, "vace"), ("control",), 0.5, "conditioning_scale"),
    "vace-layers": Case(
        lambda folder: save_tiny_given_wan(folder, "vace"), ("reference",), [0.5, 1.5], "conditioning_scale"
    ),
    "controlnet": Case(save_tiny_controlnet, ("control",), 0.5, "controlnet_conditioning_scale"),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(case, id=name, marks=pytest.mark.slow if name == "vace" else ()) for name, case in CASES.items()
    ],
)
def case(request: pytest.FixtureRequest) -> Case:
    actual: Case = request.param
    return actual


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("control-scale") / "pipeline"
    case.save(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(case: Case, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    work = tmp_path_factory.mktemp("work")
    teacher = load_teacher(folder, device="cpu")
    teacher.take(case.given)
    size = least_size(teacher)
    given = write_noise_files(work / "given", teacher.given_sizes(size))
    plain = least_recipe(folder, size, work, "cpu", given, None).model_dump(mode="json")
    return Recipe.model_validate(plain | {"control_scale": case.scale})


@pytest.fixture(scope="module")
def student(recipe: Recipe) -> Student:
    check_run(recipe, RunFolder(recipe.out))
    follow_stages(recipe, screen=RunScreen())
    return load_student(recipe.out, device="cpu")


def predicted(teacher: Teacher, z: Tensor, given: Given) -> Tensor:
    conditions = teacher.conditions(["a red circle"], "blurry", least_size(teacher), given)
    return rollout(teacher, z, conditions, teacher.schedule.grid(STEPS), 5.0)


def stock(teacher: Teacher, z: Tensor, given: Given, **others: Any) -> Tensor:
    """Latents of the pipeline's own call, guided; `others` go over what a contract makes of that."""
    size = least_size(teacher)
    contract = SamplingContract.of(teacher, "tiny", STEPS, "full", size, 1.0, "blurry", 8.0)
    arguments = teacher.call_arguments(contract, given) | {"guidance_scale": 5.0, "negative_prompt": "blurry"} | others
    return teacher.pipeline(prompt="a red circle", latents=z, output_type="latent", **arguments).frames


def test_a_teacher_at_a_scale_is_the_stock_pipeline_at_it(case: Case, folder: Path) -> None:
    teacher = load_teacher(folder, device="cpu")
    teacher.take(case.given)
    size = least_size(teacher)
    given, z = noise_given(teacher.given_sizes(size)), teacher.noise([3], teacher.latent_shape(*size))
    whole = predicted(teacher, z, given)
    teacher.set_inputs(control_scale=tuple(case.scale) if isinstance(case.scale, list) else case.scale)
    actual = predicted(teacher, z, given)
    expected = stock(teacher, z.clone(), given, **{case.argument: case.scale})
    assert float((actual - expected).norm() / expected.norm()) < 1e-5
    assert float((actual - whole).norm() / whole.norm()) > 1e-3  # else parity would be empty
    assert torch.equal(stock(teacher, z.clone(), given), expected)  # the contract's own arguments say it
    teacher.set_inputs(control_scale=1.0)
    assert torch.equal(predicted(teacher, z, given), whole)


def test_from_a_recipe_to_the_stock_call_of_a_student(case: Case, student: Student, tmp_path: Path) -> None:
    facts = tuple(case.scale) if isinstance(case.scale, list) else case.scale
    assert student.contract.control_scale == facts and student.teacher.control_scale == facts
    done = write_export(student, "diffusers", tmp_path / "out", Options())
    assert done.relative_error < 1e-4
    assert f"{case.argument}={case.scale}" in (done.folder / "README.md").read_text()
    back = open_sampler(done.folder, device="cpu")
    assert back.contract is not None and back.contract.control_scale == facts and back.teacher.control_scale == facts
    pipe = load_pipeline(done.folder, device="cpu", dtype="float32")
    with pytest.raises(ValueError, match=f"the student is sampled with {case.argument}=.*, not 0.25"):
        pipe("a ring", **{case.argument: 0.25})


def test_a_student_keeps_to_its_scale_and_its_teacher_is_compared_at_it(student: Student, recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"trained for control_scale [\d., ]+, not 0.25: .*--control-scale"):
        open_sampler(recipe.out, SamplingOptions(control_scale=0.25), device="cpu")
    forced = open_sampler(recipe.out, SamplingOptions(control_scale=0.25, force=True), student.teacher)
    assert forced.denoiser_inputs == {"control_scale": 0.25}
    own = open_sampler(recipe.out, SamplingOptions(), student.teacher)
    taught = with_student_defaults(models_of([recipe.teacher, str(recipe.out)]), SamplingOptions())
    teacher = teacher_sampler(student.teacher, "teacher", taught)
    assert teacher.denoiser_inputs == own.denoiser_inputs != forced.denoiser_inputs
    z, conditions = own.noise([0]), own.conditions_of_any(["a ring"])
    first = own.sample(z, conditions)
    assert not torch.equal(forced.sample(z, conditions), first)
    assert torch.equal(own.sample(z, conditions), first)  # whoever was asked in between


def test_what_no_control_branch_takes_is_refused(folder: Path, recipe: Recipe, tmp_path: Path) -> None:
    wrong = recipe.model_copy(update={"control_scale": (0.5, 0.6, 0.7), "out": tmp_path / "run"})
    with pytest.raises(ValueError, match=r"control_scale has 3 numbers, and the denoiser in .* has [12] control layer"):
        check_run(wrong, RunFolder(wrong.out))
    save_tiny_wan(tmp_path / "wan")
    plain = load_teacher(tmp_path / "wan", device="cpu")
    plain.set_inputs(control_scale=1.0)
    with pytest.raises(ValueError, match="a WanPipeline takes no control scale, so control_scale has no effect"):
        plain.set_inputs(control_scale=0.5)


def test_rollouts_are_made_at_a_scale_and_their_dataset_keeps_to_it(
    case: Case, folder: Path, recipe: Recipe, tmp_path: Path
) -> None:
    assert isinstance(recipe.data, RolloutData)
    prompts = recipe.data.prompts
    frames, height, width = least_size(teacher := load_teacher(folder, device="cpu"))
    typed = ",".join(map(str, case.scale)) if isinstance(case.scale, list) else str(case.scale)

    def make(out: str, *scale: str) -> tuple[int, str]:
        return fewstep(
            "data", "rollouts", prompts, "--teacher", folder, "--steps", 2, "--frames", frames, "--height",
            height, "--width", width, "--dtype", "float32", "--store", "float32", "--out", tmp_path / out, *scale
        )  # fmt: skip

    assert make("own", "--control-scale", typed)[0] == make("whole")[0] == 0
    scales = [read_manifest(tmp_path / out).schedule.control_scale for out in ("own", "whole")]
    assert scales == [tuple(case.scale) if isinstance(case.scale, list) else case.scale, 1.0]
    own, whole = (next(iter(stored_rows(tmp_path / out, teacher.sha256())))["latents"] for out in ("own", "whole"))
    assert float((own - whole).norm() / whole.norm()) > 1e-3
    code, output = make("own")
    assert code == 2 and "own was begun with schedule control_scale" in output
    # a recipe at another scale may train on them, and is told
    assert other_inputs(teacher, tmp_path / "whole") is None
    assert other_inputs(teacher, tmp_path / "own") == (
        f"the rollouts in {tmp_path / 'own'} were made with control_scale {typed}, not 1 as in this recipe"
    )
