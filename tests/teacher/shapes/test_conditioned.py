"""Teachers that go on from the embedded one: they begin as it, learn a little, and are plain pipelines in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from fewstep.cli import app
from fewstep.teacher.base import Teacher
from fewstep.teacher.given import noise_given
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.shapes.captions import example
from fewstep.teacher.shapes.conditioned import GIVEN_OF_KIND, given_of_scenes
from fewstep.teacher.shapes.learned import ConditioningKind
from fewstep.teacher.source import embedded_path

TINY = {"steps": 2, "batch": 2, "clips": 4, "precision": "fp32", "rank": 2}


@pytest.fixture(
    scope="module", params=["image", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("control", "frame"))]
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ConditioningKind, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"learns": request.param, "out": str(folder / "run"), **TINY}))
    for _ in range(2):  # the second time everything is there already
        result = CliRunner().invoke(app, ["teacher", "train", str(recipe), "--device", "cpu"])
        assert result.exit_code == 0, result.output
    return request.param, folder / "run"


def seen(teacher: Teacher, names: tuple[str, ...], kind: ConditioningKind = "image") -> torch.Tensor:
    """x0 of two clips that are given these, as long as this kind of teacher makes them."""
    teacher.take(names)
    own = teacher.default_size()
    assert own is not None
    size = own._replace(num_frames=1 if kind == "frame" else 17)
    z = teacher.noise([1, 2], teacher.latent_shape(*size))
    given = noise_given(teacher.given_sizes(size), 2)
    with torch.no_grad():
        return teacher.denoise(z, torch.tensor([0.9, 0.4]), teacher.conditions(["a red ring", ""], "", size, given))


def test_it_begins_as_the_teacher_of_prompts_and_then_sees_what_is_given(run: tuple[ConditioningKind, Path]) -> None:
    kind, folder = run
    names = GIVEN_OF_KIND[kind][0]
    plain = seen(load_teacher("shapes", device="cpu"), (), kind)
    assert torch.equal(seen(load_teacher(folder / "untrained", device="cpu"), names, kind), plain)
    learned = seen(load_teacher(folder / "pipeline", device="cpu"), names, kind)
    assert not torch.allclose(learned, plain, rtol=0, atol=0 if kind == "frame" else 1e-5)  # two steps of an adapter


def test_only_what_is_learned_is_kept_and_the_rest_is_the_teacher_of_prompts(
    run: tuple[ConditioningKind, Path],
) -> None:
    kind, folder = run
    learned = load_file(folder / "learned.safetensors")
    own = load_file(embedded_path() / "transformer" / "diffusion_pytorch_model.safetensors")
    whole = load_file(folder / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")
    touched = {name.rsplit(".lora_", 1)[0] + ".weight" if ".lora_" in name else name for name in learned}
    assert touched and all(torch.equal(whole[name], own[name]) for name in own if name not in touched)
    assert whole.keys() - own.keys() <= touched and (kind == "control") == bool(whole.keys() - own.keys())


def test_what_is_given_is_what_the_clip_shows() -> None:
    scenes = [example("train", 0, i)[0] for i in range(2)]
    given = given_of_scenes(scenes, ("first", "last", "control"))
    shapes: dict[str, Any] = {name: (*tensor.shape,) for name, tensor in given.items()}
    assert shapes == {"first": (2, 3, 1, 64, 64), "last": (2, 3, 1, 64, 64), "control": (2, 3, 17, 64, 64)}
    assert set(given["control"].unique().tolist()) == {0, 255}


def test_another_part_and_a_recipe_with_unknown_keys_are_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"learns": "image", "out": str(tmp_path / "run"), "stepz": 3}))
    result = CliRunner().invoke(app, ["teacher", "train", str(recipe)])
    assert result.exit_code != 0 and "stepz: Extra inputs" in str(result.output) + str(result.exception)
    recipe.write_text(yaml.safe_dump({"learns": "image", "out": str(tmp_path / "run")}))
    result = CliRunner().invoke(app, ["teacher", "train", str(recipe), "--only", "judge"])
    assert result.exit_code != 0 and "this recipe has one part" in str(result.output) + str(result.exception)


@pytest.mark.parametrize("kind", [pytest.param("image", marks=pytest.mark.slow), "control", "frame"])
def test_the_embedded_ones_are_put_together_once_and_see_what_is_given(
    kind: ConditioningKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    teacher = load_teacher(f"shapes-{kind}", device="cpu")
    assert teacher.default_size() == (1 if kind == "frame" else 17, 64, 64)
    assert teacher.folder.is_relative_to(tmp_path) and teacher.takes == load_teacher(f"shapes-{kind}").takes
    assert len([path for path in (tmp_path / "fewstep" / "teachers").iterdir() if path.is_dir()]) == 1
    first, second = (seen(teacher, GIVEN_OF_KIND[kind][0], kind), seen(load_teacher("shapes", device="cpu"), (), kind))
    assert not torch.allclose(first, second, atol=0.05)
