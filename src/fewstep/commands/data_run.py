"""What the verbs of `fewstep data` share: their options, and the run with its progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from fewstep.commands.options import DType, load_named_teacher, resolve_dtype

if TYPE_CHECKING:
    from fewstep.commands.progress import Screen
    from fewstep.teacher.base import Teacher
    from fewstep.teacher.dataset.manifest import DatasetKind, Manifest, Skip
    from fewstep.teacher.dataset.writing import Source
    from fewstep.teacher.ranks import Ranks

SKIPPED = 3  # the exit code when items had to be skipped
_SHOWN = 20  # skipped items listed on the screen

Store = Literal["float16", "float32"]


@dataclass(frozen=True)
class Run:
    """The options of every verb that makes a dataset: where to, from which teacher, stored how."""

    out: Path
    teacher: str
    dtype: DType
    device: str | None
    store: Store
    rows_per_shard: int
    negative_prompt: str
    screen: Screen
    ranks: Ranks
    shift: float | None = None

    def check_out(self) -> None:
        """Raises ValueError for a folder that cannot be written into, one of another kind, or one with other things.

        Before anything else: what lies in it is never a source.
        """
        from fewstep.distill.run_folder import enclosing_run
        from fewstep.distill.taken_folders import check_not_taken
        from fewstep.teacher.dataset.writing import check_dataset_folder
        from fewstep.teacher.files.atomic import check_writable

        if (run := enclosing_run(self.out)) is not None:
            raise ValueError(f"{self.out} lies in a run directory, {run}: choose another --out, outside of it")
        check_writable(self.out)
        check_dataset_folder(self.out)
        check_not_taken(self.out.resolve().parent)

    def load(self) -> Teacher:
        """The teacher, in the precision that the dataset was begun in, if it was."""
        from fewstep.teacher.dataset.manifest import MANIFEST_FILE, read_manifest

        # the precision is chosen once, as rows of two are never mixed
        def resolve() -> DType:
            begun = read_manifest(self.out).precision if (self.out / MANIFEST_FILE).exists() else None
            return resolve_dtype(self.screen, self.dtype, self.device, begun)

        dtype = self.ranks.from_first(resolve)
        self.screen.say(f"loading the teacher {self.teacher} ({dtype})")
        return load_named_teacher(self.teacher, dtype, self.device, self.shift)

    def make(
        self,
        kind: DatasetKind,
        model: Teacher,
        path: Path,
        items: Sequence[Sequence[object]],
        source: Source,
        left_out: Sequence[Skip] = (),
        **known: Any,
    ) -> None:
        """Makes the dataset of these items, listed in or lying in `path`; `known` is more for its manifest."""
        from fewstep.teacher.dataset.plan import plan_dataset

        self.screen.say(f"planning {len(items)} clips of {path}, with a hash of the teacher's weights")
        plan = plan_dataset(
            kind,
            model,
            self.teacher,
            items,
            dtype=self.store,
            negative_prompt=self.negative_prompt,
            source=str(path.resolve()),
            rows_per_shard=self.rows_per_shard,
            **known,
        )
        with self.screen:
            _run(self.out, plan, model, source, left_out, self.screen, self.ranks)


def _run(
    out: Path, plan: Manifest, teacher: Teacher, source: Source, left_out: Sequence[Skip], screen: Screen, ranks: Ranks
) -> None:
    """Makes the dataset, shows how far it is, and leaves with SKIPPED when something is missing in it."""
    from fewstep.teacher.dataset.manifest import MANIFEST_FILE, read_manifest
    from fewstep.teacher.dataset.plan import unconditional_row
    from fewstep.teacher.dataset.writing import usable_line, write_dataset
    from fewstep.teacher.source import VideoSize

    assert plan.num_frames and plan.height and plan.width  # `size_of` saw to that
    # clips of earlier calls are done, and the bar begins behind them
    finished = read_manifest(out).num_done if (out / MANIFEST_FILE).exists() else 0
    if finished:
        screen.say(f"resumed at clip {finished} of {plan.items}")
    size = VideoSize(plan.num_frames, plan.height, plan.width)
    unconditional = unconditional_row(teacher, plan.negative_prompt, size)
    with screen.bar(plan.kind, "clip") as bar:
        bar.begin(plan.kind, plan.items, finished)

        def advance() -> None:
            screen.log_to(out)  # not before: a plan that is refused leaves no trace
            bar.update(bar.done + 1)

        manifest = write_dataset(out, plan, unconditional, source, advance, left_out, ranks=ranks)
    screen.log_to(out)
    screen.say(f"{manifest.rows} clips in {manifest.num_shards} shards: {out}")
    if ranks.first and (line := usable_line(out, manifest)):  # launchers stop the others where one says it first
        screen.warn(line)
        _print_skipped(manifest.skipped, out)
        raise typer.Exit(SKIPPED)


def _print_skipped(skipped: list[Skip], out: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    from fewstep.commands.tables import print_table
    from fewstep.teacher.dataset.writing import REPORT

    table = Table("file", "reason", title=f"{len(skipped)} skipped")
    for skip in skipped[:_SHOWN]:
        table.add_row(escape(skip.file), escape(skip.reason))
    print_table(table, stderr=True)
    if len(skipped) > _SHOWN:
        typer.echo(f"and {len(skipped) - _SHOWN} more; all are listed in {out / REPORT}", err=True)
