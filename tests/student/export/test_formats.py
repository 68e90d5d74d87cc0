"""Every format of every family: the other tool agrees, and the way back gives the same student."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor

from fewstep.student.adapters import shared_copy
from fewstep.student.export.base import EXACT, Exported, Options, find_format
from fewstep.student.export.write_export import write_export
from fewstep.student.loading import Student
from fewstep.student.sampler import Sampler, SamplingOptions, open_sampler, student_sampler
from fewstep.teacher.predictions import record_prediction

CASES = [
    ("wan", "full", "diffusers"),
    pytest.param("wan", "lora", "diffusers", marks=pytest.mark.slow),
    ("wan", "lora", "lora"),
    pytest.param("wan", "full", "comfyui", marks=pytest.mark.slow),
    ("wan", "lora", "comfyui"),
    ("wan", "full", "single-file"),
    pytest.param("wan", "lora", "single-file", marks=pytest.mark.slow),
    pytest.param("cogvideox", "full", "diffusers", marks=pytest.mark.slow),
    ("cogvideox", "lora", "lora"),
    # AnimateDiff's leave converted, below
    pytest.param("animatediff", "lora", "diffusers", marks=pytest.mark.slow),
    pytest.param("animatediff", "lora", "lora", marks=pytest.mark.slow),
]
NEEDS = {"torchao-int8": "torchao", "onnx": "onnxruntime"}


def latents(sampler: Sampler) -> Tensor:
    return sampler.sample(sampler.noise([7, 8]), sampler.conditions(["a ring", "two dots"]))


def is_pipeline(folder: Path) -> bool:
    return (folder / "model_index.json").is_file()


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("family", "train", "to"), CASES)
def test_other_tools_give_the_same_latents_and_so_does_the_way_back(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], family: str, train: str, to: str
) -> None:
    student, exported = make_student(family, train), make_export(family, train, to)
    assert exported.relative_error <= EXACT and exported.motion is None
    own = latents(student_sampler(student, "own", SamplingOptions()))
    untaught = open_sampler(student.teacher.folder, SamplingOptions(steps=4, guidance=1.0), device="cpu")
    assert difference(latents(untaught), own) > 100 * EXACT  # or the comparison would show nothing
    folder = str(student.teacher.folder)
    for teacher in (folder, student.teacher, *([None] if to == "diffusers" else [])):
        back = open_sampler(exported.folder, teacher=teacher, device="cpu")
        assert back.contract is not None and back.contract.differences(student.contract) == []
        assert difference(latents(back), own) < EXACT
    for file in exported.folder.glob("*.safetensors"):
        assert difference(latents(open_sampler(file, teacher=folder, device="cpu")), own) < EXACT


@pytest.mark.parametrize(
    ("train", "to", "prediction", "steps"),
    [
        ("full", "diffusers", "v", 1),
        pytest.param("lora", "diffusers", "x0", 1, marks=pytest.mark.slow),
        pytest.param("lora", "lora", "v", 1, marks=pytest.mark.slow),
        ("lora", "lora", "x0", 2),
        pytest.param("lora", "torchao-int8", "v", 1, marks=pytest.mark.slow),
        pytest.param("lora", "onnx", "v", 2, marks=pytest.mark.slow),
    ],
)
def test_a_converted_student_leaves_with_a_scheduler_that_says_so(
    make_student: Callable[..., Student], tmp_path: Path, train: str, to: str, prediction: str, steps: int
) -> None:
    """Its teacher predicts eps; what the other tool gives is compared with the student's own latents by `export`."""
    if to in NEEDS and find_spec(NEEDS[to]) is None:
        pytest.skip(f"{NEEDS[to]} is not installed")
    student = make_student("animatediff", train, steps, prediction)
    own = latents(student_sampler(student, "own", SamplingOptions()))
    as_eps = Student(student.teacher, shared_copy(student.network), student.contract)
    record_prediction(as_eps.network, "eps")
    assert difference(latents(student_sampler(as_eps, "eps", SamplingOptions())), own) > 0.1
    exported, tolerance = write_export(student, to, tmp_path / "out"), 2 * find_format(to).tolerance
    for teacher in (None if is_pipeline(exported.folder) else str(student.teacher.folder), student.teacher):
        back = open_sampler(exported.folder, teacher=teacher, device="cpu")
        assert back.contract is not None and back.contract.differences(student.contract) == []
        assert difference(latents(back), own) < tolerance
    text = {"v": "v_prediction", "x0": "sample"}[prediction]
    if (config := exported.folder / "scheduler" / "scheduler_config.json").is_file():
        assert json.loads(config.read_text())["prediction_type"] == text
    elif to == "lora":
        assert f"prediction_type={text!r}" in (exported.folder / "README.md").read_text()
    else:
        assert f"the {prediction}-prediction" in (exported.folder / "README.md").read_text()


