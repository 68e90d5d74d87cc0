"""Which clips become which size, and the folder of their datasets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fewstep.teacher.dataset.buckets import BUCKETS_FILE, begin_buckets, best_size, datasets_in, deal_sizes, folder_of
from fewstep.teacher.source import VideoSize, check_sizes, read_size, size_text
from fewstep.teacher.videos.shape import VideoShape, video_shape
from fewstep.teacher.videos.writing import write_video

WIDE, TALL, LONG, LARGE = VideoSize(9, 32, 64), VideoSize(9, 64, 32), VideoSize(33, 32, 64), VideoSize(9, 64, 128)
SIZES = [WIDE, TALL, LONG, LARGE]


@pytest.mark.parametrize(
    ("video", "fitting"),
    [
        (VideoShape(640, 360, 3), WIDE),  # of the same aspect ratio to a tenth, too short for the long one
        (VideoShape(100, 50, 3), WIDE),  # the large one would enlarge it
        (VideoShape(256, 128, 3), LARGE),
        (VideoShape(256, 128, 60), LONG),  # the longest of those that show as much
        (VideoShape(360, 640, 60), TALL),
        (VideoShape(256, 128, 0.5), LARGE),  # too short for all: it is skipped where it is decoded
        (None, WIDE),
    ],
)
def test_a_video_goes_to_the_size_that_fits_it_best(video: VideoShape | None, fitting: VideoSize) -> None:
    wide = [WIDE, TALL, LONG] if fitting == WIDE and video is not None and video.width > 200 else SIZES
    assert wide[best_size(video, wide, fps=8.0)] == fitting


def test_a_file_has_the_shape_that_players_show(tmp_path: Path) -> None:
    for suffix in (".mp4", ".gif"):
        write_video(tmp_path / f"clip{suffix}", np.zeros((12, 32, 64, 3), np.uint8), 8.0)
        shape = video_shape(tmp_path / f"clip{suffix}")
        assert shape is not None and (shape.width, shape.height) == (64, 32)
        assert shape.seconds == pytest.approx(1.5, abs=0.15)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert video_shape(tmp_path / "broken.mp4") is None


def test_items_are_dealt_evenly_and_always_the_same() -> None:
    sizes = deal_sizes(3000, 3, seed=1)
    assert [sizes.count(size) for size in range(3)] == [1000] * 3
    assert sizes[:10] == deal_sizes(10, 3, seed=1) != deal_sizes(10, 3, seed=2)
    assert deal_sizes(4, 1, seed=0) == [0] * 4


def test_sizes_are_written_as_people_do() -> None:
    assert size_text(read_size("832x480x81")) == "832x480x81" and read_size("832X480x81") == VideoSize(81, 480, 832)
    for text in ("832x480", "832x480x0", "axbxc", "", "1x2x3x4"):
        with pytest.raises(ValueError, match="is not a size: write WIDTHxHEIGHTxFRAMES"):
            read_size(text)
    with pytest.raises(ValueError, match="64x32x9 is listed twice"):
        check_sizes([WIDE, TALL, WIDE])
    with pytest.raises(ValueError, match="the list is empty"):
        check_sizes([])


def test_the_folder_remembers_its_sizes(tmp_path: Path) -> None:
    assert datasets_in(tmp_path) == (tmp_path,) == (folder_of(tmp_path, WIDE, [WIDE]),)
    begin_buckets(tmp_path, [WIDE])  # a plain dataset, as ever
    assert not list(tmp_path.iterdir())
    begin_buckets(tmp_path, [WIDE, TALL])
    begin_buckets(tmp_path, [WIDE, TALL])
    assert datasets_in(tmp_path) == (tmp_path / "64x32x9", tmp_path / "32x64x9")
    for other in ([WIDE], [TALL, WIDE], SIZES):
        with pytest.raises(ValueError, match="was begun with clips of 64x32x9, 32x64x9, not"):
            begin_buckets(tmp_path, other)
    for wrong in ("{", "{}", json.dumps({"version": 9, "sizes": []}), json.dumps({"version": 1, "sizes": []})):
        (tmp_path / BUCKETS_FILE).write_text(wrong)
        with pytest.raises(ValueError, match=r"buckets\.json is damaged"):
            datasets_in(tmp_path)


def test_a_dataset_of_one_size_does_not_become_one_of_several(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="was begun with clips of one size, not 64x32x9, 32x64x9"):
        begin_buckets(tmp_path, [WIDE, TALL])
