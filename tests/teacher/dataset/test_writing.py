"""Datasets on disk: written in whole shards, resumed after a kill, read back as they were."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from fewstep.teacher.dataset.manifest import Dtype, Manifest, Schedule, Skip, TensorLayout, read_manifest
from fewstep.teacher.dataset.reader import check_shard, read_unconditional
from fewstep.teacher.dataset.writing import REPORT, DatasetRow, write_dataset
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.ranks import ProcessEnded, Ranks
from tests.forked import Scripts
from tests.teacher.stored import stored_rows
from tests.two_ranks import both

TEACHER = "a" * 64
PLAN = Manifest(
    kind="rollouts",
    source="prompts.txt",
    items=22,
    items_sha256="b" * 64,
    teacher="tiny",
    teacher_sha256=TEACHER,
    schedule=Schedule(kind="flow", prediction="flow", shift=5, steps=32, guidance=5),
    seed=3,
    precision="float32",
    rows_per_shard=4,
    tensors={
        "latents": TensorLayout(dtype="float16", shape=(4, 2, 3)),
        "embeddings": TensorLayout(dtype="float32", shape=(None, 5)),
    },
)
SKIPPED = 9
UNCONDITIONAL = DatasetRow("", "", {"embeddings": torch.ones(1, 5)})


class Drawn:
    """Rows drawn from their number; item SKIPPED cannot be made."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds
        self.asked: list[int] = []

    def rows(self, items: range) -> Iterator[DatasetRow | Skip]:
        for i in items:
            self.asked.append(i)
            time.sleep(self.seconds)
            yield Skip(file=f"{i}.mp4", reason="too short") if i == SKIPPED else row(i)


def row(i: int) -> DatasetRow:
    generator = torch.Generator().manual_seed(i)
    latents = torch.randn(4, 2, 3, generator=generator)
    return DatasetRow(f"{i:03d}", f"clip {i}", {"latents": latents, "embeddings": torch.full((1 + i % 3, 5), i / 7)}, i)


def write(folder: Path, plan: Manifest = PLAN, source: Drawn | None = None) -> Manifest:
    return write_dataset(folder, plan, UNCONDITIONAL, source or Drawn())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def ids(folder: Path) -> list[str]:
    return [row["id"] for row in stored_rows(folder, TEACHER)]


WRITTEN = [f"{i:03d}" for i in range(22) if i != SKIPPED]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    assert (manifest.rows, len(manifest.shards), manifest.complete) == (21, 6, True)
    assert manifest == read_manifest(tmp_path)
    stored = stored_rows(tmp_path, TEACHER)
    assert [one["id"] for one in stored] == WRITTEN
    for one in stored:
        made = row(int(one["id"]))
        assert (one["caption"], one["seed"]) == (made.caption, made.seed)
        assert torch.equal(one["latents"], made.tensors["latents"].half())
        assert torch.equal(one["embeddings"], made.tensors["embeddings"])
    unconditional = read_unconditional(tmp_path)
    assert unconditional is not None and torch.equal(unconditional["embeddings"], torch.ones(1, 5))


def test_what_was_skipped_is_reported(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    assert manifest.skipped == [Skip(file="9.mp4", reason="too short")]
    (line,) = (tmp_path / REPORT).read_text().splitlines()
    assert json.loads(line) == {"file": "9.mp4", "reason": "too short"}


def test_a_finished_dataset_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path)
    before = contents(tmp_path)
    again = Drawn()
    write(tmp_path, source=again)
    assert again.asked == [] and contents(tmp_path) == before


KILLED = """
import sys
from pathlib import Path
from tests.teacher.dataset.test_writing import Drawn, write
write(Path(sys.argv[1]), source=Drawn(seconds=0.02))
"""


