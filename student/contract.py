"""The sampling contract: how a student must be asked. It travels with the weights and is checked at every load."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, model_validator
from torch import Tensor, nn

from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.denoiser_inputs import ControlScale, ControlScaleField, one_scale
from fewstep.teacher.experts import Experts
from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.given import in_order
from fewstep.teacher.guidance import Guidance, GuidanceField
from fewstep.teacher.limited import EmbeddedGuidance, FrameRate, SamplingSteps
from fewstep.teacher.limits import MOST_FRAMES, MOST_PIXELS
from fewstep.teacher.predictions import record_prediction
from fewstep.teacher.schedule import Prediction, ScheduleKind
from fewstep.teacher.source import EMBEDDED, Sizes, as_sizes, check_sizes, size_text

CONTRACT_FILE = "contract.json"
_N = TypeVar("_N", bound=nn.Module)
CONTRACT_VERSION = 5
UNNAMED = "ORG/BASE-MODEL"  # stands in exports for a teacher that lies in a folder: its path is not kept
_SINCE: dict[int, dict[str, Any]] = {  # version -> fields that it added, with the value that earlier files mean
    2: {"experts": (), "given": ()},
    3: {"embedded_guidance": None},
    5: {"control_scale": 1.0},
}
CONVERTED: tuple[Prediction, ...] = ("v", "x0")  # what students of a teacher that predicts eps may be converted to


class ExpertNodes(BaseModel):
    """One of several networks of a student: its name, the pipeline's name for it, and the nodes that it is asked at.

    nodes: indices of `SamplingContract.timesteps`. trained: it has weights of its own; else it is the teacher's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    component: str
    nodes: tuple[int, ...]
    trained: bool


# with the names of its parts, so that a contract can be read
_Size = Annotated[VideoSize, PlainSerializer(lambda size: size._asdict(), return_type=dict[str, int])]


