"""What a survey tries with one pipeline's folder: a clip, a run of two stages, and an export that is sampled there."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from fewstep.commands.run_checks import check_run
from fewstep.commands.run_screen import RunScreen
from fewstep.commands.run_stages import follow_stages
from fewstep.distill.recipe import Recipe
from fewstep.distill.run_folder import RunFolder
from fewstep.student.export.base import EXACT, Options
from fewstep.student.export.write_export import write_export
from fewstep.student.load_student import load_student
from fewstep.student.sampler import SamplingOptions, open_sampler
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.given import noise_given
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.pipelines.index import index_path, read_json
from fewstep.teacher.videos.writing import write_image, write_video

_PROMPTS = ("a red ring", "a box that moves to the left")
_FRAMES, _SIDES = (9, 17, 16, 8, 5, 7, 1), (16, 32, 64, 128, 256)  # the least that makes more than one latent frame
_STEPS = 2  # of the student: they divide 1000, as diffusers' trailing nodes ask for


def tried(
    folder: Path, work: Path, device: str | None = "cpu", given: Sequence[str] | None = None, only: str | None = None
) -> dict[str, Any]:
    """{pipeline, sample, run, export, exact, sentence} of a folder; `work` is a folder that is not there yet.

    given: the images and videos that clips are made from, besides prompts; None: those that the teacher needs.
    only: the part of the network that is trained, as `student.only` names it; None: all of it.

    sample: a teacher's clip is finite. run: what the dry run approves runs to its end. export: as a folder of
    diffusers. exact: there the student's latents are its own but for rounding. The sentence is the first refusal; what
    the dry run approved and fails anyway begins with words that say so.
    """
    row: dict[str, Any] = {"pipeline": _pipeline(folder), "sample": False, "run": False, "export": False}
    row |= {"exact": False, "sentence": ""}
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            _try(folder, work, device, row, given, only)
    except ValueError as error:
        row["sentence"] = str(error).replace(str(folder), folder.name)  # without the path on this machine
    return row


def _try(
    folder: Path, work: Path, device: str | None, row: dict[str, Any], given: Sequence[str] | None, only: str | None
) -> None:
    teacher = outline_teacher(folder).teacher
    if given is not None:
        teacher.take(given)
    # the smallest clips that the family makes, so that a pipeline takes seconds
    size = least_size(teacher)
    row["sample"] = _after_approval("sampling", lambda: _is_finite(folder, size, device, teacher.given))
    plan = least_recipe(folder, size, work, device, write_noise_files(work / "given", teacher.given_sizes(size)), only)
    # a refusal of the dry run is the row's sentence; what it approves must then work
    check_run(plan, RunFolder(plan.out))
    _after_approval("the run", lambda: follow_stages(plan, screen=RunScreen()))
    row["run"] = True
    student = load_student(plan.out, device=device)
    done = _after_approval("the export", lambda: write_export(student, "diffusers", work / "export", Options()))
    row["export"], row["exact"] = True, done.relative_error <= EXACT


def _after_approval(what: str, do: Callable[[], Any]) -> Any:
    """What `do` gives. Raises ValueError for whatever it raises, also for what no user should see."""
    try:
        return do()
    except Exception as error:  # the table is to show it
        raise ValueError(
            f"approved by the dry run, but not by {what} ({type(error).__name__}): {' '.join(str(error).split())}"
        ) from error


def least_size(teacher: Teacher) -> VideoSize:
    """The least of some usual sizes that the family makes. Raises ValueError, with the family's reason, for none."""
    reason = ""
    for side, frames in product(_SIDES, _FRAMES):
        try:
            teacher.latent_shape(frames, side, side)
            return VideoSize(frames, side, side)
        except ValueError as error:
            reason = str(error)
    raise ValueError(reason)


def write_noise_files(folder: Path, sizes: Mapping[str, VideoSize]) -> dict[str, str]:
    """Images and videos of noise in these sizes, as files; name -> path."""
    folder.mkdir(parents=True)
    files = {}
    for name, video in noise_given(sizes).items():
        frames = video[0].permute(1, 2, 3, 0).numpy()
        path = folder / f"{name}.{'png' if len(frames) == 1 else 'gif'}"
        if len(frames) == 1:
            write_image(path, Image.fromarray(frames[0]))
        else:
            write_video(path, frames, 8.0)
        files[name] = str(path)
    return files


def _is_finite(folder: Path, size: VideoSize, device: str | None, given: Sequence[str]) -> bool:
    options = SamplingOptions(steps=_STEPS, guidance=3.0, given=tuple(given), **size._asdict())
    sampler = open_sampler(folder, options, device=device)
    latents = sampler.sample(sampler.noise([0]), sampler.conditions_of_any(_PROMPTS[:1]))
    return bool(sampler.teacher.decode(latents).isfinite().all())


def least_recipe(
    folder: Path, size: VideoSize, work: Path, device: str | None, given: Mapping[str, str], only: str | None
) -> Recipe:
    """Rollouts, a stage of regression and an adversarial one, a step each."""
    lines = [json.dumps({"prompt": prompt, **given}) for prompt in _PROMPTS]
    (work / "prompts.jsonl").write_text("\n".join(lines), "utf-8")
    stage = {"teacher_steps": 2 * _STEPS, "student_steps": _STEPS, "steps": 1, "batch": 1}
    adversarial = {"kind": "adversarial", "warmup": 1}
    return Recipe.model_validate(
        {
            "teacher": str(folder),
            "out": work / "run",
            "precision": "float32",
            "device": device,
            "size": size._asdict(),
            "data": {"kind": "rollouts", "prompts": work / "prompts.jsonl", "steps": 2 * _STEPS},
            "student": {"lora": {"rank": 2, "alpha": 2}, "only": only},
            "logging": {"tracker": "none"},
            "stages": [{**stage, "objective": {"kind": "progressive"}}, {**stage, "objective": adversarial}],
        }
    )


def _pipeline(folder: Path) -> str:
    try:
        return str(read_json(index_path(folder)).get("_class_name"))
    except (ValueError, OSError):
        return ""