def test_after_a_kill_the_run_goes_on_to_the_same_shards(tmp_path: Path) -> None:
    write(tmp_path / "whole")
    folder = tmp_path / "killed"
    (tmp_path / "killed.py").write_text(KILLED)
    running = Scripts(1, tmp_path / "killed.py", folder, logs=tmp_path)
    deadline = time.monotonic() + 60
    while not (folder / "shard-00002.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    with pytest.raises(ValueError, match="another process is writing"):
        write(folder)
    running.kill()
    assert running.ends()[0][0] == -signal.SIGKILL
    finished = len(read_manifest(folder).shards)
    assert 2 <= finished < 6
    with pytest.raises(ValueError, match=rf"unfinished \({finished} of 6 shards\)"):
        stored_rows(folder, TEACHER)
    rest, made = Drawn(), finished + (folder / f".shard-{finished:05d}.made.json").exists()
    write(folder, source=rest)
    assert rest.asked == list(range(4 * made, 22))
    assert contents(folder) == contents(tmp_path / "whole")


def test_processes_that_would_make_another_dataset_are_refused(tmp_path: Path) -> None:
    """As where each of them has videos or prompts of its own."""

    def work(ranks: Ranks) -> None:
        plan = PLAN.model_copy(update={"items_sha256": f"{ranks.rank}" * 64})
        write_dataset(tmp_path, plan, None, Drawn(), ranks=ranks)

    first, second = both(work)
    assert isinstance(first.exception(), ProcessEnded)
    assert str(second.exception()) == (
        "this process would make a dataset with items_sha256 111111111111…, the first one with 000000000000…: give "
        "all processes the same files and teacher"
    )


def test_a_shard_that_was_taken_away_is_made_again_alone(tmp_path: Path) -> None:
    write(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "shard-00001.parquet").unlink()
    (tmp_path / "shard-00004.parquet").unlink()
    (tmp_path / ".shard-00003.made.json").write_text("of a kill before it was removed")
    rest = Drawn()
    write(tmp_path, source=rest)
    assert rest.asked == [4, 5, 6, 7, 16, 17, 18, 19] and contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"teacher_sha256": "c" * 64}, "teacher_sha256"),
        ({"seed": 4}, "seed 3, not 4"),
        ({"height": 64}, "height None, not 64"),
        ({"items_sha256": "d" * 64}, "items_sha256 bbbbbbbbbbbb…, not dddd"),
        ({"schedule": PLAN.schedule.model_copy(update={"guidance": Guidance(7)})}, "schedule guidance 5, not 7"),
        (
            {"tensors": PLAN.tensors | {"latents": TensorLayout(dtype="float32", shape=(4, 2, 3))}},
            r"stored latents float16 \(4, 2, 3\), not float32 \(4, 2, 3\): use",
        ),
        ({"tensors": {"embeddings": PLAN.tensors["embeddings"]}}, "stored latents float16 .*, not None"),
    ],
)
def test_other_settings_do_not_continue_a_run(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=named):
        write(tmp_path, PLAN.model_copy(update=change))
    write(tmp_path, PLAN.model_copy(update={"source": "moved.txt", "teacher": "elsewhere"}))


def test_a_full_disk_loses_no_finished_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0

    def fsync(file: int) -> None:
        nonlocal written
        written += 1
        if written > 12:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path)
    finished = len(read_manifest(tmp_path).shards)
    assert 0 < finished < 6 and not list(tmp_path.glob("*.part.*"))
    rest = Drawn()
    write(tmp_path, source=rest)
    assert rest.asked == list(range(4 * finished, 22))


