"""What an export format is, and how one is written: whole or not at all, and never unless the other tool agrees."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from fewstep.student.export.abilities import any_teacher
from fewstep.student.export.programs import PROGRAMS
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import Experts
from fewstep.teacher.extras import extra_module

EXACT = 1e-5  # relative latent error of formats that hold the same weights
OTHER_RUNTIME = 1e-4  # and of those that are not run by torch: sums in another order, made more of step by step
PROBE_PROMPTS = (
    "a small red ring drifts to the right",
    "two dogs run along a beach",
)  # whatever the teacher makes of them
PROBE_SEEDS = (0, 1)

MODULES = {name: program.module for name, program in PROGRAMS.items()}  # format name -> the module that holds it

OF_EXPERTS = ("diffusers", "lora")  # formats that hold several networks

ExportPrecision = Literal["float32", "bfloat16", "float16"]

# Latents (B, C, F, h, w), float32, from unit noise of that shape and a prompt per clip, at the contract's nodes.
SampleLatents = Callable[[Tensor, Sequence[str]], Tensor]


@dataclass(frozen=True)
class Options:
    """What a user may choose.

    rank: of a LoRA that is extracted from a fully trained student; None: the format's own way to write one. base_model:
    its teacher's name on the hub, for contract and card. precision: of the weights as stored; None: as the teacher's
    were published. shard: the most of a pipeline's file of weights, as diffusers' max_shard_size.
    """

    rank: int | None = None
    base_model: str | None = None
    precision: ExportPrecision | None = None
    shard: str | None = None


@dataclass(frozen=True)
class Written:
    """What `Format.write` has to say: sentences for the model card and the terminal, and whether the format could
    hold the student at all: of an approximation the error is reported and no tolerance asked. `relation` to the base
    model is in the terms of the hub. `precision`: for a snippet to load it in; `write_export` fills it in. `steps`:
    what to do in ComfyUI, one after the other."""

    notes: tuple[str, ...] = ()
    approximate: bool = False
    relation: Literal["finetune", "adapter", "quantized"] = "finetune"
    precision: ExportPrecision = "float32"
    steps: tuple[str, ...] = ()


def all_weights(student: Student) -> Collection[str] | None:
    """Of formats that hold whole networks."""
    return None


@dataclass(frozen=True)
class Format:
    """One way to write a student. Its module lists it in a dict FORMATS: name -> Format.

    write(student, folder, options) fills an empty folder with the format's own files; contract, card and export.json
    are added by `write_export`. It raises ValueError for a student that the format cannot hold.
    reload(folder, student) gives latents by the other tool's own code: its loader, its sampler. Of `student` it may
    use what does not lie in the folder, such as the teacher's text encoder.
    network(path, teacher) is the way back: the denoiser in `path`, the folder or the format's file, as a frozen
    network for `network=` of the teacher's methods. It raises ValueError for what does not fit.
    snippet(student, written) is Python that a user runs in the folder, and ends with a clip.
    leaving(student) gives the names of the weights that leave; None: all.
    lacks(teacher) says what the format needs of a teacher and does not find there; nothing where it is defined.
    adapters: a LoRA leaves as one, and of a fully trained student the nearest LoRA may, which does at `usual_rank`
    unless that is None.
    precisions: those that it can store, the first where the teacher's is none of them; computes: those of them that its
    tool computes in, too, when it is compared. The others are compared in float32.
    computes_as_stored: its tool computes in what it is stored in, whether `computes` has room for that or not.
    shards: weights may lie in several files.
    shares_base: a LoRA is loaded back around the teacher's own tensors, where `stock.can_share_denoisers`.
    makes_another: writing takes one more copy of the denoiser: rounded layers next to those as they are, a graph.
    is_final: what is read back, rounded layers or a graph, can be written in no other format.
    one_size: what is written makes clips of the contract's usual size only, and says so itself when asked for others.
    """

    name: str
    write: Callable[[Student, Path, Options], Written]
    reload: Callable[[Path, Student], SampleLatents]
    network: Callable[[Path, Teacher], nn.Module]
    snippet: Callable[[Student, Written], str]
    lacks: Callable[[Teacher], str] = any_teacher
    leaving: Callable[[Student], Collection[str] | None] = all_weights
    tolerance: float = EXACT  # largest relative error of latents against the student's own
    needs: tuple[str, ...] = ()  # modules that it imports
    extra: str | None = None  # of fewstep, which installs them
    library: str = "diffusers"  # who loads it, for the hub
    one_size: bool = False
    adapters: bool = False
    usual_rank: int | None = None
    precisions: tuple[ExportPrecision, ...] = ("float32", "bfloat16", "float16")
    computes: tuple[ExportPrecision, ...] = ()
    computes_as_stored: bool = False
    shards: bool = False
    shares_base: bool = False
    makes_another: bool = False
    is_final: bool = False

    def check(self, student: Student, options: Options | None = None) -> None:
        """Raises ValueError when the format cannot hold students of this teacher, its libraries are missing, or it has
        no use for an option."""
        self.check_teacher(student.teacher)
        self.check_needs()
        self.check_options(options or Options())

    def check_options(self, options: Options) -> None:
        """Raises ValueError for an option that this format has no use for."""
        if options.rank is not None and not self.adapters:
            able = [name for name in MODULES if find_format(name).adapters]
            raise ValueError(
                "--rank is the rank of a LoRA which is extracted from a fully trained student, --to "
                f"{' or '.join(able)}; {self.name} writes none: leave it out"
            )
        if options.shard is not None:
            check_shard_size(options.shard)
            if not self.shards:
                raise ValueError(f"{self.name} is a single file, so --max-shard-size has no effect: leave it out")
        if options.precision is not None and options.precision not in self.precisions:
            raise ValueError(
                f"{self.name} cannot be written in {options.precision}: use --dtype {' or '.join(self.precisions)}"
            )

    def missing(self, teacher: Teacher) -> str:
        """Why the format cannot hold students of this teacher; nothing where it can."""
        if isinstance(teacher.denoiser, Experts) and self.name not in OF_EXPERTS:
            return "it holds one network, and the teacher has two experts"
        return self.lacks(teacher)

    def check_teacher(self, teacher: Teacher) -> None:
        """Raises ValueError, which names the formats that are possible, when this one is not for its students."""
        if why := self.missing(teacher):
            raise ValueError(
                f"{self.name} is not possible for students of {type(teacher.pipeline).__name__} ({why}): export to "
                f"{' or '.join(formats_of(teacher))}"
            )

    def check_needs(self) -> None:
        """Raises ValueError when a library that the format needs is missing or broken."""
        for module in self.needs:
            extra_module(module, self.name, str(self.extra))


@dataclass(frozen=True)
class Exported:
    """A finished export and what was measured of it; all but the folder is in its export.json.

    relative_error: |latents - the student's own| / |the student's own|, both from the same noise, the largest of all
    sizes that were compared. motion: how much its
    clips move, as a fraction of the student's own; None where the format is exact or a clip is one frame. size_mb: of
    the whole folder, in 10^6 bytes. seconds: of writing and comparing. origin: what it was made from, where
    `write_export` was given that.
    """

    folder: Path
    format: str
    relative_error: float
    motion: float | None
    size_mb: float
    seconds: float
    notes: tuple[str, ...] = field(default=())
    precision: ExportPrecision = "float32"
    origin: Mapping[str, Any] = field(default_factory=dict)


def check_shard_size(size: str) -> None:
    """Raises ValueError for what is not a size of files in diffusers' terms."""
    if re.fullmatch(r"[1-9]\d*(\.\d+)?\s*[KMGT]B", size.upper()) is None:
        raise ValueError(f"--max-shard-size {size} is not a size of files: pass one such as 5GB or 500MB")


def find_format(name: str) -> Format:
    """The format of this name. Raises ValueError when there is none."""
    if name not in MODULES:
        raise ValueError(f"there is no format {name}: use one of {', '.join(MODULES)}")
    format: Format = import_module(f"fewstep.student.export.{MODULES[name]}").FORMATS[name]
    return format


def formats_of(teacher: Teacher) -> list[str]:
    """The formats that can hold students of this teacher, whose weights are not looked at."""
    return [name for name in MODULES if not find_format(name).missing(teacher)]
