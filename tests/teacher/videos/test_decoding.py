"""Any video in, a clip of the wanted length, rate and size out, or a plain reason."""

from __future__ import annotations

import math
import wave
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from fewstep.teacher.videos.decoding import ClipShape, ClipStart, UnreadableVideo, decode_video
from tests.teacher.edited import remuxed, with_edits
from tests.teacher.films import (
    FILES,
    GOP,
    OPEN_H264,
    OPEN_HEVC,
    brightening,
    film,
    greys,
    numbered,
    numbers,
    two_streams,
)

CLIP = ClipShape(num_frames=9, height=32, width=32, fps=8)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("b.mp4", "libx264", "yuv444p"),
        ("c.webm", "libvpx-vp9", "yuv420p"),
        ("d.gif", "gif", "rgb8"),
        ("e.mkv", "libx264", "yuv422p"),
        ("f.avi", "mpeg4", "yuv420p"),
    ],
)
@pytest.mark.parametrize("rate", [Fraction(24), Fraction(30000, 1001), Fraction(12)], ids=str)
def test_time_is_kept_at_any_rate_in_any_container(
    tmp_path: Path, name: str, codec: str, pixels: str, rate: Fraction
) -> None:
    path = film(tmp_path / name, brightening(round(2 * rate)), rate, codec, pixels)
    per_second = 240 / (round(2 * rate) / float(rate))
    expected = np.arange(9) / 8 * per_second
    late = per_second / float(rate)  # a frame stays on screen that long
    from_start = greys(decode_video(path, CLIP, "beginning"))
    np.testing.assert_allclose(from_start, expected - late / 2, atol=late / 2 + 8)
    centred = greys(decode_video(path, CLIP, "centre"))
    np.testing.assert_allclose(centred - from_start, per_second * (2 - 9 / 8) / 2, atol=late + 8)


def test_equal_rates_give_every_frame_once(tmp_path: Path) -> None:
    frames = brightening(9)
    for name, codec in (("a.mp4", "libx264"), ("b.webm", "libvpx-vp9")):
        clip = decode_video(film(tmp_path / name, frames, 8, codec), CLIP)
        np.testing.assert_allclose(greys(clip), greys(frames), atol=4)


def test_a_name_may_hold_what_looks_like_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "a.mp4", brightening(9), 8).rename(tmp_path / "subfile:12:30.mp4")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_allclose(greys(decode_video(Path("subfile:12:30.mp4"), CLIP)), greys(brightening(9)), atol=4)


def test_a_varying_rate_follows_the_clock(tmp_path: Path) -> None:
    times = [0, 900, 950, 1000, 1050, 1100]  # the first frame stays on screen for most of the clip
    path = film(tmp_path / "a.mkv", brightening(6), 20, times=times)
    clip = decode_video(path, ClipShape(9, 32, 32, 8), "beginning")
    np.testing.assert_allclose(greys(clip), [0] * 8 + [120], atol=5)


def test_the_picture_covers_and_its_centre_is_cut_out(tmp_path: Path) -> None:
    frames = np.zeros((9, 64, 192, 3), np.uint8)
    frames[:, :, 64:128] = (255, 0, 0)  # the middle square
    path = film(tmp_path / "wide.mp4", frames, 8)
    clip = decode_video(path, CLIP)
    assert clip.shape == (9, 32, 32, 3) and clip.dtype == np.uint8
    assert clip[:, 4:28, 4:28, 0].min() > 200 and clip[..., 1:].mean() < 20
    tall = decode_video(path, ClipShape(9, 64, 16, 8))
    assert tall.shape == (9, 64, 16, 3)


def test_a_long_video_is_read_from_its_middle(tmp_path: Path) -> None:
    path = film(tmp_path / "long.mp4", brightening(600), 30)  # several key frames to seek over
    np.testing.assert_allclose(greys(decode_video(path, CLIP))[[0, 8]], [113, 125], atol=3)


NUMBERS = ClipShape(num_frames=9, height=16, width=32, fps=8)  # shows all of numbered()


@pytest.fixture(scope="module")
def eight_seconds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """192 numbered frames, 24 a second, a key frame every second, B-frames between."""
    return film(tmp_path_factory.mktemp("films") / "whole.mp4", numbered(192), options=GOP)


def shown(path: Path, start: ClipStart = "centre") -> list[int]:
    return numbers(decode_video(path, NUMBERS, start))


