"""Videos as cameras and editors leave them: clips come only from what a player shows, in the shape it shows."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray

from fewstep.teacher.videos.decoding import ClipShape, ClipStart, decode_video
from tests.cases.record import FILES, outcome
from tests.commands.typed import fewstep
from tests.teacher import films
from tests.teacher.edited import remuxed, with_edits, with_matrix, with_pixel_aspect
from tests.teacher.films import TURNS, ColourMatrix, as_shown, film, located, numbered, numbers

EDITS, SHAPE, STREAMS = "01 edit lists", "03 shape of pixels", "03 streams and colours"
Check = Callable[[str, str, object, str | Sequence[str]], None]
B_FRAME = 2 / 24  # what the pipeline returns first is stored that late
CLIPS = [(48, 48), (32, 96), (96, 32)]  # height and width


@pytest.fixture(scope="module")
def eight_seconds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """192 numbered frames, 24 a second, a key frame every second, B-frames between."""
    return film(tmp_path_factory.mktemp("films") / "whole.mp4", numbered(192), options=films.GOP)


def frames_shown(path: Path, num: int = 5, start: ClipStart = "centre") -> str:
    """The numbers of the frames in a clip of 8 a second, or the refusal."""
    return outcome(lambda: numbers(decode_video(path, ClipShape(num, 16, 32, 8), start)))


def every_third(first: float, num: int = 5) -> str:
    return str([math.floor(first + 0.01) + 3 * k for k in range(num)])


def centre(first: int, end: int, num: int = 5) -> str:
    """The clip in the middle of frames first..end."""
    return every_third((first + end - 3 * num) / 2)


@pytest.mark.parametrize("seconds", [1, 2.5, 3.3])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_cut_head(tmp_path: Path, eight_seconds: Path, check_case: Check, suffix: str, seconds: float) -> None:
    # Matroska has no edit lists: there players show it from the key frame on.
    first = math.ceil(seconds * 24) if suffix != ".mkv" else int(seconds) * 24
    cut = remuxed(eight_seconds, tmp_path / f"cut{suffix}", seconds)
    check_case(
        EDITS, f"{suffix} of 8 s cut at {seconds} s without encoding, its middle", frames_shown(cut), centre(first, 192)
    )


@pytest.mark.parametrize(
    ("name", "edits", "expected"),
    [
        ("4 s of 8 are shown", [(4, B_FRAME)], centre(0, 96)),
        ("4 s from 2 s on are shown", [(4, 2 + B_FRAME)], centre(48, 144)),
        ("head and end cut between key frames", [(3.5, 2.5 + B_FRAME)], centre(60, 144)),
        ("nothing for 2 s, then 4 s from 2 s on", [(2, None), (4, 2 + B_FRAME)], centre(48, 144)),
        ("two parts that follow each other", [(2, B_FRAME), (6, 2 + B_FRAME)], centre(0, 192)),
        (
            "the last half second alone",
            [(0.5, 7.5 + B_FRAME)],
            "refused: too short: 0.50 s, it needs more than 0.50 s",
        ),
        ("all of it", [(8, B_FRAME)], centre(0, 192)),
        ("an empty list", [], centre(0, 192)),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_an_edit_list(
    tmp_path: Path,
    eight_seconds: Path,
    check_case: Check,
    suffix: str,
    name: str,
    edits: list[tuple[float, float | None]],
    expected: str,
) -> None:
    edited = with_edits(remuxed(eight_seconds, tmp_path / f"edited{suffix}"), edits)
    check_case(EDITS, f"{suffix}, edit list: {name}, its middle", frames_shown(edited), expected)


def test_a_file_of_which_half_is_shown_is_long_enough(tmp_path: Path, eight_seconds: Path, check_case: Check) -> None:
    edited = with_edits(remuxed(eight_seconds, tmp_path / "edited.mp4"), [(4, B_FRAME)])
    check_case(EDITS, "4 s of 8 are shown, 17 frames of 8 a second", frames_shown(edited, 17), every_third(22.5, 17))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("H.264 with B-frames in .avi", "libx264", films.GOP),
        ("MPEG-4 with B-frames in .avi", "mpeg4", films.GOP | {"b": "2M"}),
        ("HEVC, open groups of pictures, in .mov", "libx265", films.OPEN_HEVC),
        ("H.264, open groups of pictures, in .mp4", "libx264", films.OPEN_H264),
        ("H.264 in fragments in .mp4", "libx264", films.GOP | {"movflags": "frag_keyframe+empty_moov"}),
        ("VP9 in .webm", "libvpx-vp9", {"g": "24", "deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_frames_in_another_order_than_stored(
    tmp_path: Path, check_case: Check, name: str, codec: str, options: dict[str, str]
) -> None:
    path = film(tmp_path / f"a{name.rpartition(' ')[2]}", numbered(96), codec=codec, options=options)
    for num in (4, 9, 14):
        case = f"{name}, {num} frames from the middle of 4 s"
        check_case(EDITS, case, frames_shown(path, num), every_third((96 - 3 * num) / 2, num))


def test_cut_files_that_people_have(check_case: Check) -> None:
    whole = decode_video(FILES / "mirrored.mp4", ClipShape(32, 48, 64, 8), "beginning")[:, :, ::-1]  # the same film
    left = decode_video(FILES / "cut-head-2s.mp4", ClipShape(16, 48, 64, 8), "beginning")
    check_case(EDITS, "cut-head-2s.mp4, 16 frames", verdict(mean_difference(left, whole[16:])), "as a player shows it")
    for name, seconds in (("cut-head-2s.mp4", 2), ("cut-head-3s.mp4", 1)):
        got = outcome(lambda name=name: decode_video(FILES / name, ClipShape(17, 48, 64, 8)).shape)  # type: ignore[misc]
        check_case(EDITS, f"{name}, 17 frames", got, f"refused: too short: {seconds}.00 s, it needs more than 2.00 s")


def test_cut_files_through_the_command(tmp_path: Path, tiny_wan_folder: Path, check_case: Check) -> None:
    names = [path.name for path in sorted(FILES.glob("*.mp4"))]
    for name in names:
        shutil.copy(FILES / name, tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("a test card")
    code, _ = fewstep("data", "videos", tmp_path, "--teacher", tiny_wan_folder, "--out", tmp_path / "out")
    skipped = {line["file"]: line["reason"] for line in map(json.loads, (tmp_path / "out/skipped.jsonl").open())}
    got = f"exit {code}: " + "; ".join(f"{file}: {reason}" for file, reason in skipped.items())
    expected = "exit 3: cut-head-3s.mp4: too short: 1.00 s, it needs more than 1.00 s"
    check_case(EDITS, f"fewstep data videos, 9 frames, on {', '.join(names)}", got, [expected, "song-with-cover.mp4"])
    assert len(skipped) == 2


Difference = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]


def mean_difference(got: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    return float(np.abs(got.astype(float) - expected).mean())


def shift(got: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """By the means of rows and of columns of an image that is smooth: there the noise of codecs vanishes."""
    return max(float(np.abs(got.mean(axis) - expected.mean(axis)).max()) for axis in (0, 1))


def verdict(off: float) -> str:
    return "as a player shows it" if off < 3 else f"off by {off:.0f} of 255"


def shape_shown(path: Path, aspect: Fraction = Fraction(1), turn: str = "upright", off: Difference = shift) -> str:
    """Whether the first frame has the shape that a player gives it, in clips of three proportions."""
    with av.open(str(path)) as container:
        moving = next(one for one in container.streams.video if one.disposition != Disposition.attached_pic)
        stored = np.asarray(next(container.decode(moving)).to_ndarray(format="rgb24"), np.uint8)

    def attempt(height: int, width: int) -> str:
        clip = decode_video(path, ClipShape(9, height, width, 8), "beginning")
        return verdict(off(clip[0], as_shown(stored, float(aspect), TURNS[turn], height, width)))

    verdicts = [outcome(lambda size=size: attempt(*size)) for size in CLIPS]  # type: ignore[misc]
    return next((words for words in verdicts if words != verdict(0)), verdict(0))


ASPECTS = {
    "PAL": Fraction(16, 15),
    "PAL, wide": Fraction(64, 45),
    "NTSC": Fraction(8, 9),
    "NTSC, wide": Fraction(32, 27),
    "twice as wide as high": Fraction(2),
}


@pytest.mark.parametrize("name", ASPECTS)
@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "libx264"), (".mov", "libx264"), (".mkv", "libx264"), (".avi", "mpeg4")]
)
def test_pixels_that_are_not_square(tmp_path: Path, check_case: Check, suffix: str, codec: str, name: str) -> None:
    settings = {"sample_aspect_ratio": ASPECTS[name], "bit_rate": 4_000_000}
    path = film(tmp_path / f"a{suffix}", located(), 8, codec, settings=settings)
    check_case(SHAPE, f"{suffix}, pixels of {name}", shape_shown(path, ASPECTS[name]), "as a player shows it")


def test_pixels_of_files_that_people_have(check_case: Check) -> None:
    for name, aspect, turn in (
        ("sample-aspect-2.mp4", Fraction(2), "upright"),
        ("mirrored.mp4", Fraction(1), "mirrored"),
        ("pal-wide.webm", ASPECTS["PAL, wide"], "upright"),
        ("ntsc.webm", ASPECTS["NTSC"], "upright"),
        ("turned-mirrored.mkv", Fraction(1), "clockwise and mirrored"),
        ("turned-by-stream.mp4", Fraction(1), "counterclockwise"),
    ):
        check_case(SHAPE, name, shape_shown(FILES / name, aspect, turn, mean_difference), "as a player shows it")


@pytest.mark.parametrize("aspect", ["1", "16/15", "2"])
@pytest.mark.parametrize("turn", TURNS)
def test_turned_and_mirrored(tmp_path: Path, check_case: Check, turn: str, aspect: str) -> None:
    path = film(tmp_path / "a.mp4", located(), 8, settings={"sample_aspect_ratio": Fraction(aspect)})
    got = shape_shown(with_matrix(path, TURNS[turn]), Fraction(aspect), turn)
    check_case(SHAPE, f"display matrix: {turn}, pixels {aspect}", got, "as a player shows it")


@pytest.mark.parametrize("degrees", [45, 1, 89, -30])
def test_other_angles(tmp_path: Path, check_case: Check, degrees: int) -> None:
    across, along = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    path = with_matrix(film(tmp_path / "a.mp4", located(), 8), (along, across, -across, along))
    expected = f"refused: its display matrix turns it by {abs(degrees)}.0 degrees: only multiples of 90 are read"
    check_case(SHAPE, f"display matrix: {degrees} degrees", shape_shown(path), expected)


@pytest.mark.parametrize(("across", "down"), [(0, 1), (1, 0), (-1, 1), (1_000_000, 1)])
def test_absurd_pixels(tmp_path: Path, check_case: Check, across: int, down: int) -> None:
    path = film(tmp_path / "a.mp4", located(), 8, settings={"sample_aspect_ratio": Fraction(1)})
    got = shape_shown(with_pixel_aspect(path, across, down))
    check_case(SHAPE, f"sample aspect ratio {across}/{down}: unknown, so square", got, "as a player shows it")


def test_a_container_contradicts_its_stream(tmp_path: Path, check_case: Check) -> None:
    path = film(tmp_path / "a.mp4", located(), 8, settings={"sample_aspect_ratio": Fraction(2)})
    got = shape_shown(with_pixel_aspect(path, 4, 3), Fraction(4, 3))
    check_case(SHAPE, "sample aspect ratio 4/3 in the container, 2 in the stream", got, "as a player shows it")


@pytest.mark.parametrize("matrix", ColourMatrix)
@pytest.mark.parametrize("full_range", [False, True])
def test_colours(tmp_path: Path, check_case: Check, matrix: ColourMatrix, full_range: bool) -> None:
    path = films.coloured(tmp_path / "a.mp4", matrix, full_range)
    clip = decode_video(path, ClipShape(9, 16, 128, 8))[:, :, 8::16].mean((0, 1))
    got = "right" if np.abs(clip - films.COLOURS).max() < 4 else f"off by {np.abs(clip - films.COLOURS).mean():.1f}"
    case = f"eight colours by {matrix.name}, {'full' if full_range else 'limited'} range"
    check_case(STREAMS, case, got, "right")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("color_trc", 16, "HDR (PQ)"), ("color_trc", 18, "HDR (HLG)"), ("color_primaries", 9, "wide gamut (BT.2020)")],
)
def test_colours_that_a_player_would_map(tmp_path: Path, check_case: Check, name: str, value: int, words: str) -> None:
    path = film(tmp_path / "a.mp4", numbered(24), 8, settings={name: value})
    check_case(STREAMS, words, frames_shown(path), f"refused: its colours are {words}: convert it to BT.709 first")


def test_streams_that_are_not_the_film(tmp_path: Path, check_case: Check) -> None:
    cover = decode_video(FILES / "cover-first.mp4", ClipShape(9, 32, 32, 8))
    moving = f"{len({frame.tobytes() for frame in cover})} different images"
    check_case(STREAMS, "cover-first.mp4: the cover is stored before the film", moving, "9 different images")
    got = outcome(lambda: decode_video(FILES / "song-with-cover.mp4", ClipShape(9, 32, 32, 8)))
    check_case(STREAMS, "song-with-cover.mp4", got, "refused: it has no video stream")
    second = films.two_streams(tmp_path / "a.mp4", Disposition(0), Disposition.default)
    got = "white" if decode_video(second, ClipShape(9, 32, 32, 8)).min() > 250 else "the second"
    check_case(STREAMS, "two films, the second marked as default", got, "the second")


def test_fields_and_palettes(check_case: Check) -> None:
    clip = decode_video(FILES / "interlaced.mp4", ClipShape(9, 64, 64, 8)).astype(float)
    lines, fields = np.abs(np.diff(clip, axis=1)).mean(), np.abs(clip[:, 2:] - clip[:, :-2]).mean()
    check_case(STREAMS, "interlaced.mp4", "combed" if lines > fields else "whole images", "whole images")
    pictures = {frame.tobytes() for frame in decode_video(FILES / "palette.avi", ClipShape(9, 12, 16, 8))}
    check_case(STREAMS, "palette.avi, from its middle", f"{len(pictures)} different images", "9 different images")
