"""Images as a player shows them: the shape of their pixels, how they are turned, their colours."""

from __future__ import annotations

import io
import itertools
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fewstep.teacher.videos.decoding import ClipShape, UnreadableVideo, decode_video
from tests.teacher.edited import with_matrix, with_pixel_aspect
from tests.teacher.films import (
    COLOURS,
    FILES,
    TURNS,
    ColourMatrix,
    Matrix,
    as_shown,
    brightening,
    coloured,
    film,
    greys,
    located,
)

CLIP = ClipShape(num_frames=9, height=32, width=32, fps=8)
SHAPES = [(32, 32), (32, 64), (64, 32)]  # of clips


def assert_shown(path: Path, aspect: float, matrix: Matrix, atol: float = 4) -> None:
    for height, width in SHAPES:
        clip = decode_video(path, ClipShape(9, height, width, 8), "beginning").astype(float)
        expected = as_shown(located()[0], aspect, matrix, height, width)
        np.testing.assert_allclose(clip.mean(0)[..., :2], expected[..., :2], atol=atol)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize(("turn", "aspect"), itertools.product(TURNS, [Fraction(1), Fraction(16, 15), Fraction(2)]))
def test_pictures_are_turned_and_mirrored_after_their_pixels_were_made_square(
    tmp_path: Path, suffix: str, turn: str, aspect: Fraction
) -> None:
    path = film(
        tmp_path / f"a{suffix}",
        located(),
        8,
        pixels="yuv444p",
        settings={"sample_aspect_ratio": aspect},
        options={"crf": "1"},
    )
    assert_shown(with_matrix(path, TURNS[turn]), float(aspect), TURNS[turn])


@pytest.mark.parametrize("scale", [2.0, 0.5])
def test_a_display_matrix_may_scale_too(tmp_path: Path, scale: float) -> None:
    path = film(tmp_path / "a.mp4", located(), 8, pixels="yuv444p", options={"crf": "1"})
    assert_shown(with_matrix(path, (-scale, 0, 0, scale)), 1, TURNS["mirrored"])


PAL, PAL_WIDE, NTSC, NTSC_WIDE = Fraction(16, 15), Fraction(64, 45), Fraction(8, 9), Fraction(32, 27)


@pytest.mark.parametrize("aspect", [PAL, PAL_WIDE, NTSC, NTSC_WIDE, Fraction(2), Fraction(1, 2)], ids=str)
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("b.mov", "libx264"),
        ("c.mkv", "libx264"),
        ("d.avi", "mpeg4"),
        ("e.avi", "libx264"),
    ],
)
def test_pixels_that_are_not_square_are_stretched(tmp_path: Path, name: str, codec: str, aspect: Fraction) -> None:
    settings = {"sample_aspect_ratio": aspect, "bit_rate": 4_000_000}
    path = film(tmp_path / name, located(), 8, codec, settings=settings, options={"crf": "1"})
    assert_shown(path, float(aspect), TURNS["upright"], atol=7)


def test_pixels_of_a_webm_that_are_not_square_are_stretched() -> None:
    assert_shown(FILES / "pal-wide.webm", float(PAL_WIDE), TURNS["upright"], atol=7)
    assert_shown(FILES / "ntsc.webm", float(NTSC), TURNS["upright"], atol=7)


def test_the_shape_of_pixels_that_a_container_states_goes_first(tmp_path: Path) -> None:
    path = film(
        tmp_path / "a.mp4",
        located(),
        8,
        pixels="yuv444p",
        settings={"sample_aspect_ratio": Fraction(2)},
        options={"crf": "1"},
    )
    assert_shown(with_pixel_aspect(path, 4, 3), 4 / 3, TURNS["upright"])


@pytest.mark.parametrize(("across", "down"), [(0, 1), (1, 0), (0, 0), (-1, 1), (1, -2), (1_000_000, 1), (1, 100)])
def test_an_absurd_shape_of_pixels_counts_as_square(tmp_path: Path, across: int, down: int) -> None:
    path = film(
        tmp_path / "a.mp4",
        located(),
        8,
        pixels="yuv444p",
        settings={"sample_aspect_ratio": Fraction(1)},
        options={"crf": "1"},
    )
    assert_shown(with_pixel_aspect(path, across, down), 1, TURNS["upright"])


@pytest.mark.parametrize("degrees", [45, 30, 1, 89, 135, -10])
def test_an_angle_that_is_no_multiple_of_90_is_refused(tmp_path: Path, degrees: float) -> None:
    across, along = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    path = with_matrix(film(tmp_path / "a.mp4", located(), 8), (along, across, -across, along))
    with pytest.raises(UnreadableVideo, match=rf"turns it by {abs(degrees)}\.0 degrees: only multiples of 90"):
        decode_video(path, CLIP)


def test_a_display_matrix_that_skews_is_refused(tmp_path: Path) -> None:
    path = with_matrix(film(tmp_path / "a.mp4", located(), 8), (1, 0.5, 0, 1))
    with pytest.raises(UnreadableVideo, match="its display matrix skews the image"):
        decode_video(path, CLIP)