def every_eighth(first: float, fps: float = 24) -> list[int]:
    """The numbers on screen every eighth of a second from this one on."""
    return [math.floor(first + k * fps / 8 + 0.01) for k in range(9)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.5, 6.6])
def test_a_file_cut_at_its_head_shows_what_is_left(
    tmp_path: Path, eight_seconds: Path, suffix: str, seconds: float
) -> None:
    cut = remuxed(eight_seconds, tmp_path / f"cut{suffix}", seconds)
    first = math.ceil(seconds * 24 - 0.01)
    assert shown(cut, "beginning") == every_eighth(first)
    assert shown(cut) == every_eighth(first + (192 - first - 27) / 2)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_clip_longer_than_what_a_cut_file_shows_is_refused(tmp_path: Path, eight_seconds: Path, suffix: str) -> None:
    cut = remuxed(eight_seconds, tmp_path / f"cut{suffix}", 7.5)
    for start in ("beginning", "centre"):
        with pytest.raises(UnreadableVideo, match=r"too short: 0\.50 s"):
            decode_video(cut, NUMBERS, start)


B_FRAME = 2 / 24  # what the pipeline returns first is stored that late where there are B-frames
EDITS: dict[str, tuple[list[tuple[float, float | None]], float, float]] = {
    # edits -> the first number at the beginning, and in the centre
    "all": ([(8, B_FRAME)], 0, 82.5),
    "end cut": ([(4, B_FRAME)], 0, 34.5),
    "middle": ([(4, 2 + B_FRAME)], 48, 82.5),
    "end cut between key frames": ([(3.5, 2.5 + B_FRAME)], 60, 88.5),
    "nothing first, then the middle": ([(2, None), (4, 2 + B_FRAME)], 48, 82.5),
    "two parts": ([(2, B_FRAME), (6, 2 + B_FRAME)], 0, 82.5),
    "the same second four times": ([(1, 3 + B_FRAME)] * 4, 72, -1),
    "none": ([], 0, 82.5),
}


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_list_says_what_is_shown(tmp_path: Path, eight_seconds: Path, name: str, suffix: str) -> None:
    edits, first, centre = EDITS[name]
    edited = with_edits(remuxed(eight_seconds, tmp_path / f"edited{suffix}"), edits)
    if name == "the same second four times":
        assert shown(edited, "beginning") == [72, 75, 78, 81, 84, 87, 90, 93, 72]
        assert set(shown(edited)) <= set(range(72, 96))
    else:
        assert shown(edited, "beginning") == every_eighth(first)
        assert shown(edited) == every_eighth(centre)


