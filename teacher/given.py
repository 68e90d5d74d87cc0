"""Images and videos that a clip is made from besides its prompt: a first frame, a control video, a mask ..."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fewstep.teacher.files.checksums import sha256
from fewstep.teacher.source import VideoSize
from fewstep.teacher.videos.decoding import SUFFIXES, ClipShape, ClipStart, UnreadableVideo, check_video, decode_video
from fewstep.teacher.videos.picture import fit_pixels
from fewstep.teacher.videos.shape import long_enough, seconds_of, too_short, video_shape

IMAGES = ("first", "last", "reference")  # one image
VIDEOS = ("control", "mask", "pose", "face")  # as many frames as the clip
GIVEN_NAMES = (*IMAGES, *VIDEOS)
FIRST_FRAME, LAST_FRAME = "FIRST_FRAME", "LAST_FRAME"  # of a training clip itself
FROM_CLIP = {FIRST_FRAME: slice(0, 1), LAST_FRAME: slice(-1, None)}
OF_CLIPS = {"first": FIRST_FRAME, "last": LAST_FRAME}  # what training clips can show by themselves
FROM_FILES = "files"  # where rollouts have it from


class TakesInputs(Protocol):
    """A teacher, as far as it is about what it takes."""

    needs: tuple[str, ...]

    @property
    def given(self) -> tuple[str, ...]:
        """What clips are made from."""

    def take(self, names: Sequence[str]) -> None:
        """Sets that."""


Given = Mapping[str, Tensor]  # name -> uint8 (B, 3, F, H, W), F = 1 of images: what stock pipelines get, too


class Prompt(str):
    """A text, and the files that are given with it: name -> path. A plain string is a prompt with nothing given."""

    given: Mapping[str, Path]

    def __new__(cls, text: str, given: Mapping[str, Path] | None = None) -> Self:
        made = super().__new__(cls, text)
        made.given = dict(given or {})
        return made

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True and self.given == (files_of(other) if isinstance(other, str) else {})

    def __ne__(self, other: object) -> bool:  # else str's own
        return not self == other

    def __hash__(self) -> int:
        return hash((str(self), *sorted(self.given.items()))) if self.given else str.__hash__(self)


def files_of(prompt: str) -> Mapping[str, Path]:
    """The files given with a prompt, none with a plain string."""
    return prompt.given if isinstance(prompt, Prompt) else {}


def identity_of(prompt: str) -> list[object]:
    """What tells a prompt from others, for JSON: its text, and the names and contents of its files."""
    return [str(prompt), *given_identity(prompt)]


def given_identity(prompt: str | None) -> list[object]:
    """The names and sha256 of the files given with a prompt; None for one that is missing: it costs its clip alone."""
    files = {} if prompt is None else files_of(prompt)
    return [[name, sha256(path) if path.is_file() else None] for name, path in sorted(files.items())]


def given_names(prompts: Sequence[str]) -> tuple[str, ...]:
    """What is given with every one of these prompts. Raises ValueError when some have other names than the first."""
    first = set(files_of(prompts[0])) if prompts else set()
    for prompt in prompts:
        if set(files_of(prompt)) != first:
            raise ValueError(
                f"{str(prompts[0])!r} comes with {_listed(first)}, {str(prompt)!r} with {_listed(files_of(prompt))}: "
                "give all prompts the same kinds of files"
            )
    return in_order(first)


def in_order(names: set[str] | Sequence[str]) -> tuple[str, ...]:
    """The names in their usual order. Raises ValueError for one that is unknown."""
    if unknown := [name for name in names if name not in GIVEN_NAMES]:
        raise ValueError(f"{unknown[0]!r} {why_not_given(unknown[0])}")
    return tuple(name for name in GIVEN_NAMES if name in names)


def why_not_given(name: str) -> str:
    """Why nothing can be given by a name that is none of `GIVEN_NAMES`, as the rest of a sentence."""
    others = f"use {', '.join(GIVEN_NAMES)}"
    if name == "audio":
        return f"cannot be given: no pipeline that fewstep distils makes clips from sound; {others}"
    return f"cannot be given: {others}"


def given_sha256(prompts: Iterable[str]) -> str:
    """Of prompts and the files that are given with them, in this order."""
    return hashlib.sha256(json.dumps([identity_of(prompt) for prompt in prompts]).encode()).hexdigest()


def check_given_names(names: Sequence[str], takes: Sequence[str], needs: Sequence[str], who: str) -> tuple[str, ...]:
    """The names in order. Raises ValueError where `who` does not take one of them, or one is missing that it needs."""
    ordered = in_order(names)
    if strays := [name for name in ordered if name not in takes]:
        own = f"takes {_listed(takes)}" if takes else "makes clips from prompts alone"
        raise ValueError(f"{who} {own}, not {strays[0]}: leave it out, or use another teacher")
    if missing := [name for name in needs if name not in ordered]:
        raise ValueError(
            f"{who} makes clips from {_listed(needs)}, and {_listed(missing)} {'is' if len(missing) == 1 else 'are'} "
            f"missing: pass {' '.join(f'--given {name}=FILE' for name in missing)}, or, as for `fewstep run`, a .jsonl "
            f"file of prompts with {' and '.join(map(repr, missing))} in every line"
        )
    return ordered


def read_given(
    prompts: Sequence[str], sizes: Mapping[str, VideoSize], fps: float, start: ClipStart = "beginning"
) -> Given:
    """The files of these prompts, each cut to its size (`Teacher.given_sizes`).

    start: which part of a longer video is taken; of videos that belong to a clip, the part that the clip is.
    Raises ValueError for a file that is missing, broken, or too short.
    """
    return {
        name: torch.stack([_read(files_of(prompt)[name], name, size, fps, start) for prompt in prompts])
        for name, size in sizes.items()
    }


def check_given(prompts: Sequence[str], sizes: Mapping[str, VideoSize], fps: float) -> None:
    """Whether `read_given` can read the files of these prompts, each looked at once: images whole, videos by their
    headers. What a prompt does not come with is not asked for. Raises ValueError as it does."""
    for name, size in sizes.items():
        for path in dict.fromkeys(files_of(prompt)[name] for prompt in prompts if name in files_of(prompt)):
            _check(path, name, size, fps)


def given_error(prompt: str, sizes: Mapping[str, VideoSize], fps: float) -> str:
    """Why the files that come with a clip's caption cannot be used; empty where nothing shows."""
    try:
        if missing := [name for name in sizes if name not in files_of(prompt)]:
            return f"no {missing[0]} is given"
        check_given([prompt], sizes, fps)
    except ValueError as error:
        return str(error)
    return ""


