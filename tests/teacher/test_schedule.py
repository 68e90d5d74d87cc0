"""The schedule algebra: round trips, nested grids, endpoint targets."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep.teacher.schedule import NoiseSchedule, Prediction, ScheduleKind, shift_time, substeps_per_step

SD: Any = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SD_ALPHAS = tuple(SD.alphas_cumprod.double().tolist())
SCHEDULES = [
    NoiseSchedule("flow", "flow"),
    NoiseSchedule("flow", "x0"),
    NoiseSchedule("vp", "x0", alphas_cumprod=SD_ALPHAS),
    NoiseSchedule("vp", "eps", alphas_cumprod=SD_ALPHAS),
    NoiseSchedule("vp", "v", alphas_cumprod=SD_ALPHAS),
    NoiseSchedule("vp", "flow", alphas_cumprod=SD_ALPHAS),
    NoiseSchedule("edm", "v"),
    NoiseSchedule("edm", "eps"),
]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.kind}-{s.prediction}")
times = st.floats(0.02, 1.0)


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert float((actual - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


def test_pure_noise_is_usable_at_the_start_of_an_sd_schedule() -> None:
    schedule = NoiseSchedule("vp", "eps", alphas_cumprod=SD_ALPHAS)
    eps = noise(0, 1, 4)
    assert float(schedule.sigma(1.0) / schedule.alpha(1.0)) == pytest.approx(14.6, abs=0.1)
    assert schedule.to_x0(eps, eps, 1.0).isfinite().all()


@schedules
@settings(deadline=None, max_examples=30)
@given(t=times, seed=st.integers(0, 99))
def test_predictions_round_trip(schedule: NoiseSchedule, t: float, seed: int) -> None:
    x0, eps = noise(seed, 2, 3), noise(seed + 100, 2, 3)
    z_t = schedule.add_noise(x0, eps, t)
    prediction = schedule.from_x0_eps(x0, eps, t)
    found_x0, found_eps = schedule.to_x0_eps(prediction, z_t, t)
    close(found_x0, x0, 1e-6)
    close(found_eps, eps, 1e-6)
    close(schedule.from_x0(x0, z_t, t), prediction, 1e-6)


@schedules
@settings(deadline=None, max_examples=30)
@given(t=times, fraction=st.floats(0.0, 0.95), seed=st.integers(0, 99))
def test_endpoint_inverts_step(schedule: NoiseSchedule, t: float, fraction: float, seed: int) -> None:
    z_t, x0, s = noise(seed, 2, 3), noise(seed + 100, 2, 3), t * fraction
    close(schedule.endpoint_x0(z_t, schedule.step(z_t, x0, t, s), t, s), x0, 1e-6)


@schedules
def test_one_student_step_lands_on_the_teachers_eight(schedule: NoiseSchedule) -> None:
    """verify_equations.py, for every kind and prediction."""
    t, s, z_t = 0.93, 0.31, noise(0, 1, 7)
    z_s, times = z_t, torch.linspace(t, s, 9, dtype=torch.float64).tolist()
    for now, then in pairwise(times):  # any function will do as the teacher's network
        x0 = schedule.to_x0(torch.tanh(1.3 * z_s + 3 * now), z_s, now)
        z_s = schedule.step(z_s, x0, now, then)
    x0 = schedule.endpoint_x0(z_t, z_s, t, s)
    target = schedule.from_x0(x0, z_t, t)
    close(schedule.step(z_t, schedule.to_x0(target, z_t, t), t, s), z_s, 1e-9)
    wrong = schedule.step(z_t, x0 + 1e-2, t, s)
    _, gain = schedule._transition(t, s)
    close(wrong - z_s, gain * 1e-2 * torch.ones_like(z_s), 1e-9)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if schedule.prediction == "flow" and schedule.kind == "flow":
        close(target, (z_t - z_s) / (t - s), 1e-9)
    if schedule.prediction == "v":
        phi = torch.atan2(sigma, alpha) - torch.atan2(schedule.sigma(s), schedule.alpha(s))
        close(target, (phi.cos() * z_t - z_s) / phi.sin(), 1e-9)


@schedules
def test_loss_weight_is_the_change_of_the_prediction(schedule: NoiseSchedule) -> None:
    t, z_t, x0, change = 0.6, noise(0, 1, 7), noise(1, 1, 7), 0.1
    moved = schedule.from_x0(x0 + change, z_t, t) - schedule.from_x0(x0, z_t, t)
    close(schedule.loss_weight(t) * change**2, moved.square().mean(), 1e-9)


@pytest.mark.parametrize(
    ("kind", "prediction", "expected"),
    [("flow", "flow", "1/t^2"), ("vp", "v", "SNR + 1"), ("vp", "eps", "SNR"), ("vp", "x0", "1")],
)
def test_loss_weights_of_the_method(kind: ScheduleKind, prediction: Prediction, expected: str) -> None:
    schedule = NoiseSchedule(kind, prediction, alphas_cumprod=SD_ALPHAS if kind == "vp" else ())
    snr = float(schedule.alpha(0.4) / schedule.sigma(0.4)) ** 2
    value = {"1/t^2": 1 / 0.4**2, "SNR + 1": snr + 1, "SNR": snr, "1": 1.0}[expected]
    assert float(schedule.loss_weight(0.4)) == pytest.approx(value, rel=1e-9)


def test_flow_nodes_of_the_method() -> None:
    assert NoiseSchedule("flow", "flow", 5.0).grid(4).tolist() == pytest.approx([1, 0.9375, 0.8333, 0.625, 0], abs=1e-4)
    assert NoiseSchedule("flow", "flow", 8.0).grid(4).tolist() == pytest.approx([1, 0.96, 0.889, 0.727, 0], abs=1e-3)


def test_the_end_stays_in_range_at_every_shift() -> None:
    """Rounding takes the shifted 1 above 1 for some shifts below 1, such as 0.1."""
    for hundredths in range(1, 2001):
        schedule = NoiseSchedule("flow", "flow", hundredths / 100)
        assert schedule.time_at(1.0) <= 1 and float(schedule.time_at(torch.ones(1, dtype=torch.float64))) <= 1
        assert schedule.time_at(1.0) == pytest.approx(1)


@pytest.mark.parametrize("shift", [1.0, 5.0, 8.0])
def test_grids_are_nested(shift: float) -> None:
    schedule = NoiseSchedule("flow", "flow", shift)
    for teacher, student in [(32, 8), (32, 1), (50, 10), (8, 4)]:
        ratio = substeps_per_step(teacher, student)
        fine, coarse = schedule.grid(teacher), schedule.grid(student)
        close(fine[::ratio], coarse, 1e-15)
        for i in range(student):
            between = schedule.substeps(coarse[i], coarse[i + 1], ratio)
            close(between, fine[i * ratio : (i + 1) * ratio + 1], 1e-14)


@pytest.mark.parametrize("shift", [1.0, 2.2, 3.0, 5.0, 7.0, 8.0])
def test_grids_end_at_pure_noise_and_data_whatever_is_rounded(shift: float) -> None:
    grid = NoiseSchedule("flow", "flow", shift).grid(50)
    assert (float(grid[0]), float(grid[-1])) == (1.0, 0.0)


def test_substeps_of_a_batch_of_times() -> None:
    schedule = NoiseSchedule("flow", "flow", 5.0)
    t, s = torch.tensor([1.0, 0.9]), torch.tensor([0.5, 0.0])
    actual = schedule.substeps(t, s, 4)
    assert actual.shape == (5, 2)
    for i in range(2):
        close(actual[:, i], schedule.substeps(float(t[i]), float(s[i]), 4), 1e-15)


@given(t=st.floats(0, 1), first=st.floats(0.5, 10), second=st.floats(0.5, 10))
def test_shifts_compose(t: float, first: float, second: float) -> None:
    assert shift_time(shift_time(t, first), second) == pytest.approx(shift_time(t, first * second), abs=1e-12)
    assert shift_time(shift_time(t, first), 1 / first) == pytest.approx(t, abs=1e-12)


def test_shift_multiplies_the_noise_to_signal_ratio() -> None:
    t = shift_time(0.3, 5.0)
    assert t / (1 - t) == pytest.approx(5 * 0.3 / 0.7)


@schedules
def test_times_may_differ_in_a_batch(schedule: NoiseSchedule) -> None:
    z, x0, t = noise(0, 3, 2, 2), noise(1, 3, 2, 2), torch.tensor([1.0, 0.7, 0.2])
    actual = schedule.step(z, x0, t, t / 2)
    for i in range(3):
        close(actual[i : i + 1], schedule.step(z[i : i + 1], x0[i : i + 1], float(t[i]), float(t[i]) / 2), 1e-12)


@schedules
def test_data_ends_at_zero(schedule: NoiseSchedule) -> None:
    z, x0 = noise(0, 1, 5), noise(1, 1, 5)
    assert torch.equal(schedule.step(z, x0, 1.0, 0.0), x0)


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if s.prediction != "eps"], ids=lambda s: s.prediction)
def test_x0_can_be_read_from_clean_data(schedule: NoiseSchedule) -> None:
    x0, eps = noise(0, 1, 5), noise(1, 1, 5)
    close(schedule.to_x0(schedule.from_x0_eps(x0, eps, 0.0), x0, 0.0), x0, 1e-9)


def test_latents_keep_their_dtype() -> None:
    z = noise(0, 1, 5, dtype=torch.bfloat16)
    assert SCHEDULES[0].step(z, z, 1.0, 0.5).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: NoiseSchedule("flow", "v"), "no v-prediction"),
        (lambda: NoiseSchedule("flow", "eps"), "v- or x0-prediction"),
        (lambda: NoiseSchedule("vp", "v"), "alphas_cumprod"),
        (lambda: NoiseSchedule("flow", "flow", 0.0), "shift is 0.0"),
        (lambda: SCHEDULES[0].grid(0), "at least 1"),
        (lambda: SCHEDULES[0].alpha(1000.0), "outside 0"),
        (lambda: SCHEDULES[0].alpha(math.nan), "outside 0"),
        (lambda: SCHEDULES[0].step(noise(0, 1, 2), noise(0, 1, 2), 0.0, 0.0), "clean data"),
        (lambda: SCHEDULES[0].endpoint_x0(noise(0, 1, 2), noise(0, 1, 2), 0.5, 0.5), "must differ"),
        (lambda: SCHEDULES[0].substeps(1.0, 0.5, 0), "at least 1"),
        (lambda: SCHEDULES[1].to_x0(noise(0, 1, 2), noise(0, 1, 2), 2.0), "outside 0"),
        (lambda: NoiseSchedule("flow", "flow", math.nan), "shift is nan"),
        (lambda: substeps_per_step(32, 5), "do not divide"),
        (lambda: substeps_per_step(0, 4), "do not divide"),
    ],
)
def test_refusals(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


@schedules
@settings(deadline=None, max_examples=30)
@given(t=times)
def test_levels_and_times_invert_each_other(schedule: NoiseSchedule, t: float) -> None:
    level = schedule.level(t)
    close(schedule.time_of_level(level), torch.tensor(t, dtype=torch.float64), 1e-9)
    if schedule.kind == "flow":
        assert float(level) == pytest.approx(t)


@schedules
def test_levels_that_a_schedule_never_reaches_give_its_nearest_time(schedule: NoiseSchedule) -> None:
    least, most = schedule.time_of_level(torch.tensor([0.0, 1.0]))
    assert float(most) == 1.0
    assert float(least) < 1e-9
    assert schedule.kind != "edm" or schedule.timestep(least).isfinite()  # a network can be asked there


@schedules
@settings(deadline=None, max_examples=20)
@given(t=times, fraction=st.floats(0.0, 1.0))
def test_renoised_latents_have_the_clip_and_the_noise_of_their_time(
    schedule: NoiseSchedule, t: float, fraction: float
) -> None:
    """Linear in clip, old and new noise: the weights say all there is to say."""
    s, (one, none) = min(t, 0.99) * fraction, torch.eye(2, dtype=torch.float64)
    of_clip = schedule.renoise(schedule.add_noise(one, none, s), s, t, torch.zeros(2))[0]
    of_old = schedule.renoise(schedule.add_noise(none, one, s), s, t, torch.zeros(2))[0]
    of_new = schedule.renoise(torch.zeros(2), s, t, one)[0]
    close(of_clip, schedule.alpha(t), 1e-6)
    close((of_old**2 + of_new**2).sqrt(), schedule.sigma(t), 1e-6)


@schedules
def test_renoising_to_the_same_time_changes_nothing(schedule: NoiseSchedule) -> None:
    z_s, s = noise(0, 3, 4), torch.tensor([0.0, 0.3, 0.9])
    assert torch.equal(schedule.renoise(z_s, s, s, noise(1, 3, 4)), z_s)


def test_renoising_adds_noise_only() -> None:
    schedule, z = NoiseSchedule("flow", "flow"), noise(0, 1, 4)
    for s, t in ((0.5, 0.4), (1.0, 1.0)):
        with pytest.raises(ValueError, match="no noise leads"):
            schedule.renoise(z, s, t, z)


def test_a_pipeline_that_hands_times_on_in_bfloat16_rounds_them() -> None:
    """As HunyuanVideo 1.5 feeds its network: alpha and sigma stay those of the exact time."""
    schedule = NoiseSchedule("flow", "flow", 5.0, timestep_dtype=torch.bfloat16)
    grid = schedule.grid(4)
    assert schedule.timestep(grid[:-1]).tolist() == [1000, 936, 832, 624]
    assert schedule.sigma(grid).tolist() == NoiseSchedule("flow", "flow", 5.0).sigma(grid).tolist()


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_own_nodes_are_nested(shift: float) -> None:
    schedule = NoiseSchedule("flow", "flow", shift, nodes="linear-quadratic")
    fine, coarse = schedule.grid(32), schedule.grid(4)
    assert torch.allclose(fine[::8], coarse, atol=1e-12)
    assert torch.allclose(schedule.substeps(coarse[1], coarse[2], 8), fine[8:17], atol=1e-12)
    assert not torch.allclose(coarse, NoiseSchedule("flow", "flow", shift).grid(4), atol=0.05)


def test_only_flows_have_a_reversed_time() -> None:
    assert NoiseSchedule("flow", "flow", reversed_time=True).timestep(0.9) == pytest.approx(100)
    with pytest.raises(ValueError, match="a vp schedule has no reversed time"):
        NoiseSchedule("vp", "eps", alphas_cumprod=(0.9, 0.5), reversed_time=True)
