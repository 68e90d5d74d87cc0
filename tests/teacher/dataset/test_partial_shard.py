"""A shard that a signal stops in the middle: no finished batch is made again, and the end is the same."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from fewstep.teacher.dataset.manifest import Manifest, Schedule, Skip, TensorLayout, read_manifest
from fewstep.teacher.dataset.partial_shard import partial_shard_path
from fewstep.teacher.dataset.sources import batches
from fewstep.teacher.dataset.writing import DatasetRow, write_dataset
from fewstep.teacher.interrupts import Stop

PLAN = Manifest(
    kind="rollouts",
    source="prompts.txt",
    items=44,
    items_sha256="b" * 64,
    teacher="tiny",
    teacher_sha256="a" * 64,
    schedule=Schedule(kind="flow", prediction="flow", shift=5, steps=32, guidance=5),
    precision="float32",
    rows_per_shard=40,
    tensors={"latents": TensorLayout(dtype="float32", shape=(2,))},
)
SKIPPED = {3, 18, 19}


@dataclass
class Batched:
    """Rows that depend on the batch they are made in; a signal comes while item `stop_at` is made."""

    batch_size: int = 4
    stop_at: int | None = None
    number: int = signal.SIGTERM
    made: list[list[int]] = field(default_factory=list)
    ended: bool = False

    def rows(self, items: range) -> Iterator[DatasetRow | Skip]:
        try:
            for batch in batches(items, self.batch_size):
                if self.stop_at in batch:
                    signal.raise_signal(self.number)
                self.made.append(batch)
                for i in batch:
                    latents = torch.tensor([i, batch[0]], dtype=torch.float32)
                    row = DatasetRow(f"{i}", "", {"latents": latents})
                    yield Skip(file=f"{i}.mp4", reason="short") if i in SKIPPED else row
        finally:
            self.ended = True


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def stopped(folder: Path, source: Batched) -> str:
    with pytest.raises(Stop) as stop:
        write_dataset(folder, PLAN, None, source)
    assert stop.value.number == source.number and source.ended
    return stop.value.kept


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [0, 4, 17, 20, 35])
def test_what_was_made_is_kept(tmp_path: Path, at: int, number: int) -> None:
    write_dataset(tmp_path / "whole", PLAN, None, Batched())
    out = tmp_path / "out"
    kept = stopped(out, Batched(stop_at=at, number=number))
    done = at // 4 * 4
    assert kept == f"{done} of the 44 items of {out} are done; run the same command again to resume"
    assert not list(out.glob("*.part*")) and read_manifest(out).num_done == 0
    rest, advanced = Batched(), list[int]()
    write_dataset(out, PLAN, None, rest, lambda: advanced.append(1))
    assert rest.made[0] == list(range(done, done + 4)) and len(advanced) == 44
    assert contents(out) == contents(tmp_path / "whole")


def test_a_shard_may_be_stopped_again_and_again(tmp_path: Path) -> None:
    write_dataset(tmp_path / "whole", PLAN, None, Batched())
    out, made = tmp_path / "out", list[int]()
    for at in (9, 10, 26, 39, 41):
        source = Batched(stop_at=at)
        stopped(out, source)
        made += [i for batch in source.made for i in batch]
    source = Batched()
    write_dataset(out, PLAN, None, source)
    made += [i for batch in source.made for i in batch]
    assert made == list(range(44))
    assert contents(out) == contents(tmp_path / "whole")


def test_a_batch_is_not_resumed_in_its_middle(tmp_path: Path) -> None:
    """Rows of other batches differ in their last bits: a larger batch of the next run begins where its own would."""
    write_dataset(tmp_path / "whole", PLAN, None, Batched(5))
    stopped(tmp_path / "out", Batched(4, stop_at=14))
    rest = Batched(5)
    write_dataset(tmp_path / "out", PLAN, None, rest)
    assert rest.made[0] == [10, 11, 12, 13, 14]


def test_a_stop_between_two_shards_begins_no_other(tmp_path: Path) -> None:
    source, advanced = Batched(), list[int]()

    def advance() -> None:
        advanced.append(1)
        if len(advanced) == 40:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stop):
        write_dataset(tmp_path, PLAN, None, source, advance)
    assert read_manifest(tmp_path).num_done == 40 and len(source.made) == 10


def test_a_begun_shard_that_is_broken_is_made_again(tmp_path: Path) -> None:
    stopped(tmp_path, Batched(stop_at=8))
    path = partial_shard_path(tmp_path / "shard-00000.parquet")
    path.write_bytes(path.read_bytes()[:100])
    rest = Batched()
    write_dataset(tmp_path, PLAN, None, rest)
    assert rest.made[0] == [0, 1, 2, 3] and not path.exists()


def test_a_second_stop_keeps_what_was_begun_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[float], None]
) -> None:
    stopped(tmp_path, Batched(stop_at=8))
    kept = partial_shard_path(tmp_path / "shard-00000.parquet").read_bytes()

    def impatient(items: list[Skip | None]) -> dict[str, str]:
        pass_time(3)
        signal.raise_signal(signal.SIGTERM)
        return {}

    monkeypatch.setattr("fewstep.teacher.dataset.writing.partial_shard_metadata", impatient)
    stopped(tmp_path, Batched(stop_at=16))
    assert partial_shard_path(tmp_path / "shard-00000.parquet").read_bytes() == kept
    assert not list(tmp_path.glob("*.part*"))