def sources_of(requested: Mapping[str, str] | None, teacher: TakesInputs) -> dict[str, str]:
    """Where training clips have what is given from: FIRST_FRAME, LAST_FRAME or a column of the captions, by name; None
    asks for what the teacher needs, taken from the clips themselves. The teacher records what it will get.

    Raises ValueError for what it does not take or cannot do without, and for what no clip shows by itself.
    """
    # without a request: what the teacher needs, as far as clips show it by themselves
    sources = dict(requested) if requested is not None else {name: OF_CLIPS.get(name, "") for name in teacher.needs}
    for name, source in sources.items():
        if not source:
            raise ValueError(
                f"no clip shows its {name} by itself: name the captions' column with the files, as in --set "
                f"data.given.{name}=COLUMN"
            )
        if source in FROM_CLIP and name not in IMAGES:
            raise ValueError(f"{name} is a video, and {source} is one image: name the captions' column with the files")
    # the teacher checks the names, and has them in the order below
    teacher.take(tuple(sources))
    return {name: sources[name] for name in teacher.given}


def columns_of(sources: Mapping[str, str]) -> dict[str, str]:
    """Those of `sources_of` that are columns of the captions."""
    return {name: source for name, source in sources.items() if source not in FROM_CLIP}


def frames_of_clips(sources: Mapping[str, str]) -> dict[str, str]:
    """Those of `sources_of` that are frames of the clips themselves."""
    return {name: source for name, source in sources.items() if source in FROM_CLIP}


def given_of_clips(frames: Tensor, sources: Mapping[str, str]) -> Given:
    """What training clips (B, 3, F, H, W) uint8 show by themselves; sources: name -> FIRST_FRAME or LAST_FRAME."""
    return {name: frames[:, :, FROM_CLIP[source]] for name, source in sources.items() if source in FROM_CLIP}


def noise_given(sizes: Mapping[str, VideoSize], count: int = 1) -> Given:
    """Images of noise, the same at every call, of the right shapes: for what does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: (count, 3, *size) for name, size in sizes.items()}
    return {name: torch.randint(256, shape, generator=generator).to(torch.uint8) for name, shape in shapes.items()}


def to_pil(video: Tensor, name: str) -> Any:
    """uint8 (3, F, H, W) as diffusers' pipelines take it: one image, or a list of frames."""
    frames = [Image.fromarray(frame.movedim(0, -1).cpu().numpy()) for frame in video.movedim(1, 0)]
    return frames[0] if name in IMAGES else frames


