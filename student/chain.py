"""Chains: models one after the other, each making clips from what the one before it made.

From a text to an image to a video (Emu Video, arXiv 2311.10709; MagicVideo-V2, arXiv 2401.04468), or to one that is
refined. A chain is a `Sampler` whose conditions hold what the samplers before it made of the same prompts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.given import FROM_CLIP, IMAGES, LAST_FRAME, Given, in_order
from fewstep.teacher.source import VideoSize
from fewstep.teacher.videos.writing import to_uint8

if TYPE_CHECKING:
    from fewstep.student.sampler import Sampler

CHAIN_FILE = "chain.json"  # in the folder of a chain that was distilled
WHOLE_CLIP = "WHOLE_CLIP"
SPREAD_CLIP, SPREAD_GAPS = "SPREAD_CLIP", "SPREAD_GAPS"  # its frames with grey between them, and white where that is
OF_VIDEOS = (WHOLE_CLIP, SPREAD_CLIP, SPREAD_GAPS)
FROM_PREVIOUS = (*FROM_CLIP, *OF_VIDEOS)
GREY = 128
USUAL = {"first": LAST_FRAME}  # what a member is given where nothing else is said: a clip of one frame is that frame


@dataclass(frozen=True)
class ChainMember:
    """A model of a chain; frames: what it is given of the clips before it, name -> one of `FROM_PREVIOUS`."""

    source: str
    frames: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PreviousSampler:
    """The sampler whose clips another one, of clips of `num_frames`, continues from, and which part of them it gets."""

    sampler: Sampler
    frames: Mapping[str, str]
    num_frames: int

    def given(
        self, prompts: Sequence[str], seeds: Sequence[int], on_step: Callable[[int], None] | None = None
    ) -> Given:
        """What is given with clips of these prompts and seeds: of noise that is not theirs, the same for all models."""
        clips = self.sampler.clips(prompts, [seed_before(seed) for seed in seeds], on_step)
        return frames_given(clips, self.frames, self.num_frames)


def frames_given(clips: Tensor, frames: Mapping[str, str], num_frames: int) -> Given:
    """Parts of clips (B, 3, F, H, W) in -1..1, for clips of `num_frames`, by what they are given as: uint8, as from
    files."""
    pixels = torch.stack([torch.from_numpy(to_uint8(clip)).movedim(-1, 0) for clip in clips])
    return {name: _part(pixels, part, num_frames) for name, part in frames.items()}


def _part(pixels: Tensor, part: str, num_frames: int) -> Tensor:
    if part in FROM_CLIP:
        return pixels[:, :, FROM_CLIP[part]]
    if part == WHOLE_CLIP:
        return pixels
    # frames at equal distances with grey between them; the mask is 0 at these and white where the model fills in
    spread = slice(None, None, (num_frames - 1) // (pixels.shape[2] - 1))
    result = pixels.new_full((*pixels.shape[:2], num_frames, *pixels.shape[3:]), GREY if part == SPREAD_CLIP else 255)
    result[:, :, spread] = pixels if part == SPREAD_CLIP else 0
    return result


def seed_before(seed: int) -> int:
    """Noise of one seed begins alike whatever its shape; a chain's members shall not share theirs."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def chained(samplers: Sequence[Sampler], frames: Sequence[Mapping[str, str]]) -> Sampler:
    """The last of the samplers, behind the others; `frames`: of each but the first, what it is given.

    Raises ValueError when the sizes of two that follow each other do not fit.
    """
    whole = samplers[0]
    for sampler, seen in zip(samplers[1:], frames, strict=True):
        check_chain_sizes(sampler.name, sampler.size, whole.name, whole.size, seen)
        whole = replace(sampler, before=PreviousSampler(whole, seen, sampler.size.num_frames))
    return whole


def check_chain_frames(frames: Mapping[str, str]) -> None:
    """Raises ValueError for an unknown name or part, and for an image where a video is needed or the other way."""
    if not frames:
        raise ValueError(f"nothing is given to a later member: say what, as in given: {{first: {LAST_FRAME}}}")
    in_order(list(frames))
    for name, part in frames.items():
        if part not in FROM_PREVIOUS:
            raise ValueError(f"{name} is {part!r}: use {', '.join(FROM_PREVIOUS)}, of the clip of the member before")
        if (name in IMAGES) == (part in OF_VIDEOS):
            kind, allowed = ("one image", tuple(FROM_CLIP)) if name in IMAGES else ("a video", OF_VIDEOS)
            raise ValueError(f"{name} is {kind}, and {part} is not: use {' or '.join(allowed)}")


def check_chain_sizes(
    who: str, size: VideoSize, before: str, before_size: VideoSize, frames: Mapping[str, str]
) -> None:
    """Raises ValueError unless what `before` makes has the size at which `who` is given it."""
    if size[1:] != before_size[1:]:
        raise ValueError(
            f"{who} makes clips of {size.height}x{size.width} pixels, height and width, and {before}, from which it "
            f"continues, of {before_size.height}x{before_size.width}: give both one `size`, or choose other members"
        )
    if WHOLE_CLIP in frames.values() and size.num_frames != before_size.num_frames:
        raise ValueError(
            f"{who} makes clips of {size.num_frames} frames, and follows whole clips of {before}, which have "
            f"{before_size.num_frames}: give both one `size`, or choose other members"
        )
    # frames are spread evenly where the gaps between them are all equally long
    gaps, steps = size.num_frames - 1, before_size.num_frames - 1
    spread = {SPREAD_CLIP, SPREAD_GAPS} & set(frames.values())
    if spread and (steps < 1 or gaps <= steps or gaps % steps):
        raise ValueError(
            f"{who} makes clips of {size.num_frames} frames, over which the {before_size.num_frames} of {before} "
            "cannot be spread evenly: use 2 or more, and then more that fit between, such as 21 and 81 (80 is 4 x 20)"
        )


def members_of(source: str) -> tuple[ChainMember, ...]:
    """The members of a chain: of the folder that `fewstep run` wrote, or of A+B; () of any other source.

    Raises ValueError when the folder's file cannot be read, or A+B lacks a part.
    """
    folder = Path(source).expanduser()
    if (folder / CHAIN_FILE).is_file():
        return _kept(folder)
    if "+" not in source or folder.exists():
        return ()
    first, *later = source.split("+")
    if not all((first, *later)):
        raise ValueError(f"{source} is not a chain: write two or more models with a + between them, as in A+B")
    return (ChainMember(first), *(ChainMember(later_source, USUAL) for later_source in later))


def save_chain(folder: Path, members: Sequence[ChainMember]) -> None:
    """Keeps the members of a chain in its folder; sources are relative to it, or stand for themselves."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{"source": member.source, "given": dict(member.frames)} for member in members]
    with whole_file(folder / CHAIN_FILE) as part:
        part.write_text(json.dumps({"chain": listed}, indent=1) + "\n", "utf-8")


def _kept(folder: Path) -> tuple[ChainMember, ...]:
    path = folder / CHAIN_FILE
    try:
        listed: list[dict[str, Any]] = parse_json(path.read_text("utf-8"))["chain"]
        members = [ChainMember(str(entry["source"]), dict(entry["given"])) for entry in listed]
        for member in members[1:]:
            check_chain_frames(member.frames)
        if not members:
            raise ValueError("it has no members")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} says no chain ({error}): restore it, or run the chain's recipe again") from error
    return tuple(
        replace(entry, source=str(folder / entry.source)) if _inside(folder, entry) else entry for entry in members
    )


def _inside(folder: Path, member: ChainMember) -> bool:
    return not Path(member.source).is_absolute() and (folder / member.source).exists()
