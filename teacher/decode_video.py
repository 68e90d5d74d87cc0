"""Reading any video file as a clip of fixed length, rate and size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

Start = Literal["beginning", "centre"]

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif"})
# The content decides, not the suffix: ffmpeg would also open stills, subtitles and playlists as video.
_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "gif"})
_ROUNDING = 0.002  # seconds; containers round times to milliseconds


class UnreadableVideo(ValueError):
    """A file that cannot become a clip; the message is the plain reason, without the file's name."""


@dataclass(frozen=True)
class ClipShape:
    """num_frames at fps (frames per second), each height x width pixels."""

    num_frames: int
    height: int
    width: int
    fps: float

    def __post_init__(self) -> None:
        for name in ("num_frames", "height", "width", "fps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and finite")

    @property
    def seconds(self) -> float:
        """From the first frame's time to the last one's."""
        return (self.num_frames - 1) / self.fps


def decode_video(path: Path, clip: ClipShape, start: Start = "centre") -> NDArray[np.uint8]:
    """The clip (F, H, W, 3) RGB 0..255 that begins at the file's beginning or lies in its centre.

    Frame k is the one on screen k/fps seconds after the start, so any rate, also a varying one, keeps its
    speed. Frames are scaled to cover height x width and their centre is cut out. Raises UnreadableVideo for
    a file that is no video, is broken, or is shorter than the clip; ValueError for an unknown start.
    """
    if start not in get_args(Start):
        raise ValueError(f"start is {start!r}; it must be 'beginning' or 'centre'")
    with _opened(path) as (container, stream):
        begin = None if start == "beginning" else _seek_centre(container, stream, clip)
        return np.stack(list(_pick(_frames(container, stream), clip, begin)))


def check_video(path: Path) -> None:
    """Raises UnreadableVideo for a file that is no video, judged by its header alone."""
    with _opened(path):
        pass


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its first video stream; what ffmpeg says against it becomes UnreadableVideo."""
    if path.suffix.lower() not in SUFFIXES:
        read = ", ".join(sorted(SUFFIXES))
        raise UnreadableVideo(f"not a video: its suffix is {path.suffix or 'missing'}, read are {read}")
    try:
        if path.stat().st_size == 0:
            raise UnreadableVideo("the file is empty")
        with av.open(str(path), metadata_errors="replace") as container:
            if container.format.name not in _CONTAINERS:
                raise UnreadableVideo(f"not a video: the content is {container.format.long_name}")
            if not container.streams.video:
                raise UnreadableVideo("there are no pictures in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        raise UnreadableVideo(f"broken, cut off, or no video at all (ffmpeg: {error.strerror})") from error
    except OSError as error:
        raise UnreadableVideo(f"it cannot be read ({error.strerror})") from error


def _seek_centre(container: InputContainer, stream: VideoStream, clip: ClipShape) -> float:
    """The second at which the middle clip begins; the container is left at the key frame before it."""
    # Read packet by packet: the header of many files lacks the length, or states a wrong one.
    stamps = [
        (stamp, stamp + (packet.duration or 0))
        for packet in container.demux(stream)
        if (stamp := packet.dts if packet.pts is None else packet.pts) is not None
    ]
    if not stamps:
        raise UnreadableVideo("there are no frames in it")
    assert stream.time_base is not None
    tick = float(stream.time_base)
    first, end = min(s for s, _ in stamps) * tick, max(e for _, e in stamps) * tick
    begin = first + max(0.0, (end - first - clip.num_frames / clip.fps) / 2)
    container.seek(round(begin / tick), stream=stream)
    return begin


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, float, VideoFrame]]:
    """(start, end, frame) in seconds, in order; the end is the next frame's start, or the frame's own."""
    last: tuple[float, VideoFrame] | None = None
    seconds = 1 / float(stream.average_rate) if stream.average_rate else 0.0
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise UnreadableVideo("broken: its pictures are damaged")
        time = float(frame.time) if frame.time is not None else (last[0] + seconds if last else 0.0)
        if last:
            yield last[0], time, last[1]
        last = time, frame
    if last:
        tick = float(last[1].time_base or 0)
        length = last[1].duration * tick if last[1].duration else seconds
        yield last[0], last[0] + length, last[1]


def _pick(
    frames: Iterator[tuple[float, float, VideoFrame]], clip: ClipShape, begin: float | None
) -> Iterator[NDArray[np.uint8]]:
    """The frame on screen at begin + k/fps for each k, scaled; begin None is the first frame's time."""
    picked = 0
    length = 0.0
    for start, end, frame in frames:
        begin = start if begin is None else begin
        length = end - begin
        num = 0
        while picked + num < clip.num_frames and (picked + num) / clip.fps < length - _ROUNDING:
            num += 1
        if num:
            yield from [_fit(frame, clip)] * num
        picked += num
        if picked == clip.num_frames:
            return
    raise UnreadableVideo(f"too short: {max(length, 0):.2f} s, needed are more than {clip.seconds:.2f} s")


def _fit(frame: VideoFrame, clip: ClipShape) -> NDArray[np.uint8]:
    """The frame upright, scaled to cover the clip's size, with its centre cut out; (H, W, 3)."""
    upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    height, width = upright.shape[:2]
    scale = min(height / clip.height, width / clip.width)  # source pixels per clip pixel
    top, left = (height - clip.height * scale) / 2, (width - clip.width * scale) / 2
    box = (left, top, left + clip.width * scale, top + clip.height * scale)
    image = Image.fromarray(np.ascontiguousarray(upright))
    return np.asarray(image.resize((clip.width, clip.height), Image.Resampling.BICUBIC, box=box))
