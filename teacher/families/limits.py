"""Errors for sizes that a family cannot generate, which say what it can."""

from __future__ import annotations

from collections.abc import Sequence


def check_frames(num_frames: int, multiple: int) -> None:
    """Raises ValueError unless `num_frames` is one frame and then whole groups of `multiple`."""
    if num_frames < 1 or (num_frames - 1) % multiple:
        raise ValueError(
            f"{num_frames} frames cannot be made: use a multiple of {multiple} plus 1, such as "
            f"{max(0, num_frames - 1) // multiple * multiple + 1}"
        )


def latent_grid(
    num_frames: int, height: int, width: int, per_frame: int, per_pixel: int, sides: tuple[int, int]
) -> tuple[int, int, int]:
    """Frames, rows and columns of the latents of a clip; a first frame has latents of its own.

    per_frame, per_pixel: how many frames, and pixels of a side, make one. sides: what height and width must be
    multiples of. Raises ValueError when they are not, or frames are not one and whole groups.
    """
    check_frames(num_frames, per_frame)
    check_sides(height, width, sides)
    return (num_frames - 1) // per_frame + 1, height // per_pixel, width // per_pixel


def check_positions(patches: Sequence[int], most: int) -> None:
    """Raises ValueError when frames, height or width have more patches than the denoiser tells positions apart."""
    for name, count in zip(("frames", "height", "width"), patches, strict=True):
        if count > most:
            raise ValueError(f"{count} patches of {name} cannot be made: the denoiser knows {most} positions, use less")


def check_sides(height: int, width: int, multiples: tuple[int, int]) -> None:
    """Raises ValueError unless height and width are multiples, above 0, of the two numbers."""
    for name, side, multiple in zip(("height", "width"), (height, width), multiples, strict=True):
        if side < 1 or side % multiple:
            raise ValueError(f"{name} {side} cannot be made: use a multiple of {multiple}")
