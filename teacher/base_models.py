"""Further base models for a teacher of which a part is trained alone: the same part on each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from accelerate import init_empty_weights

from fewstep.teacher.base import Teacher
from fewstep.teacher.bases import check_alike
from fewstep.teacher.loading import quiet_libraries


def join_bases(teacher: Teacher, names: Sequence[str], load: Callable[[str], Teacher]) -> list[Teacher]:
    """The teachers of the base models of these names, around `teacher`'s own part; its denoiser is that of all then.

    `load` gives the teacher of a name, as `load_teacher` or, with nothing but configs, `outline_teacher` does. Its
    pipeline is of the teacher's class, whose own part is not used, or one of its family's `base_classes`. Raises
    ValueError for another one, for what `load` refuses, and for base models that the part does not fit.
    """
    others = [_around(teacher, load(name), name) for name in names]
    teacher.join(others)
    return others


def _around(teacher: Teacher, base: Teacher, name: str) -> Teacher:
    own_class, base_class = type(teacher.pipeline).__name__, type(base.pipeline).__name__
    if base_class != own_class and base_class not in teacher.base_classes:
        raise ValueError(
            f"bases: {name} is a {base_class}, and base models here are pipelines of "
            f"{' or '.join((own_class, *teacher.base_classes))}: name one"
        )
    # the trained part of the teacher, in the other model's pipeline
    outlined = next(teacher.denoiser.parameters()).is_meta
    try:
        with init_empty_weights(include_buffers=True) if outlined else nullcontext(), quiet_libraries():
            adapted = (
                base
                if base_class == own_class
                else type(teacher)(teacher.with_base(base.pipeline.components), base.folder)
            )
        check_alike(teacher.denoiser, adapted.denoiser, teacher.kinds or ())
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"bases: {name} takes no part of {teacher.folder} ({' '.join(str(error).split())}): name a base model of "
            "the same architecture"
        ) from error
    # the part learns at one schedule and with one set of inputs, the teacher's, whatever model is around it
    adapted.schedule = teacher.schedule
    adapted.set_inputs(**teacher.denoiser_inputs)
    return adapted
