"""Any video in, a clip of the wanted length, rate and size out, or a plain reason."""

from __future__ import annotations

import math
import struct
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fewstep.teacher.decode_video import ClipShape, Start, UnreadableVideo, decode_video

CLIP = ClipShape(num_frames=9, height=32, width=32, fps=8)


def film(
    path: Path,
    frames: NDArray[np.uint8],
    rate: Fraction | int = 24,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: list[int] | None = None,
) -> Path:
    """Encodes (F, H, W, 3); `times` are the frames' times in milliseconds where the rate varies."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, pixels_rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels_rgb, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def brightening(num: int, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """Frames whose grey tells their time: 0 at the first, 240 at the end."""
    grey = np.arange(num, dtype=np.float32) * 240 / num
    return np.broadcast_to(grey[:, None, None, None], (num, height, width, 3)).astype(np.uint8)


def greys(clip: NDArray[np.uint8]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = clip.mean((1, 2, 3))
    return means


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


def test_a_rotated_phone_video_stands_upright(tmp_path: Path) -> None:
    frames = np.zeros((9, 64, 64, 3), np.uint8)
    frames[:, :32] = 255  # bright on top as stored
    path = film(tmp_path / "phone.mp4", frames, 8)
    one, minus = 1 << 16, (1 << 32) - (1 << 16)
    upright = struct.pack(">9I", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9I", 0, one, 0, minus, 0, 0, 64 << 16, 0, 1 << 30)
    head, tkhd, rest = path.read_bytes().partition(b"tkhd")
    assert upright in rest
    path.write_bytes(head + tkhd + rest.replace(upright, clockwise, 1))
    clip = decode_video(path, CLIP)
    assert clip[:, :, 20:].min() > 200 and clip[:, :, :12].max() < 50


def test_a_long_video_is_read_from_its_middle(tmp_path: Path) -> None:
    path = film(tmp_path / "long.mp4", brightening(600), 30)  # several key frames to seek over
    np.testing.assert_allclose(greys(decode_video(path, CLIP))[[0, 8]], [113, 125], atol=3)


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
    found = {name: (folder / name, reason) for name, (_, reason) in made.items()}
    for name, (content, _) in made.items():
        (folder / name).write_bytes(content)
    Image.new("RGB", (64, 64)).save(folder / "still.png")
    (folder / "still.png").rename(folder / "still.mp4")
    found["still.mp4"] = folder / "still.mp4", "not a video"
    found["short.mp4"] = film(folder / "short.mp4", brightening(8), 8), "too short: 1.00 s"
    found["one.gif"] = film(folder / "one.gif", brightening(1), 8, "gif", "rgb8"), "too short"
    with wave.open(str(folder / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    (folder / "sound.wav").rename(folder / "sound.mp4")
    found["sound.mp4"] = folder / "sound.mp4", "not a video"
    return found


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
    start: Start = "end"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="'beginning' or 'centre'"):
        decode_video(tmp_path / "a.mp4", CLIP, start)
