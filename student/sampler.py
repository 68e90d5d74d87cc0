"""Whatever makes clips, ready to be asked: a teacher in any way one likes, a student on the nodes of its contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.student.chain import PreviousSampler
from fewstep.student.contract import SamplingContract
from fewstep.student.decoder.video_decoder import SmallVideoDecoder
from fewstep.student.load_student import is_student, load_student
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.denoiser_inputs import ControlScale
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from fewstep.teacher.schedule import NoiseSchedule

TEACHER_STEPS = 50  # by default


@dataclass(frozen=True)
class SamplingOptions:
    """How clips are to be made; None is the model's own way. `force` asks a student for what it was not trained for."""

    steps: int | None = None
    guidance: Guidance | float | None = None  # classifier-free, u + guidance (c - u); 1 is none
    shift: float | None = None
    negative_prompt: str = ""
    num_frames: int | None = None
    height: int | None = None  # pixels
    width: int | None = None  # pixels
    force: bool = False
    given: tuple[str, ...] | None = None  # what clips are made from besides prompts: names of `teacher.given`
    embedded_guidance: float | None = None  # for a denoiser that takes its guidance as an input
    control_scale: ControlScale | None = None  # how much of a control branch is added
    trained_inputs: Mapping[str, Any] = field(default_factory=dict)  # inputs for a teacher that takes them, unless set
    fps: float | None = None  # frames per second of a teacher's clips; a student's contract says its own


@dataclass(frozen=True)
class Sampler:
    """A teacher or a student with all that sampling needs but prompts and noise.

    `network` is asked instead of the teacher's own denoiser; `contract` is a student's, None of a teacher. `before`: of
    a chain, what makes the images or videos that its last member, which all else here is about, is given. `decoder`
    decodes in place of the teacher's autoencoder.
    """

    name: str
    teacher: Teacher
    network: nn.Module | None
    grid: Tensor  # times from 1 to 0, (steps + 1,)
    guidance: Guidance
    negative_prompt: str
    size: VideoSize
    fps: float
    contract: SamplingContract | None
    before: PreviousSampler | None = None
    decoder: SmallVideoDecoder | None = None
    denoiser_inputs: Mapping[str, Any] = field(default_factory=dict)  # set in the teacher before clips are made

    @property
    def links(self) -> tuple[Sampler, ...]:
        """The members of a chain in order, of which this one is the last; of no chain, itself."""
        return (self,) if self.before is None else (*self.before.sampler.links, self)

    @property
    def steps_each(self) -> tuple[int, ...]:
        """Steps from noise to clip, of each link."""
        return tuple(len(link.grid) - 1 for link in self.links)

    @property
    def steps(self) -> int:
        """Steps from noise to clip, of all links together."""
        return sum(self.steps_each)

    @property
    def evaluations(self) -> int:
        """How often a denoiser is evaluated for one clip: guided steps count twice."""
        return sum(link.guidance.evaluations(link.teacher.schedule, link.grid) for link in self.links)

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Unit noise (B, C, F, h, w), a seed per clip: any two samplers of one teacher start from the same."""
        return self.teacher.noise(seeds, self.teacher.latent_shape(*self.size))

    def conditions(
        self, prompts: Sequence[str], seeds: Sequence[int] = (), on_step: Callable[[int], None] | None = None
    ) -> Conditions:
        """What the denoiser is conditioned on, a prompt per clip, with the files that come with them.

        In a chain with what the links before this one make of the clips' seeds.
        """
        given = None if self.before is None else self.before.given(prompts, seeds, on_step)
        return self.teacher.conditions(prompts, self._negative, self.size, given, self.fps)

    def conditions_of_any(self, prompts: Sequence[str]) -> Conditions:
        """The same with images of noise where something is given: for what does not depend on what they show."""
        return self.teacher.conditions_of_any(prompts, self._negative, self.size)

    @property
    def _negative(self) -> str | None:
        return self.negative_prompt if self.guidance.guides else None

    def sample(self, z: Tensor, conditions: Conditions, on_step: Callable[[int], None] | None = None) -> Tensor:
        """Latents (B, C, F, h, w) from unit noise z of that shape; `on_step` gets the number of steps done."""
        self.teacher.set_inputs(**self.denoiser_inputs)  # other samplers of the same teacher may have set others
        return rollout(self.teacher, z, conditions, self.grid, self.guidance, on_step, self.network)

    @torch.no_grad()
    def latents(
        self, prompts: Sequence[str], seeds: Sequence[int], on_step: Callable[[int], None] | None = None
    ) -> Tensor:
        """Latents (B, C, F, h, w) of clips, a prompt and a seed each."""
        return self.sample(self.noise(seeds), self.conditions(prompts, seeds, on_step), on_step)

    def clips(
        self, prompts: Sequence[str], seeds: Sequence[int], on_step: Callable[[int], None] | None = None
    ) -> Tensor:
        """Their videos (B, 3, F, H, W) in -1..1."""
        return self.decode(self.latents(prompts, seeds, on_step))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, F, h, w) -> videos (B, 3, F, H, W) in -1..1."""
        with self.teacher.decoding_by(None if self.decoder is None else self.decoder.decode):
            return self.teacher.decode(latents)


