"""The noise schedule of a model: z_t = alpha_t x0 + sigma_t eps, with t from 1 (noise) to 0 (data).

Predictions, ODE steps, nested grids and distillation targets of every family follow from alpha and sigma
alone (progressive distillation, arXiv 2202.00512; SDXL-Lightning, arXiv 2402.13929). Times are computed in
float64 on the CPU; latents keep their dtype and device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypeVar

import torch
from torch import Tensor

from fewstep.teacher.nodes import linear_quadratic, linear_quadratic_position

ScheduleKind = Literal["flow", "vp", "edm"]
Prediction = Literal["x0", "eps", "v", "flow"]
Nodes = Literal["even", "linear-quadratic"]
Time = float | Tensor  # a number for the whole batch, or (B,)
_T = TypeVar("_T", float, Tensor)


def shift_time(t: _T, shift: float) -> _T:
    """Multiplies sigma/alpha of a flow time by `shift`. Shifts compose by multiplying."""
    return shift * t / (1 + (shift - 1) * t)


def substeps_per_step(teacher_steps: int, student_steps: int) -> int:
    """How many teacher steps one student step replaces. Raises ValueError when the grids are not nested."""
    if student_steps < 1 or teacher_steps < 1 or teacher_steps % student_steps:
        raise ValueError(
            f"{student_steps} student steps do not divide {teacher_steps} teacher steps, so their times "
            "would not coincide: choose steps that divide, such as 32 -> 8 -> 4"
        )
    return teacher_steps // student_steps


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha and sigma of one model, and what its network predicts.

    flow: alpha = 1 - t, sigma = t.
    vp: `alphas_cumprod[i]` is alpha^2 at t = (i + 1)/T, as diffusers' "trailing" timesteps have it; t = 0
        is data. Between them the angle atan2(sigma, alpha) is interpolated. Most such schedules keep
        alpha > 0 at t = 1: feed pure noise there anyway, as samplers do.
    edm: Karras sigmas (arXiv 2206.00364, Eq. 5) over t, sigma_min just above t = 0 and 0 at t = 0. In
        z = c_in x the network is a VP v-prediction: alpha = c_in, sigma = sigma_edm c_in.

    `shift` and `nodes` bend `grid` and `substeps` only, never alpha and sigma. `reversed_time` is a flow network that
    gets the reversed time, from 0 (noise) to T (data). `timestep_dtype` is the dtype in which its pipeline
    hands the time to the network: bfloat16 makes 936 of 937.5, and a student must be trained with what it will be fed.
    `guided_evaluations` is how often its pipeline asks the network at a guided step.
    """

    kind: ScheduleKind
    prediction: Prediction
    shift: float = 1.0
    num_train_timesteps: int = 1000
    alphas_cumprod: tuple[float, ...] = field(default=(), repr=False)
    sigma_min: float = 0.002
    sigma_max: float = 700.0
    rho: float = 7.0
    nodes: Nodes = "even"
    reversed_time: bool = False
    timestep_dtype: torch.dtype = torch.float64
    guided_evaluations: int = 2

    def __post_init__(self) -> None:
        if self.kind == "flow" and self.prediction == "v":
            raise ValueError("a flow schedule has no v-prediction (v needs alpha^2 + sigma^2 = 1): use flow, x0 or eps")
        if self.kind == "vp" and not self.alphas_cumprod:
            raise ValueError("a vp schedule needs alphas_cumprod: pass the scheduler's")
        if self.prediction == "eps" and (self.kind == "flow" or 0.0 in self.alphas_cumprod):
            raise ValueError(
                "an eps-prediction says nothing about x0 where alpha is 0, and this schedule ends in pure "
                "noise: use a v- or x0-prediction"
            )
        if self.reversed_time and self.kind != "flow":
            raise ValueError(f"a {self.kind} schedule has no reversed time: only flow schedules do")
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift is {self.shift}; it must be above 0 and finite, and 1 means none")

    def predicting(self, prediction: Prediction) -> NoiseSchedule:
        """The same schedule of a network that predicts something else; made once, as every forward pass asks for it.

        Raises ValueError for a prediction that the schedule cannot have, such as v of a flow.
        """
        if prediction == self.prediction:
            return self
        if prediction not in self._others:
            self._others[prediction] = replace(self, prediction=prediction)
        return self._others[prediction]

    # --- times

    def alpha(self, t: Time) -> Tensor:
        """Weight of the data at t; float64, () or (B,)."""
        return self._alpha_sigma(t)[0]

    def sigma(self, t: Time) -> Tensor:
        """Weight of the noise at t; float64, () or (B,)."""
        return self._alpha_sigma(t)[1]

    def timestep(self, t: Time) -> Tensor:
        """The number the network is fed for time t, as its pipeline rounds it; float64, () or (B,)."""
        return self._timestep(_checked(t)).to(self.timestep_dtype).double()

    def _timestep(self, t: Tensor) -> Tensor:
        if self.kind == "flow":
            return (1 - t if self.reversed_time else t) * self.num_train_timesteps
        # alphas_cumprod[i] belongs to t = (i + 1) / T, and i is what the network is fed
        if self.kind == "vp":
            return (t * self.num_train_timesteps - 1).clamp_min(0)
        # c_noise = ln(sigma) / 4 (arXiv 2206.00364, Table 1)
        return self._sigma_edm(t).log() / 4

    def level(self, t: Time) -> Tensor:
        """sigma/(alpha + sigma), 0 (data) to 1 (noise): how noisy t is, comparable between families; float64."""
        alpha, sigma = self._alpha_sigma(t)
        return sigma / (alpha + sigma)

    def time_of_level(self, level: Time) -> Tensor:
        """The inverse of `level`; float64, () or (B,). Levels that the schedule never reaches give the nearest time.

        An edm schedule's least level is that of sigma_min, just above t = 0: its network knows none below.
        """
        level = _checked(level)
        if self.kind == "flow":
            return level
        if self.kind == "edm":
            # arXiv 2206.00364, Eq. 5, solved for t where sigma_edm = level / (1 - level)
            low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
            return (((level / (1 - level)) ** (1 / self.rho) - low) / (high - low)).clamp(1e-12, 1)
        # vp: alpha and sigma are known at T points, and the angle atan2(sigma, alpha) is linear between them
        angle = torch.atan2(level, 1 - level).clamp_max(self._angles[-1])
        above = torch.searchsorted(self._angles, angle).clamp_min(1)
        below = above - 1
        part = (angle - self._angles[below]) / (self._angles[above] - self._angles[below])
        return (below + part) / (len(self._angles) - 1)

    def time_at(self, x: _T) -> _T:
        """The time of position x, 1 (noise) to 0 (data): where even steps of x are even steps of the sampler."""
        t = shift_time(linear_quadratic(x) if self.nodes == "linear-quadratic" else x, self.shift)
        # shifts below 1 may round the end to just above 1
        return t.clamp(max=1) if isinstance(t, Tensor) else min(t, 1.0)

    def position_at(self, t: _T) -> _T:
        """The inverse of `time_at`."""
        x = shift_time(t, 1 / self.shift)
        return linear_quadratic_position(x) if self.nodes == "linear-quadratic" else x

    def grid(self, num_steps: int) -> Tensor:
        """num_steps + 1 times from 1 to 0. Nested: grid(n) is grid(k n)[::k]."""
        return self.substeps(1.0, 0.0, num_steps)

    def substeps(self, t: Time, s: Time, count: int) -> Tensor:
        """count + 1 times from t to s, (count + 1,) or (count + 1, B), evenly spaced before `time_at`.

        Where t and s are neighbours in grid(n) these are the times of grid(count * n) between them.
        """
        if count < 1:
            raise ValueError(f"{count} steps asked for: at least 1 is needed")
        # evenly spaced before the shift, so that grid(n) is every k-th time of grid(k n) (arXiv 2202.00512)
        first, last = (self.position_at(_checked(time)) for time in (t, s))
        weights = torch.linspace(0, 1, count + 1, dtype=torch.float64).view(-1, *[1] * max(first.ndim, last.ndim))
        times = self.time_at(torch.lerp(first, last, weights))
        times[0], times[-1] = _checked(t), _checked(s)  # rounding would leave 0 .. 1 at some shifts, such as 3
        return times

    # --- predictions; latents of any shape (B, ...)

    def to_x0(self, prediction: Tensor, z_t: Tensor, t: Time) -> Tensor:
        """The clean latents that the network's output at z_t stands for."""
        if self.prediction == "x0":  # also at t = 0, where there is no noise to be read
            _checked(t)
            return prediction
        return self.to_x0_eps(prediction, z_t, t)[0]

    def to_x0_eps(self, prediction: Tensor, z_t: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The clean latents and the noise that the network's output at z_t stands for; t > 0."""
        # a prediction is linear in x0 and eps: together with z_t = alpha x0 + sigma eps it gives both
        alpha, sigma = self._alpha_sigma(t)
        if self.prediction == "x0":
            return prediction, self.eps_from_x0(z_t, prediction, t)
        if self.prediction == "eps":
            return _mix(1 / alpha, z_t, -sigma / alpha, prediction), prediction
        if self.prediction == "v":  # v = alpha eps - sigma x0
            return _mix(alpha, z_t, -sigma, prediction), _mix(sigma, z_t, alpha, prediction)
        total = alpha + sigma  # u = eps - x0
        x0 = _mix(1 / total, z_t, -sigma / total, prediction)
        return x0, _mix(1 / total, z_t, alpha / total, prediction)

    def from_x0_eps(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """What the network should have output for this x0 and eps."""
        of_x0, of_eps = self._prediction_weights(t)
        return _mix(of_x0, x0, of_eps, eps)

    def from_x0(self, x0: Tensor, z_t: Tensor, t: Time) -> Tensor:
        """What the network should have output at z_t to mean this x0; t > 0."""
        return self.from_x0_eps(x0, self.eps_from_x0(z_t, x0, t), t)

    def eps_from_x0(self, z_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        """The noise in z_t when x0 is its clean part; t > 0."""
        alpha, sigma = self._alpha_sigma(t)
        return _mix(1 / _positive(sigma), z_t, -alpha / sigma, x0)

    def loss_weight(self, t: Time) -> Tensor:
        """|d prediction|^2 / |d x0|^2 at fixed z_t, t > 0: x0 1, eps SNR, v SNR + 1, flow 1/t^2."""
        # at fixed z_t, eps follows x0: d eps = -(alpha / sigma) d x0
        alpha, sigma = self._alpha_sigma(t)
        of_x0, of_eps = self._prediction_weights(t)
        return (of_x0 - of_eps * alpha / _positive(sigma)) ** 2

    # --- the probability-flow ODE

    def add_noise(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """z_t = alpha_t x0 + sigma_t eps."""
        return _mix(self.alpha(t), x0, self.sigma(t), eps)

    def renoise(self, z_s: Tensor, s: Time, t: Time, eps: Tensor) -> Tensor:
        """z_t of the same clip with fresh noise eps added; s < 1 and t >= s, and z_s itself where t is s.

        If z_s is alpha_s x0 + sigma_s times unit noise, z_t is so at t: variances add.
        """
        alpha_s, sigma_s = self._alpha_sigma(s)
        alpha_t, sigma_t = self._alpha_sigma(t)
        if bool((sigma_t < sigma_s).any()) or bool((alpha_s == 0).any()):
            raise ValueError(f"no noise leads from s = {s} to t = {t}: s must be below 1 (noise) and t not below s")
        # z_t = (alpha_t / alpha_s) z_s + sqrt(sigma_t^2 - (alpha_t sigma_s / alpha_s)^2) eps
        keep = alpha_t / alpha_s
        return _mix(keep, z_s, (sigma_t**2 - (keep * sigma_s) ** 2).clamp_min(0).sqrt(), eps)

    def step(self, z_t: Tensor, x0: Tensor, t: Time, s: Time) -> Tensor:
        """z_s after one deterministic step (DDIM = Euler) from t > 0 with the clean latents x0."""
        keep, gain = self._transition(t, s)
        return _mix(keep, z_t, gain, x0)

    def endpoint_x0(self, z_t: Tensor, z_s: Tensor, t: Time, s: Time) -> Tensor:
        """The x0 with which one step from z_t lands exactly on z_s: what a student learns of many."""
        # z_s = keep z_t + gain x0, solved for x0: the target of arXiv 2202.00512, Algorithm 2
        keep, gain = self._transition(t, s)
        if bool((gain == 0).any()):
            raise ValueError(f"no step leads from t = {t} to s = {s}: t and s must differ")
        return _mix(1 / gain, z_s, -keep / gain, z_t)

    def _transition(self, t: Time, s: Time) -> tuple[Tensor, Tensor]:
        """(keep, gain) of z_s = keep z_t + gain x0: eps is eliminated from z_s = alpha_s x0 + sigma_s eps."""
        alpha_t, sigma_t = self._alpha_sigma(t)
        alpha_s, sigma_s = self._alpha_sigma(s)
        keep = sigma_s / _positive(sigma_t)
        return keep, alpha_s - keep * alpha_t

    def _prediction_weights(self, t: Time) -> tuple[Tensor, Tensor]:
        """The prediction as weights of x0 and eps."""
        alpha, sigma = self._alpha_sigma(t)
        zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
        weights = {"x0": (one, zero), "eps": (zero, one), "v": (-sigma, alpha), "flow": (-one, one)}
        return weights[self.prediction]

    def _alpha_sigma(self, t: Time) -> tuple[Tensor, Tensor]:
        t = _checked(t)
        if self.kind == "flow":
            return 1 - t, t
        # alpha^2 + sigma^2 = 1, so that one angle says both
        angle = self._sigma_edm(t).atan() if self.kind == "edm" else self._vp_angle(t)
        return angle.cos(), angle.sin()

    def _sigma_edm(self, t: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return torch.where(t > 0, (low + t * (high - low)) ** self.rho, 0.0)

    def _vp_angle(self, t: Tensor) -> Tensor:
        position = t * (len(self._angles) - 1)
        # t = 1 is the last point: it has none above
        below = position.floor().clamp_max(len(self._angles) - 2).long()
        return torch.lerp(self._angles[below], self._angles[below + 1], position - below)

    @cached_property
    def _others(self) -> dict[Prediction, NoiseSchedule]:
        return {}

    @cached_property
    def _angles(self) -> Tensor:
        squared = torch.tensor((1.0, *self.alphas_cumprod), dtype=torch.float64)  # t = 0 is data
        return torch.atan2((1 - squared).sqrt(), squared.sqrt())


def _checked(t: Time) -> Tensor:
    time = torch.as_tensor(t, dtype=torch.float64, device="cpu")
    if not bool(((time >= 0) & (time <= 1)).all()):
        raise ValueError(f"time {t} is outside 0 (data) .. 1 (noise): divide a network's timestep by its range first")
    return time


def _positive(sigma: Tensor) -> Tensor:
    if bool((sigma <= 0).any()):
        raise ValueError(
            "t = 0 is clean data, from which there is no noise to read and no step to take: pass t above 0"
        )
    return sigma


def _mix(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """a x + b y, the weights () or (B,) broadcast over the latents."""
    return _like(a, x) * x + _like(b, y) * y


def _like(weight: Tensor, latents: Tensor) -> Tensor:
    weight = weight.to(latents.device, latents.dtype)
    return weight.view(-1, *[1] * (latents.ndim - 1)) if weight.ndim else weight
