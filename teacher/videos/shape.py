"""The shape of a video as a player shows it, by its header and first frame: what decides which size it fits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av

from fewstep.teacher.source import VideoSize
from fewstep.teacher.videos.decoding import TIME_ROUNDING, ClipShape
from fewstep.teacher.videos.opening import OpenVideo, UnreadableVideo, open_video
from fewstep.teacher.videos.picture import orientation, square_pixels


@dataclass(frozen=True)
class VideoShape:
    """width and height in square pixels; seconds from the first frame's beginning to the last one's end."""

    width: float
    height: float
    seconds: float

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.width / self.height


def video_shape(path: Path) -> VideoShape | None:
    """The shape of a file, None for one that cannot be read; why is said where it is decoded.

    Seconds are the header's; they are counted where it has none, as GIFs do. A file is opened once, until it changes.
    """
    try:
        state = path.stat()
    except OSError:
        return None
    return _shape(path, (state.st_size, state.st_mtime_ns))


def seconds_of(size: VideoSize, fps: float) -> float:
    """What a video must be longer than to become a clip of this size, as where it is decoded."""
    return ClipShape(*size, fps=fps).seconds + TIME_ROUNDING


def long_enough(video: VideoShape, size: VideoSize, fps: float) -> bool:
    """Whether a video lasts as long as clips of this size."""
    return video.seconds > seconds_of(size, fps)


def too_short(video: VideoShape, needed: float) -> str:
    """Why a video that lasts no longer than the seconds that are needed cannot be used."""
    return f"too short: {video.seconds:.2f} s, it needs more than {needed:.2f} s"


@cache
def _shape(path: Path, state: tuple[int, int]) -> VideoShape | None:
    """state: of the file, so that another one of the same name is opened."""
    try:
        with open_video(path) as video:
            # a first frame that cannot be decoded is no clip; it also says how the image is turned
            first = next(video.frames(), None)
            if first is None:
                return None
            turned = orientation(first)
            width, height = first.width * square_pixels(video.aspect), float(first.height)
            if turned is not None and turned.swap_axes:
                width, height = height, width
            seconds = _stated_seconds(video)
        return VideoShape(width, height, _counted_seconds(path) if seconds is None else seconds)
    except UnreadableVideo:
        return None


def _stated_seconds(video: OpenVideo) -> float | None:
    if video.stream.duration:
        return video.stream.duration * video.tick
    whole = video.container.duration
    return whole / av.time_base if whole else None


def _counted_seconds(path: Path) -> float:
    with open_video(path) as video:
        ends = [
            (packet.pts + (packet.duration or 0)) * video.tick for packet in video.packets() if packet.pts is not None
        ]
    return max(ends, default=0.0)
