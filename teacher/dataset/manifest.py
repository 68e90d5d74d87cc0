"""manifest.json: what a dataset folder holds, what it was made from, and how far it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from fewstep.teacher.dataset.listing import Listing, changes, read_listing
from fewstep.teacher.denoiser_inputs import ControlScaleField
from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.guidance import GuidanceField
from fewstep.teacher.limited import FrameRate, NumFrames, Pixels
from fewstep.teacher.source import VideoSize

MANIFEST_VERSION = 2
_READ = (1, MANIFEST_VERSION)  # version 1 says float32 of teachers in bfloat16 as well
MANIFEST_FILE = "manifest.json"

OF_TEXT, OF_BOTH = "text.", "shared."  # how columns of conditions begin; the embeddings have no such beginning

_INPUTS = "schedule embedded_guidance", "schedule control_scale"

Count = Annotated[int, Field(ge=0, lt=2**40)]
Positive = Annotated[int, Field(gt=0, lt=2**40)]

DatasetKind = Literal["videos", "rollouts"]
Dtype = Literal["float16", "float32"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Skip(_Record):
    """An item that is not in the dataset, and why, in plain words."""

    file: str
    reason: str


class Unmatched(_Record):
    """Entries of a captions file that describe no video."""

    entries: int  # in all
    source: str  # what they are, in words
    count: int
    listed: str  # the first of them, in words

    def __str__(self) -> str:
        return f"{self.count} of {self.entries} {self.source} name no video: {self.listed}"


def _inside(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*\.parquet", name, re.ASCII):
        raise ValueError(
            f"{name[:80]!r} is not a name of a Parquet file in the dataset's own folder, as in shard-00000.parquet"
        )
    return name


class Shard(_Record):
    """One finished Parquet file, and the items of its share that were skipped."""

    name: Annotated[str, AfterValidator(_inside)]
    rows: Count
    sha256: str
    skipped: tuple[Skip, ...] = ()


class TensorLayout(_Record):
    """How one tensor of a row is stored, as raw bytes; None in the shape is a length that varies."""

    dtype: Dtype | Literal["uint8"]
    shape: tuple[Positive | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(str(size or 'tokens') for size in self.shape)})"


class Schedule(_Record):
    """The teacher's noise schedule, and how rollouts were sampled; None where nothing was sampled so."""

    kind: str
    prediction: str
    shift: PositiveFloat
    nodes: str = "even"
    steps: Positive | None = None
    guidance: GuidanceField | None = None
    embedded_guidance: float | None = None
    control_scale: ControlScaleField | None = None


