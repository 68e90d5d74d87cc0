"""Every family and variant, on random weights of diffusers' own test sizes: from a pipeline's folder to a student that
the stock pipeline samples, and what must hold on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.commands.survey_tries import least_size, tried
from fewstep.distill.decoder.pairs import Pairs, Recorder, save_pairs
from fewstep.distill.decoder.recipe import DecoderSettings
from fewstep.distill.decoder.training import new_decoder
from fewstep.student.denoiser import Roles
from fewstep.student.export.base import EXACT, Options, find_format, formats_of
from fewstep.student.export.stock import stock_scheduler
from fewstep.student.export.write_export import write_export
from fewstep.student.load_student import load_student
from fewstep.teacher.given import noise_given
from fewstep.teacher.load_teacher import load_teacher
from tests.tiny_cogvideox import NEWER as COGVIDEOX_NEWER
from tests.tiny_cogvideox import save_tiny_cogvideox_given
from tests.tiny_controlnet import save_tiny_controlnet
from tests.tiny_hunyuan_video import save_tiny_hunyuan_video, save_tiny_hunyuan_video_image
from tests.tiny_hunyuan_video15 import save_tiny_hunyuan_video15
from tests.tiny_kandinsky import save_tiny_kandinsky
from tests.tiny_ltx import save_tiny_ltx
from tests.tiny_ltx2 import NEWER, save_tiny_ltx2
from tests.tiny_mochi import save_tiny_mochi
from tests.tiny_pictures import save_tiny_sd, save_tiny_sdxl
from tests.tiny_pipelines import (
    save_tiny_animatediff,
    save_tiny_cogvideox,
    save_tiny_given_wan,
    save_tiny_wan,
    tiny_wan22_5b,
)
from tests.tiny_sana_video import save_tiny_sana_video
from tests.tiny_skyreels import save_tiny_skyreels
from tests.tiny_svd import save_tiny_svd

PROMPTS = ["a red circle", "a big blue square moves left"]


@dataclass(frozen=True)
class Variant:
    """One way to use a family's pipeline."""

    family: str
    name: str
    save: Callable[[Path], None]
    given: Sequence[str] = ()
    only: str | None = None  # the part that is trained
    always: bool = (
        False  # also without `make families`: of each family those that differ most from other tests' teachers
    )

    @property
    def label(self) -> str:
        """For people."""
        return "-".join([self.family, self.name, *self.given])


def given_wan(kind: str) -> Callable[[Path], None]:
    return lambda folder: save_tiny_given_wan(folder, kind)


