"""What the other tool makes of an export, against the student itself: same noise, same prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from fewstep.student.contract import SamplingContract
from fewstep.student.export.base import OTHER_RUNTIME, PROBE_PROMPTS, PROBE_SEEDS, ExportPrecision, Format, Written
from fewstep.student.loading import Student
from fewstep.teacher.experts import parts_of
from fewstep.teacher.source import VideoSize, size_text

# Relative error of latents that weights rounded to a precision may make; far more would be no rounding.
ROUNDING_ERROR: dict[ExportPrecision, float] = {"float32": 0.0, "float16": 0.1, "bfloat16": 0.3}
# And, where the tool computes in it, too, of the sums.
COMPUTING: dict[ExportPrecision, float] = {"float32": 0.0, "float16": 2e-2, "bfloat16": 0.1}
LARGE = {"cpu": 2e13, "cuda": 5e15}  # FLOPs of a comparison that takes minutes
_FRAMES, _SIDES = (5, 9, 8, 7, 17, 16, 1), (64, 128, 256, 512)


@dataclass(frozen=True)
class Compared:
    """error: relative, of the other tool's latents to the student's own, the largest of all sizes. to_held: to those
    of the student as the export holds it. motion: of its clips, of the student's own; None where the format is exact
    or a clip is one frame. notes: what a reader of the card must know about it."""

    error: float
    to_held: float
    motion: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Expected:
    """Final latents (B, C, F, h, w) of clips of a size from `noise`: of the student itself, and of the student as the
    export holds it. `of_size`: the student, with a contract of this size alone. `small`: the size stands for larger."""

    of_size: Student
    noise: Tensor
    own: Tensor
    held: Tensor
    small: bool


def expected_latents(format: Format, student: Student, held: Student) -> list[Expected]:
    """What the other tool should sample, at each size that is compared: `held`, which was written, is not needed after
    it."""
    contract = student.contract
    sizes = contract.sizes[:1] if format.one_size else contract.sizes
    small = None if format.one_size else small_size(student)
    return [
        _expected(replace(student, contract=contract.only_at(size)), held, small is not None)
        for size in (sizes if small is None else (small,))
    ]


def compare(format: Format, written: Written, folder: Path, student: Student, expected: Sequence[Expected]) -> Compared:
    """The comparison of an export in `folder` with what is expected of it."""
    errors, to_held, first = list[float](), list[float](), list[Tensor]()
    # relative error of final latents from the same noise, to the student and to what was written
    for latents in expected:
        other = format.reload(folder, latents.of_size)(latents.noise, PROBE_PROMPTS).to(latents.own)
        errors.append(_relative(latents.own, other))
        to_held.append(_relative(latents.held, other))
        first = first or [latents.own, other]
    # approximate formats: whether clips still move as much
    motion = None
    if student.contract.size.num_frames > 1 and (format.tolerance > OTHER_RUNTIME or written.approximate):
        was, now = (_motion(student.teacher.decode(latents)) for latents in first)
        motion = now / was if was else None
    notes = (*_motion_note(motion), *_size_note(format, student.contract, expected))
    return Compared(_worst(errors), _worst(to_held), motion, notes)


def check_latents(
    format: Format, written: Written, comparison: Compared, student: Student, precision: ExportPrecision
) -> None:
    """Raises ValueError when the other tool's latents are not those of the student."""
    stock = student.teacher.stock_rounding(student.contract)
    computing = COMPUTING[precision] if precision in format.computes else 0.0
    # two limits: to what was written the tool must be close, to the student as close as rounding of weights allows
    allowed = format.tolerance + stock + computing
    wrong, most = (
        (comparison.to_held, allowed)
        if comparison.to_held > allowed
        else (comparison.error, allowed + ROUNDING_ERROR[precision])
    )
    # an approximation has no limit: its latents need only be finite
    if all(map(math.isfinite, (comparison.error, comparison.to_held))) and (written.approximate or wrong <= most):
        return
    raise ValueError(
        f"the {format.name} export gives other latents than the student (relative error {wrong:.2g}, at most "
        f"{most:g} is allowed), so it was not kept: export to another format"
        f"{' or --dtype' if precision != 'float32' else ''}"
    )


def small_size(student: Student) -> VideoSize | None:
    """Of a student whose own clips would take long to compare on its device, the least size that its family makes and
    its stock sampler has the same nodes for; else None."""
    from fewstep.student.export.stock import stock_scheduler

    if flops(student) <= LARGE.get(student.teacher.device.type, LARGE["cuda"]):
        return None
    # nodes may depend on the size of clips, so the stock sampler's must be the contract's there, too
    for size in _small_sizes(student):
        try:
            stock_scheduler(replace(student, contract=student.contract.at(size)))
        except ValueError:
            continue
        return size
    return None


def flops(student: Student) -> float:
    """About what a comparison costs: a multiplication and a sum for each weight and token, here and in the tool."""
    _, *grid = student.teacher.latent_shape(*student.contract.size)
    weights = max(sum(p.numel() for p in part.parameters()) for part in parts_of(student.teacher.denoiser).values())
    tokens = math.prod(grid) / 4  # most denoisers join four latents
    return 2 * 2 * weights * tokens * student.contract.steps * len(PROBE_PROMPTS)


def _small_sizes(student: Student) -> Iterator[VideoSize]:
    for side in _SIDES:
        for frames in _FRAMES:
            try:
                student.teacher.latent_shape(frames, side, side)
            except ValueError:
                continue
            yield VideoSize(frames, side, side)


def _expected(student: Student, held: Student, small: bool) -> Expected:
    """At the contract's usual size."""
    teacher = student.teacher
    z = teacher.noise(PROBE_SEEDS, teacher.latent_shape(*student.contract.size))
    conditions = student.conditions_of_any(PROBE_PROMPTS)
    own = teacher.given_out(student.sample(z, conditions))
    # weights that were rounded are sampled as well, to tell rounding from other differences
    same = held.network is student.network
    kept = own if same else teacher.given_out(replace(student, network=held.network).sample(z, conditions))
    return Expected(student, z, own, kept, small)


def _relative(own: Tensor, other: Tensor) -> float:
    return float((other - own).norm() / own.norm())


def _worst(errors: Sequence[float]) -> float:
    return max(errors, key=lambda error: math.inf if math.isnan(error) else error)


def _motion(videos: Tensor) -> float:
    """Mean change between frames, of videos (B, 3, F, H, W)."""
    return float(videos.diff(dim=2).abs().mean())


def _motion_note(motion: float | None) -> tuple[str, ...]:
    if motion is None:
        return ()
    slow = "; it moves less than the student" if motion < 0.9 else ""
    return (f"Its clips move {motion:.0%} as much as the student's own{slow}.",)


def _size_note(format: Format, contract: SamplingContract, expected: Sequence[Expected]) -> tuple[str, ...]:
    """At which sizes it was compared, where that is not the only one."""
    if expected[0].small:
        size = size_text(expected[0].of_size.contract.size)
        return (f"It was compared on clips of {size}, as its own would have taken long.",)
    if len(contract.sizes) == 1:
        return ()
    if format.one_size:
        return (f"It makes clips of {size_text(contract.size)} only; the student was taught {contract.sizes_text}.",)
    return (f"The error is the largest of its sizes, {contract.sizes_text}.",)