def test_parts_in_another_order_are_shown_in_that_order(tmp_path: Path, eight_seconds: Path) -> None:
    edited = with_edits(remuxed(eight_seconds, tmp_path / "a.mp4"), [(3, 5 + B_FRAME), (3, 1 + B_FRAME)])
    assert shown(edited, "beginning") == every_eighth(120)
    late = ClipShape(num_frames=40, height=16, width=32, fps=8)
    assert numbers(decode_video(edited, late, "beginning"))[25:] == [27 + 3 * k for k in range(15)]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("open.mp4", "libx264", OPEN_H264),
        ("refresh.mkv", "libx264", {"x264-params": "keyint=24:scenecut=0:intra-refresh=1:bframes=0"}),
        ("open.mov", "libx265", OPEN_HEVC),
        ("a.mkv", "libx264", GOP),
        ("b.avi", "libx264", GOP),
        ("c.avi", "mpeg4", GOP | {"b": "2M"}),
        ("d.avi", "mjpeg", {}),
        ("e.webm", "libvpx-vp9", {"g": "24", "deadline": "realtime", "cpu-used": "8"}),
        ("f.webm", "libvpx", {"g": "24", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "2M", "cpu-used": "16"}),
        ("g.mp4", "libx264", GOP | {"movflags": "frag_keyframe+empty_moov"}),
    ],
)
def test_the_centre_is_exact_whatever_the_frames_refer_to(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = film(tmp_path / name, numbered(96), codec=codec, pixels=pixels, options=options)
    assert shown(path, "beginning") == every_eighth(0)
    for num in range(2, 17):  # the shorter the clip, the later it begins: before a key frame, at it, behind it
        first = (96 - num * 3) / 2
        clip = decode_video(path, replace(NUMBERS, num_frames=num))
        assert numbers(clip) == [math.floor(first + 3 * k + 0.01) for k in range(num)]


def test_a_palette_outlives_a_seek() -> None:
    clip = decode_video(FILES / "palette.avi", ClipShape(9, 12, 16, 8))
    assert len({frame.tobytes() for frame in clip}) == 9 and clip[0, 0, 8].tolist() == [252, 252, 0]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_stream_marked_as_default_is_read(tmp_path: Path, suffix: str) -> None:
    none, default = Disposition(0), Disposition.default
    path = two_streams(tmp_path / f"second{suffix}", none, default)
    assert greys(decode_video(path, CLIP)).max() < 200
    path = two_streams(tmp_path / f"first{suffix}", default, none)
    assert greys(decode_video(path, CLIP)).min() > 250


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    clip = decode_video(FILES / "cover-first.mp4", CLIP)
    assert len({frame.tobytes() for frame in clip}) == 9
    with pytest.raises(UnreadableVideo, match="no video stream"):
        decode_video(FILES / "song-with-cover.mp4", CLIP)


@pytest.mark.parametrize(("stated", "seen"), [(0, 100), (20, 20), (130, 130)])
def test_a_gif_that_states_no_time_is_played_as_browsers_do(tmp_path: Path, stated: int, seen: int) -> None:
    frames = [Image.fromarray(frame) for frame in numbered(60)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=stated, loop=0)
    assert shown(tmp_path / "a.gif", "beginning") == [125 * k // seen for k in range(9)]


def broken(folder: Path) -> dict[str, tuple[Path, str]]:
    """What can be wrong with a file -> the file, and a word of the reason."""
    whole = film(folder / "whole.mp4", brightening(60), 24).read_bytes()
    rng = np.random.default_rng(0)
    made: dict[str, tuple[bytes, str]] = {
        "empty.mp4": (b"", "empty"),
        "cut.mp4": (whole[: len(whole) // 2], "broken"),
        "head.mp4": (whole[:100], "broken"),
        "text.mp4": (b"not a film, only words\n" * 50, "broken"),
        "noise.webm": (rng.bytes(5000), "broken"),
        "zeros.mov": (bytes(4096), "broken"),
        "playlist.mp4": (b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n", "broken|not a video"),
        "notes.pdf": (b"%PDF-1.4", "suffix"),
        "bare": (whole, "suffix"),
    }
    files = {name: (folder / name, reason) for name, (_, reason) in made.items()}
    for name, (content, _) in made.items():
        (folder / name).write_bytes(content)
    Image.new("RGB", (64, 64)).save(folder / "still.png")
    (folder / "still.png").rename(folder / "still.mp4")
    files["still.mp4"] = folder / "still.mp4", "not a video"
    files["short.mp4"] = film(folder / "short.mp4", brightening(8), 8), "too short: 1.00 s"
    files["one.gif"] = film(folder / "one.gif", brightening(1), 8, "gif", "rgb8"), "too short"
    with wave.open(str(folder / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    (folder / "sound.wav").rename(folder / "sound.mp4")
    files["sound.mp4"] = folder / "sound.mp4", "not a video"
    return files


def test_what_is_no_clip_is_refused_with_a_plain_reason(tmp_path: Path) -> None:
    for name, (path, reason) in broken(tmp_path).items():
        for start in ("beginning", "centre"):
            with pytest.raises(UnreadableVideo, match=reason) as refused:
                decode_video(path, CLIP, start)
            assert "\n" not in str(refused.value) and str(tmp_path) not in str(refused.value), name


def test_damaged_pictures_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = film(tmp_path / "a.mp4", rng.integers(0, 255, (60, 64, 96, 3), np.uint8), 24)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = rng.bytes(4000)
    path.write_bytes(content)
    with pytest.raises(UnreadableVideo, match="broken"):
        decode_video(path, CLIP)


@pytest.mark.parametrize("wrong", [{"num_frames": 0}, {"height": -8}, {"fps": 0}, {"fps": math.inf}, {"fps": math.nan}])
def test_an_impossible_clip_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClipShape(**({"num_frames": 9, "height": 8, "width": 8, "fps": 8} | wrong))


def test_an_unknown_start_is_refused(tmp_path: Path) -> None:
    start: ClipStart = "end"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="'beginning' or 'centre'"):
        decode_video(tmp_path / "a.mp4", CLIP, start)
