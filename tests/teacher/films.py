"""Small videos whose pictures tell their own number or place, and what editors and cameras do to files."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Frames = NDArray[np.uint8]  # (F, H, W, 3)
Matrix = tuple[float, float, float, float]  # a, b, c, d of x' = a x + c y, y' = b x + d y

FILES = Path(__file__).parents[1] / "cases" / "files"  # small ones that people really have
_BITS = 8


def film(
    path: Path,
    frames: Frames,
    rate: Fraction | int = 24,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    settings: dict[str, Any] | None = None,
    **options: str,
) -> Path:
    """Encodes the frames; `times` are in milliseconds where the rate varies, `settings` those of the codec context."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        stream.options = options
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


def remuxed(source: Path, path: Path, begin: float = 0.0, end: float = np.inf, **options: str) -> Path:
    """The packets as they are, from the key frame before `begin` to `end`, as `ffmpeg -ss .. -c copy` cuts."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        assert stream.time_base is not None
        old.seek(round(begin / stream.time_base), stream=stream)
        shift = round(begin / stream.time_base)
        for packet in old.demux(stream):
            if packet.dts is None or packet.pts is None or packet.pts * stream.time_base >= end:
                continue
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
            new.mux(packet)
    return path


def with_edits(path: Path, edits: Sequence[tuple[float, float | None]]) -> Path:
    """The mp4 or mov with this edit list: (seconds shown, from which second of what is stored; None shows nothing)."""
    content = path.read_bytes()
    (units,) = struct.unpack_from(">I", content, content.index(b"mvhd") + 16)
    (ticks,) = struct.unpack_from(">I", content, content.index(b"mdhd") + 16)
    rows = [(round(shown * units), -1 if at is None else round(at * ticks), 1 << 16) for shown, at in edits]
    table = b"".join(struct.pack(">IiI", *row) for row in rows)
    edit_list = _box(b"edts", _box(b"elst", struct.pack(">II", 0, len(rows)) + table))

    def changed(kind: bytes, body: bytes) -> bytes:
        if kind not in (b"moov", b"trak"):
            return _box(kind, body)
        inner = [changed(k, b) + (edit_list if k == b"tkhd" else b"") for k, b in _boxes(body) if k != b"edts"]
        return _box(kind, b"".join(inner))

    path.write_bytes(b"".join(changed(kind, body) for kind, body in _boxes(content)))
    return path


def with_matrix(path: Path, matrix: Matrix) -> Path:
    """The mp4 or mov with this display matrix in its track header."""
    a, b, c, d = (round(value * (1 << 16)) for value in matrix)
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    return _patched(
        path, b"tkhd", lambda head: head.replace(upright, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30), 1)
    )


def with_pixel_aspect(path: Path, across: int, down: int) -> Path:
    """The mp4 or mov whose container says how wide and high a pixel is, whatever the stream says."""
    return _patched(path, b"pasp", lambda rest: rest[:4] + struct.pack(">ii", across, down) + rest[12:])


def _patched(path: Path, name: bytes, change: Callable[[bytes], bytes]) -> Path:
    head, found, rest = path.read_bytes().partition(name)
    assert found, f"{path} has no {name!r}"
    path.write_bytes(head + change(found + rest))
    return path


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        yield kind, content[at + 8 : at + size]
        at += size
