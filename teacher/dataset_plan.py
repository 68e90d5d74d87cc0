"""What a dataset will hold, decided before the first item is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import cut_padding
from fewstep.teacher.dataset import Row
from fewstep.teacher.dataset_sources import named_tensors
from fewstep.teacher.experts import parts_of
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.listing import listing_of, listing_sha256
from fewstep.teacher.manifest import Dtype, Kind, Layout, Manifest, Schedule


def plan_dataset(
    kind: Kind,
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

    `items` identify the items, so that a source that changed is noticed; `known` are more of its fields.
    `latent_shape` is (C, F, h, w). What only a loaded teacher can tell, its precision and how its text is stored, is
    taken from `like` where that is given. Kept noise is float32 whatever the dtype, so that rollouts can be repeated
    exactly.
    """
    schedule, listing = teacher.schedule, listing_of(items)
    tensors = text_layouts(teacher, dtype) if like is None else like.text_layouts
    tensors["latents"] = Layout(dtype=dtype, shape=latent_shape)
    if keep_noise:
        tensors["noise"] = Layout(dtype="float32", shape=latent_shape)
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
            steps=steps,
            guidance=guidance,
        ),
        precision=like.precision if like else _precision(teacher),
        negative_prompt=negative_prompt,
        tensors=tensors,
        **known,
    )


def _precision(teacher: Teacher) -> str:
    network, *_ = parts_of(teacher.denoiser).values()
    return str(network.dtype).removeprefix("torch.")  # not of its first weights, which some families keep in float32


def text_layouts(teacher: Teacher, dtype: Dtype) -> dict[str, Layout]:
    """How this teacher's text tensors are stored; their token counts vary, their other sizes do not."""
    return {
        name: Layout(dtype=dtype, shape=(None, *tensor.shape[2:]) if tensor.ndim > 2 else tensor.shape[1:])
        for name, tensor in named_tensors(teacher.conditions([""])).items()
    }


def unconditional_row(teacher: Teacher, negative_prompt: str = "") -> Row | None:
    """The unconditional branch, the same for all rows; None for a teacher without one."""
    negative = teacher.conditions([""], negative_prompt).negative
    return None if negative is None else Row("", negative_prompt, {"embeddings": cut_padding(negative[:1])[0]})
