"""A family's clips by diffusers' own call, for tests that hold them against a rollout from the same noise."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.student.contract import SamplingContract
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.given import Given, noise_given
from fewstep.teacher.rollout import rollout

PROMPT, NEGATIVE = "a red circle", "blurry"


def size_of(teacher: Teacher) -> VideoSize:
    """The teacher's own."""
    size = teacher.default_size()
    assert size is not None
    return size


def stock_latents(teacher: Teacher, given: Given, z: Tensor, steps: int, guidance: float) -> Tensor:
    """By the pipeline's own call and the scheduler that exports have, from noise z (1, C, F, h, w)."""
    contract = SamplingContract.of(teacher, "tiny", steps, "full", size_of(teacher), 1.0, NEGATIVE, 8.0)
    pipeline = teacher.pipeline
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = teacher.stock_scheduler(contract).make(pipeline)
    arguments = teacher.call_arguments(contract, given) | {"guidance_scale": guidance, "negative_prompt": NEGATIVE}
    arguments |= teacher.noise_arguments(z.clone(), contract, given)
    outputs = pipeline(prompt=PROMPT, output_type="latent", return_dict=False, **arguments)
    return teacher.from_outputs(outputs, z.shape)


@torch.no_grad()
def stock_error(teacher: Teacher, steps: int, guidance: float) -> float:
    """|rollout - stock| / |stock|, with images of noise where the family is given something."""
    size = size_of(teacher)
    given = noise_given(teacher.given_sizes(size))
    z = teacher.noise([3], teacher.latent_shape(*size))
    conditions = teacher.conditions([PROMPT], NEGATIVE, size, given)
    own = teacher.given_out(rollout(teacher, z, conditions, teacher.schedule.grid(steps), guidance))
    expected = stock_latents(teacher, given, z, steps, guidance).float()
    return float((own - expected).norm() / expected.norm())
