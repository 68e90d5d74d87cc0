"""What editors and cameras do to files: cuts without encoding, edit lists, display matrices, shapes of pixels."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from tests.teacher.films import Matrix


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
    head, name_found, rest = path.read_bytes().partition(name)
    assert name_found, f"{path} has no {name!r}"
    path.write_bytes(head + change(name_found + rest))
    return path


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        yield kind, content[at + 8 : at + size]
        at += size