def test_what_a_user_writes_samples_the_student(
    make_student: Callable[..., Student], make_export: Callable[..., Exported]
) -> None:
    """The sentence of the README, word for word, against the student's own latents."""
    student, folder = make_student("wan", "full"), make_export("wan", "full", "diffusers").folder
    teacher, size = student.teacher, student.contract.size
    pipe = DiffusionPipeline.from_pretrained(folder)
    z = teacher.noise([3], teacher.latent_shape(*size))
    actual = pipe(
        "a ring", num_inference_steps=4, guidance_scale=1.0, latents=z, output_type="latent", **size._asdict()
    ).frames
    assert difference(actual, student.sample(z, teacher.conditions(["a ring"]))) < EXACT


def test_text_and_autoencoder_are_copied_verbatim(
    make_student: Callable[..., Student], make_export: Callable[..., Exported]
) -> None:
    source, folder = make_student("wan", "lora").teacher.folder, make_export("wan", "lora", "diffusers").folder
    parts = [path for name in ("text_encoder", "tokenizer", "vae") for path in (source / name).iterdir()]
    assert parts and all(path.read_bytes() == (folder / path.relative_to(source)).read_bytes() for path in parts)
    assert json.loads((folder / "fewstep.json").read_text())["num_frames"] == 9


@pytest.mark.parametrize("family", ["cogvideox", "animatediff"])
@pytest.mark.parametrize("to", ["comfyui", "single-file"])
def test_a_format_that_a_family_lacks_is_refused(
    make_student: Callable[..., Student], tmp_path: Path, family: str, to: str
) -> None:
    with pytest.raises(
        ValueError, match=rf"^{to} is not possible for students of \w+Pipeline \(.*\): export to diffusers or lora or"
    ):
        write_export(make_student(family, "full"), to, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_nodes_that_no_stock_sampler_has_are_refused(make_student: Callable[..., Student], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rounds its nodes to .*999.* where the student has .*665.7.*divide 1000"):
        write_export(make_student("cogvideox", "full", 3), "diffusers", tmp_path / "out")
    assert write_export(make_student("wan", "full", 3), "diffusers", tmp_path / "out").relative_error <= EXACT


@pytest.mark.parametrize("family", ["wan", pytest.param("animatediff", marks=pytest.mark.slow)])
def test_a_lora_of_a_full_student_is_the_nearest_of_its_rank(
    make_student: Callable[..., Student], tmp_path: Path, family: str
) -> None:
    student = make_student(family, "full")
    low = write_export(student, "lora", tmp_path / "low", Options(rank=2))
    high = write_export(student, "lora", tmp_path / "high", Options(rank=32))
    assert EXACT < high.relative_error < low.relative_error  # norms are out of any LoRA's reach
    assert "rank 2 holds" in low.notes[0] and "norms and modulation" in low.notes[0]
    assert low.motion is not None and f"move {low.motion:.0%} as much" in low.notes[-1]
    sampler = open_sampler(high.folder, teacher=student.teacher)
    assert difference(latents(sampler), latents(student_sampler(student, "own", SamplingOptions()))) < 0.2


def test_a_lora_names_its_settings_in_the_header(make_export: Callable[..., Exported]) -> None:
    with safe_open(make_export("wan", "lora", "lora").folder / "pytorch_lora_weights.safetensors", "pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
        assert settings["transformer.r"] == 4 and settings["transformer.lora_alpha"] == 4  # the student's 8 is inside B
        assert all(key.startswith("transformer.blocks.") and ".default." not in key for key in file.keys())  # noqa: SIM118


def test_every_format_says_who_it_is() -> None:
    for name in ("diffusers", "lora", "comfyui", "single-file"):
        assert find_format(name).name == name
    with pytest.raises(ValueError, match="there is no format mp3: use one of diffusers, lora"):
        find_format("mp3")
