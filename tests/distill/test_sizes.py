"""Batches of several sizes: one size each, the same for all processes, and any of them can be asked for directly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.distill.batches import BasesBatches, Batches
from fewstep.distill.data import captioned_videos, make_data, read_clips, shares_of
from fewstep.distill.deck import Deck
from fewstep.distill.settings import RolloutData, VideoData
from fewstep.distill.size_checks import max_clips_by_size
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.bases import BASE_INDEX
from fewstep.teacher.dataset.buckets import datasets_in
from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.dataset.reader import read_rows
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.ranks import ALONE, Ranks
from fewstep.teacher.videos.writing import write_video
from tests.two_ranks import both

SIZES = (VideoSize(9, 16, 16), VideoSize(5, 16, 32), VideoSize(5, 32, 16))

TWO_PROCESSES = """
import json, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from fewstep.distill.batches import Batches
from fewstep.distill.gradients import AveragedGradients
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.ranks import join_processes

join_processes(cpu=True)
accelerator, (teacher, data, out) = Accelerator(cpu=True), map(Path, sys.argv[1:])
rank = accelerator.process_index
batches = Batches(data, load_teacher(teacher, device="cpu"), 0, 0, rank, accelerator.num_processes)
parameter, seen = torch.nn.Parameter(torch.zeros(1)), []
averaged = AveragedGradients(accelerator, [parameter])
for position in range(12):
    x0 = batches.batch(position, 2, 0.0).x0
    (parameter * x0.mean()).sum().backward()
    averaged.finish()
    seen.append([list(x0.shape), x0.double().sum(dim=(1, 2, 3, 4)).tolist(), float(parameter.grad)])
    parameter.grad = None
(out / f"{rank}.json").write_text(json.dumps([torch.distributed.get_backend(), seen]))
accelerator.end_training()
"""


@pytest.fixture(scope="module")
def data(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rollouts, 8 of each size; not to be changed."""
    folder = tmp_path_factory.mktemp("sizes")
    (folder / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(12)))
    settings = RolloutData(kind="rollouts", prompts=folder / "prompts.txt", count=2, steps=1, batch=4)
    return make_data(settings, tiny_teacher, "tiny", SIZES, folder / "data", lambda done, total: None)


def test_rollouts_are_shared_out_over_the_sizes(tiny_teacher: Teacher, data: Path) -> None:
    ids = []
    for folder, size in zip(datasets_in(data), SIZES, strict=True):
        manifest = read_manifest(folder)
        assert manifest.size == size and manifest.rows == 8
        rows = list(read_rows([str(folder / shard.name) for shard in manifest.shards], manifest.tensors))
        assert all(row["caption"] == f"prompt {int(row['id']) % 12}" for row in rows)
        ids += [row["id"] for row in rows]
    assert sorted(ids) == [f"{i:08d}" for i in range(24)]
    assert read_clips(data, tiny_teacher).sizes == SIZES
    assert read_clips(data, tiny_teacher, SIZES[::-1]).size == SIZES[-1]
    with pytest.raises(ValueError, match=r"has clips of \(9, 16, 16\) and .* not \(9, 16, 16\): .* of that size"):
        read_clips(data, tiny_teacher, SIZES[0])


def test_two_processes_make_the_same_data(
    tiny_wan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewstep.distill.data._ROWS_PER_SHARD", 2)
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(21)))
    settings = RolloutData(kind="rollouts", prompts=tmp_path / "prompts.txt", steps=1, batch=1)

    teachers = [load_teacher(tiny_wan_folder, device="cpu") for _ in range(2)]

    def made(ranks: Ranks) -> tuple[dict[Path, bytes], list[int]]:
        out, shown = tmp_path / f"of {ranks.count}" / "data", list[int]()
        teacher = teachers[ranks.rank]
        make_data(settings, teacher, "t", SIZES, out, lambda done, total: shown.append(done), ranks=ranks)
        files = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
        return {path.relative_to(out): path.read_bytes() for path in files}, shown

    first, second = both(made)
    assert first.result() == made(ALONE) == (second.result()[0], list(range(1, 22))) and not second.result()[1]


def test_batches_have_one_size_each_and_any_can_be_asked_for(tiny_teacher: Teacher, data: Path) -> None:
    batches = Batches(data, tiny_teacher, seed=3, stage=1)
    drawn = [batches.batch(position, 2, 0.0) for position in range(12)]  # 24 clips: one epoch
    shapes = [tuple(batch.x0.shape[1:]) for batch in drawn]
    assert sorted(shapes) == sorted(tiny_teacher.latent_shape(*size) for size in SIZES for _ in range(4))
    assert len({tuple(x0.flatten().tolist()) for batch in drawn for x0 in batch.x0}) == 24
    for position in (7, 2, 11):
        again = Batches(data, tiny_teacher, seed=3, stage=1).batch(position, 2, 0.0)
        assert torch.equal(again.x0, drawn[position].x0) and torch.equal(again.noise(), drawn[position].noise())
    each = batches.of_each_size(10**9, 3)
    assert [tuple(one.x0.shape) for one in each] == [(3, *tiny_teacher.latent_shape(*size)) for size in SIZES]


