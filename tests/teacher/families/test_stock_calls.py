"""Every family in its own pipeline's hands: what exports hand over and get back."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fewstep.teacher.base import Teacher
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.schedule import Prediction, ScheduleKind
from fewstep.teacher.source import VideoSize


@dataclass(frozen=True)
class FourSteps:
    """As much of a contract as a pipeline must be told."""

    times: tuple[float, ...]
    timesteps: tuple[float, ...]
    kind: ScheduleKind
    prediction: Prediction
    shift: float
    steps: int = 4
    control_scale: float = 1.0
    guidance: Guidance = Guidance()  # noqa: RUF009
    size: VideoSize = VideoSize(9, 16, 32)  # noqa: RUF009


@pytest.fixture(scope="module", params=["tiny_wan_folder", "tiny_cogvideox_folder", "tiny_animatediff_folder"])
def teacher(request: pytest.FixtureRequest) -> Teacher:
    folder: Path = request.getfixturevalue(request.param)
    return load_teacher(folder, device="cpu")


@pytest.fixture
def contract(teacher: Teacher) -> FourSteps:
    schedule = teacher.schedule
    times = schedule.grid(4)
    timesteps = tuple(schedule.timestep(times[:-1]).tolist())
    return FourSteps(tuple(times.tolist()), timesteps, schedule.kind, schedule.prediction, schedule.shift)


def test_the_stock_scheduler_has_the_contracts_nodes(teacher: Teacher, contract: FourSteps) -> None:
    stock = teacher.stock_scheduler(contract)
    scheduler = stock.make(teacher.pipeline)
    assert teacher.stock_timesteps(scheduler, contract).tolist() == pytest.approx(contract.timesteps, abs=1e-3)
    assert type(scheduler).__name__ == stock.name and stock.code.startswith(stock.name)


def test_the_pipeline_takes_what_it_is_called_with(teacher: Teacher, contract: FourSteps) -> None:
    arguments = teacher.call_arguments(contract)
    assert arguments.keys() < inspect.signature(type(teacher.pipeline).__call__).parameters.keys()
    assert (arguments["num_inference_steps"], arguments["guidance_scale"]) == (4, 1.0)
    assert (arguments["num_frames"], arguments["height"], arguments["width"]) == (9, 16, 32)


def test_what_it_does_not_take_is_refused(teacher: Teacher, contract: FourSteps) -> None:
    first = torch.zeros(1, 3, 1, 16, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="Pipeline takes no first, pose: give it prompts only"):
        teacher.call_arguments(contract, {"first": first, "pose": first})


def test_latents_come_back_in_our_layout(teacher: Teacher) -> None:
    z = torch.randn(2, 4, 3, 2, 5)
    assert torch.equal(teacher.from_pipeline(teacher.to_pipeline(z), z.shape), z)


def test_texts_of_fixed_lengths_mean_the_same(teacher: Teacher) -> None:
    short, long = (teacher.conditions([prompt], "blurry") for prompt in ("a ring", "a ring and a square " * 5))
    z = teacher.noise([0], teacher.latent_shape(9, 32, 32))
    whole = teacher.fixed_lengths(short)
    text = whole.positive["embeddings"]
    assert text.shape == teacher.fixed_lengths(long).positive["embeddings"].shape
    assert whole.negative is not None and whole.negative["embeddings"].shape == text.shape
    actual = teacher.predict(z, 0.7, whole)
    assert torch.allclose(actual, teacher.predict(z, 0.7, short), atol=1e-4 * float(actual.abs().max()))