class SamplingContract(BaseModel):
    """What a student was trained for. No field has a default: a contract that lost a line is refused.

    times: the ODE's nodes from 1 (noise) to 0 (data), steps + 1 of them; timesteps: what the network is fed at all but
    the last. guidance is what sampling must use, 1: `baked_guidance` is inside the weights. embedded_guidance: the
    input guidance of a denoiser that takes it, None for others. control_scale: how much of a control branch is added, 1
    where none can be set. experts: of a student with several networks, those that have a node; none where a single
    network has them all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    version: Literal[5]
    pipeline: str  # diffusers' class name
    teacher: str  # its folder or hub id when the student was trained; in exports never a folder
    teacher_sha256: str
    weights: Literal["lora", "full"]
    sampler: Literal["ode"]  # deterministic steps, DDIM = Euler
    steps: SamplingSteps
    times: tuple[float, ...]
    timesteps: tuple[float, ...]
    kind: ScheduleKind
    prediction: Prediction  # the student's own: its teacher's, unless it was converted
    shift: Annotated[float, Field(gt=0)]
    guidance: GuidanceField
    baked_guidance: GuidanceField
    embedded_guidance: EmbeddedGuidance | None
    control_scale: ControlScaleField
    negative_prompt: str
    experts: tuple[ExpertNodes, ...]
    sizes: tuple[_Size, ...]  # those of the clips it was trained on, the usual one first
    fps: FrameRate
    given: tuple[str, ...]  # images and videos that clips are made from besides prompts: names of `teacher.given`

    @model_validator(mode="before")
    @classmethod
    def _from_before(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("version") not in range(1, CONTRACT_VERSION):
            return values
        # fields that a version did not have yet get the value that its files meant
        later = [fields for version, fields in _SINCE.items() if version > values["version"]]
        if values["version"] < 4:  # when there was one size
            size = {name: values[name] for name in VideoSize._fields if name in values}
            others = {name: value for name, value in values.items() if name not in VideoSize._fields}
            values = others | {"sizes": [size]}
        return {**ChainMap(*later), **values, "version": CONTRACT_VERSION}

    @model_validator(mode="after")
    def _consistent(self) -> SamplingContract:
        if self.experts and sorted(i for e in self.experts for i in e.nodes) != list(range(self.steps)):
            raise ValueError(f"the experts do not have each of the {self.steps} nodes once")
        if len(self.times) != self.steps + 1 or len(self.timesteps) != self.steps:
            raise ValueError(f"{self.steps} steps need {self.steps + 1} times and {self.steps} timesteps")
        if self.times[0] != 1 or self.times[-1] != 0 or any(b >= a for a, b in pairwise(self.times)):
            raise ValueError("times do not fall from 1 (noise) to 0 (data)")
        check_sizes(self.sizes)
        if any(size.num_frames > MOST_FRAMES or max(size[1:]) > MOST_PIXELS for size in self.sizes):
            raise ValueError(f"sizes are at most {MOST_FRAMES} frames of {MOST_PIXELS} pixels in height and width")
        in_order(self.given)
        return self

    @staticmethod
    def of(
        teacher: Teacher,
        name: str,
        steps: int,
        weights: Literal["lora", "full"],
        sizes: Sizes,
        baked_guidance: Guidance | float,
        negative_prompt: str,
        fps: float,
        prediction: Prediction | None = None,
        trained: Collection[str] | None = None,
    ) -> SamplingContract:
        """The contract of a student of `teacher`, called `name`, with `steps` steps on the teacher's own grid.

        `prediction` is what the student predicts; None: as its teacher. `trained`: names of experts with weights of
        their own; None: all that have a node.

        A teacher from a folder is remembered by its absolute path: the student may be sampled from anywhere.
        """
        schedule = teacher.schedule
        # the student's nodes are the teacher's own grid of so few steps: what training and inference share
        times = schedule.grid(steps)
        return SamplingContract(
            version=CONTRACT_VERSION,
            pipeline=type(teacher.pipeline).__name__,
            teacher=name if name in EMBEDDED or not Path(name).expanduser().is_dir() else str(teacher.folder.resolve()),
            teacher_sha256=teacher.sha256(),
            weights=weights,
            sampler="ode",
            steps=steps,
            times=tuple(times.tolist()),
            timesteps=tuple(schedule.timestep(times[:-1]).tolist()),
            kind=schedule.kind,
            prediction=prediction or schedule.prediction,
            shift=schedule.shift,
            # sampled without guidance, which is distilled into the weights: both would guide twice
            guidance=Guidance(),
            baked_guidance=Guidance.of(baked_guidance),
            embedded_guidance=teacher.embedded_guidance,
            control_scale=teacher.control_scale,
            negative_prompt=negative_prompt,
            experts=_experts(teacher, times, trained),
            sizes=as_sizes(sizes),
            fps=fps,
            given=teacher.given,
        )

    @property
    def grid(self) -> Tensor:
        """The nodes, float64 (steps + 1,)."""
        return torch.tensor(self.times, dtype=torch.float64)

    @property
    def size(self) -> VideoSize:
        """The usual size of the clips it was trained on."""
        return self.sizes[0]

    def at(self, size: VideoSize) -> SamplingContract:
        """The same contract with one of its sizes as the usual one."""
        return self.model_copy(update={"sizes": (size, *(other for other in self.sizes if other != size))})

    def only_at(self, size: VideoSize) -> SamplingContract:
        """The same contract for clips of this size alone, which need not be one of its own."""
        return self.model_copy(update={"sizes": (size,)})

    def differences(self, other: SamplingContract) -> list[str]:
        """Names of the fields in which it differs, but for where the teacher lies: a folder may move."""
        return [
            name
            for name in type(self).model_fields
            if name != "teacher" and getattr(self, name) != getattr(other, name)
        ]

    @property
    def named_teacher(self) -> str:
        """Where its teacher is. Raises ValueError where the contract does not tell."""
        if self.teacher == UNNAMED:
            raise ValueError(
                "the export does not tell where its base model is, which lay in a folder when it was made: name that "
                "folder, with --teacher of `fewstep sample` and `fewstep export`, with teacher= of load_pipeline, or "
                "as the first model that `fewstep evaluate` and `fewstep benchmark` compare"
            )
        return self.teacher

    @property
    def denoiser_inputs(self) -> dict[str, Any]:
        """Inputs of its denoiser, as arguments of `Teacher.set_inputs`."""
        return {"embedded_guidance": self.embedded_guidance, "control_scale": self.control_scale}

    def prepare(self, teacher: Teacher) -> None:
        """Sets the teacher to the student's inputs. Raises ValueError for those that it does not take, and for another
        frame rate where that is one."""
        if teacher.fed_fps and self.fps != (own := teacher.default_fps()):
            raise ValueError(
                f"the student was trained on clips of {self.fps:g} frames per second, which its denoiser takes as an "
                f"input, and {teacher.folder} has {own:g}: use the folder that it was trained with, or write "
                f'{{"fps": {self.fps:g}}} into a fewstep.json in this one'
            )
        teacher.take(self.given)
        teacher.set_inputs(**self.denoiser_inputs)

    def check(
        self,
        steps: int | None = None,
        shift: float | None = None,
        guidance: Guidance | float | None = None,
        embedded_guidance: float | None = None,
        control_scale: ControlScale | None = None,
        size: VideoSize | None = None,
    ) -> None:
        """Raises ValueError when a student is asked for in another way than it was trained for; None asks nothing.

        One that was trained on clips of a single size takes any: how far it carries is the user's own affair.
        """
        requested: dict[str, Any] = {
            "steps": steps,
            "shift": shift,
            "guidance": None if guidance is None else Guidance.of(guidance),
            "embedded_guidance": embedded_guidance,
            "control_scale": None if control_scale is None else one_scale(control_scale),
        }
        # one sentence for the first difference: what was trained, what was asked for, and why it matters
        for name, value in requested.items():
            own = getattr(self, name)
            if value is not None and value != own:
                raise ValueError(
                    f"the student was trained for {name} {_as_text(own)}, not {_as_text(value)}: {_WHY[name]}"
                )
        if size is not None and len(self.sizes) > 1 and size not in self.sizes:
            raise ValueError(
                f"the student was trained for sizes {self.sizes_text}, not {size_text(size)}: {_WHY['size']}"
            )

    @property
    def sizes_text(self) -> str:
        """The sizes, in words."""
        return ", ".join(map(size_text, self.sizes))

    def check_teacher(self, teacher: Teacher) -> None:
        """Raises ValueError when the weights belong to another teacher, or its schedule has changed since."""
        # the same weights, config and tokenizer
        if teacher.sha256() != self.teacher_sha256:
            raise ValueError(
                f"the student's teacher was {self.teacher} ({self.teacher_sha256[:12]}…), not {teacher.folder} "
                f"({teacher.sha256()[:12]}…): use its own teacher "
                "(--teacher of `fewstep sample` and `fewstep export`)"
            )
        # the same schedule; a student that was converted predicts something else on it
        schedule = teacher.schedule
        may_predict = {schedule.prediction, *(CONVERTED if schedule.prediction == "eps" else ())}
        if schedule.kind != self.kind or self.prediction not in may_predict:
            raise ValueError(
                f"the contract says {self.kind} with {self.prediction}-prediction, the teacher {schedule.kind} with "
                f"{schedule.prediction}: the contract is not this student's, restore it"
            )
        if (self.embedded_guidance is None) != (teacher.embedded_guidance is None):
            raise ValueError(
                f"the contract says embedded_guidance {_as_text(self.embedded_guidance)}, and the denoiser in "
                f"{teacher.folder} takes {'none' if teacher.embedded_guidance is None else 'one'}: the contract is not "
                "this student's, restore it"
            )
        # the same timesteps at its nodes, as the network was trained with
        fed = schedule.timestep(self.grid[:-1])
        if float((fed - torch.tensor(self.timesteps, dtype=torch.float64)).abs().max()) > 1e-3:
            raise ValueError(
                f"the student was trained with the timesteps {_listed(self.timesteps)} at its nodes, and "
                f"{teacher.folder} is passed {_listed(fed.tolist())} there: its scheduler has another number of them, "
                "or its family rounds them otherwise; restore its scheduler_config.json, or train the student again"
            )
        self.check_experts(teacher)

    def check_experts(self, teacher: Teacher) -> None:
        """Raises ValueError when the teacher gives the student's nodes to other experts than the contract."""
        own, teachers = experts_text(self.experts), experts_text(_experts(teacher, self.grid, None))
        if own != teachers:
            raise ValueError(
                f"the contract gives the student's nodes to {own}, and {teacher.folder} to {teachers}: the contract is "
                "not this student's, restore it"
            )

    def write(self, folder: Path) -> None:
        """Writes contract.json into the folder."""
        with whole_file(folder / CONTRACT_FILE) as part:
            part.write_text(self.model_dump_json(indent=1) + "\n", "utf-8")


