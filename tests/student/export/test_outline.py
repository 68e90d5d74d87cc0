"""Students looked at without their weights are asked as they will be when they are loaded, or refused in advance."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.student.export.base import Exported
from fewstep.student.loading import Student
from fewstep.student.outline import outline_sampler, outline_students
from fewstep.student.sampler import SamplingOptions, open_sampler
from fewstep.teacher.outline import outline_teacher

OF_THE_OTHER_KIND = [("lora", "diffusers"), ("full", "lora"), ("full", "comfyui")]
needs = {"torchao-int8": "torchao", "gguf": "gguf", "onnx": "onnxruntime"}


@pytest.fixture
def stage(make_student: Callable[..., Student], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny Wan student, fully trained or an adapter; a copy that may be changed."""

    def make(train: str) -> Path:
        make_student("wan", train)
        made = sorted(tmp_path_factory.getbasetemp().glob(f"wan-{train}*"))[0]
        return Path(shutil.copytree(made, tmp_path_factory.mktemp("copy") / "stage"))

    return make


@pytest.mark.parametrize(
    ("train", "to"),
    [
        ("full", "diffusers"), ("lora", "lora"), ("lora", "comfyui"), ("full", "single-file"),
        ("full", "torchao-int8"), ("full", "gguf"), ("full", "onnx"),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in OF_THE_OTHER_KIND),
    ],
)  # fmt: skip
def test_every_export_is_looked_at(
    train: str, to: str, make_student: Callable[..., Student], make_export: Callable[..., Exported], tmp_path: Path
) -> None:
    if to in needs and find_spec(needs[to]) is None:
        pytest.skip(f"{needs[to]} is not installed")
    family = "wan32" if to in needs else "wan"
    folder, teacher = make_export(family, train, to).folder, make_student(family, train).teacher.folder
    shared = None if (folder / "model_index.json").is_file() else outline_teacher(teacher)
    outlined, outline = outline_sampler(folder, SamplingOptions(), shared)
    real = open_sampler(folder, SamplingOptions(), None if shared is None else str(teacher), device="cpu")
    assert (outlined.steps, outlined.size, outlined.guidance, outlined.fps) == (
        real.steps,
        real.size,
        real.guidance,
        real.fps,
    )
    assert torch.equal(outlined.grid, real.grid) and outlined.contract == real.contract
    assert all(parameter.is_meta for parameter in outline.teacher.network_at(1.0).parameters())
    with pytest.raises(ValueError, match="trained for steps 4, not 3"):
        outline_sampler(folder, SamplingOptions(steps=3), shared)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for file in copy.rglob("*"):
        if file.suffix in (".safetensors", ".gguf", ".onnx"):
            file.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        outline_sampler(copy, SamplingOptions(), shared)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_weights_that_are_not_the_students_are_refused(
    train: str, stage: Callable[[str], Path], tiny_cogvideox_folder: Path
) -> None:
    folder = stage(train)
    assert outline_sampler(folder, SamplingOptions())[0].steps == 4
    (weights,) = folder.glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"safetensors is cut off.*: restore it, or train the student again"):
        outline_sampler(folder, SamplingOptions())
    weights.write_bytes(whole)
    tensors = load_file(weights)
    if train == "full":
        save_file({name: tensors[name] for name in sorted(tensors)[1:]}, weights, {"format": "pt"})
        with pytest.raises(ValueError, match=r"lack .* would be filled with random numbers"):
            outline_sampler(folder, SamplingOptions())
    else:
        save_file(tensors, weights)  # without the header that holds rank and targets
        with pytest.raises(ValueError, match="is broken or of another network"):
            outline_sampler(folder, SamplingOptions())
    contract = json.loads((folder / "contract.json").read_text())
    (folder / "contract.json").write_text(json.dumps(contract | {"teacher": str(tiny_cogvideox_folder)}))
    with pytest.raises(ValueError, match="the student's teacher was"):
        outline_sampler(folder, SamplingOptions())


def test_the_teacher_that_others_share_is_the_students_if_its_weights_are(
    stage: Callable[[str], Path], tiny_wan_folder: Path, tiny_cogvideox_folder: Path, tmp_path: Path
) -> None:
    folder, moved = stage("full"), Path(shutil.copytree(tiny_wan_folder, tmp_path / "moved"))
    contract = json.loads((folder / "contract.json").read_text())
    (folder / "contract.json").write_text(json.dumps(contract | {"teacher": "/gone"}))
    shared = outline_teacher(moved)
    assert outline_sampler(folder, SamplingOptions(), shared)[1] is shared
    for other in (None, outline_teacher(tiny_cogvideox_folder)):
        with pytest.raises(ValueError, match=r"the teacher of .* cannot be opened: there is no folder /gone"):
            outline_sampler(folder, SamplingOptions(), other)


def test_a_table_holds_students_of_one_teacher(stage: Callable[[str], Path]) -> None:
    one, other = stage("full"), stage("lora")
    students, outline = outline_students([one, other])
    assert [student.contract.weights for student in students] == ["full", "lora"] and outline.whole
