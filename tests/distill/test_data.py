"""What a dataset says of its clips, for the contract of a student that learns from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.distill.data import make_data, read_clips
from fewstep.distill.settings import RolloutData
from fewstep.teacher.base import Teacher, VideoSize


def test_clips_are_what_their_manifest_says(tiny_teacher: Teacher, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a ring\na cross\n")
    settings = RolloutData(kind="rollouts", prompts=tmp_path / "prompts.txt", steps=2, negative_prompt="blurry")
    size = VideoSize(5, 16, 32)
    folder = make_data(settings, tiny_teacher, "tiny", size, tmp_path / "data", lambda done, total: None)
    clips = read_clips(folder, tiny_teacher)
    assert (clips.size, clips.negative_prompt) == (size, "blurry") and tiny_teacher.default_size() != size
    assert clips.fps == tiny_teacher.default_fps()
    assert read_clips(folder, tiny_teacher, size) == clips
    with pytest.raises(ValueError, match=r"has clips of \(5, 16, 32\) frames, height and width, not \(9, 16, 16\)"):
        read_clips(folder, tiny_teacher, VideoSize(9, 16, 16))
