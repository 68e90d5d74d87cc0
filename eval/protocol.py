"""Everything that makes an evaluation's figures comparable, in one place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import cycle, islice
from typing import Any

import torch

from fewstep import __version__
from fewstep.eval.choose_metrics import DIVERSITY_SEEDS, judge_reads
from fewstep.eval.clip_maker import Sample, SampleSettings
from fewstep.eval.metrics.clips import Metric
from fewstep.eval.metrics.shapes import held_out_prompts
from fewstep.eval.models import chain_facts
from fewstep.student.sampler import Sampler
from fewstep.teacher.base import VideoSize
from fewstep.teacher.given import given_names, given_sha256

_PACKAGES = ("torch", "diffusers", "transformers", "torchmetrics", "av", "numpy")
_DIVERSE = 16  # prompts that several clips are made of
_APART = 500_009  # between the seeds of the three samples


def prompts_of(given: Sequence[str] | None, num: int, size: VideoSize, seed: int) -> list[str]:
    """`num` prompts: those given, again and again, or the held-out ones of the world that the judge reads.

    Raises ValueError when none are given and the clips are of another world.
    """
    if given is not None:
        return list(islice(cycle(given), num))
    if not judge_reads(size):
        raise ValueError("nothing says what the clips are to show: pass --prompts with a file of one prompt per line")
    return held_out_prompts(num, seed)


def samples_of(prompts: Sequence[str], seed: int) -> SampleSettings:
    """The clips of an evaluation; noise follows from the seed and a clip's number alone."""

    def first(sample: int) -> int:
        return (seed + sample * _APART) * 1_000_003

    some = list(dict.fromkeys(prompts))[:_DIVERSE]
    return SampleSettings(
        main=Sample("clips", prompts, first(0)),
        diverse=Sample("seeds", some, first(1), DIVERSITY_SEEDS),
        other=Sample("other-noise", prompts, first(2)),
    )


def protocol_of(
    name: str,
    teacher: Sampler,
    prompts: Sequence[str],
    seed: int,
    metrics: Sequence[Metric],
    left_out: Mapping[str, str],
    dtype: str,
) -> dict[str, Any]:
    """As results.json has it. Everything but `device` and `left_out` must be equal where figures are compared."""
    return {
        # which clips: how many, of which prompts and from which noise
        "num": len(prompts),
        "seed": seed,
        "noise": "of clip i torch.randn from torch.Generator().manual_seed(seed * 1000003 + i), on the CPU",
        "prompts_sha256": hashlib.sha256("\n".join(prompts).encode()).hexdigest(),
        **_given(prompts),
        # the teacher, and how it is sampled
        "teacher": name,
        "teacher_steps": teacher.steps,
        "teacher_sha256": teacher.teacher.sha256(),
        "guidance": teacher.guidance.plain(),
        **teacher.denoiser_inputs,
        **chain_facts(teacher),
        "negative_prompt": teacher.negative_prompt,
        "frames": teacher.size.num_frames,
        "height": teacher.size.height,
        "width": teacher.size.width,
        "fps": teacher.fps,
        # how figures are taken from the clips, and by what
        "value_range": "-1 to 1, cut; decoded clips before they are compressed for videos/",
        "interval": "95 %, by a bootstrap over clips unless a metric says otherwise",
        "dtype": dtype,
        "device": _device(teacher),
        "metrics": {metric.name: metric.protocol() for metric in metrics},
        "left_out": dict(left_out),
        "versions": {"fewstep": __version__} | {package: version(package) for package in _PACKAGES},
    }


def _given(prompts: Sequence[str]) -> dict[str, Any]:
    """What is given with the prompts."""
    if not (names := given_names(prompts)):
        return {"given": [], "given_sha256": None}
    return {"given": list(names), "given_sha256": given_sha256(dict.fromkeys(prompts))}  # prompts come again


def _device(teacher: Sampler) -> str:
    device = teacher.teacher.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