def to_pixels(video: Tensor) -> Tensor:
    """uint8 -> float32 in -1..1, as diffusers' processors make it of an image."""
    return video.float() / 127.5 - 1


def parse_given(texts: Sequence[str]) -> dict[str, Path]:
    """The files that `--given NAME=FILE` mean. Raises ValueError for another form, an unknown name, a missing file."""
    files: dict[str, Path] = {}
    for text in texts:
        name, file = _pair(text, "first=picture.png")
        in_order([name])
        if name in files:
            raise ValueError(f"--given {name} is given twice: keep one of them")
        files[name] = existing(Path(file).expanduser(), f"--given {name}")
    return files


def parse_sources(texts: Sequence[str]) -> dict[str, str]:
    """What `--given NAME=SOURCE` means for videos. Raises ValueError for another form or an unknown name."""
    sources = dict(_pair(text, "first=FIRST_FRAME") for text in texts)
    in_order(list(sources))
    return sources


def _pair(text: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise ValueError(f"--given {text} is not of the form NAME=VALUE: write --given {example}, say")
    return name, value


def existing(path: Path, where: str) -> Path:
    """The path. Raises ValueError, beginning with `where`, if no file is there."""
    if not path.is_file():
        raise ValueError(f"{where}: there is no file {path}: give the path of an image or a video")
    return path


def _read(path: Path, name: str, size: VideoSize, fps: float, start: ClipStart = "beginning") -> Tensor:
    existing(path, name)
    if path.suffix.lower() not in SUFFIXES:
        picture = _picture(path, name, size)[None]
        frames = picture.repeat(size.num_frames, axis=0)  # a still mask or control holds for the whole clip
    elif name in IMAGES:
        raise ValueError(f"{name}: {path} is a video: give an image, such as one of its frames")
    else:
        try:
            frames = decode_video(path, ClipShape(*size, fps=fps), start)
        except UnreadableVideo as error:
            raise ValueError(f"{name}: {path} cannot be read as a video: {error}") from error
    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, 0)


def _check(path: Path, name: str, size: VideoSize, fps: float) -> None:
    existing(path, name)
    # images are read whole, as a header does not show that a file is cut off; a video in place of one is refused, too
    if path.suffix.lower() not in SUFFIXES or name in IMAGES:
        _read(path, name, size, fps)
        return
    # of a video the header says enough, and nothing is decoded but what its shape needs
    try:
        check_video(path)
        shape = video_shape(path)
        if shape is not None and not long_enough(shape, size, fps):
            raise UnreadableVideo(too_short(shape, seconds_of(size, fps)))
    except UnreadableVideo as error:
        raise ValueError(f"{name}: {path} cannot be read as a video: {error}") from error


def _picture(path: Path, name: str, size: VideoSize) -> NDArray[np.uint8]:
    """(H, W, 3), upright, on white where it is transparent, cut like a video's frames."""
    try:
        with Image.open(path) as opened:
            # EXIF says how the camera was held: without it the pixels would lie on their side
            image = ImageOps.exif_transpose(opened)
            # transparent pixels have colours that no viewer shows: white stands behind them
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            pixels = np.asarray(_of_eight_bits(image).convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: {path} cannot be read as an image ({reason}): give a PNG or JPEG file") from error
    return fit_pixels(pixels, size.height, size.width)


def _of_eight_bits(image: Image.Image) -> Image.Image:
    """Depth maps often have 16 bits, of which Pillow would clip all above 255."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are numbers of 32 bits, of an unknown range, mode {image.mode}")
    return image


def _listed(names: object) -> str:
    listed = list(names) if isinstance(names, set | tuple | list | dict | Mapping) else []
    return ", ".join(listed) or "nothing given"


@dataclass(frozen=True)
class KeptLatents:
    """Latents that the conditions fix, such as a first frame that is given, and where.

    latents: (B, C, F, h, w); mask: bool, broadcast to them, True where they are kept.
    """

    latents: Tensor
    mask: Tensor

    @staticmethod
    def first_frame(latents: Tensor, z: Tensor) -> KeptLatents:
        """A first frame, latents (B, C, 1, h, w), in z (B, C, F, h, w)."""
        mask = torch.zeros(z.shape[2], dtype=torch.bool, device=z.device)
        mask[0] = True
        return KeptLatents(latents.to(z).expand_as(z), mask.view(1, 1, -1, 1, 1))

    def pin(self, z: Tensor) -> Tensor:
        """z with the kept latents in place."""
        return torch.where(self.mask, self.latents.to(z), z)
