"""Frames and boxes that clips were given: real clips keep them, others do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.eval.metrics.box_iou import BoxIoU, boxes, iou, object_mask
from fewstep.eval.metrics.clips import Clips
from fewstep.eval.metrics.given_frames import FramePsnr
from fewstep.teacher.base import VideoSize
from fewstep.teacher.dataset.caption_files import read_prompts
from fewstep.teacher.shapes.judge import batch
from fewstep.teacher.shapes.real_clips import PROMPT_TABLES, write_clip, write_given_files, write_prompt_tables

SIZE, COUNT = VideoSize(17, 64, 64), 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("given")
    for index in range(COUNT):
        write_clip(folder, "held-out", 0, index)
        write_given_files(folder, "held-out", 0, index)
    write_prompt_tables(folder, "held-out", 0, COUNT)
    return folder


def clips(folder: Path, name: str) -> Clips:
    videos = batch("held-out", 0, range(COUNT))[0]
    return Clips.of(videos, videos, read_prompts(folder / f"{name}.jsonl"))


@pytest.mark.parametrize("name", ["prompts-first", "prompts-first-last"])
def test_real_clips_have_their_own_frames_and_others_do_not(folder: Path, name: str) -> None:
    own = clips(folder, name)
    metric = FramePsnr(own.prompts, SIZE, 8.0)
    assert metric.figures(metric.measure(own), None)["frame-psnr"]["value"] == 100.0
    other = Clips.of(own.videos.roll(1, 0), own.latents, own.prompts)
    assert float(metric.measure(other).max()) < 25


def test_the_object_is_in_its_boxes(folder: Path) -> None:
    own = clips(folder, "prompts-control")
    metric = BoxIoU(own.prompts, SIZE, 8.0)
    assert float(metric.measure(own).min()) > 0.85
    assert float(metric.measure(Clips.of(own.videos.roll(1, 0), own.latents, own.prompts)).mean()) < 0.7
    grey = Clips.of(torch.zeros_like(own.videos), own.latents, own.prompts)
    assert float(metric.measure(grey).max()) == 0


@pytest.mark.parametrize(("name", "kind"), [("prompts-first", FramePsnr), ("prompts-control", BoxIoU)])
def test_two_models_are_held_against_each_other_clip_by_clip(
    folder: Path, name: str, kind: type[FramePsnr] | type[BoxIoU]
) -> None:
    prompts = clips(folder, name).prompts
    metric = kind(prompts, SIZE, 8.0)
    other = torch.linspace(0.1, 0.9, 20, dtype=torch.float64)
    shown = metric.difference(other + 0.05, other)[metric.name]
    assert (shown["value"], shown["low"], shown["high"]) == pytest.approx((0.05, 0.05, 0.05))
    assert (shown["num"], shown["better"]) == (20, "higher")


def test_boxes_of_known_masks() -> None:
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 2:5, 1:7] = True
    corners = boxes(mask)
    assert corners.tolist() == [[1, 2, 7, 5], [0, 0, 0, 0]]
    assert iou(corners, torch.tensor([[1.0, 2, 4, 5], [0, 0, 1, 1]])).tolist() == [0.5, 0]
    assert not object_mask(torch.zeros(3, 2, 8, 8)).any()


def test_what_is_not_given_cannot_be_measured(folder: Path) -> None:
    with pytest.raises(ValueError, match="no frame is given"):
        FramePsnr(read_prompts(folder / "prompts-control.jsonl"), SIZE, 8.0)
    with pytest.raises(ValueError, match="no control is given"):
        BoxIoU(read_prompts(folder / "prompts-first.jsonl"), SIZE, 8.0)
    assert all((folder / f"{name}.jsonl").is_file() for name in PROMPT_TABLES)