def test_base_models_with_other_counts_agree_on_the_size(tiny_teacher: Teacher, data: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("".join(f"other prompt {i}\n" for i in range(6)))
    settings = RolloutData(kind="rollouts", prompts=tmp_path / "prompts.txt", steps=1, batch=2)
    make_data(settings, tiny_teacher, "tiny", SIZES, tmp_path / "data-1", lambda done, total: None)
    first = Batches(data, tiny_teacher, seed=0, stage=0)
    alone = Batches(tmp_path / "data-1", tiny_teacher, seed=0, stage=0)
    second = Batches(tmp_path / "data-1", tiny_teacher, seed=0, stage=0, sized_by=first)

    def shapes(batches: Batches) -> list[torch.Size]:
        return [batches.batch(position, 2, 0.0).x0.shape for position in range(12)]

    assert shapes(second) == shapes(first) != shapes(alone)
    around = BasesBatches([first, second], seed=0, stage=0)
    bases = {int(batch.conditions.shared[BASE_INDEX][0]) for batch in (around.batch(n, 2, 0.0) for n in range(12))}
    each = around.of_each_size(10**9, 3)
    assert bases == {0, 1} and len({int(batch.conditions.shared[BASE_INDEX][0]) for batch in each}) == 1
    assert [tuple(one.x0.shape) for one in each] == [(3, *tiny_teacher.latent_shape(*size)) for size in SIZES]


@pytest.mark.slow
def test_two_processes_draw_agreeing_batches(tiny_wan_folder: Path, data: Path, tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    plain = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    run = [*launch, *plain, *map(str, (script, tiny_wan_folder, data, tmp_path))]
    done = subprocess.run(run, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (backend, first), (_, second) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert backend == "gloo" and len({tuple(shape) for shape, _, _ in first}) == 3
    for (shape, clips, gradient), (other_shape, other_clips, other_gradient) in zip(first, second, strict=True):
        assert shape == other_shape and gradient == other_gradient and not set(clips) & set(other_clips)
    for epoch in range(2):  # 24 clips in 6 steps of two batches of 2: each once
        steps = slice(6 * epoch, 6 * epoch + 6)
        assert len({clip for _, clips, _ in (*first[steps], *second[steps]) for clip in clips}) == 24


def test_videos_go_to_the_size_that_fits_them(tiny_teacher: Teacher, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    seconds = 9 / tiny_teacher.default_fps()
    for name, height, width, share in (("wide", 32, 64, 1), ("tall", 64, 32, 1), ("square", 32, 32, 2)):
        frames = np.random.default_rng(0).integers(0, 255, (round(share * seconds * 24), height, width, 3), np.uint8)
        write_video(videos / f"{name}.mp4", frames, 24.0)
        (videos / f"{name}.txt").write_text(f"a {name} clip")
    settings = VideoData(kind="videos", folder=videos, batch=1)
    out = make_data(settings, tiny_teacher, "tiny", SIZES, tmp_path / "run" / "data", lambda done, total: None)
    ids = []
    for folder in datasets_in(out):
        manifest = read_manifest(folder)
        paths = [str(folder / shard.name) for shard in manifest.shards]
        ids.append([row["id"] for row in read_rows(paths, manifest.tensors)])
    assert ids == [["square.mp4"], ["wide.mp4"], ["tall.mp4"]]


def write_clips(folder: Path, *names: str) -> None:
    """Of 32 frames and 32 x 64 pixels."""
    folder.mkdir()
    for name in names:
        write_video(folder / name, np.zeros((32, 32, 64, 3), np.uint8), 8.0)


def test_a_teacher_that_reads_no_text_needs_no_captions(
    tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clips(tmp_path / "videos", "a.mp4", "b.mp4")
    (tmp_path / "videos" / "b.txt").write_text("a dog runs")
    settings, out = VideoData(kind="videos", folder=tmp_path / "videos"), tmp_path / "run" / "data"

    def foreseen() -> dict[VideoSize, int]:
        return max_clips_by_size(settings, tiny_teacher, shares_of(settings, tiny_teacher, SIZES, out), out)

    assert foreseen() == dict(zip(SIZES, (0, 1, 0), strict=True))
    monkeypatch.setattr(type(tiny_teacher), "reads_text", False)
    assert foreseen() == dict(zip(SIZES, (0, 2, 0), strict=True))


@pytest.mark.parametrize("reads_text", [True, False])
def test_a_control_video_among_the_clips_is_no_clip(tmp_path: Path, reads_text: bool) -> None:
    videos = tmp_path / "videos"
    write_clips(videos, "a.mp4", "a-pose.mp4", "b.mp4", "b-pose.mp4")
    entries = [
        {"file_name": "a.mp4", "text": "a dog runs", "pose": "a-pose.mp4"},
        {"file_name": "b.mp4", "text": "a dog sits", "pose": "b-pose.mp4"},
        {"file_name": "b-pose.mp4", "text": "lines on black", "pose": "a-pose.mp4"},
    ]
    (videos / "captions.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    settings = VideoData(kind="videos", folder=videos, captions=videos / "captions.jsonl", given={"control": "pose"})
    clips, captions = captioned_videos(settings, tmp_path / "run" / "data", reads_text)
    assert [path.name for path in clips] == ["a.mp4", "b-pose.mp4", "b.mp4"]
    assert set(captions.texts) == set(clips)


def test_a_deck_has_every_card_and_is_shuffled_anew() -> None:
    deck = Deck([3, 1, 2], (0, 1))
    cards = [deck.card(n) for n in range(60)]
    assert sorted(cards) == sorted((b, i) for b, count in enumerate((3, 1, 2)) for i in range(10 * count))
    assert len({tuple(bucket for bucket, _ in cards[i : i + 6]) for i in range(0, 60, 6)}) > 1
    assert Deck([3, 1, 2], (0, 1)).card(47) == cards[47]