class Manifest(_Record):
    """Everything a dataset was made with; `shards` grows while it is written."""

    version: int = MANIFEST_VERSION
    kind: DatasetKind
    source: str
    items: Count  # planned, skipped ones included
    items_sha256: str
    teacher: str
    teacher_sha256: str
    schedule: Schedule
    num_frames: NumFrames | None = None
    height: Pixels | None = None
    width: Pixels | None = None
    fps: FrameRate | None = None
    start: str | None = None
    seed: int | None = None
    rows_per_shard: Positive
    precision: str  # of the teacher's weights
    negative_prompt: str = ""  # of the unconditional branch
    tensors: dict[str, TensorLayout]
    given: dict[str, str] = Field(default_factory=dict)  # what clips are made from besides prompts: name -> from where
    unmatched: Unmatched | None = None
    unconditional: Shard | None = None
    shards: tuple[Shard, ...] = ()
    listing: Listing = Field((), exclude=True, repr=False)  # of the items, where known; it lies in items.jsonl

    @property
    def rows(self) -> int:
        """Rows written so far."""
        return sum(shard.rows for shard in self.shards)

    @property
    def size(self) -> VideoSize | None:
        """Of the clips; None where nothing is said of it."""
        if not (self.num_frames and self.height and self.width):
            return None
        return VideoSize(self.num_frames, self.height, self.width)

    @property
    def text_layouts(self) -> dict[str, TensorLayout]:
        """How the text's tensors are stored."""
        return {name: layout for name, layout in self.tensors.items() if name not in ("latents", "noise")}

    @property
    def num_shards(self) -> int:
        """Shards of the finished dataset."""
        return -(-self.items // self.rows_per_shard)

    @property
    def num_done(self) -> int:
        """Items in finished shards, skipped ones included."""
        return min(len(self.shards) * self.rows_per_shard, self.items)

    @property
    def complete(self) -> bool:
        """Whether every shard is written."""
        return len(self.shards) == self.num_shards

    @property
    def skipped(self) -> list[Skip]:
        """Every item skipped so far, in the order of the plan."""
        return [skip for shard in self.shards for skip in shard.skipped]

    def share(self, shard: int) -> range:
        """The items that belong to a shard: item i lies in shard i // rows_per_shard."""
        return range(shard * self.rows_per_shard, min((shard + 1) * self.rows_per_shard, self.items))

    def continues(self, begun: Manifest, folder: Path, elsewhere: str = "choose another --out") -> None:
        """Raises ValueError naming the first setting in which the run that began `folder` differs from this one, of
        items those that came or went; `elsewhere` says how another folder is chosen."""
        now, then = self._settings(), begun._settings()
        # version 1 wrote float32 for teachers in bfloat16, so that its precision says nothing
        unsure = {"precision"} if 1 in (self.version, begun.version) else set()
        # earlier manifests lack them; rollouts of a teacher that takes them now always have them
        unsure |= {name for name in _INPUTS if None in (now.get(name), then.get(name))}
        for name in now | then:
            if now.get(name) == then.get(name) or name in unsure:
                continue
            # items.jsonl tells what came or went; older datasets have none
            if name.startswith("items") and (listing := read_listing(folder, begun.items_sha256)) is not None:
                what = "videos" if self.kind == "videos" else "prompts"
                raise ValueError(
                    f"{folder} was begun with other {what}: {changes(listing, self.listing)}; undo that to resume, or "
                    f"{elsewhere}"
                )
            raise ValueError(
                f"{folder} was begun with {name} {_short(then.get(name))}, not {_short(now.get(name))}: "
                f"use the same settings and source, or {elsewhere}"
            )

    def check_shared(self, first: Manifest) -> None:
        """Raises ValueError naming the first setting in which this process's plan differs from the first process's."""
        own, its = self._settings(), first._settings()
        for name in own | its:
            if own.get(name) != its.get(name):
                raise ValueError(
                    f"this process would make a dataset with {name} {_short(own.get(name))}, the first one with "
                    f"{_short(its.get(name))}: give all processes the same files and teacher"
                )

    def _settings(self) -> dict[str, object]:
        """What a run and the one that it resumes must share, each under a name for people."""
        # the sha256 of the items and of the teacher tell; names and paths may change
        apart = {
            "version",
            "source",
            "teacher",
            "unmatched",
            "unconditional",
            "shards",
            "schedule",
            "tensors",
            "listing",
        }
        plain = {name: getattr(self, name) for name in Manifest.model_fields if name not in apart}
        schedule = {f"schedule {name}": value for name, value in self.schedule}
        return plain | schedule | {f"stored {name}": layout for name, layout in self.tensors.items()}

    def write(self, folder: Path) -> None:
        """Replaces the folder's manifest in one step."""
        with whole_file(folder / MANIFEST_FILE) as part:
            part.write_bytes(self.model_dump_json(indent=1).encode() + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset folder. Raises ValueError when there is none that can be read."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not a dataset (it has no {MANIFEST_FILE}): make one with `fewstep data`")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{path} is damaged ({where}: {first['msg']}): make the dataset again") from error
    if manifest.version not in _READ:
        raise ValueError(f"{path} has version {manifest.version}, not {MANIFEST_VERSION}: make the dataset again")
    return manifest


def _short(value: object) -> str:
    text = str(value)
    return text[:12] + "…" if len(text) == 64 else text