def contracted(network: _N, folder: Path) -> _N:
    """The network of a folder's weights, read as predicting what the contract next to them says, if there is one."""
    return (
        record_prediction(network, read_contract(folder).prediction) if (folder / CONTRACT_FILE).is_file() else network
    )


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _experts(teacher: Teacher, times: Tensor, trained: Collection[str] | None) -> tuple[ExpertNodes, ...]:
    """Of a teacher with experts, those in charge at the times (steps + 1,) but the last."""
    if not isinstance(teacher.denoiser, Experts):
        return ()
    names, components = teacher.denoiser.names_at(times[:-1]), teacher.component_names()
    return tuple(
        ExpertNodes(
            name=name,
            component=component,
            nodes=tuple(i for i, other in enumerate(names) if other == name),
            trained=trained is None or name in trained,
        )
        for name, component in components.items()
        if name in names
    )


def experts_text(experts: Sequence[ExpertNodes]) -> str:
    """Who has which nodes, counted from 1, in words."""
    return ", ".join(f"{e.name} ({e.component}: {_counted(e.nodes)})" for e in experts) or "one network"


def _counted(nodes: Sequence[int]) -> str:
    return " ".join(str(node + 1) for node in nodes)


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return _listed(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


_FORCE = "`fewstep sample --force` samples it anyway"
_WHY = {
    "steps": f"it was not trained at other nodes; distil one for that count, or {_FORCE}",
    "shift": f"its nodes lie where the teacher's shift put them; leave --shift out, or {_FORCE}",
    "embedded_guidance": f"its denoiser was trained with that value only; leave --embedded-guidance out, or {_FORCE}",
    "control_scale": f"its control branch was added at that scale; leave --control-scale out, or {_FORCE}",
    "guidance": "guidance is already distilled into its weights and would be applied twice; leave --guidance out, or "
    f"{_FORCE}",
    "size": f"it was not trained on others; choose one of these with --frames, --height and --width, or {_FORCE}",
}


def read_contract(folder: Path) -> SamplingContract:
    """The contract in a folder. Raises ValueError when it is missing or is not whole."""
    path = folder / CONTRACT_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {CONTRACT_FILE}, so nothing says how its weights are to be sampled: restore it"
        )
    try:
        return SamplingContract.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(
            f"{path} is not whole ({where}: {first['msg']}): restore it, or train the student again"
        ) from error
