"""`fewstep.load_pipeline`: a student as a diffusers pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.api.arguments import PathOrName, in_one_sentence


@in_one_sentence
def load_pipeline(
    source: PathOrName,
    *,
    steps: int | None = None,
    teacher: PathOrName | None = None,
    dtype: Any = "auto",
    device: str | None = None,
    force: bool = False,
) -> Any:
    """A student as a diffusers pipeline, with its weights and its sampler: `load_pipeline(RUN)("a cat").frames[0]`.

    source: a run, one of its stages, or an export. steps: the student of this many steps; by default the run's last
    one. teacher: the student's teacher, if it is not where its contract says. dtype: of denoiser and text encoder, a
    torch.dtype or its name; auto is bfloat16 where the device supports it natively, else float32.

    The pipeline's call uses the student's own steps, guidance, sampler and size by default, and raises ValueError for
    other values, unless `force`. They are in `pipe.contract`; `pipe.contract.fps` is the clips' frame rate.
    Raises ValueError, with a one-sentence message, for a source that is not a student, and for a student that no
    diffusers pipeline can sample.
    """
    import torch

    from fewstep.student.load_student import is_student, load_student
    from fewstep.student.pipeline import student_pipeline
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.precision import choose_precision
    from fewstep.teacher.source import EMBEDDED

    if not isinstance(source, str | Path) or not str(source):
        raise ValueError(f"source is {source!r}: pass a run directory, one of its stages, or an export")
    path = Path(source).expanduser()
    # a teacher and a chain are refused by what they are, before anything is loaded
    if source in EMBEDDED or (path.exists() and not is_student(path)):
        raise ValueError(_no_student(source, path))
    if not path.exists():
        raise ValueError(
            f"there is no {source}: pass a run directory, one of its stages, or an export; `hf download ID --local-dir "
            "DIR` brings one from the hub"
        )
    # torch.float32 will do as well as its name
    name = str(dtype).removeprefix("torch.")
    if name not in ("auto", "float32", "bfloat16", "float16"):
        raise ValueError(f"dtype is {dtype!r}: it must be auto, float32, bfloat16 or float16")
    precision = choose_precision(name, find_device(device)).precision
    named = None if teacher is None else str(teacher)
    student = load_student(path, steps, named, getattr(torch, precision), device, alone=True)
    return student_pipeline(student, force)


def _no_student(source: PathOrName, path: Path) -> str:
    """Why there is no student at a path."""
    from fewstep.student.chain import CHAIN_FILE

    if (path / CHAIN_FILE).is_file():
        return f"{source} is a chain of several models: load the runs in it one by one, or use `fewstep sample`"
    return (
        f"{source} is not a student: pass a run directory, one of its stages, or an export; a teacher loads by "
        "diffusers"
    )