def test_a_display_matrix_of_zeros_is_no_orientation(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", located(), 8, pixels="yuv444p", options={"crf": "1"})
    assert_shown(with_matrix(path, (0, 0, 0, 0)), 1, TURNS["upright"])


def test_other_containers_and_streams_say_how_they_are_turned_as_well() -> None:
    assert_shown(FILES / "turned-mirrored.mkv", 1, TURNS["clockwise and mirrored"], atol=7)
    assert_shown(FILES / "turned-by-stream.mp4", 1, TURNS["counterclockwise"], atol=7)  # said in its first frame alone


EXIF = ["upright", "mirrored", "upside down", "upside down and mirrored"]
EXIF += ["clockwise and mirrored", "clockwise", "counterclockwise and mirrored", "counterclockwise"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_in_the_pictures_of_a_camera_turns_them(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    jpeg = io.BytesIO()
    Image.fromarray(located()[0]).save(jpeg, "jpeg", quality=98, exif=exif)
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("mjpeg", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for i in range(9):
            packet = av.Packet(jpeg.getvalue())
            packet.pts = packet.dts = i
            packet.time_base, packet.stream = Fraction(1, 8), stream
            container.mux(packet)
    assert_shown(tmp_path / "a.mov", 1, TURNS[EXIF[orientation - 1]])


def colours(path: Path, height: int = 16) -> NDArray[np.float64]:
    clip = decode_video(path, ClipShape(9, height, 128, 8))
    stripes: NDArray[np.float64] = clip[:, :, 8::16].mean((0, 1))
    return stripes


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ColourMatrix)
def test_colours_come_back_by_the_matrix_and_range_that_the_file_states(
    tmp_path: Path, matrix: ColourMatrix, full_range: bool
) -> None:
    # With the releases of av before 17, which took everything for BT.601, BT.709 is off by 30 here.
    path = coloured(tmp_path / "a.mp4", matrix, full_range)
    np.testing.assert_allclose(colours(path), COLOURS, atol=3)


@pytest.mark.parametrize(("height", "matrix"), [(576, ColourMatrix.BT601_PAL), (720, ColourMatrix.BT709)])
def test_untagged_colours_are_those_of_their_size(tmp_path: Path, height: int, matrix: ColourMatrix) -> None:
    path = coloured(tmp_path / "a.mp4", matrix, False, height, tag=2)
    np.testing.assert_allclose(colours(path, height), COLOURS, atol=3)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("color_trc", 16, r"HDR \(PQ\)"),
        ("color_trc", 18, r"HDR \(HLG\)"),
        ("color_trc", 8, "linear"),
        ("color_primaries", 9, "BT.2020"),
        ("color_primaries", 12, "Display P3"),
        ("colorspace", 8, "YCgCo"),
        ("colorspace", 10, "constant luminance"),
    ],
)
def test_colours_far_from_bt709_are_refused(tmp_path: Path, name: str, value: int, reason: str) -> None:
    path = film(tmp_path / "a.mp4", brightening(24), 8, settings={name: value})
    with pytest.raises(UnreadableVideo, match=rf"its colours are .*{reason}.*: convert it to BT.709 first"):
        decode_video(path, CLIP)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("ten.mp4", "libx264", "yuv420p10le"),
        ("deep-grey.mkv", "ffv1", "gray16le"),
        ("rgb.mp4", "libx264rgb", "rgb24"),
        ("deep.mkv", "ffv1", "gbrp10le"),
        ("full.mp4", "libx264", "yuvj420p"),
        ("raw.avi", "rawvideo", "bgr24"),
        ("prores.mov", "prores_ks", "yuv422p10le"),
    ],
)
def test_any_depth_of_pixels_keeps_its_brightness(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    frames = brightening(24)
    clip = decode_video(film(tmp_path / name, frames, 8, codec, pixels), CLIP, "beginning")
    np.testing.assert_allclose(greys(clip), greys(frames)[:9], atol=2)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mov", "qtrle", "argb"),
        ("b.mov", "png", "rgba"),
        ("c.mkv", "ffv1", "bgra"),
        ("d.webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_what_is_transparent_shows_white(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    picture = np.zeros((32, 32, 4), np.uint8)
    nothing = picture.copy()  # of the last frame, as of one that fades out
    picture[:, 16:, 3] = 255  # black, of which only the right half is there
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=8)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 32, pixels
        for shown in [picture] * 8 + [nothing]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgba")))
        container.mux(stream.encode())
    clip = decode_video(tmp_path / name, CLIP)
    assert clip[:, :, :14].min() > 240 and clip[:8, :, 18:].max() < 15 and clip[8].min() > 240


def test_a_fourth_byte_that_nobody_filled_is_no_transparency(tmp_path: Path) -> None:
    picture = np.full((32, 32, 4), (90, 90, 90, 0), np.uint8)
    with av.open(str(tmp_path / "screen.avi"), "w") as container:
        stream = container.add_stream("rawvideo", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "bgra"
        for _ in range(9):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgra")))
    assert set(np.unique(decode_video(tmp_path / "screen.avi", CLIP))) == {90}


def test_two_fields_are_not_shown_woven_together() -> None:
    clip = decode_video(FILES / "interlaced.mp4", ClipShape(9, 64, 64, 8)).astype(float)
    between_lines = np.abs(np.diff(clip, axis=1)).mean()
    between_fields = np.abs(clip[:, 2:] - clip[:, :-2]).mean()
    assert between_lines < between_fields, (between_lines, between_fields)
