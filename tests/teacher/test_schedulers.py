"""diffusers' schedulers and the schedules behind them: the same noise gives the same latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
    VQDiffusionScheduler,
)
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule
from torch import Tensor

from fewstep.teacher.schedule import NoiseSchedule
from fewstep.teacher.schedulers import follows_size, read_scheduler, shift_of_tokens

SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SVD = {
    **SD_BETAS,
    "prediction_type": "v_prediction",
    "timestep_type": "continuous",
    "timestep_spacing": "leading",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "steps_offset": 1,
}


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(z: Tensor, t: float) -> Tensor:
    """Any function will do: parity and endpoints hold for every network."""
    return torch.tanh(1.3 * z + 3 * t)


def ours(schedule: NoiseSchedule, grid: Tensor, z: Tensor) -> Tensor:
    for t, s in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        x0 = schedule.to_x0(network(z, float(schedule.timestep(t))), z, t)
        z = schedule.step(z, x0, t, s)
    return z


def theirs(scheduler: Any, z: Tensor) -> Tensor:
    """Samples on the scheduler's timesteps; `z` already has its initial scale."""
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(z, t) if hasattr(scheduler, "scale_model_input") else z
        z = scheduler.step(network(scaled, float(t)), t, z, return_dict=False)[0]
    return z


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert float((actual - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_parity_flow_match_euler(shift: float, steps: int) -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    schedule, z = read_scheduler(scheduler), noise(0, 2, 3, 4, dtype=torch.float32)
    close(ours(schedule, schedule.grid(steps), z), theirs(scheduler, z))


@pytest.mark.parametrize("shift", [1.0, 8.0])
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_parity_flow_map_euler(shift: float, steps: int) -> None:
    scheduler: Any = FlowMapEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    schedule, z = read_scheduler(scheduler), noise(0, 2, 3, 4, dtype=torch.float32)
    close(ours(schedule, schedule.grid(steps), z), theirs(scheduler, z))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_parity_ddim_trailing(prediction: str, steps: int) -> None:
    scheduler: Any = DDIMScheduler(
        **SD_BETAS, prediction_type=prediction, timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(steps)
    schedule, z = read_scheduler(scheduler), noise(0, 2, 3, 4)
    close(ours(schedule, schedule.grid(steps), z), theirs(scheduler, z))


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, CogVideoXDDIMScheduler])
def test_zero_terminal_snr(scheduler_class: Any) -> None:
    scheduler = scheduler_class(
        **SD_BETAS,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        rescale_betas_zero_snr=True,
    )
    scheduler.set_timesteps(20)
    schedule, z = read_scheduler(scheduler), noise(0, 2, 3, 4)
    assert float(schedule.alpha(1.0)) < 1e-15
    close(ours(schedule, schedule.grid(20), z), theirs(scheduler, z))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [2, 40])
def test_parity_euler_trailing(prediction: str, steps: int) -> None:
    scheduler: Any = EulerDiscreteScheduler(**SD_BETAS, prediction_type=prediction, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    schedule, z = read_scheduler(scheduler), noise(0, 2, 3, 4, dtype=torch.float32)
    close(ours(schedule, schedule.grid(steps), z), theirs(scheduler, z / schedule.alpha(1.0).float()))


@pytest.mark.parametrize(
    "scheduler",
    [
        EulerDiscreteScheduler(**SVD),
        EDMEulerScheduler(sigma_max=700.0, sigma_data=1.0, prediction_type="v_prediction"),
    ],
    ids=["svd", "edm"],
)
def test_parity_edm(scheduler: Any) -> None:
    steps = 25
    scheduler.set_timesteps(steps)
    schedule, z = read_scheduler(scheduler), noise(0, 2, 3, 4, dtype=torch.float32)
    # diffusers' last node is sigma_min itself, which for us is the limit t -> 0: its grids are not nested
    grid = torch.cat([torch.linspace(1, 0, steps, dtype=torch.float64).clamp_min(1e-12), torch.zeros(1)])
    close(schedule.timestep(grid[:-1]), scheduler.timesteps.double(), 1e-5)
    close(ours(schedule, grid, z), theirs(scheduler, z / schedule.alpha(1.0).float()))


def test_read_scheduler_reads_every_flow_scheduler() -> None:
    unipc = UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    assert read_scheduler(unipc) == NoiseSchedule("flow", "flow", 3.0)
    moved: Any = FlowMatchEulerDiscreteScheduler(shift=5.0)
    moved.set_shift(7.0)
    assert read_scheduler(moved).shift == 7.0
    assert read_scheduler(LCMScheduler(**SD_BETAS)).prediction == "eps"


@pytest.mark.parametrize(
    ("scheduler", "sentence"),
    [
        (VQDiffusionScheduler(num_vec_classes=8), "VQDiffusionScheduler is not known"),
        (object(), "object is not known"),
        (FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "depends on the size of the video"),
        (EDMEulerScheduler(), "sigma_data 1"),
        (DDIMScheduler(rescale_betas_zero_snr=True), "v- or x0-prediction"),
    ],
)
def test_read_scheduler_refuses(scheduler: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_scheduler(scheduler)


@pytest.mark.parametrize(
    "scheduler", [FlowMatchEulerDiscreteScheduler(shift=5.0), EulerDiscreteScheduler(**SVD), DDIMScheduler(**SD_BETAS)]
)
@pytest.mark.parametrize("shift", [0, -1.0, float("inf"), float("nan")])
def test_a_shift_that_is_none_is_refused(scheduler: Any, shift: float) -> None:
    with pytest.raises(ValueError, match=f"shift is {shift}; it must be above 0"):
        read_scheduler(scheduler, shift=shift)


@pytest.mark.parametrize("steps", [2, 8])
def test_parity_on_own_nodes_with_reversed_time(steps: int) -> None:
    """As MochiPipeline samples: it is told how much of the way is done, and its network leads from noise to data."""
    scheduler: Any = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    scheduler.set_timesteps(sigmas=linear_quadratic_schedule(steps, 0.025))
    schedule, z = read_scheduler(scheduler, nodes="linear-quadratic"), noise(0, 2, 3, 4, dtype=torch.float32)
    assert schedule.reversed_time
    grid, actual = schedule.grid(steps), z
    for t, s in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        x0 = schedule.to_x0(-network(actual, float(schedule.timestep(t))), actual, t)  # turned round, as `predict` must
        actual = schedule.step(actual, x0, t, s)
    close(actual, theirs(scheduler, z))


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [64, 1000, 8000])
def test_parity_with_a_shift_that_follows_the_size(kind: str, tokens: int) -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        time_shift_type=kind,
    )
    assert follows_size(scheduler)
    mu = calculate_shift(tokens, 1024, 4096, 0.95, 2.05)
    scheduler.set_timesteps(sigmas=[1 - i / 4 for i in range(4)], mu=mu)
    schedule, z = read_scheduler(scheduler, shift_of_tokens(scheduler, tokens)), noise(0, 2, 3, dtype=torch.float32)
    close(ours(schedule, schedule.grid(4), z), theirs(scheduler, z))


def test_dynamic_shift_can_be_given() -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    assert read_scheduler(scheduler, shift=2.5).shift == 2.5


def test_a_flow_of_noise_is_refused_with_the_setting_that_is_wrong() -> None:
    wrong = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="epsilon")
    with pytest.raises(ValueError, match="set prediction_type to 'flow_prediction'"):
        read_scheduler(wrong)
