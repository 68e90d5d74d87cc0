"""Reads a NoiseSchedule out of a diffusers scheduler."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from fewstep.teacher.schedule import Nodes, NoiseSchedule, Prediction

_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "eps",
    "sample": "x0",
    "v_prediction": "v",
    "flow_prediction": "flow",
}
_TYPES = {prediction: name for name, prediction in _PREDICTIONS.items()}
_FLOW_SCHEDULERS = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "FlowMapEulerDiscreteScheduler",
)


def prediction_type(prediction: Prediction) -> str:
    """diffusers' name for it in a scheduler's config."""
    return _TYPES[prediction]


def read_scheduler(
    scheduler: Any,
    shift: float | None = None,
    nodes: Nodes = "even",
    timestep_dtype: torch.dtype = torch.float64,
) -> NoiseSchedule:
    """The schedule behind a diffusers scheduler; `shift`, above 0, overrides its own.

    Only its noise levels, prediction, shift and direction count. Its spacing of timesteps does not: nested grids must
    be evenly spaced before the shift, or on the `nodes` that a pipeline computes for itself. `timestep_dtype` is the
    pipeline's affair, too. Raises ValueError for a scheduler that is not understood.
    """
    schedule = _noise_levels(scheduler, shift)
    return replace(schedule, nodes=nodes, timestep_dtype=timestep_dtype)


def follows_size(scheduler: Any) -> bool:
    """Whether its shift is computed from the size of the clips at every call."""
    return bool(getattr(scheduler, "config", {}).get("use_dynamic_shifting"))


def shift_of_tokens(scheduler: Any, num_tokens: int) -> float:
    """The shift that diffusers' pipelines have such a scheduler use for a clip of this many tokens.

    mu grows linearly with them, from `base_shift` to `max_shift` (`calculate_shift`, first of FLUX.1); the shift is
    e^mu, or mu itself where `time_shift_type` is linear.
    """
    config = scheduler.config
    fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    slope = (config["max_shift"] - config["base_shift"]) / (most - fewest)
    mu = config["base_shift"] + slope * (num_tokens - fewest)
    return float(mu if config.get("time_shift_type") == "linear" else math.exp(mu))


def _noise_levels(scheduler: Any, shift: float | None) -> NoiseSchedule:
    config = getattr(scheduler, "config", {})
    if type(scheduler).__name__ in _FLOW_SCHEDULERS or config.get("use_flow_sigmas"):  # the latter: UniPC, DPM
        return _flow(scheduler, shift)
    if "sigma_data" in config or config.get("timestep_type") == "continuous":  # the latter: SVD's EulerDiscrete
        return _edm(config, shift)
    if hasattr(scheduler, "alphas_cumprod") and config.get("prediction_type") in _PREDICTIONS:
        return _vp(scheduler, shift)
    raise ValueError(
        f"the noise schedule of {type(scheduler).__name__} is not known: use a pipeline with a "
        "flow-matching, DDIM, DDPM, Euler, UniPC or EDM scheduler"
    )


def _flow(scheduler: Any, shift: float | None) -> NoiseSchedule:
    config = scheduler.config
    if config.get("use_dynamic_shifting") and shift is None:
        raise ValueError(
            "this scheduler's shift depends on the size of the video (use_dynamic_shifting), and a student learns one: "
            "give it with `shift` in the recipe, or --shift"
        )
    # FlowMatchEuler's set_shift leaves the config as it was, so ask the scheduler first
    own = getattr(scheduler, "_shift", config.get("flow_shift", config.get("shift")))
    prediction = _PREDICTIONS[config.get("prediction_type", "flow_prediction")]
    if prediction == "eps":
        raise ValueError(
            f"the {type(scheduler).__name__} has use_flow_sigmas and prediction_type 'epsilon', so a velocity would "
            "be taken for noise: set prediction_type to 'flow_prediction' in scheduler/scheduler_config.json"
        )
    return NoiseSchedule(
        "flow",
        prediction,
        own if shift is None else shift,
        config["num_train_timesteps"],
        reversed_time=bool(config.get("invert_sigmas")),
    )


def _edm(config: Any, shift: float | None) -> NoiseSchedule:
    # with sigma_data 1, EDM's preconditioning is a VP v-prediction of z = c_in x
    is_svd = config["prediction_type"] == "v_prediction" and config.get("sigma_data", 1.0) == 1.0
    if not is_svd or config["sigma_max"] is None or not config.get("use_karras_sigmas", True):
        raise ValueError(
            "this EDM scheduler is not known: only Karras sigmas between sigma_min and sigma_max with "
            "v_prediction and sigma_data 1 (SVD) are"
        )
    return NoiseSchedule(
        "edm",
        "v",
        1.0 if shift is None else shift,
        config["num_train_timesteps"],
        sigma_min=config["sigma_min"],
        sigma_max=config["sigma_max"],
        rho=config.get("rho", 7.0),
    )


def _vp(scheduler: Any, shift: float | None) -> NoiseSchedule:
    alphas_cumprod = scheduler.alphas_cumprod.double().tolist()
    if scheduler.config.get("rescale_betas_zero_snr"):
        alphas_cumprod[-1] = 0.0  # EulerDiscrete keeps 2^-24 there so that its own sigmas stay finite
    prediction = _PREDICTIONS[scheduler.config["prediction_type"]]
    return NoiseSchedule("vp", prediction, 1.0 if shift is None else shift, len(alphas_cumprod), tuple(alphas_cumprod))
