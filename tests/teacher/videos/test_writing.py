"""Clips as files."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.teacher.videos.writing import Frames, check_suffix, contact_sheet, to_uint8, write_image, write_video


def clip(num_frames: int = 9, height: int = 32, width: int = 48) -> Frames:
    """A smooth moving ramp, which survives compression."""
    t, y, x = np.mgrid[:num_frames, :height, :width]
    frames = np.stack([4 * x + 5 * t, 6 * y, 128 + 0 * x], axis=-1)
    return np.clip(frames, 0, 255).astype(np.uint8)


def test_mp4_is_h264_that_players_know(tmp_path: Path) -> None:
    path, frames = tmp_path / "clip.mp4", clip()
    write_video(path, frames, 12.5)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate or 0) == 12.5
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 4
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_name_with_a_colon_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("shot:1.mp4"), clip(), 8)
    assert (tmp_path / "shot:1.mp4").stat().st_size > 0


def test_gif_keeps_frames_and_rate(tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    write_video(path, clip(), 8)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 9
        assert image.size == (48, 32)
        assert image.info["duration"] in (120, 125, 130)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, clip(), 8)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="even height and width"):
        write_video(path, clip(width=47), 8)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_contact_sheet_has_a_row_per_clip(tmp_path: Path) -> None:
    sheet = contact_sheet([clip(17), clip(3)], ["short", "many words " * 40])
    assert sheet.width == 8 * 48 * 4
    pixels = np.asarray(sheet)
    assert (pixels == np.asarray(clip()[0, 0, 0])).all(axis=-1).any()
    write_image(tmp_path / "sheet.png", sheet)
    assert Image.open(tmp_path / "sheet.png").size == sheet.size


def test_frames_are_rounded_not_cut() -> None:
    video = torch.tensor([-1.5, -1.0, 0.0, 0.999, 2.0]).view(1, 5, 1, 1).expand(3, -1, -1, -1)
    assert to_uint8(video)[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not end in \.mp4, \.gif, \.png"):
        check_suffix(tmp_path / "clip.avi")
    with pytest.raises(ValueError, match="no folder"):
        check_suffix(tmp_path / "none" / "clip.mp4")
    with pytest.raises(ValueError, match="kinds of clip"):
        write_video(tmp_path / "clip.png", clip(), 8)
    with pytest.raises(ValueError, match="float64"):
        write_video(tmp_path / "clip.mp4", clip() / 255, 8)  # type: ignore[arg-type]
    for fps in (0, math.nan, math.inf, 1e9):
        with pytest.raises(ValueError, match=r"use a rate from 0\.1 to 1000"):
            write_video(tmp_path / "clip.mp4", clip(), fps)
    with pytest.raises(ValueError, match="as many captions"):
        contact_sheet([clip()], [])


def test_a_folder_of_that_name_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(ValueError, match=r"clip\.mp4 is a folder: name a file"):
        check_suffix(tmp_path / "clip.mp4")