class SmallDisk(io.FileIO):
    """A file on a disk with room for 500 bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 500:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_disk_that_fills_up_within_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_small_disk(path: Path, *arguments: str, **options: str) -> IO[Any]:
        small = path.name == ".shard-00003.part.parquet" and arguments == ("wb",)
        return SmallDisk(str(path), "w") if small else whole(path, *arguments, **options)  # type: ignore

    whole = Path.open
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", on_small_disk)
        with pytest.raises(OSError) as facts:
            write(tmp_path)
    assert facts.value.errno == errno.ENOSPC
    assert len(read_manifest(tmp_path).shards) == 3 and not list(tmp_path.glob("*.part.*"))
    assert write(tmp_path).complete


def test_values_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    class Loud(Drawn):
        def rows(self, items: range) -> Iterator[DatasetRow | Skip]:
            yield DatasetRow("loud", "", {"latents": torch.full((4, 2, 3), 1e6), "embeddings": torch.ones(1, 5)})

    with pytest.raises(ValueError, match="loud: latents leaves the range of float16"):
        write(tmp_path, source=Loud())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(tmp_path: Path, dtype: Dtype, value: float) -> None:
    class Failed(Drawn):
        def rows(self, items: range) -> Iterator[DatasetRow | Skip]:
            yield DatasetRow("dim", "", {"latents": torch.full((4, 2, 3), value), "embeddings": torch.ones(1, 5)})

    plan = PLAN.model_copy(update={"tensors": PLAN.tensors | {"latents": TensorLayout(dtype=dtype, shape=(4, 2, 3))}})
    with pytest.raises(ValueError, match="dim: latents holds NaN or infinite numbers"):
        write(tmp_path, plan, Failed())


def test_shards_whose_every_item_was_skipped_are_passed_over(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"rows_per_shard": 1})
    manifest = write(tmp_path, plan)
    assert manifest.shards[SKIPPED].rows == 0
    assert ids(tmp_path) == WRITTEN


def test_a_folder_that_is_not_this_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a dataset \(it has no manifest.json\)"):
        ids(tmp_path)
    write(tmp_path)
    with pytest.raises(ValueError, match="made with the teacher tiny"):
        stored_rows(tmp_path, "c" * 64)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        ids(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        ids(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("shards.0.name", "../other/shard-00000.parquet", "own folder"),
        ("shards.0.name", "/data/shard-00000.parquet", "own folder"),
        ("shards.0.name", "..", "own folder"),
        ("unconditional", {"name": "x/u.parquet", "rows": 1, "sha256": ""}, "own folder"),
        ("shards.0.rows", -1, "greater than or equal to 0"),
        ("rows_per_shard", 0, "greater than 0"),
        ("width", 10**8, "less than or equal to"),
        ("fps", 1e300, "less than or equal to"),
    ],
)
def test_a_manifest_of_odd_values_is_refused(tmp_path: Path, name: str, value: object, text: str) -> None:
    write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    node = manifest["shards"][0] if name.startswith("shards") else manifest
    node[name.rpartition(".")[2]] = value
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"manifest.json is damaged \({name}.*{text}"):
        ids(tmp_path)


def test_rollouts_are_resumed_with_the_inputs_that_they_were_begun_with(tmp_path: Path) -> None:
    def plan(**inputs: object) -> Manifest:
        return PLAN.model_copy(update={"schedule": PLAN.schedule.model_copy(update=inputs)})

    plan(embedded_guidance=6.0).continues(plan(), tmp_path)  # begun before manifests kept them
    plan(embedded_guidance=6.0).continues(plan(embedded_guidance=6.0), tmp_path)
    with pytest.raises(ValueError, match=r"was begun with schedule embedded_guidance 4.0, not 6.0"):
        plan(embedded_guidance=6.0).continues(plan(embedded_guidance=4.0), tmp_path)


def test_datasets_of_version_1_do_not_know_their_precision(tmp_path: Path) -> None:
    """It was that of the denoiser's first weights, which are in float32 whatever the others are."""
    now = PLAN.model_copy(update={"precision": "bfloat16"})
    now.continues(PLAN.model_copy(update={"version": 1}), tmp_path)
    with pytest.raises(ValueError, match="was begun with precision float32, not bfloat16"):
        now.continues(PLAN, tmp_path)
    with pytest.raises(ValueError, match="was begun with seed"):
        now.model_copy(update={"seed": 5}).continues(PLAN.model_copy(update={"version": 1, "seed": 6}), tmp_path)


def test_a_damaged_shard_is_refused_and_made_anew(tmp_path: Path) -> None:
    write(tmp_path)
    whole = contents(tmp_path)
    shard = tmp_path / "shard-00001.parquet"
    damaged = bytearray(whole[shard.name])
    damaged[200] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"shard-00001.parquet is damaged \(its sha256 is off\)"):
        ids(tmp_path)
    shard.write_bytes(whole["shard-00005.parquet"])
    with pytest.raises(ValueError, match="has 2 rows and should have 4"):
        check_shard(tmp_path, read_manifest(tmp_path).shards[1], check_sha256=False)
    shard.write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="not a Parquet file"):
        check_shard(tmp_path, read_manifest(tmp_path).shards[1], check_sha256=False)
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-00001.parquet is missing"):
        ids(tmp_path)
    again = Drawn()
    write(tmp_path, source=again)
    assert again.asked == [4, 5, 6, 7] and contents(tmp_path) == whole
