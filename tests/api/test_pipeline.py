"""`fewstep.load_pipeline`: diffusers samples what `fewstep sample` does, and refuses what a student was not taught."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, WanPipeline
from torch import Tensor

import fewstep
from fewstep.student.contract import read_contract
from fewstep.student.export.write_export import write_export
from fewstep.student.load_student import load_student
from fewstep.student.pipeline import student_pipeline
from fewstep.student.sampler import SamplingOptions, open_sampler
from fewstep.teacher.base import VideoSize
from fewstep.teacher.given import noise_given

PROMPT = "a red ring"


def called(pipe: Any, *args: Any, **kwargs: Any) -> Tensor:
    """A clip (1, 3, F, H, W) in -1..1, of seed 3."""
    pipe.set_progress_bar_config(disable=True)
    actual = pipe(*args, generator=torch.Generator().manual_seed(3), output_type="pt", **kwargs).frames
    return torch.as_tensor(actual).movedim(2, 1) * 2 - 1


def sampled(source: Path, steps: int | None = None) -> Tensor:
    """The same as `fewstep sample` makes it."""
    return open_sampler(source, SamplingOptions(steps=steps), device="cpu").clips([PROMPT], [3]).clamp(-1, 1)


@pytest.mark.parametrize("steps", [None, 2])
def test_a_plain_call_is_what_sample_makes(run: Path, steps: int | None) -> None:
    pipe = fewstep.load_pipeline(run, steps=steps, device="cpu")
    assert isinstance(pipe, WanPipeline) and pipe.contract.steps == (steps or 1)
    assert torch.allclose(called(pipe, PROMPT), sampled(run, steps), atol=1e-6)
    text = inspect.signature(pipe.__call__).parameters
    assert text["num_inference_steps"].default == pipe.contract.steps and text["guidance_scale"].default == 1


@pytest.mark.parametrize(
    ("to", "train"),
    [
        ("diffusers", "full"),
        ("lora", "lora"),
        ("comfyui", "full"),
        pytest.param("diffusers", "lora", marks=pytest.mark.slow),
        pytest.param("lora", "full", marks=pytest.mark.slow),
        pytest.param("comfyui", "lora", marks=pytest.mark.slow),
    ],
)
def test_exports_and_adapters(make_api_student: Callable[..., Path], tmp_path: Path, train: str, to: str) -> None:
    stage = make_api_student(train)
    pipe = fewstep.load_pipeline(stage, device="cpu")
    own = called(pipe, PROMPT)
    assert torch.allclose(own, sampled(stage), atol=1e-6)
    if (train, to) != ("full", "lora"):  # that one is an approximation
        teacher = read_contract(stage).teacher  # a folder, which exports do not name
        write_export(load_student(stage, device="cpu"), to, tmp_path / "out")
        assert torch.allclose(
            called(fewstep.load_pipeline(str(tmp_path / "out"), teacher=teacher), PROMPT), own, atol=1e-4
        )
    pipe.save_pretrained(tmp_path / "saved")
    loader: Any = DiffusionPipeline
    plain = loader.from_pretrained(tmp_path / "saved")
    assert type(plain) is WanPipeline
    size = pipe.contract.size._asdict()
    assert torch.allclose(called(plain, PROMPT, num_inference_steps=4, guidance_scale=1.0, **size), own, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"num_inference_steps": 50}, "num_inference_steps=1, not 50"),
        ({"guidance_scale": 5.0}, "guidance_scale=1.0, not 5.0"),
        ({"guidance_scale_2": 3.0}, "guidance_scale_2=None, not 3.0"),
        ({"negative_prompt": "blurry"}, "another one has no effect without guidance; leave negative_prompt out"),
        ({"num_frames": 10}, "frames"),
        ({"height": 17}, "17"),
    ],
)
def test_a_wrong_call_is_refused_in_one_sentence(run: Path, wrong: dict[str, Any], sentence: str) -> None:
    pipe = fewstep.load_pipeline(run, device="cpu")
    with pytest.raises(ValueError, match=sentence):
        pipe(PROMPT, **wrong)


def test_what_is_right_may_be_said_and_force_lets_the_rest_pass(run: Path) -> None:
    pipe, own = fewstep.load_pipeline(run, device="cpu"), sampled(run)
    size = {"num_frames": 9, "height": 16, "width": 16}
    assert torch.allclose(called(pipe, [PROMPT], num_inference_steps=1, guidance_scale=1, **size), own, atol=1e-6)
    assert called(pipe, PROMPT, num_frames=5).shape[2] == 5
    free = fewstep.load_pipeline(run, device="cpu", force=True)
    assert not torch.allclose(called(free, PROMPT, num_inference_steps=2), own, atol=1e-3)
    with pytest.raises(TypeError, match="num_frame"):
        pipe(PROMPT, num_frame=9)


def test_half_precision_reaches_the_end(run: Path) -> None:
    pipe = fewstep.load_pipeline(run, device="cpu", dtype=torch.bfloat16)
    assert pipe.transformer.dtype == torch.bfloat16 and pipe.vae.dtype == torch.float32
    assert called(pipe, PROMPT).isfinite().all()


@pytest.mark.parametrize("train", ["full", "lora"])
def test_no_weights_are_held_twice(make_api_student: Callable[..., Path], train: str) -> None:
    student = load_student(make_api_student(train), device="cpu")
    before = student.teacher.denoiser
    pipe = student_pipeline(student)
    held = {id(parameter) for parameter in pipe.transformer.parameters()}
    assert all(parameter.is_meta or id(parameter) in held for parameter in before.parameters())
    assert not any(parameter.is_meta for parameter in pipe.transformer.parameters())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda run, teacher: run / "nothing", "there is no .*nothing: pass a run directory"),
        (lambda run, teacher: "someone/a-model", "hf download"),
        (lambda run, teacher: teacher, "is not a student: pass a run directory"),
        (lambda run, teacher: run.parent, "is not a student"),
        (lambda run, teacher: "shapes", "shapes is not a student"),
        (lambda run, teacher: "", "source is ''"),
        (lambda run, teacher: None, "source is None"),
    ],
)
def test_what_is_no_student(run: Path, tiny_wan_folder: Path, make: Callable[..., Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        fewstep.load_pipeline(make(run, tiny_wan_folder))


def test_other_settings_that_are_wrong(run: Path) -> None:
    with pytest.raises(ValueError, match=r"no student in .* was trained for 3 steps"):
        fewstep.load_pipeline(run, steps=3)
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        fewstep.load_pipeline(run, dtype="int8")


@pytest.mark.parametrize(
    "family",
    ["cogvideox", "hunyuan_video", *(pytest.param(name, marks=pytest.mark.slow) for name in ("animatediff", "ltx"))],
)
def test_other_families(family: str, request: pytest.FixtureRequest, make_stage: Callable[..., Path]) -> None:
    """In float32 as the student itself, in bfloat16 to the end."""
    stage = make_stage(request.getfixturevalue(f"tiny_{family}_folder"), "full", 4)
    student = load_student(stage, device="cpu")
    teacher, contract = student.teacher, student.contract
    z = teacher.noise([3], teacher.latent_shape(*contract.size))
    own = teacher.decode(student.sample(z, teacher.conditions([PROMPT], None, contract.size)))
    begins = teacher.noise_arguments(z, contract)
    pipe = fewstep.load_pipeline(stage, device="cpu")
    assert torch.allclose(called(pipe, PROMPT, **begins), own.clamp(-1, 1), atol=1e-4)
    assert called(fewstep.load_pipeline(stage, device="cpu", dtype="bfloat16"), PROMPT).isfinite().all()
    assert VideoSize(*called(pipe, PROMPT).shape[2:]) == contract.size


def test_frames_are_refused_by_whatever_name_the_call_has_for_them(
    tiny_sana_video_folder: Path, make_stage: Callable[..., Path]
) -> None:
    pipe = fewstep.load_pipeline(make_stage(tiny_sana_video_folder, "full", 4), device="cpu")
    with pytest.raises(ValueError, match="10 frames cannot be made"):
        pipe(PROMPT, frames=10)


@pytest.mark.parametrize(
    "family",
    ["wan_i2v", "sana_video_image", pytest.param("cogvideox_control", marks=pytest.mark.slow), "ltx_condition"],
)
def test_students_that_are_given_pictures(
    family: str, request: pytest.FixtureRequest, make_stage: Callable[..., Path]
) -> None:
    stage = make_stage(request.getfixturevalue(f"tiny_{family}_folder"), "full", 4)
    student = load_student(stage, device="cpu")
    teacher, contract = student.teacher, student.contract
    given = noise_given(teacher.given_sizes(contract.size), 1)
    own, names = teacher.call_arguments(contract), set(teacher.given_arguments.values())
    pictures = {name: value for name, value in teacher.call_arguments(contract, given).items() if name not in own}
    for dtype in ("float32", "bfloat16"):
        pipe = fewstep.load_pipeline(stage, device="cpu", dtype=dtype)
        precisions: dict[str, torch.dtype] = {}

        def note(part: Any, args: Any, named: dict[str, Any], into: dict[str, torch.dtype] = precisions) -> None:
            into |= {name: x.dtype for name, x in named.items() if isinstance(x, Tensor)}

        pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
        assert called(pipe, PROMPT, **pictures).isfinite().all()
        # what says when and where is rounded in no precision, and the rest is as the weights are
        assert precisions["encoder_hidden_states"] == getattr(torch, dtype)
        assert torch.bfloat16 not in {precisions[name] for name in ("timestep", "video_coords") if name in precisions}
    if contract.given:
        with pytest.raises(ValueError, match=f"the student makes clips from prompts and .*: pass {min(names)}"):
            pipe(PROMPT)
    else:
        with pytest.raises(ValueError, match=f"the student was trained without {min(names)}: leave it out"):
            pipe(PROMPT, **{min(names): object()})
