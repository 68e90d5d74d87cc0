"""The whole training of a teacher, at a size that takes seconds: every part, resumed, assembled and sampled."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from typer.testing import CliRunner

from fewstep.cli import app
from fewstep.teacher import precision
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from fewstep.teacher.shapes.judge import load_judge
from fewstep.teacher.shapes.recipe import read_teacher_recipe, resolve_training_precision, run_part

TINY: dict[str, Any] = {
    "judge": {"steps": 2, "batch": 4, "watch_clips": 32, "feature_clips": 32},
    "autoencoder": {
        "code_clips": 20,
        "encoder_dim": 4,
        "decoder_dim": 4,
        "steps": 2,
        "batch": 2,
        "watch_clips": 8,
    },
    "denoiser": {"steps": 2, "batch": 2, "clips": 6, "text_steps": 2, "heads": 1, "layers": 1, "ffn": 32},
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"out": str(folder / "run"), **TINY, **changes}))
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    for _ in range(2):  # the second time everything is there already
        result = CliRunner().invoke(app, ["teacher", "train", str(write(folder)), "--device", "cpu"])
        assert result.exit_code == 0, result.output
    return folder / "run"


def test_the_run_ends_with_a_plain_pipeline_that_samples_the_same(run_folder: Path) -> None:
    teacher = load_teacher(run_folder / "pipeline", device="cpu")
    assert teacher.default_size() == (17, 64, 64)
    z = teacher.noise([5], teacher.latent_shape(17, 64, 64))
    ours = teacher.decode(rollout(teacher, z, teacher.conditions(["a red ring"]), teacher.schedule.grid(2), 5.0))
    loader: Any = DiffusionPipeline
    plain = loader.from_pretrained(run_folder / "pipeline")
    size = {"num_frames": 17, "height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 5.0}
    theirs = plain("a red ring", latents=z, output_type="pt", **size).frames
    assert torch.allclose(ours.transpose(1, 2) / 2 + 0.5, theirs, atol=1e-3)


def test_the_pipeline_names_no_folder_of_this_machine(run_folder: Path) -> None:
    texts = [path.read_text() for path in (run_folder / "pipeline").rglob("*.json")]
    assert len(texts) > 5 and not any(str(run_folder) in text for text in texts)


@pytest.mark.slow
def test_an_earlier_teacher_is_gone_on_with(run_folder: Path, tmp_path: Path) -> None:
    still = {part: {**TINY[part], "lr": 1e-12} for part in ("autoencoder", "denoiser")}
    recipe = write(tmp_path, start=str(run_folder / "pipeline"), **still)
    result = CliRunner().invoke(app, ["teacher", "train", str(recipe), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    before, after = (load_teacher(folder / "pipeline", device="cpu") for folder in (run_folder, tmp_path / "run"))
    z = before.noise([5], before.latent_shape(17, 64, 64))
    then, now = (
        teacher.decode(rollout(teacher, z, teacher.conditions(["a red ring"]), teacher.schedule.grid(2), 5.0))
        for teacher in (before, after)
    )
    assert torch.allclose(then, now, atol=1e-3)
    code = [(folder / "pipeline" / "linear_code.safetensors").read_bytes() for folder in (run_folder, tmp_path / "run")]
    assert code[0] == code[1]


def test_an_earlier_teacher_must_fit_the_recipe_and_know_its_latents(run_folder: Path, tmp_path: Path) -> None:
    def train_from(start: Path, **changes: Any) -> None:
        run_part(read_teacher_recipe(write(tmp_path, start=str(start), **changes)), "denoiser", torch.device("cpu"))

    with pytest.raises(ValueError, match="has other sizes than the recipe's"):
        train_from(run_folder / "pipeline", denoiser={**TINY["denoiser"], "ffn": 64})
    shutil.rmtree(tmp_path / "run")
    bare = Path(shutil.copytree(run_folder / "pipeline", tmp_path / "bare"))
    (bare / "linear_code.safetensors").unlink()
    with pytest.raises(ValueError, match="`start` must be shapes or a pipeline that"):
        train_from(bare)


def test_the_denoiser_is_watched_without_a_judge_too(tmp_path: Path) -> None:
    arguments = ["teacher", "train", str(write(tmp_path)), "--only", "denoiser", "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "effect motion" in result.output and "accuracy" not in result.output


def test_the_judge_is_saved_with_its_hash(run_folder: Path) -> None:
    judge = load_judge(run_folder / "judge")
    assert judge.feature_scale.std() > 0
    weights = run_folder / "judge" / "judge.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + b"\x01")
    with pytest.raises(ValueError, match="is not the file that"):
        load_judge(run_folder / "judge")
    weights.write_bytes(kept)


def test_wrong_recipes_are_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no recipe"):
        read_teacher_recipe(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match=r"denoiser.stepz: Extra inputs"):
        read_teacher_recipe(write(tmp_path, denoiser={"stepz": 3}))
    broken = tmp_path / "broken.yaml"
    broken.write_text("denoiser: [")
    with pytest.raises(ValueError, match="is not YAML"):
        read_teacher_recipe(broken)
    result = CliRunner().invoke(app, ["teacher", "train", str(write(tmp_path)), "--only", "vae"])
    assert result.exit_code == 2 and "use judge, autoencoder, denoiser" in result.output


@pytest.mark.parametrize(("name", "start"), [("shapes-teacher", None), ("shapes-teacher-on", "shapes")])
def test_the_shipped_recipes_are_valid(name: str, start: str | None) -> None:
    shipped = read_teacher_recipe(Path(__file__).parents[3] / "recipes" / f"{name}.yaml")
    assert shipped.denoiser.steps > 1000 and shipped.start == start
    assert shipped.denoiser.precision == "auto"


@pytest.mark.parametrize(("native", "expected"), [("bfloat16", "bf16"), ("float32", "fp32")])
def test_auto_is_settled_before_anything_is_trained(
    native: Literal["bfloat16", "float32"], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "auto_precision", lambda device: precision.AutoPrecision(native, "a test"))
    recipe = read_teacher_recipe(write(tmp_path, denoiser={"precision": "auto"}))
    resolved, line = resolve_training_precision(recipe, torch.device("cpu"))
    assert (resolved.denoiser.precision, resolved.judge.precision) == (expected, "fp32")
    assert line == f"precision: {native} (auto: a test)"
    assert resolve_training_precision(resolved, torch.device("cpu")) == (resolved, None)
