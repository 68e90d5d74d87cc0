"""Reading any video file as a clip of fixed length, rate and size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from fewstep.teacher.videos.opening import SUFFIXES, OpenVideo, UnreadableVideo, open_video
from fewstep.teacher.videos.picture import Orientation, deinterlaced, fit_picture, orientation

__all__ = ["SUFFIXES", "TIME_ROUNDING", "ClipShape", "ClipStart", "UnreadableVideo", "check_video", "decode_video"]

ClipStart = Literal["beginning", "centre"]

TIME_ROUNDING = 0.002  # seconds; containers round times to milliseconds


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


def decode_video(path: Path, clip: ClipShape, start: ClipStart = "centre") -> NDArray[np.uint8]:
    """The clip (F, H, W, 3) RGB 0..255 that begins at the file's beginning or lies in its centre.

    Both are those of what a player shows: an edit list may hide the head or the end of what is stored. Frame k
    is the one on screen k/fps seconds after the start, so any rate, also a varying one, keeps its speed. Images
    are shown as `fit_picture` says, upright and with square pixels. Raises UnreadableVideo for a file that is no
    video, is broken, or is shorter than the clip; ValueError for an unknown start.
    """
    if start not in get_args(ClipStart):
        raise ValueError(f"start is {start!r}; it must be 'beginning' or 'centre'")
    place = _Place() if start == "beginning" else _find_centre(path, clip)
    with open_video(path) as video:
        frames = video.frames(place.key)
        first = next(frames, None)
        if place.key is None or _leads_to(place, first):
            return _clip(video, chain([first] if first else [], frames), clip, place)
    with open_video(path) as video:  # seeking missed: decode it all
        return _clip(video, video.frames(), clip, place)


def check_video(path: Path) -> None:
    """Raises UnreadableVideo for a file that is not a video, judged by its header alone."""
    with open_video(path):
        pass


@dataclass(frozen=True)
class _Place:
    """Where a clip begins, and what must be known to decode from there."""

    begin: float | None = None  # seconds; None is the first frame's time
    key: int | None = None  # the stamp of the key frame to decode from; None is the file's first
    turned: Orientation | None = None  # the orientation of the file's first frame: some say it there alone


def _find_centre(path: Path, clip: ClipShape) -> _Place:
    # Read packet by packet: the header of many files lacks the length, or states a wrong one.
    first: VideoFrame | None = None
    spans: list[tuple[int, int]] = []  # on screen, from when to when
    keys: list[int] = []
    with open_video(path) as video:
        for packet in video.packets():
            if first is None:  # packets at the head may be hidden, or lack what they need to be decoded
                first = next(video.decode(packet), None)
            stamp = packet.dts if packet.pts is None or video.lacks_times else packet.pts
            if stamp is None:
                continue
            if not packet.is_discard:
                spans.append((stamp, stamp + (packet.duration or 0)))
            if packet.is_keyframe:
                keys.append(stamp)
        if first is None or not spans:
            raise UnreadableVideo("there are no frames in it")
        begin = first.time or 0.0
        # In AVI a frame is shown that much later than its packet says: B-frames wait for those they refer to.
        delay = max(0.0, begin - keys[0] * video.tick) if video.lacks_times and keys else 0.0
        seconds = max(end for _, end in spans) * video.tick + delay - begin
        # centred: as much is left out before the clip as behind it
        begin += max(0.0, (seconds - clip.num_frames / clip.fps) / 2)
        # decoding begins at the last key frame before the clip, and the frames between are thrown away
        before = [key for key in keys if key * video.tick + delay <= begin]
        return _Place(begin, max(before) if before and video.can_seek else None, orientation(first))


def _leads_to(place: _Place, first: VideoFrame | None) -> bool:
    """Whether frames decoded from this one on hold the place: seeking may land behind it, or between key frames."""
    if first is None or first.time is None or place.begin is None:
        return False
    return first.key_frame and first.time <= place.begin + TIME_ROUNDING


def _clip(video: OpenVideo, frames: Iterator[VideoFrame], clip: ClipShape, place: _Place) -> NDArray[np.uint8]:
    """The image on screen at the place + k/fps for each k; (F, H, W, 3)."""
    pictures: list[NDArray[np.uint8]] = []
    length = 0.0
    begin, turned = place.begin, place.turned
    for start, end, frame in _timed(deinterlaced(frames), video):
        begin = start if begin is None else begin
        turned = orientation(frame) or turned
        length = end - begin
        # which of the clip's times this frame is on screen at: none, one, or several of a slow video
        num = sum(k / clip.fps < length - TIME_ROUNDING for k in range(len(pictures), clip.num_frames))
        if num:
            fitted = fit_picture(frame, video.aspect, turned, clip.height, clip.width, video.may_lack_opacity)
            pictures += [fitted] * num
        if len(pictures) == clip.num_frames:
            return np.stack(pictures)
    raise UnreadableVideo(f"too short: {max(length, 0):.2f} s, it needs more than {clip.seconds:.2f} s")


def _timed(frames: Iterator[VideoFrame], video: OpenVideo) -> Iterator[tuple[float, float, VideoFrame]]:
    """(start, end, frame) in seconds, in order; the end is the next frame's start, or the frame's own."""
    last: tuple[float, VideoFrame] | None = None
    # a file may lack times: a frame then lasts as long as the one before it, or as the stream says on average
    interval = 1 / float(video.stream.average_rate) if video.stream.average_rate else 0.0
    for frame in frames:
        if frame.is_corrupt:
            raise UnreadableVideo("broken: its frames are damaged")
        time = frame.time if frame.time is not None else (last[0] + interval if last else 0.0)
        if last:
            interval = time - last[0]
            yield last[0], time, last[1]
        last = time, frame
    if last:
        yield last[0], last[0] + (last[1].duration * float(last[1].time_base or 0) or interval), last[1]
