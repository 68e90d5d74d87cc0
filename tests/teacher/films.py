"""Small videos whose images tell their own number, place or colour."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image

Frames = NDArray[np.uint8]  # (F, H, W, 3)
Matrix = tuple[float, float, float, float]  # a, b, c, d of x' = a x + c y, y' = b x + d y

FILES = Path(__file__).parents[1] / "cases" / "files"  # small ones that people really have
GOP = {"g": "24", "bf": "2", "sc_threshold": "0", "b_strategy": "0"}  # for film(): B-frames between key frames
OPEN_H264 = {"x264-params": "keyint=24:scenecut=0:open-gop=1:bframes=3:b-adapt=0"}
OPEN_HEVC = {"x265-params": "keyint=24:scenecut=0:open-gop=1:bframes=4:b-adapt=0:log-level=none"}
TURNS: dict[str, Matrix] = {
    "upright": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (-1, 0, 0, -1),
    "upside down and mirrored": (1, 0, 0, -1),
    "clockwise": (0, 1, -1, 0),
    "counterclockwise": (0, -1, 1, 0),
    "clockwise and mirrored": (0, 1, 1, 0),
    "counterclockwise and mirrored": (0, -1, -1, 0),
}
_BITS = 8


def film(
    path: Path,
    frames: Frames,
    rate: Fraction | int = 24,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Encodes the frames; `times` are in milliseconds where the rate varies, `settings` those of the codec
    context, `options` those of the codec."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        stream.options = dict(options or {})
        for name, value in (settings or {}).items():
            setattr(stream.codec_context, name, value)
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, pixels_rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels_rgb, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def brightening(num: int, height: int = 64, width: int = 96) -> Frames:
    """Frames whose grey tells their time: 0 at the first, 240 at the end."""
    grey = np.arange(num, dtype=np.float32) * 240 / num
    return np.broadcast_to(grey[:, None, None, None], (num, height, width, 3)).astype(np.uint8)


def greys(clip: Frames) -> NDArray[np.float64]:
    means: NDArray[np.float64] = clip.mean((1, 2, 3))
    return means


def numbered(num: int, height: int = 32, width: int = 64) -> Frames:
    """Frames that show their number as eight stripes, black or white."""
    bits = np.arange(num)[:, None] >> np.arange(_BITS) & 1
    stripes = np.repeat(bits * 255, width // _BITS, axis=1).astype(np.uint8)
    return np.broadcast_to(stripes[:, None, :, None], (num, height, width, 3)).copy()


def numbers(clip: Frames) -> list[int]:
    """The numbers of the frames that a clip of the same proportions shows."""
    stripes = np.stack([part.mean((1, 2, 3)) for part in np.array_split(clip, _BITS, axis=2)], axis=1)
    return [int(number) for number in (stripes > 128) @ (1 << np.arange(_BITS))]


def located(height: int = 64, width: int = 96) -> Frames:
    """Frames whose red rises from left to right and whose green rises from top to bottom."""
    across, down = np.linspace(20, 235, width), np.linspace(20, 235, height)
    picture = np.stack(np.broadcast_arrays(across[None], down[:, None], 128.0), axis=-1).round().astype(np.uint8)
    return np.broadcast_to(picture, (9, height, width, 3)).copy()


def as_shown(picture: NDArray[np.uint8], aspect: float, matrix: Matrix, height: int, width: int) -> NDArray[np.uint8]:
    """What a player shows of a stored picture: its pixels made square, then turned by the matrix, then fitted."""
    stretched = Image.fromarray(picture).resize((round(picture.shape[1] * aspect), picture.shape[0]))
    a, b, c, d = matrix
    turned = stretched
    if not a and not d:
        turned = turned.transpose(Image.Transpose.TRANSPOSE)
    if min(a, c) < 0:
        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if min(b, d) < 0:
        turned = turned.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    scale = min(turned.height / height, turned.width / width)
    left, top = (turned.width - width * scale) / 2, (turned.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    return np.asarray(turned.resize((width, height), box=box))


def two_streams(path: Path, first: Disposition, second: Disposition) -> Path:
    """A white still or film in front of a brightening one."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=8) for _ in range(2)]
        for stream, disposition in zip(streams, (first, second), strict=True):
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            stream.disposition = disposition
        for stream, frames in zip(streams, (np.full((24, 64, 96, 3), 255, np.uint8), brightening(24)), strict=True):
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
            container.mux(stream.encode())
    return path


COLOURS = np.array(
    [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (200, 60, 30),
        (30, 200, 120),
        (128, 128, 128),
        (250, 240, 20),
        (9, 20, 30),
    ],
    np.uint8,
)


class ColourMatrix(IntEnum):
    """AVCOL_SPC_*"""

    BT709 = 1
    BT601_PAL = 5
    BT601_NTSC = 6
    SMPTE240M = 7
    BT2020 = 9


_LUMA = {  # of red and of blue
    ColourMatrix.BT709: (0.2126, 0.0722),
    ColourMatrix.BT601_PAL: (0.299, 0.114),
    ColourMatrix.BT601_NTSC: (0.299, 0.114),
    ColourMatrix.SMPTE240M: (0.212, 0.087),
    ColourMatrix.BT2020: (0.2627, 0.0593),
}


def coloured(path: Path, matrix: ColourMatrix, full_range: bool, height: int = 16, tag: int | None = None) -> Path:
    """Eight coloured stripes, converted by the standard's own formula, not by ffmpeg."""
    red, green, blue = COLOURS.T / 255
    of_red, of_blue = _LUMA[matrix]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    planes = np.stack([luma, (blue - luma) / (2 - 2 * of_blue), (red - luma) / (2 - 2 * of_red)])
    scale, offset = ((255, 255, 255), (0, 128, 128)) if full_range else ((219, 224, 224), (16, 128, 128))
    codes = np.clip(planes * np.array(scale)[:, None] + np.array(offset)[:, None], 0, 255).round().astype(np.uint8)
    picture = np.broadcast_to(codes.repeat(16, axis=1)[:, None], (3, height, 128)).copy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = height, 128, "yuv444p"
        stream.codec_context.colorspace = matrix if tag is None else tag
        stream.codec_context.color_range = 2 if full_range else 1
        stream.options = {"crf": "1"}
        for _ in range(9):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv444p")))
        container.mux(stream.encode())
    return path
