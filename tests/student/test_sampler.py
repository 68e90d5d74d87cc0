"""Given videos are read at the rate of the clips that a student was trained on, whatever its teacher's is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.eval.models import Model, with_student_defaults
from fewstep.eval.outlines import outline_models
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles
from fewstep.student.sampler import SamplingOptions, open_sampler
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.given import Prompt, read_given
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.videos.writing import write_video

SIZE = VideoSize(9, 16, 16)
GIVEN = ("control", "mask")


@pytest.fixture
def teacher(tiny_wan_vace_folder: Path) -> Teacher:
    loaded = load_teacher(tiny_wan_vace_folder, device="cpu")
    loaded.take(GIVEN)
    return loaded


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    """With a film that gets brighter, of ten frames per second."""
    frames = np.arange(0, 250, 5, dtype=np.uint8)[:, None, None, None] * np.ones((16, 16, 3), np.uint8)
    write_video(tmp_path / "film.gif", frames, 10)
    return Prompt("a ring", dict.fromkeys(GIVEN, tmp_path / "film.gif"))


def student_at(teacher: Teacher, fps: float, folder: Path) -> Path:
    """A stage that was trained on clips of this rate."""
    roles = Roles(teacher, "lora", rank=4)
    folder.mkdir()
    roles.save(folder)
    name = str(teacher.folder)
    SamplingContract.of(teacher, name, 2, roles.weights, SIZE, 1.0, "", fps).write(folder)
    return folder


def test_a_student_sees_videos_at_the_rate_that_it_was_trained_at(
    teacher: Teacher, prompt: Prompt, tmp_path: Path
) -> None:
    assert teacher.default_fps() != 5
    sampler = open_sampler(student_at(teacher, 5.0, tmp_path / "student"), device="cpu")
    seen = sampler.conditions([prompt], [0]).shared
    right, other = (
        teacher.conditions([prompt], None, SIZE, read_given([prompt], teacher.given_sizes(SIZE), fps)).shared
        for fps in (5.0, teacher.default_fps())
    )
    assert all(torch.equal(seen[name], right[name]) for name in right)
    assert not all(torch.equal(seen[name], other[name]) for name in right)


def test_a_teacher_next_to_a_student_sees_the_same_frames(teacher: Teacher, tmp_path: Path) -> None:
    student_at(teacher, 5.0, tmp_path / "student")
    models = [Model.of("teacher", str(teacher.folder)), Model.of("student", str(tmp_path / "student"))]
    options = with_student_defaults(models, SamplingOptions(given=GIVEN))
    assert [one.sampler.fps for one in outline_models(models, options)] == [5, 5]
    # of two students one would be measured with frames that it did not see
    student_at(teacher, 4.0, tmp_path / "slower")
    models.append(Model.of("slower", str(tmp_path / "slower")))
    with pytest.raises(ValueError, match=r"of 5 frames per second, and slower of 4: .* evaluate them apart"):
        outline_models(models, options)
