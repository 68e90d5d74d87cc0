"""Which schedules a teacher has: those of its family, with the shift that was given or follows the size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from fewstep.student.contract import SamplingContract
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.families import FAMILIES
from fewstep.teacher.families.wan import WanTeacher
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher

SIZE = VideoSize(9, 16, 16)


@pytest.fixture
def folder(tmp_path: Path, tiny_wan_folder: Path) -> Path:
    """A copy of a tiny Wan teacher, whose scheduler may be replaced."""
    return Path(shutil.copytree(tiny_wan_folder, tmp_path / "T"))


def with_scheduler(folder: Path, scheduler: Any) -> Path:
    shutil.rmtree(folder / "scheduler")
    scheduler.save_pretrained(folder / "scheduler")
    index = folder / "model_index.json"
    values = json.loads(index.read_text()) | {"scheduler": ["diffusers", type(scheduler).__name__]}
    index.write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("scheduler", "sentence"),
    [
        (UniPCMultistepScheduler(), "a UniPCMultistepScheduler whose noise schedule is vp with eps.*use_flow_sigmas"),
        (UniPCMultistepScheduler(prediction_type="flow_prediction"), "is vp with flow-prediction.*use_flow_sigmas"),
        (DPMSolverMultistepScheduler(), "is vp with eps-prediction, and a WanPipeline has flow with flow"),
        (DDIMScheduler(), "is vp with eps-prediction, .*: correct it, or use the config that came with the weights"),
        (EulerDiscreteScheduler(prediction_type="v_prediction"), "is vp with v-prediction"),
        (UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="sample"), "is flow with x0-prediction"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "has invert_sigmas, which turns time round"),
        (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "follows the size .* how is not known: give"),
    ],
)
def test_a_wan_folder_with_another_kind_of_schedule_is_refused(folder: Path, scheduler: Any, sentence: str) -> None:
    with_scheduler(folder, scheduler)
    for ask in (lambda: outline_teacher(folder), lambda: load_teacher(folder, device="cpu")):
        with pytest.raises(ValueError, match=sentence) as caught:
            ask()
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize("family", ["tiny_cogvideox_folder", "tiny_animatediff_folder"])
def test_a_flow_schedule_is_refused_where_the_family_is_vp(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(family), tmp_path / "T"))
    with_scheduler(folder, FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match=r"is flow with flow-prediction, and a .* has vp with"):
        outline_teacher(folder)


def test_every_family_says_its_schedules() -> None:
    assert all(family.schedules for family in FAMILIES.values())


def test_the_schedulers_that_wan_is_sampled_with_are_read(folder: Path) -> None:
    unipc = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    assert outline_teacher(with_scheduler(folder, unipc)).teacher.schedule.shift == 3.0


def test_a_shift_can_be_given(folder: Path) -> None:
    index = folder / "fewstep.json"
    index.write_text("{}")  # no size is asked for where the shift does not follow it
    given = load_teacher(folder, device="cpu", shift=2.0)
    assert given.schedule == outline_teacher(folder, 2.0).teacher.schedule
    assert given.schedule.shift == 2.0 and load_teacher(folder, device="cpu").schedule.shift == 5.0
    assert given.schedule_for(SIZE).shift == 2.0
    with pytest.raises(ValueError, match="shift is 0; it must be above 0"):
        load_teacher(folder, device="cpu", shift=0)


def test_a_given_shift_stands_for_one_that_follows_the_size(folder: Path) -> None:
    with_scheduler(folder, FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    teacher = load_teacher(folder, device="cpu", shift=2.0)
    teacher.use_size(VideoSize(81, 480, 832))
    assert teacher.schedule.shift == 2.0


def test_a_family_may_know_how_the_shift_follows_the_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_scheduler(folder, FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    monkeypatch.setattr(WanTeacher, "shift_for", lambda self, size: float(size.num_frames))
    teacher = load_teacher(folder, device="cpu")
    assert teacher.schedule.shift == 9.0  # of its own size
    assert teacher.schedule_for(VideoSize(17, 16, 16)).shift == 17.0 and teacher.schedule.shift == 9.0
    teacher.use_size(VideoSize(5, 16, 16))
    assert teacher.schedule.shift == 5.0
    contract = SamplingContract.of(teacher, "T", 4, "full", VideoSize(5, 16, 16), 1.0, "", 8.0)
    assert contract.shift == 5.0 and contract.grid.tolist() == teacher.schedule.grid(4).tolist()


def test_without_any_size_a_shift_that_follows_it_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_scheduler(folder, FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    monkeypatch.setattr(WanTeacher, "shift_for", lambda self, size: 3.0)
    monkeypatch.setattr(WanTeacher, "default_size", lambda self: None)
    with pytest.raises(ValueError, match="no size is known: give one with `shift` in the recipe, or --shift"):
        outline_teacher(folder)


def test_a_family_rounds_times_as_its_pipeline_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the network, in training and in the contract alike."""
    exact = load_teacher(folder, device="cpu")
    monkeypatch.setattr(WanTeacher, "timestep_dtype", torch.bfloat16)
    teacher = load_teacher(folder, device="cpu")
    contract = SamplingContract.of(teacher, "T", 4, "full", SIZE, 1.0, "", 8.0)
    assert contract.timesteps == (1000, 936, 832, 624) and contract.times[1] == pytest.approx(0.9375)
    seen = list[float]()
    network: Any = teacher.network_at(1.0)
    network.register_forward_pre_hook(lambda _, arguments: seen.extend(arguments[1].tolist()))
    z, conditions = teacher.noise([0], teacher.latent_shape(*SIZE)), teacher.conditions(["a ring"])
    teacher.denoise(z, 0.9375, conditions)
    assert seen == [936.0]
    contract.check_teacher(teacher)
    with pytest.raises(ValueError, match=r"timesteps 1000, 936, 832, 624 at its nodes, and .* is passed 1000, 937\.5"):
        contract.check_teacher(exact)


class Renamed:
    """As sharding derives a class from each block's own, under another name."""

    def __new__(cls, module: Any) -> Any:
        module.__class__ = type(f"FSDP{type(module).__name__}", (type(module),), {})
        return module


@pytest.mark.parametrize("by_name", [False, True])
def test_blocks_are_found_under_another_name(folder: Path, by_name: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher: Teacher = load_teacher(folder, device="cpu")
    if by_name:
        monkeypatch.setattr(WanTeacher, "block_classes", ())
    network = teacher.network_at(1.0)
    blocks = teacher.blocks(network)
    for block in blocks:
        Renamed(block)
    assert len(blocks) == 4 and teacher.blocks(network) == blocks
    assert len(teacher.taps(network)) == 3


def test_without_named_blocks_there_is_nothing_to_tap(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = load_teacher(folder, device="cpu")
    monkeypatch.setattr(WanTeacher, "block_classes", ())
    monkeypatch.setattr(type(teacher.network_at(1.0)), "_repeated_blocks", None)
    with pytest.raises(ValueError, match="names no repeated blocks"):
        teacher.taps(teacher.network_at(1.0))
