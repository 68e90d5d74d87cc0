"""The models of a comparison: where they lie, what tells them apart, and opening them around one teacher."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.file_download import repo_folder_name

from fewstep.student.chain import CHAIN_FILE, ChainMember, chained
from fewstep.student.contract import CONTRACT_FILE, SamplingContract, read_contract
from fewstep.student.decoder.files import decoder_sha256, load_decoder
from fewstep.student.export.load_export import contract_of_export, is_export
from fewstep.student.load_student import is_student
from fewstep.student.loading import find_stage, is_run
from fewstep.student.sampler import Sampler, SamplingOptions, clip_size, open_sampler, teacher_sampler
from fewstep.student.weights import weights_sha256
from fewstep.teacher.base import Teacher
from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.given import given_sha256
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.source import EMBEDDED, HUB_ID, embedded_path

_DEFAULT_DTYPE = "float32"  # the default while claims did not say it
_PROMPTS = "prompts_sha256"


@dataclass(frozen=True)
class Model:
    """A teacher or a student that takes part."""

    name: str  # fits a file name
    source: str  # `shapes`, a hub id, or the folder of a pipeline, a stage or an export
    steps: int | None = None  # where others than its own, or the usual ones, are meant
    guidance: Guidance | None = None
    members: tuple[Model, ...] = ()  # of a chain, whose source is that of the whole
    frames: Mapping[str, str] = field(default_factory=dict)  # what a member is given of the clips before it
    decoder: str | None = None  # the folder of the small decoder that its clips are decoded by

    @staticmethod
    def of(name: str, source: str, steps: int | None = None, guidance: Guidance | None = None) -> Model:
        """A run is its stage of that step count, by default the last. Raises ValueError when it has none such."""
        folder = Path(source).expanduser()
        if is_run(folder):
            return Model(name, str(find_stage(folder, steps)), None, guidance)
        return Model(name, str(folder) if folder.exists() else source, steps, guidance)

    @staticmethod
    def of_chain(
        name: str,
        source: str,
        members: Sequence[ChainMember],
        steps: Sequence[int | None],
        guidance: Sequence[Guidance | None],
    ) -> Model:
        """A chain, with steps and guidance for each of its members. Raises ValueError as `of`."""
        chained_models = tuple(
            replace(Model.of(name, member.source, count, weight), frames=member.frames)
            for member, count, weight in zip(members, steps, guidance, strict=True)
        )
        return Model(name, source, members=chained_models)

    @property
    def student(self) -> bool:
        """Whether it has a contract."""
        return self.members[-1].student if self.members else is_student(Path(self.source))


def last_run(models: Sequence[Model]) -> Path | None:
    """The folder of the last run that takes part, where results usually go."""
    taking_part = [m for m in models if m.student or any(member.student for member in m.members)]
    sources = [Path(model.source).absolute() for model in taking_part]
    runs = [path if (path / CHAIN_FILE).is_file() else path.parent.parent for path in sources if _is_of_run(path)]
    return runs[-1] if runs else None


def _is_of_run(path: Path) -> bool:
    return path.parent.name == "stages" or (path / CHAIN_FILE).is_file()


def with_student_defaults(models: Sequence[Model], options: SamplingOptions) -> SamplingOptions:
    """What was not asked for as the first student was taught it: guidance, shift, negative prompt, size, frame rate,
    and inputs of denoisers."""
    # the teacher is asked as it was when it was distilled, unless something else was asked for
    contracts = (_contract(model) for model in models)
    contract = next((contract_of_model for contract_of_model in contracts if contract_of_model is not None), None)
    if contract is None:
        return options
    guidance = contract.baked_guidance if options.guidance is None else options.guidance
    size = clip_size(contract.sizes, options.num_frames, options.height, options.width)._asdict()
    shift = contract.shift if options.shift is None else options.shift
    negative = options.negative_prompt or contract.negative_prompt
    return replace(
        options,
        guidance=guidance,
        shift=shift,
        negative_prompt=negative,
        fps=contract.fps if options.fps is None else options.fps,
        trained_inputs=contract.denoiser_inputs,
        **size,
    )


def open_model(
    model: Model, options: SamplingOptions, teacher: Teacher | None, dtype: torch.dtype, device: str | None
) -> Sampler:
    """Its sampler, as asked but for its own steps and guidance; around `teacher` where that is its teacher, or itself.

    Raises ValueError as `open_sampler` and `load_decoder` do.
    """
    sampler = _open(model, options, teacher, dtype, device)
    if model.decoder is None:
        return sampler
    return replace(sampler, decoder=load_decoder(Path(model.decoder), sampler.teacher))


def _open(
    model: Model, options: SamplingOptions, teacher: Teacher | None, dtype: torch.dtype, device: str | None
) -> Sampler:
    """With the teacher's own decoder."""
    # the teacher is shared with the last member, whose clips are compared; the others load their own
    if model.members:
        pairs = zip(model.members, sampling_options_of_members(model, options), strict=True)
        last = model.members[-1]
        opened = [open_model(member, way, teacher if member is last else None, dtype, device) for member, way in pairs]
        return chained(opened, [member.frames for member in model.members[1:]])
    options = sampling_options_of(model, options)
    # a teacher that is loaded already is asked with other steps or guidance, not loaded again
    if not model.student:
        if teacher is not None and _is_in(teacher, model.source):
            return teacher_sampler(teacher, model.source, options)
        return open_sampler(model.source, options, None, dtype, device)
    if teacher is not None:
        try:
            return open_sampler(model.source, options, teacher, dtype, device)
        except ValueError:  # it is of another teacher, or its own error comes again
            pass
    return open_sampler(model.source, options, None, dtype, device)


