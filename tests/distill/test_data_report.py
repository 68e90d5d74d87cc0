"""How much of a dataset can be used, and when that is too little."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.distill.data_report import check_usable, read_data_text
from fewstep.distill.settings import DatasetData, RolloutData, VideoData
from fewstep.teacher.dataset.manifest import Manifest, Schedule, Shard, Skip


def dataset(folder: Path, usable: int, skipped: int) -> DatasetData:
    skips = tuple(Skip(file=f"{i}.mp4", reason="too short") for i in range(skipped))
    shard = Shard(name="shard-00000.parquet", rows=usable, sha256="0" * 64, skipped=skips)
    manifest = Manifest(
        kind="videos", source="videos", items=usable + skipped, items_sha256="0" * 64, teacher="tiny",
        teacher_sha256="0" * 64, schedule=Schedule(kind="flow", prediction="flow", shift=5), rows_per_shard=128,
        precision="float32", tensors={}, shards=(shard,),
    )  # fmt: skip
    manifest.write(folder)
    return DatasetData(kind="dataset", folder=folder)


@pytest.mark.parametrize(("usable", "skipped"), [(2, 1), (1, 2), (1, 6), (0, 3), (49, 51)])
def test_what_a_sentence_offers_is_accepted(tmp_path: Path, usable: int, skipped: int) -> None:
    settings = dataset(tmp_path, usable, skipped).model_copy(update={"min_usable": 1.0})
    line = f"{usable} of {usable + skipped} clips usable, {skipped} skipped: {tmp_path / 'skipped.jsonl'}"
    with pytest.raises(ValueError) as error:
        check_usable(settings, tmp_path)
    assert str(error.value).startswith(f"{line} (such as 0.mp4: too short), and data.min_usable is 1: fix the data")
    offered = float(str(error.value).rpartition("=")[2])
    assert check_usable(settings.model_copy(update={"min_usable": offered}), tmp_path) == line


def test_a_whole_dataset_needs_no_words(tmp_path: Path) -> None:
    assert check_usable(dataset(tmp_path, 3, 0), tmp_path) is None
    (tmp_path / "prompts.txt").write_text("a ring\n")
    rollouts = RolloutData(kind="rollouts", prompts=tmp_path / "prompts.txt", negative_prompt="dim")
    assert check_usable(rollouts, tmp_path) is None
    assert read_data_text(rollouts, tmp_path).prompts == ["a ring", "dim"]


def test_half_is_the_usual_limit(tmp_path: Path) -> None:
    assert check_usable(dataset(tmp_path, 2, 2), tmp_path)
    with pytest.raises(ValueError, match="2 of 5 clips usable"):
        check_usable(dataset(tmp_path, 2, 3), tmp_path)
    assert VideoData(kind="videos", folder=tmp_path).min_usable == 0.5
