"""One decoded frame as a player shows it: its colours, the shape of its pixels, and its display matrix."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, groupby
from typing import NamedTuple, cast

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from numpy.typing import NDArray
from PIL import Image

from fewstep.teacher.videos.opening import UnreadableVideo

# Numbers are those of ITU-T H.273. swscale turns these matrices into RGB, and reads any other as BT.601.
_UNTAGGED = frozenset({2, 3})  # unspecified, reserved
_MATRICES = frozenset({0, 1, 4, 5, 6, 7, 9}) | _UNTAGGED  # RGB, BT.709, FCC, two of BT.601, SMPTE 240M, BT.2020
_OTHER_MATRICES = {8: "YCgCo", 10: "BT.2020 with constant luminance", 14: "ICtCp"}
# The same numbers mean other light than in BT.709: images read as they are would look washed out.
_OTHER_TRANSFERS = {
    8: "linear light",
    9: "logarithmic",
    10: "logarithmic",
    16: "HDR (PQ)",
    17: "SMPTE 428",
    18: "HDR (HLG)",
}
_OTHER_PRIMARIES = {9: "wide gamut (BT.2020)", 10: "CIE XYZ", 11: "wide gamut (DCI-P3)", 12: "wide gamut (Display P3)"}

_ASPECTS = (Fraction(1, 10), Fraction(10))  # a sample aspect ratio beyond these is a broken header
_EXACT = 0.002  # what a display matrix may be off by rounding: 0.1 degrees


class Orientation(NamedTuple):
    """How a stored image is turned and mirrored to be shown: all eight ways."""

    swap_axes: bool = False  # first of all
    flip_columns: bool = False
    flip_rows: bool = False


def fit_picture(
    frame: VideoFrame,
    aspect: Fraction | None,
    turned: Orientation | None,
    height: int,
    width: int,
    may_lack_opacity: bool = False,
) -> NDArray[np.uint8]:
    """The frame as shown, scaled to cover height x width, with its centre cut out: (height, width, 3) RGB 0..255.

    `aspect` is the width of a stored pixel over its height; None and absurd ones count as square. What is
    transparent shows white; with `may_lack_opacity` a frame that is so everywhere is taken to say nothing of it.
    Raises UnreadableVideo for HDR and other colours that are far from BT.709.
    """
    pixels = _rgb(frame, may_lack_opacity)
    turned = turned or Orientation()
    shape = square_pixels(aspect)
    if turned.swap_axes:
        pixels, shape = pixels.swapaxes(0, 1), 1 / shape
    pixels = pixels[:: -1 if turned.flip_rows else 1, :: -1 if turned.flip_columns else 1]
    return fit_pixels(pixels, height, width, shape)


def square_pixels(aspect: Fraction | None) -> float:
    """The width of a stored pixel over its height; 1 where it is not stated, or absurd."""
    return float(aspect) if aspect and _ASPECTS[0] <= aspect <= _ASPECTS[1] else 1.0


def fit_pixels(pixels: NDArray[np.uint8], height: int, width: int, shape: float = 1.0) -> NDArray[np.uint8]:
    """An image (H, W, 3) scaled to cover height x width, its centre cut out; shape: a pixel's width over height."""
    stored_height, stored_width = pixels.shape[:2]
    scale = min(stored_height / height, stored_width * shape / width)  # rows of the image per row of the clip
    rows, columns = height * scale, width * scale / shape
    top, left = (stored_height - rows) / 2, (stored_width - columns) / 2
    box = (max(left, 0.0), max(top, 0.0), min(left + columns, stored_width), min(top + rows, stored_height))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def orientation(frame: VideoFrame) -> Orientation | None:
    """What the frame's display matrix says, None where it has none.

    Raises UnreadableVideo for one that turns by other than 90, 180 or 270 degrees, or skews.
    """
    # rotation and mirroring, as phones store them: a matrix of fixed-point numbers, of which four matter
    try:
        stored = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV cannot list side data of a kind that it does not know, such as Exif
        known = max(cast(int, kind.value) for kind in Type)
        newer = [("sidedata", f"mode=delete:type={kind}") for kind in range(known + 1, known + 17)]
        (frame,) = _filtered(iter([frame]), newer)
        stored = frame.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = struct.unpack_from("=5i", bytes(cast(SideData, stored))) if stored else (0, 0, 0, 0, 0)
    straight, across = max(abs(a), abs(d)), max(abs(b), abs(c))  # x' = a x + c y, y' = b x + d y
    if not straight and not across:
        return None
    # no turn or half a turn, perhaps mirrored; below, a quarter turn
    if across <= _EXACT * straight:
        return Orientation(False, a < 0, d < 0)
    if straight <= _EXACT * across:
        return Orientation(True, c < 0, b < 0)
    if abs(a * c + b * d) > _EXACT * max(straight, across) ** 2:
        raise UnreadableVideo("its display matrix skews the image: only turns by multiples of 90 degrees are read")
    degrees = abs(math.degrees(math.atan2(b, a)))
    raise UnreadableVideo(f"its display matrix turns it by {degrees:.1f} degrees: only multiples of 90 are read")


