"""Opening any video file: which of its streams is shown, and its frames with the times at which they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.codec.context import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif"})
# The content decides, not the suffix: ffmpeg would also open stills, subtitles and playlists as video.
_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "gif"})
_TRANSPARENT = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own decoders pass over transparency


class UnreadableVideo(ValueError):
    """A file that cannot become a clip; the message is the plain reason, without the file's name."""


@dataclass(frozen=True)
class OpenVideo:
    """An open file, and the stream of it that players show."""

    container: InputContainer
    stream: VideoStream
    decoder: VideoCodecContext

    @property
    def tick(self) -> float:
        """Seconds that one unit of a packet's times lasts."""
        return float(self.stream.time_base or 0)

    @property
    def aspect(self) -> Fraction | None:
        """The width of a stored pixel over its height; what the container says goes before what the stream says."""
        return self.stream.sample_aspect_ratio

    @property
    def lacks_times(self) -> bool:
        """AVI says when packets are decoded, not when frames are shown; ffmpeg's guesses mix up H.264's B-frames."""
        return self.container.format.name == "avi"

    @property
    def may_lack_opacity(self) -> bool:
        """Of 32 bits in AVI files the fourth byte is often one that nobody filled."""
        return self.container.format.name == "avi"

    @property
    def can_seek(self) -> bool:
        """A palette comes once, with the first packet."""
        return self.decoder.pix_fmt != "pal8"

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """All packets in the order of decoding, and an empty one at the end that makes the decoder give its rest."""
        return self.container.demux(self.stream)

    def decode(self, packet: Packet[VideoStream]) -> Iterator[VideoFrame]:
        """Frames that this packet completes; those that an edit list hides are left out."""
        for frame in self.decoder.decode(packet):
            if self.lacks_times:
                frame.pts, frame.duration = frame.dts, 0
            yield frame

    def frames(self, seek_to: int | None = None) -> Iterator[VideoFrame]:
        """Frames in the order of showing, from the key frame at the stamp `seek_to` on, or from the first."""
        if seek_to is not None:
            self.container.seek(seek_to, stream=self.stream)
        for packet in self.packets():
            yield from self.decode(packet)


@contextmanager
def open_video(path: Path) -> Iterator[OpenVideo]:
    """Raises UnreadableVideo for a file that is not a video, and for what ffmpeg says against it while it is open."""
    if path.suffix.lower() not in SUFFIXES:
        read = ", ".join(sorted(SUFFIXES))
        raise UnreadableVideo(f"not a video: its suffix is {path.suffix or 'missing'}, and only {read} are read")
    try:
        if path.stat().st_size == 0:
            raise UnreadableVideo("the file is empty")
        # ffmpeg takes what comes before a colon for a protocol, unless it is of an absolute path
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            # what ffmpeg finds in the file decides, whatever its suffix says
            if container.format.name not in _CONTAINERS:
                raise UnreadableVideo(f"not a video: the content is {container.format.long_name}")
            stream = _shown_stream(container)
            yield OpenVideo(container, stream, _decoder(stream))
    except av.FFmpegError as error:
        raise UnreadableVideo(f"broken, cut off, or no video at all (ffmpeg: {error.strerror})") from error
    except OSError as error:
        raise UnreadableVideo(f"it cannot be read ({error.strerror})") from error


def _shown_stream(container: InputContainer) -> VideoStream:
    """The first that is marked as default, as players choose; never a cover or a thumbnail."""
    moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not moving:
        raise UnreadableVideo("it has no video stream")
    return max(moving, key=lambda stream: (bool(stream.disposition & Disposition.default), stream.frames != 1))


def _decoder(stream: VideoStream) -> VideoCodecContext:
    decoder = stream.codec_context
    if decoder is None:
        raise UnreadableVideo("its codec cannot be decoded here: convert it to H.264 first")
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in _TRANSPARENT:
        decoder = cast(VideoCodecContext, CodecContext.create(_TRANSPARENT[decoder.name], "r"))
    decoder.thread_type = "AUTO"
    return decoder
