"""What the dry run refuses of a teacher, from configs alone and before any data, `fewstep run` in the same words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from fewstep.eval.models import Model, sampling_options_of, with_student_defaults
from fewstep.student.sampler import SamplingOptions
from tests.cases.breaking import Change, edited, forbid_loading, given, listing, removed, sets, write_recipe
from tests.commands.typed import fewstep


def scheduler(made: Any) -> Change:
    def change(folder: Path) -> list[str]:
        shutil.rmtree(folder / "T" / "scheduler")
        made.save_pretrained(folder / "T" / "scheduler")
        return edited("T/model_index.json", scheduler=["diffusers", type(made).__name__])(folder)

    return change


def both(*changes: Change) -> Change:
    return lambda folder: [setting for change in changes for setting in change(folder)]


def second_expert(folder: Path) -> list[str]:
    shutil.copytree(folder / "T" / "transformer", folder / "T" / "transformer_2")
    expert = ["diffusers", "WanTransformer3DModel"]
    return edited("T/model_index.json", transformer_2=expert, boundary_ratio=0.875)(folder)


def only_modular(folder: Path) -> list[str]:
    index = json.loads((folder / "T" / "model_index.json").read_text())
    (folder / "T" / "model_index.json").unlink()
    (folder / "T" / "modular_model_index.json").write_text(json.dumps(index))
    return []


REFUSED: list[tuple[str, Change, str]] = [
    ("UniPC of another kind", scheduler(UniPCMultistepScheduler()), "is of a UniPCMultistepScheduler whose noise"),
    (
        "a shift that follows the size",
        scheduler(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)),
        "follows the size of the clips (use_dynamic_shifting), and how is not known: give one with `shift`",
    ),
    ("a pipeline of no family", edited("T/model_index.json", _class_name="AllegroPipeline"), "T is an AllegroPipeline"),
    ("a class that nobody has", edited("T/model_index.json", _class_name="XPipeline"), "a family that fewstep does"),
    ("a part's folder is missing", removed("T/vae"), "T/vae is missing, the AutoencoderKLWan that model_index.json"),
    ("the expert's folder is missing", both(second_expert, removed("T/transformer_2")), "T/transformer_2 is missing"),
    ("a boundary without expert", edited("T/model_index.json", boundary_ratio=0.875), "but names no transformer_2"),
    ("an expert alone", both(second_expert, edited("T/model_index.json", boundary_ratio=None)), "nothing says below"),
    ("a modular pipeline of no family", only_modular, "T is a modular pipeline, WanPipeline, which fewstep does not"),
    ("a size it cannot make", given("size={num_frames: 10, height: 16, width: 16}"), "10 frames cannot be made"),
    ("a size beyond its positions", given("size={num_frames: 9, height: 16, width: 1024}"), "64 patches of width"),
    ("a shift of 0", given("shift=0"), "shift"),
    ("a shift that is not a number", given("shift=.inf"), "shift"),
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, tiny_wan_folder: Path) -> Path:
    """A folder with a recipe and its own copy of the teacher, T."""
    shutil.copytree(tiny_wan_folder, tmp_path / "T")
    write_recipe(tmp_path, tmp_path / "T")
    return tmp_path


@pytest.mark.parametrize(("change", "sentence"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_it_is_refused_before_anything_is_loaded_or_made(
    place: Path, change: Change, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = sets(change(place))
    before = listing(place)
    forbid_loading(monkeypatch)
    monkeypatch.chdir(place)
    text = [fewstep("run", "tiny.yaml", *settings, *dry) for dry in (["--dry-run"], [])]
    assert text[0] == text[1] and text[0][0] == 2
    assert sentence in text[0][1].strip().splitlines()[-1]
    assert listing(place) == before


@pytest.mark.slow
def test_a_given_shift_goes_from_the_recipe_to_data_contract_and_student(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the teacher alone could not be sampled, since its shift follows the size."""
    scheduler(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))(place)
    recipe = yaml.safe_load((place / "tiny.yaml").read_text())
    recipe["stages"] = recipe["stages"][:1]
    (place / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    code, output = fewstep("run", place / "tiny.yaml", "--set", "shift=2.5")
    assert code == 0, output
    manifest = json.loads((place / "run" / "data" / "manifest.json").read_text())
    contract = json.loads(next((place / "run").glob("stages/*/contract.json")).read_text())
    assert manifest["schedule"]["shift"] == contract["shift"] == 2.5
    assert contract["times"] == pytest.approx([1, 2.5 / 3.5, 0])
    sample = ["sample", place / "run", "--prompt", "a ring", "--out", place / "clip.gif", "--device", "cpu"]
    assert fewstep(*sample)[0] == 0
    code, output = fewstep(*sample, "--shift", 3)
    assert code == 2 and "trained for shift 2.5, not 3" in output
    for more in (["--shift", 2.5], ["--shift", 3, "--force"], ["--steps", 4, "--force"]):
        code, output = fewstep(*sample, *more)
        assert code == 0, output
    arguments = with_student_defaults([model := Model.of("student", str(place / "run"))], SamplingOptions())
    assert (
        arguments.shift == 2.5 and sampling_options_of(model, arguments).shift is None
    )  # of teachers next to it; its own is its contract's
    code, output = fewstep("run", place / "tiny.yaml", "--set", "shift=3")
    assert code == 2 and "was begun with another shift" in output
    code, output = fewstep("export", place / "run", "--to", "diffusers", "--out", place / "export", "--device", "cpu")
    assert code == 0, output
    written = json.loads((place / "export" / "scheduler" / "scheduler_config.json").read_text())
    assert written["shift"] == 2.5 and not written.get("use_dynamic_shifting")


def test_commands_that_sample_a_teacher_take_a_shift(place: Path) -> None:
    scheduler(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))(place)
    rollouts = ["data", "rollouts", place / "prompts.txt", "--teacher", place / "T", "--out", place / "data"]
    rollouts += ["--steps", 2, "--device", "cpu"]
    code, output = fewstep(*rollouts)
    assert code == 2 and "give one with `shift` in the recipe, or --shift" in output
    assert fewstep(*rollouts, "--shift", 2)[0] == 0
    code, output = fewstep(*rollouts, "--shift", 3)
    assert code == 2 and "was begun with schedule shift 2.0, not 3.0" in output
    sample = ["sample", place / "T", "--prompt", "a ring", "--steps", 2, "--out", place / "a.gif", "--device", "cpu"]
    assert fewstep(*sample)[0] == 2
    assert fewstep(*sample, "--shift", 2)[0] == 0