def deinterlaced(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Frames whose lines belong to two moments made whole by bwdif, which leaves those alone that are not so marked."""
    for frame in frames:
        if not frame.interlaced_frame:
            yield frame
            continue
        rest = chain([frame], frames)
        for _, alike in groupby(rest, lambda frame: (frame.width, frame.height, frame.format.name)):
            yield from _filtered(alike, [("bwdif", "mode=send_frame:deint=interlaced")])


def _filtered(frames: Iterator[VideoFrame], filters: list[tuple[str, str]]) -> Iterator[VideoFrame]:
    """Frames of one size and format through ffmpeg's filters, in turn: (name, arguments)."""
    first = next(frames)
    # a graph is made for the frames' size and format, which is why callers group them
    graph = Graph()
    source = graph.add_buffer(
        width=first.width, height=first.height, format=first.format, time_base=first.time_base or Fraction(1, 1000)
    )
    graph.link_nodes(source, *(graph.add(*named) for named in filters), graph.add("buffersink")).configure()
    for frame in chain([first], frames, [None]):
        graph.vpush(frame)
        try:
            while True:
                yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            pass  # the filters want the next frame first


def _rgb(frame: VideoFrame, may_lack_opacity: bool) -> NDArray[np.uint8]:
    """(H, W, 3), as stored: neither turned nor scaled."""
    _check_colours(frame)
    # Players take an untagged image of HD size for BT.709; swscale would take it for BT.601.
    high = frame.width >= 1280 or frame.height > 576
    matrix = Colorspace.ITU709 if high and frame.colorspace in _UNTAGGED else None
    # frames without transparency are done; the others are blended with white
    if not any(component.is_alpha for component in frame.format.components):
        return np.asarray(frame.to_ndarray(format="rgb24", src_colorspace=matrix), np.uint8)
    pixels = np.asarray(frame.to_ndarray(format="rgba", src_colorspace=matrix), np.uint8)
    opacity = pixels[..., 3:]
    if may_lack_opacity and not opacity.any():
        return pixels[..., :3]
    return np.asarray(255 - (255.0 - pixels[..., :3]) * (opacity / 255.0) + 0.5, np.uint8)


def _check_colours(frame: VideoFrame) -> None:
    far = _OTHER_TRANSFERS.get(frame.color_trc) or _OTHER_PRIMARIES.get(frame.color_primaries)
    if not far and frame.colorspace not in _MATRICES:
        far = _OTHER_MATRICES.get(frame.colorspace, f"of the unknown kind {frame.colorspace}")
    if far:
        raise UnreadableVideo(f"its colours are {far}: convert it to BT.709 first")
