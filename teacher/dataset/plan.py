"""What a dataset will hold, decided before the first item is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.dataset.listing import listing_of, listing_sha256
from fewstep.teacher.dataset.manifest import OF_TEXT, DatasetKind, Dtype, Manifest, Schedule, TensorLayout
from fewstep.teacher.dataset.sources import named_tensors
from fewstep.teacher.dataset.writing import DatasetRow
from fewstep.teacher.experts import parts_of
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.source import VideoSize


def plan_dataset(
    kind: DatasetKind,
    teacher: Teacher,
    name: str,
    items: Sequence[Sequence[object]],
    *,
    latent_shape: tuple[int, int, int, int],
    dtype: Dtype = "float16",
    keep_noise: bool = False,
    steps: int | None = None,
    guidance: Guidance | None = None,
    negative_prompt: str = "",
    like: Manifest | None = None,
    **known: Any,
) -> Manifest:
    """The manifest of a dataset to be made with the teacher called `name`.

    `items` identify the items, so that a source that changed is noticed; `known` are more of its fields. Rollouts are
    made with the teacher's current `denoiser_inputs`.
    `latent_shape` is (C, F, h, w). What only a loaded teacher can tell, its precision and how its text is stored, is
    taken from `like` where that is given. Kept noise is float32 whatever the dtype, so that rollouts can be repeated
    exactly.
    """
    schedule, listing = teacher.schedule, listing_of(items)
    size = VideoSize(known["num_frames"], known["height"], known["width"]) if "num_frames" in known else None
    # how every tensor of a row is stored: text as the encoders make it, latents, and the noise of rollouts
    tensors = text_layouts(teacher, dtype, size) if like is None else like.text_layouts
    tensors["latents"] = TensorLayout(dtype=dtype, shape=latent_shape)
    if keep_noise:
        tensors["noise"] = TensorLayout(dtype="float32", shape=latent_shape)
    # what a later run must have alike to use the same rows: items, teacher weights, schedule and precision
    return Manifest(
        kind=kind,
        items=len(items),
        items_sha256=listing_sha256(listing),
        listing=listing,
        teacher=name,
        teacher_sha256=teacher.sha256(),
        schedule=Schedule(
            kind=schedule.kind,
            prediction=schedule.prediction,
            shift=schedule.shift,
            nodes=schedule.nodes,
            steps=steps,
            guidance=guidance,
            **(teacher.denoiser_inputs if kind == "rollouts" else {}),
        ),
        precision=like.precision if like else _precision(teacher),
        negative_prompt=negative_prompt,
        tensors=tensors,
        **known,
    )


def _precision(teacher: Teacher) -> str:
    network, *_ = parts_of(teacher.denoiser).values()
    return str(network.dtype).removeprefix("torch.")  # not of its first weights, which some families keep in float32


def text_layouts(teacher: Teacher, dtype: Dtype, size: VideoSize | None = None) -> dict[str, TensorLayout]:
    """How what this teacher's clips are conditioned on is stored, for clips of this size, else the teacher's own; token
    counts of texts vary, other sizes do not."""
    conditions = _any_conditions(teacher, "", size)
    return {
        name: TensorLayout(
            dtype="uint8" if tensor.dtype == torch.uint8 else dtype,
            shape=(None, *tensor.shape[2:]) if name.removeprefix(OF_TEXT) in teacher.padded else tensor.shape[1:],
        )
        for name, tensor in named_tensors(conditions.positive, conditions.shared).items()
    }


def unconditional_row(teacher: Teacher, negative_prompt: str = "", size: VideoSize | None = None) -> DatasetRow | None:
    """The unconditional branch, the same for all rows; None for a teacher without one."""
    negative = _any_conditions(teacher, negative_prompt, size).row(0).negative
    if negative is None:
        return None
    return DatasetRow("", negative_prompt, {name: tensor[0] for name, tensor in named_tensors(negative, {}).items()})


def _any_conditions(teacher: Teacher, negative_prompt: str, size: VideoSize | None) -> Conditions:
    """Of an empty prompt and, where something is given, of images of noise."""
    size = size or teacher.default_size()
    return teacher.conditions_of_any([""], negative_prompt, size) if size else teacher.conditions([""], negative_prompt)