VARIANTS = [
    Variant("wan", "t2v", save_tiny_wan),
    Variant("wan", "i2v", given_wan("i2v"), ("first",)),
    Variant("wan", "flf2v", given_wan("flf2v"), ("first", "last")),
    Variant("wan", "vace", given_wan("vace")),
    Variant("wan", "vace", given_wan("vace"), ("reference", "control", "mask"), always=True),
    Variant("wan", "animate", given_wan("animate"), ("reference", "pose", "face")),
    Variant("wan", "animate", given_wan("animate"), ("reference", "control", "mask", "pose", "face"), always=True),
    Variant("wan22", "a14b-t2v", lambda folder: save_tiny_wan(folder, experts=2, boundary_ratio=0.875)),
    Variant("wan22", "a14b-i2v", given_wan("a14b-i2v"), ("first",), always=True),
    Variant("wan22", "a14b-i2v", given_wan("a14b-i2v"), ("first", "last")),
    Variant("wan22", "5b-t2v", tiny_wan22_5b),
    Variant("wan22", "5b-i2v", given_wan("5b-i2v"), ("first",)),
    Variant("wan22", "5b-i2v-of-a-t2v-folder", tiny_wan22_5b, ("first",)),
    Variant("cogvideox", "t2v", save_tiny_cogvideox),
    Variant("animatediff", "t2v", save_tiny_animatediff),
    Variant("animatediff", "motion", save_tiny_animatediff, only="motion", always=True),
    Variant("ltx", "t2v", save_tiny_ltx),
    Variant("ltx", "i2v-of-a-t2v-folder", save_tiny_ltx, ("first",)),
    Variant("ltx", "i2v", lambda folder: save_tiny_ltx(folder, "image", timed_decoder=True), ("first",)),
    Variant("ltx", "condition", lambda folder: save_tiny_ltx(folder, "condition")),
    Variant("ltx", "condition", lambda folder: save_tiny_ltx(folder, "condition"), ("first", "last"), always=True),
    Variant("ltx2", "t2v", save_tiny_ltx2),
    Variant("ltx2", "t2v-of-2.3", lambda folder: save_tiny_ltx2(folder, **NEWER)),
    Variant("ltx2", "i2v-of-a-t2v-folder", save_tiny_ltx2, ("first",)),
    Variant("ltx2", "i2v", lambda folder: save_tiny_ltx2(folder, "image"), ("first",), always=True),
    Variant("sd", "picture", save_tiny_sd),
    Variant("sdxl", "picture", save_tiny_sdxl, always=True),
    Variant("animatediff", "controlnet", save_tiny_controlnet, ("control",)),
    Variant("hunyuanvideo", "t2v", save_tiny_hunyuan_video),
    Variant("hunyuanvideo", "i2v-latent-concat", save_tiny_hunyuan_video_image, ("first",)),
    Variant(
        "hunyuanvideo",
        "i2v-token-replace",
        lambda f: save_tiny_hunyuan_video_image(f, "token_replace"),
        ("first",),
        always=True,
    ),
    Variant("hunyuanvideo15", "t2v", save_tiny_hunyuan_video15),
    Variant("hunyuanvideo15", "i2v", lambda f: save_tiny_hunyuan_video15(f, pictures=True), ("first",), always=True),
    Variant("skyreels", "t2v", save_tiny_skyreels),
    Variant("skyreels", "i2v", lambda folder: save_tiny_skyreels(folder, image=True), ("first",)),
    Variant("sana_video", "t2v", save_tiny_sana_video),
    Variant("sana_video", "i2v-of-a-t2v-folder", save_tiny_sana_video, ("first",)),
    Variant("sana_video", "i2v", lambda folder: save_tiny_sana_video(folder, image=True), ("first",), always=True),
    Variant("kandinsky", "t2v", save_tiny_kandinsky),
    Variant("kandinsky", "i2v", lambda folder: save_tiny_kandinsky(folder, image=True), ("first",), always=True),
    Variant("svd", "i2v", save_tiny_svd, ("first",), always=True),
    Variant("cogvideox", "t2v-of-1.5", lambda folder: save_tiny_cogvideox(folder, **COGVIDEOX_NEWER)),
    Variant("cogvideox", "i2v-5b", lambda folder: save_tiny_cogvideox_given(folder, "image-5b"), ("first",)),
    Variant(
        "cogvideox",
        "i2v-of-1.5",
        lambda folder: save_tiny_cogvideox_given(folder, "image-1.5"),
        ("first",),
        always=True,
    ),
    Variant("cogvideox", "fun-control", lambda folder: save_tiny_cogvideox_given(folder, "control"), ("control",)),
    Variant("mochi", "t2v", save_tiny_mochi, always=True),
    Variant("mochi", "t2v-of-forward-time", lambda folder: save_tiny_mochi(folder, invert_sigmas=False)),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All variants for the table."""
    if "variant" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--families")
        variants = [variant for variant in VARIANTS if variant.always or everything]
        metafunc.parametrize("variant", variants, ids=lambda variant: variant.label, scope="module")


@pytest.fixture(scope="module")
def folder(variant: Variant, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("end-to-end") / "pipeline"
    variant.save(folder)
    return folder


def test_a_small_decoder_takes_the_place_of_the_autoencoders(variant: Variant, folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(folder, device="cpu")
    teacher.take(variant.given)
    latents = teacher.noise([0, 1], teacher.latent_shape(*least_size(teacher)))
    recorder = Recorder(teacher.pipeline.vae.decode)
    with torch.no_grad(), teacher.decoding_by(recorder):
        whole = teacher.decode(latents)
    (tmp_path / "pairs").mkdir()
    save_pairs(recorder, tmp_path / "pairs" / "0.safetensors")
    settings = DecoderSettings(widths=(8,), blocks=(1,))
    decoder = new_decoder(settings, 0, teacher, Pairs(tmp_path / "pairs")).eval()
    with torch.no_grad(), teacher.decoding_by(decoder.decode):
        small = teacher.decode(latents)
    assert small.shape == whole.shape and not torch.equal(small, whole)
    with torch.no_grad():
        assert torch.equal(teacher.decode(latents), whole)


def test_an_untrained_student_is_its_teacher_which_training_leaves_alone(variant: Variant, folder: Path) -> None:
    teacher = load_teacher(folder, device="cpu")
    teacher.take(variant.given)
    teacher.restrict(variant.only)
    size = least_size(teacher)
    conditions = teacher.conditions(PROMPTS, "", size, noise_given(teacher.given_sizes(size), 2))
    before = {name: tensor.clone() for name, tensor in teacher.denoiser.state_dict().items()}
    roles = Roles(teacher, "full")
    z, t = teacher.noise([0, 1], teacher.latent_shape(*size)), torch.tensor([1.0, 0.4])  # of experts one clip each
    roles.student.requires_grad_(False)  # weights with gradients may be multiplied by a kernel that rounds otherwise
    assert torch.equal(teacher.denoise(z, t, conditions, network=roles.student), teacher.denoise(z, t, conditions))
    roles.student.requires_grad_(True)
    x0 = teacher.denoise(z, t, conditions, network=roles.student)
    x0.square().mean().backward()
    trained = [p for p in roles.parameters.values() if p.grad is not None and bool(p.grad.any())]
    assert len(trained) > 0.5 * len(roles.parameters)
    torch.optim.SGD(trained, lr=0.1).step()
    assert not torch.equal(teacher.denoise(z, t, conditions, network=roles.student), x0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.denoiser.state_dict().items())


def test_from_a_folder_to_a_student_that_the_stock_pipeline_samples(
    variant: Variant, folder: Path, tmp_path: Path, family_rows: list[dict[str, Any]]
) -> None:
    results = tried(folder, tmp_path / "work", given=variant.given, only=variant.only)
    assert results["sentence"] == "" and results["sample"] and results["run"] and results["export"]
    student = load_student(tmp_path / "work" / "run", device="cpu")
    assert set(student.contract.given) == set(variant.given) and student.contract.steps == 2
    nodes = [index for expert in student.contract.experts for index in expert.nodes]
    assert nodes in ([], [0, 1])
    errors = {}
    for name in formats_of(student.teacher):
        format = find_format(name)
        approximate = name == "lora" or (name == "part" and variant.only is None)  # of a whole network
        if format.tolerance == EXACT and not format.needs and not approximate:
            errors[name] = write_export(student, name, tmp_path / name, Options()).relative_error
    assert "diffusers" in errors and max(errors.values()) < 1e-4
    row = {
        "family": variant.family,
        "variant": variant.name,
        "given": list(variant.given),
        "end_to_end": results["run"],
    }
    row |= {"export": sorted(errors), "exact": results["exact"], "relative_error": max(errors.values())}
    sampled_in = f"{student.contract.pipeline} with {stock_scheduler(student).name}"
    family_rows.append(row | {"sampled_in": sampled_in, "weights": "random, of diffusers' test sizes"})
