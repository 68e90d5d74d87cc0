"""Writing clips: H.264 files, GIFs and contact sheets, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fewstep.teacher.files.atomic import check_writable, whole_file

Frames = NDArray[np.uint8]  # (F, H, W, 3)

CLIP_SUFFIXES = (".mp4", ".gif")
SHEET_SUFFIX = ".png"

_BT601 = 6  # AVCOL_SPC_SMPTE170M
_SHEET_COLUMNS = 8  # frames shown of each clip
_SHEET_SIDE = 128  # pixels; smaller frames are enlarged by a whole factor
_TEXT_SIZE = 14  # pixels


def check_suffix(path: Path) -> None:
    """Raises ValueError for a file that could not be written, before anything is computed."""
    allowed = (*CLIP_SUFFIXES, SHEET_SUFFIX)
    if path.suffix.lower() not in allowed:
        raise ValueError(f"{path} does not end in {', '.join(allowed)}: choose one of these kinds of file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file, as in {path / 'clip.mp4'}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {path.absolute().parent} to write {path.name} into: make it first")
    check_writable(path.absolute().parent)


def check_fps(fps: float) -> None:
    """Raises ValueError for frames per second that no file can have."""
    if not 0.1 <= fps <= 1000:
        raise ValueError(f"{fps} frames per second cannot be written: use a rate from 0.1 to 1000")


def to_uint8(video: Tensor) -> Frames:
    """One clip (3, F, H, W) in -1..1 -> uint8 frames (F, H, W, 3), rounded as diffusers rounds."""
    frames = (video.detach().float().cpu() / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).numpy()
    return np.asarray((frames * 255).round(), dtype=np.uint8)


def write_video(path: Path, frames: Frames, fps: float) -> None:
    """Writes (F, H, W, 3) uint8 frames as H.264 (.mp4, even sizes only) or as an endless GIF (.gif)."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(
            f"frames are {frames.dtype} of shape {frames.shape}: pass uint8 (F, H, W, 3), at least one frame"
        )
    check_fps(fps)
    if path.suffix.lower() == ".gif":
        images = [Image.fromarray(frame) for frame in frames]
        with whole_file(path) as part:
            images[0].save(part, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    elif path.suffix.lower() == ".mp4":
        with whole_file(path) as part:
            _write_h264(part, frames, fps)
    else:
        raise ValueError(f"{path} does not end in {', '.join(CLIP_SUFFIXES)}: choose one of these kinds of clip")


def write_image(path: Path, image: Image.Image) -> None:
    """Writes an image in the format of its suffix."""
    with whole_file(path) as part:
        image.save(part)


def contact_sheet(clips: Sequence[Frames], captions: Sequence[str]) -> Image.Image:
    """One row per clip: its caption above up to eight frames, evenly spaced from first to last."""
    if not clips or len(clips) != len(captions):
        raise ValueError(
            f"{len(clips)} clips and {len(captions)} captions: pass as many captions as clips, at least one"
        )
    # captions are wrapped to their own row's width, and rows stand below one another
    rows = [_row(clip, caption) for clip, caption in zip(clips, captions, strict=True)]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _row(clip: Frames, caption: str) -> Image.Image:
    chosen = np.linspace(0, len(clip) - 1, min(len(clip), _SHEET_COLUMNS)).round().astype(int)
    scale = max(1, _SHEET_SIDE // clip.shape[1])
    pictures = clip[chosen].repeat(scale, axis=1).repeat(scale, axis=2)
    width = sum(picture.shape[1] for picture in pictures)
    text, font = _wrapped(caption, width), ImageFont.load_default(_TEXT_SIZE)
    header = (text.count("\n") + 1) * round(1.3 * _TEXT_SIZE) + 8
    row = Image.new("RGB", (width, header + pictures.shape[1]), "white")
    ImageDraw.Draw(row).multiline_text((4, 3), text, fill="black", font=font)
    row.paste(Image.fromarray(np.concatenate(list(pictures), axis=1)), (0, header))
    return row


def _wrapped(text: str, width: int) -> str:
    """Broken between words so that it fits `width` pixels."""
    font, lines = ImageFont.load_default(_TEXT_SIZE), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - 8:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _write_h264(path: Path, frames: Frames, fps: float) -> None:
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 needs an even height and width, not {height}x{width}: write a .gif instead")
    # ffmpeg takes what comes before a colon for a protocol, unless it is of an absolute path
    with av.open(str(path.absolute()), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        # x264's fast macroblock tree reads past the rows of small frames: one clip gave another file a few times in a
        # thousand. cpu-independent avoids it, and makes files alike on all processors.
        stream.options = {"crf": "16", "x264-params": "cpu-independent=1"}
        # What the conversion below does, so that players need not guess by the size of the image.
        stream.colorspace, stream.color_range = _BT601, ColorRange.MPEG
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        # frames that the encoder still keeps, to look ahead
        container.mux(stream.encode())