def open_sampler(
    source: str | Path,
    options: SamplingOptions | None = None,
    teacher: Teacher | str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    alone: bool = False,
) -> Sampler:
    """The sampler of a run, a finished stage, an export, `shapes`, a diffusers folder or a hub id, as asked.

    `teacher` is where a student's teacher is, if not where its contract says, or one that is loaded already; `alone`
    as of `load_student`. Raises ValueError when there is no such model, and when a student is asked for what it was not
    trained for, unless forced.
    """
    options = options or SamplingOptions()
    folder = Path(source).expanduser()
    if is_student(folder):
        steps = None if options.force else options.steps
        return student_sampler(load_student(folder, steps, teacher, dtype, device, alone), str(source), options)
    loaded = load_teacher(source, dtype, device, options.shift)
    refuse_hub_student(source, loaded)
    return teacher_sampler(loaded, str(source), options)


def refuse_hub_student(source: str | Path, teacher: Teacher) -> None:
    """Raises ValueError when what a hub id brought is an export, which would be sampled as a teacher."""
    if is_student(teacher.folder):
        raise ValueError(
            f"{source} is an exported student, of which a hub id brings no contract: `hf download {source} --local-dir "
            "DIR` brings all of it, so pass DIR"
        )


def teacher_sampler(teacher: Teacher, name: str, options: SamplingOptions) -> Sampler:
    """A teacher at any steps, guidance and shift. Raises ValueError when it cannot be given what is asked."""
    if options.given is not None:
        teacher.take(options.given)
    # next to a student a teacher gets the inputs that the student was trained with, unless the options say others
    teacher.set_inputs(
        **{name: value for name, value in options.trained_inputs.items() if name in teacher.denoiser_inputs}
    )
    teacher.set_inputs(options.embedded_guidance, options.control_scale)
    usual = teacher.default_size()
    size = clip_size(() if usual is None else (usual,), options.num_frames, options.height, options.width)
    return Sampler(
        name=name,
        teacher=teacher,
        network=None,
        grid=_shifted(teacher.schedule_for(size), options.shift).grid(options.steps or TEACHER_STEPS),
        guidance=usual_guidance(teacher) if options.guidance is None else Guidance.of(options.guidance),
        negative_prompt=options.negative_prompt,
        size=size,
        fps=teacher.default_fps() if options.fps is None else options.fps,
        contract=None,
        denoiser_inputs=teacher.denoiser_inputs,
    )


def student_sampler(student: Student, name: str, options: SamplingOptions) -> Sampler:
    """A student on its contract's nodes. Raises ValueError when it is asked for others, unless forced."""
    contract, teacher = student.contract, student.teacher
    if options.given is not None and set(options.given) != set(contract.given):
        raise ValueError(
            f"the student makes clips from prompts and {' and '.join(contract.given) or 'nothing else'}, not from "
            f"{' and '.join(options.given) or 'prompts alone'}: give what it was trained with"
        )
    contract.prepare(teacher)
    size = clip_size(contract.sizes, options.num_frames, options.height, options.width)
    # asked in another way than it was trained for, it is refused
    if not options.force:
        inputs = options.embedded_guidance, options.control_scale
        contract.check(options.steps, options.shift, options.guidance, *inputs, size=size)
        check_negative(contract, options.negative_prompt)
    teacher.set_inputs(options.embedded_guidance, options.control_scale)
    # the contract's own nodes; nodes of another step count or shift are only taken by force
    free = options.steps not in (None, contract.steps) or options.shift not in (None, contract.shift)
    schedule = _shifted(teacher.schedule, contract.shift if options.shift is None else options.shift)
    return Sampler(
        name=name,
        teacher=teacher,
        network=student.network,
        grid=schedule.grid(options.steps or contract.steps) if free else contract.grid,
        guidance=contract.guidance if options.guidance is None else Guidance.of(options.guidance),
        negative_prompt=options.negative_prompt,
        size=size,
        fps=contract.fps,
        contract=contract,
        denoiser_inputs=teacher.denoiser_inputs,
    )


def usual_guidance(teacher: Teacher) -> Guidance:
    """A teacher's where none is asked for: none next to a guidance that is an input, as a denoiser that was distilled
    for it looks burnt with both."""
    return Guidance(teacher.usual_guidance) if teacher.embedded_guidance is None else Guidance()


def _shifted(schedule: NoiseSchedule, shift: float | None) -> NoiseSchedule:
    return schedule if shift is None else replace(schedule, shift=shift)


def clip_size(own: Sequence[VideoSize], num_frames: int | None, height: int | None, width: int | None) -> VideoSize:
    """As asked, and the rest as in the first of the model's own sizes that agrees with that, else as in its usual one.

    Raises ValueError when neither says.
    """
    requested, unknown = (num_frames, height, width), (None, None, None)
    # the sides that are asked for choose one of the model's sizes, which fills in the others
    agreeing = [
        size
        for size in own
        if all(requested_side in (None, side) for requested_side, side in zip(requested, size, strict=True))
    ]
    usual = next(iter((*agreeing, *own)), unknown)
    sides = [
        side
        for requested_side, its in zip(requested, usual, strict=True)
        if (side := its if requested_side is None else requested_side) is not None
    ]
    if len(sides) < 3:
        raise ValueError(
            "the teacher states no size of its own: pass --frames, --height and --width, or write num_frames, height "
            "and width into a fewstep.json in its folder"
        )
    return VideoSize(*sides)


def check_negative(
    contract: SamplingContract,
    negative_prompt: str,
    option: str = "--negative-prompt",
    otherwise: str = "`fewstep sample --force` samples it anyway",
) -> None:
    """Raises ValueError for another negative prompt than the student's; `otherwise`: what a user may do."""
    if negative_prompt not in ("", contract.negative_prompt):
        raise ValueError(
            f"the student has the negative prompt {contract.negative_prompt!r} distilled into its weights: another one "
            f"has no effect without guidance; leave {option} out, or {otherwise}"
        )