def sampling_options_of(model: Model, options: SamplingOptions) -> SamplingOptions:
    """How a model of a comparison is asked: with its own steps and guidance, where it names some."""
    if model.student:  # else its contract says them
        own: dict[str, Any] = dict.fromkeys(("shift", "embedded_guidance", "control_scale"))
        return replace(options, steps=model.steps, guidance=model.guidance, negative_prompt="", **own)
    guidance = options.guidance if model.guidance is None else model.guidance
    return replace(options, steps=model.steps or options.steps, guidance=guidance)


def sampling_options_of_members(model: Model, options: SamplingOptions) -> list[SamplingOptions]:
    """Options of each member of a chain: sizes, shift and denoiser inputs are the last one's."""
    names = ("num_frames", "height", "width", "shift", "embedded_guidance", "control_scale")
    own: dict[str, Any] = dict.fromkeys(names) | {"trained_inputs": {}}
    given = [options.given, *(tuple(member.frames) for member in model.members[1:])]
    return [
        replace(options, given=names, **({} if member is model.members[-1] else own))
        for member, names in zip(model.members, given, strict=True)
    ]


def chain_facts(sampler: Sampler) -> dict[str, Any]:
    """What a row or a protocol says of a chain's members, of those before the last as well; nothing of other models."""
    if sampler.before is None:
        return {}
    links = [
        {"source": link.name, "steps": len(link.grid) - 1, "guidance": link.guidance.plain()} for link in sampler.links
    ]
    return {"chain": links}


def decoder_facts(sampler: Sampler) -> dict[str, str]:
    """What a row says of the decoder of its model, its folder; nothing where it is the teacher's own."""
    return {} if sampler.decoder is None else {"decoder": str(sampler.decoder.config["_name_or_path"])}


@dataclass(frozen=True)
class ClipClaim:
    """Whose clips lie somewhere: a model's from a seed, and where no protocol says it their precision, prompts and
    size.

    An outline will do for the sampler, to check.
    """

    model: Model
    sampler: Sampler
    seed: int
    dtype: str | None = None
    prompts: Sequence[str] | None = None

    def keep(self, file: Path) -> None:
        """Says so in a file, unless it does already. Raises ValueError as `check`."""
        self.check(file)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            unsaid = {} if self.dtype is None else {"dtype": self.dtype}
            unsaid |= {} if self.prompts is None else {_PROMPTS: given_sha256(self.prompts), **self._shape}
            with whole_file(file) as part:
                part.write_text(json.dumps(self._identity | unsaid, indent=1) + "\n")

    def check(self, file: Path) -> None:
        """Raises ValueError when the file says that clips of another model of this name are here, in another precision,
        or of other prompts, each of which follows from its place in the list."""
        if not file.exists():
            return
        before, name = _read_claim(file), self.model.name
        # claims of earlier versions name no precision
        begun = str(before.pop("dtype", _DEFAULT_DTYPE))
        if self.dtype is not None and begun != self.dtype:
            raise ValueError(
                f"{file} says that clips of {name} were made in {begun}, not {self.dtype}: pass --dtype {begun}, or "
                "choose another --out"
            )
        # nor prompts
        of_prompts = before.pop(_PROMPTS, None)
        if self.prompts is not None and of_prompts not in (None, given_sha256(self.prompts)):
            raise ValueError(
                f"{file} says that clips of {name} are of other prompts, of others in another order, or of other files "
                "given with them: pass those, or choose another --out"
            )
        shape = {key: before.pop(key, value) for key, value in self._shape.items()}
        if self.prompts is not None and shape != self._shape:
            raise ValueError(
                f"{file} says that clips of {name} have another size or frame rate ({json.dumps(shape)}, and not "
                f"{json.dumps(self._shape)}): choose another --out"
            )
        # as JSON gives it back, where tuples are lists
        if before != json.loads(json.dumps(self._identity)):
            raise ValueError(
                f"{file} says that clips of another model called {name}, or of this one before it was trained again, "
                f"are there: give it another name, NAME={self.model.source}, or choose another --out"
            )

    @property
    def _shape(self) -> dict[str, Any]:
        return {"size": list(self.sampler.size), "fps": self.sampler.fps}

    @property
    def _identity(self) -> dict[str, Any]:
        return _identity(self.model, self.sampler) | {"seed": self.seed}


def claimed_dtype(files: Sequence[Path]) -> str | None:
    """The precision of the clips that the first of these files which is there claims; None where none is."""
    claims = (_read_claim(file) for file in files if file.exists())
    return next((str(claim.get("dtype", _DEFAULT_DTYPE)) for claim in claims), None)


def _read_claim(file: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is not JSON ({error}): delete its folder, or choose another --out") from error


def _identity(model: Model, sampler: Sampler) -> dict[str, Any]:
    """What a model's clips follow from, besides prompts and seeds, as JSON."""
    decoded = {} if model.decoder is None else {"decoder_sha256": decoder_sha256(Path(model.decoder))}
    if model.members:
        pairs = zip(model.members, sampler.links, strict=True)
        return {"chain": [_identity(member, link) | {"given": dict(member.frames)} for member, link in pairs]} | decoded
    identity = decoded | {
        "teacher_sha256": sampler.teacher.sha256(),
        "times": sampler.grid.tolist(),
        "guidance": sampler.guidance.plain(),
        "negative_prompt": sampler.negative_prompt,
        **sampler.denoiser_inputs,
    }
    if sampler.contract is not None:
        # a stage that was trained again is another model under the same name
        identity["weights_sha256"] = weights_sha256(Path(model.source))
    return identity


def _contract(model: Model) -> SamplingContract | None:
    """Of a stage or an export, of which a file has it in its header; a chain's is its last member's."""
    folder = Path(model.members[-1].source if model.members else model.source)
    if is_export(folder):
        return contract_of_export(folder)
    return read_contract(folder) if (folder / CONTRACT_FILE).is_file() else None


def _is_in(teacher: Teacher, source: str) -> bool:
    """Whether a teacher is loaded from this folder, or from the hub's files of this name."""
    folder = teacher.folder.resolve()
    if re.fullmatch(HUB_ID, source) and not Path(source).exists():
        return repo_folder_name(repo_id=source, repo_type="model") in folder.parts
    return folder == (embedded_path(source) if source in EMBEDDED else Path(source)).resolve()
