"""Distances inside an evaluation: to real videos, to the teacher's clips of other noise, and their floors."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.eval import choose_metrics as choosing
from fewstep.eval import models, reference
from fewstep.eval.caution import why_inconclusive
from fewstep.eval.choose_metrics import Setting, choose_metrics
from fewstep.eval.clip_store import ClipStore
from fewstep.eval.evaluate import Evaluation
from fewstep.eval.evaluation_file import EvaluationFile
from fewstep.eval.metrics.distance import Distance
from fewstep.eval.metrics.frechet import frechet
from fewstep.eval.metrics.prompt_accuracy import PromptAccuracy
from fewstep.eval.models import Model
from fewstep.eval.protocol import prompts_of, protocol_of, samples_of
from fewstep.student.contract import SamplingContract
from fewstep.student.sampler import Sampler, SamplingOptions, teacher_sampler
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.ranks import ALONE, Ranks
from fewstep.teacher.videos.decoding import ClipShape
from fewstep.teacher.videos.writing import write_video
from tests.two_ranks import both

PROMPTS = ["a ring", "a cross", "a box", "a red ring"]


class MeanColours:
    """A feature network that needs no weights."""

    name, min_frames = "fvd", 3

    def protocol(self) -> dict[str, Any]:
        return {"network": "mean colours"}

    def features(self, videos: Tensor) -> Tensor:
        return videos.mean((2, 3, 4)).cpu()


@pytest.fixture
def teacher(tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sampler:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choosing, "open_features", lambda *_: MeanColours())
    return teacher_sampler(tiny_teacher, "tiny", SamplingOptions(2, 1.0))


def setting(teacher: Sampler, **known: Any) -> Setting:
    return Setting(teacher.size, teacher.fps, PROMPTS, 0, "cpu", **known)


def evaluated(teacher: Sampler, out: Path, ranks: Ranks = ALONE, **known: Any) -> tuple[list[dict[str, Any]], Distance]:
    """Rows of the teacher at two steps and at one, and their distance."""
    metrics, left_out = choose_metrics(["fvd"], setting(teacher, **known))
    protocol = protocol_of("teacher", teacher, PROMPTS, 0, metrics, left_out, "float32")
    file, first = EvaluationFile(out, "", protocol, PROMPTS, ranks.first), Model("teacher", "tiny")
    evaluation = Evaluation(out, file, samples_of(PROMPTS, 0), metrics, 3, (first, teacher), ranks)
    evaluation.measure(first, teacher, lambda *_: None)
    fewer = teacher_sampler(teacher.teacher, "tiny", SamplingOptions(1, 1.0))
    evaluation.measure(Model("fewer", "tiny"), fewer, lambda *_: None)
    ranks.wait()
    (metric,) = metrics
    assert isinstance(metric, Distance)
    return json.loads((out / "results.json").read_text())["rows"], metric


def test_without_real_videos_distances_are_to_the_teachers_clips_of_other_noise(
    teacher: Sampler, tmp_path: Path
) -> None:
    (first, fewer), _ = evaluated(teacher, tmp_path)
    seeds = range(2 * 500_009 * 1_000_003, 2 * 500_009 * 1_000_003 + len(PROMPTS))
    other = MeanColours().features(teacher.clips(PROMPTS, seeds).clamp(-1, 1))
    own = MeanColours().features(teacher.clips(PROMPTS, range(len(PROMPTS))).clamp(-1, 1))
    assert first["metrics"]["fvd"]["value"] == pytest.approx(frechet(own, other), rel=1e-3)
    assert "floor" not in first["metrics"]["fvd"]
    assert fewer["metrics"]["fvd"]["floor"] == first["metrics"]["fvd"]["value"]
    facts = json.loads((tmp_path / "results.json").read_text())["protocol"]["metrics"]["fvd"]
    assert facts["reference"]["kind"] == "the teacher's clips of other noise"


def test_two_processes_find_the_same_distances(teacher: Sampler, tmp_path: Path) -> None:
    alone, _ = evaluated(teacher, tmp_path / "one")
    own = [teacher, deepcopy(teacher)]  # autoencoders keep frames while they decode, which threads must not share
    first, second = both(lambda ranks: evaluated(own[ranks.rank], tmp_path / "two", ranks)[0])
    assert first.result() == second.result() == alone


def test_students_are_held_against_the_teacher_and_others_of_as_many_steps(teacher: Sampler, tmp_path: Path) -> None:
    metrics, left_out = choose_metrics(["fvd", "blank"], setting(teacher))
    protocol = protocol_of("teacher", teacher, PROMPTS, 0, metrics, left_out, "float32")
    out, first = tmp_path / "out", Model("teacher", "tiny")
    contract = SamplingContract.of(teacher.teacher, "tiny", 1, "full", teacher.size, 1.0, "", 8.0)

    def measure(*students: tuple[str, int, float]) -> dict[str, Any]:
        file = EvaluationFile(out, "", protocol, PROMPTS)
        evaluation = Evaluation(out, file, samples_of(PROMPTS, 0), metrics, 3, (first, teacher))
        evaluation.measure(first, teacher, lambda *_: None)
        for name, steps, guidance in students:
            (tmp_path / name).write_text(name)
            sampler = replace(
                teacher_sampler(teacher.teacher, name, SamplingOptions(steps, guidance)), contract=contract
            )
            evaluation.measure(Model(name, str(tmp_path / name)), sampler, lambda *_: None)
        return dict(json.loads((out / "results.json").read_text()))

    a, b, other = ("a", 1, 1.0), ("b", 1, 3.0), ("other", 2, 1.0)
    results = measure(a, other, b)
    pairs = {(one["model"], one["other"]): one["metrics"] for one in results["differences"]}
    assert list(pairs) == [("a", "teacher"), ("other", "teacher"), ("b", "teacher"), ("b", "a")]
    assert all(list(metrics) == ["fvd"] for metrics in pairs.values())
    value = {row["model"]: row["metrics"]["fvd"]["value"] for row in results["rows"]}
    assert pairs["b", "teacher"]["fvd"]["value"] == pytest.approx(value["b"] - value["teacher"])
    facts = pairs["b", "a"]["fvd"]
    assert facts["value"] == pytest.approx(value["b"] - value["a"]) and facts["low"] < facts["value"] < facts["high"]
    assert (facts["num"], facts["dimensions"], facts["better"]) == (4, 3, "lower")
    assert measure(b)["differences"] == measure(a, b)["differences"] == results["differences"]


def test_prompt_accuracy_tells_on_how_many_clips_two_models_differ() -> None:
    own = torch.ones(40, 6, dtype=torch.int8)
    other, unsaid = own.clone(), -torch.ones(3, 6, dtype=torch.int8)
    other[:8, 2], own[38:, 1] = 0, 0
    metric = PromptAccuracy()
    difference = metric.difference(torch.cat([own, unsaid]), torch.cat([other, unsaid]))["prompt-accuracy"]
    assert difference["value"] == pytest.approx(6 / 40) and (difference["differing"], difference["num"]) == (10, 40)
    assert difference["low"] < 6 / 40 < difference["high"] and why_inconclusive(difference) is None
    assert (
        why_inconclusive(metric.difference(own, own)["prompt-accuracy"])
        == "the two differ on 0 of 40 clips, which is too few"
    )


@pytest.mark.parametrize("count", [7, 8])
def test_real_videos_are_the_reference_and_spare_ones_the_floor(teacher: Sampler, tmp_path: Path, count: int) -> None:
    folder, rng = tmp_path / "real", np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        write_video(folder / f"{i}.mp4", rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8), teacher.fps)
    rows, metric = evaluated(teacher, tmp_path / "out", real=folder)
    assert [row["model"] for row in rows] == (["teacher", "real", "fewer"] if count == 8 else ["teacher", "fewer"])
    assert metric.real is not None and metric.real.reference.count == (4 if count == 8 else 7)
    kept = MeanColours().features(metric.real.reference.read(range(metric.real.reference.count)))
    own = MeanColours().features(teacher.clips(PROMPTS, range(len(PROMPTS))).clamp(-1, 1))
    assert rows[0]["metrics"]["fvd"]["value"] == pytest.approx(frechet(own, kept), rel=1e-5)
    assert ("floor" in rows[-1]["metrics"]["fvd"]) == (count == 8)
    (folder / "9.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"9\.mp4 cannot be a reference: broken"):
        evaluated(teacher, tmp_path / "other", real=folder)


def test_the_floor_is_of_all_classes_of_a_sorted_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (f"{label}/{i}.mp4" for label in "abcd" for i in range(25)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.setattr(reference, "check_video", lambda path: None)
    monkeypatch.setattr(reference, "_read", lambda path, shape: torch.tensor(ord(path.parent.name)))
    real = reference.folder_clips(tmp_path, ClipShape(9, 16, 16, fps=8), 40)
    assert real.floor is not None and (real.floor.count, real.reference.count) == (40, 60)
    for source in (real.floor, real.reference):
        classes, counts = source.read(range(source.count)).unique(return_counts=True)
        assert len(classes) == 4 and int(counts.min()) >= source.count / 8


def test_what_cannot_be_taken_is_refused_where_named_and_told_elsewhere(teacher: Sampler) -> None:
    metrics, left_out = choose_metrics(None, setting(teacher))
    assert not {"frame-psnr", "box-iou"} & left_out.keys()  # nothing is given: no news
    assert {metric.name for metric in metrics} >= {"psnr", "motion", "diversity-rms"}
    assert left_out.keys() >= {"shapes-fd", "fvd", "fd-videomae", "lpips"} and "--fvd-weights" in left_out["fvd"]
    short = Setting(VideoSize(1, 16, 16), 8.0, PROMPTS, 0, "cpu")
    assert "how frames change" in choose_metrics(None, short)[1]["temporal-error"]
    with pytest.raises(ValueError, match="fvd needs 3 frames, and the clips have 1"):
        choose_metrics(["fvd"], short)
    with pytest.raises(ValueError, match="the judge reads clips of the shapes world"):
        choose_metrics(["prompt-accuracy"], short)
    with pytest.raises(ValueError, match="name nothing that the judge"):
        choose_metrics(["prompt-accuracy"], Setting(VideoSize(17, 64, 64), 8.0, ["a cat"], 0, "cpu"))


def test_prompts_are_used_again_and_noise_never(teacher: Sampler) -> None:
    assert prompts_of(["a", "b"], 5, teacher.size, 0) == ["a", "b", "a", "b", "a"]
    samples = samples_of(PROMPTS, seed=3)
    drawn = [samples.main.batch(range(4)), samples.diverse.batch(range(4)), samples.other.batch(range(4))]
    seeds = [seed for _, some in drawn for seed in some]
    assert len(set(seeds)) == len(seeds) == 4 + 16 + 4
    assert samples.diverse.batch(range(1, 3))[0] == ["a cross"] * 4 + ["a box"] * 4


def test_a_store_reads_any_rows_of_its_batches(tmp_path: Path) -> None:
    store, rows = ClipStore(tmp_path), torch.arange(10).unsqueeze(1)
    for batch in store.batches(7, 3):
        store.add(batch, {"number": rows[batch.start : batch.stop]})
    again = ClipStore(tmp_path)
    assert [*again.batches(10, 2)] == [range(0, 3), range(3, 6), range(6, 7), range(7, 9), range(9, 10)]
    assert again.read("number", range(2, 5)).flatten().tolist() == [2, 3, 4]
    again.add(range(3, 6), {"more": rows[3:6]})
    assert again.names(range(3, 6)) == {"number", "more"} and again.names(range(7, 9)) == set()
    assert torch.equal(again.read("number"), rows[:7])


def test_a_store_is_filled_in_any_order(tmp_path: Path) -> None:
    """As several processes fill it, of which one was killed; names of files sort otherwise from 100,000 rows on."""
    rows = torch.arange(12).unsqueeze(1) + 99_992
    first, second = ClipStore(tmp_path), ClipStore(tmp_path)
    for store, starts in ((first, [0, 99_996, 100_002]), (second, [100_000])):
        for start in starts:
            batch = range(start, start + 2) if start else range(99_992)
            store.add(batch, {"number": torch.arange(batch.start, batch.stop).unsqueeze(1)})
    again = ClipStore(tmp_path)
    missing = [batch for batch in again.batches(100_004, 3) if not again.names(batch)]
    assert missing == [range(99_992, 99_995), range(99_995, 99_996), range(99_998, 100_000)]
    assert not again.holds("number", 100_004)
    for batch in missing:
        again.add(batch, {"number": rows[batch.start - 99_992 : batch.stop - 99_992]})
    assert again.holds("number", 100_004) and torch.equal(again.read("number", range(99_992, 100_004)), rows)


def test_a_real_video_that_is_too_short_is_named_before_a_clip_is_sampled(
    teacher: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    for name, frames in (("a", 12), ("b", 12), ("c", 3)):
        write_video(tmp_path / "real" / f"{name}.mp4", np.zeros((frames, 16, 16, 3), np.uint8), 8)
    monkeypatch.setattr(Sampler, "sample", lambda *_: pytest.fail("a clip was sampled"))
    with pytest.raises(ValueError, match=r"c\.mp4 cannot be a reference: too short"):
        evaluated(teacher, tmp_path / "out", real=tmp_path / "real")


def test_weights_that_are_given_ask_for_their_metric(teacher: Sampler, tmp_path: Path) -> None:
    """A mistyped path is no reason to leave a metric out."""
    given = setting(teacher, lpips_trunk=tmp_path / "none.pth")
    with pytest.raises(ValueError, match="lpips needs 31 pixels a side"):
        choose_metrics(None, given)
    metrics, left_out = choose_metrics(None, setting(teacher))
    assert "lpips" in left_out and "lpips" not in {metric.name for metric in metrics}
    given = setting(teacher, real=tmp_path, fvd_weights=tmp_path)
    assert choosing.unused_options([], given) == [
        "--reference is not used: of fvd, fd-videomae, fd-vjepa2 none is taken",
        "--fvd-weights is not used: fvd is not among --metrics",
    ]


def test_warnings_are_of_all_figures_of_a_row(teacher: Sampler, tmp_path: Path) -> None:
    """Also of those that a later call with other metrics does not take again."""
    metrics, left_out = choose_metrics(["blank"], setting(teacher))
    file = EvaluationFile(
        tmp_path, "", protocol_of("teacher", teacher, PROMPTS, 0, metrics, left_out, "float32"), PROMPTS
    )
    still = {"motion-ratio": {"value": 0.2, "low": 0.1, "high": 0.3, "num": 4}}
    file.put({"model": "a", "metrics": still, "warnings": []})
    file.put({"model": "a", "metrics": {"fvd": {"value": 3.0}}, "warnings": []})
    (row,) = file.rows
    assert row["metrics"].keys() == {"motion-ratio", "fvd"} and "as much as the teacher" in row["warnings"][0]


def test_an_evaluation_of_prompts_alone_is_not_resumed_with_images(teacher: Sampler, tmp_path: Path) -> None:
    metrics, left_out = choose_metrics(["blank"], setting(teacher))
    protocol = protocol_of("teacher", teacher, PROMPTS, 0, metrics, left_out, "float32")
    for before in (protocol, {name: value for name, value in protocol.items() if not name.startswith("given")}):
        out = tmp_path / str(len(before))
        EvaluationFile(out, "", before, PROMPTS)
        EvaluationFile(out, "", protocol, PROMPTS)
        with pytest.raises(ValueError, match=r"holds an evaluation with given \[\], not \['first'\]"):
            EvaluationFile(out, "", protocol | {"given": ["first"], "given_sha256": "0"}, PROMPTS)


def test_a_teacher_from_the_hub_is_known_by_its_name() -> None:
    cached: Any = SimpleNamespace(folder=Path("/cache/models--Wan-AI--Wan2.1/snapshots/0abc"))
    assert models._is_in(cached, "Wan-AI/Wan2.1") and not models._is_in(cached, "Wan-AI/Wan2.2")
    assert models._is_in(cached, "/cache/models--Wan-AI--Wan2.1/snapshots/0abc") and not models._is_in(cached, "shapes")


def test_clips_for_vbench_are_of_the_prompts_that_they_were_begun_with(teacher: Sampler, tmp_path: Path) -> None:
    model, file = Model("teacher", "tiny"), tmp_path / "teacher.json"
    models.ClipClaim(model, teacher, 0, "float32", PROMPTS).keep(file)
    models.ClipClaim(model, teacher, 0, "float32", PROMPTS).check(file)
    with pytest.raises(ValueError, match=r"clips of teacher have another size or frame rate .*: choose another --out"):
        models.ClipClaim(model, replace(teacher, fps=teacher.fps + 1), 0, "float32", PROMPTS).check(file)
    for other in (PROMPTS[::-1], ["new", *PROMPTS]):
        with pytest.raises(ValueError, match="clips of teacher are of other prompts, of others in another order"):
            models.ClipClaim(model, teacher, 0, "float32", other).check(file)
    unsaid = ("prompts_sha256", "size", "fps")
    claimed = {name: value for name, value in json.loads(file.read_text()).items() if name not in unsaid}
    file.write_text(json.dumps(claimed))  # of an earlier version
    models.ClipClaim(model, teacher, 0, "float32", PROMPTS[::-1]).check(file)


def test_a_file_of_clips_that_is_cut_off_is_named_and_copies_are_not_read(tmp_path: Path) -> None:
    store = ClipStore(tmp_path)
    store.add(range(2), {"psnr": torch.ones(2, 1)})
    file = tmp_path / "00000-00002.safetensors"
    (tmp_path / "00000-00002 2.safetensors").write_bytes(file.read_bytes())
    assert torch.equal(ClipStore(tmp_path).read("psnr"), torch.ones(2, 1))
    file.write_bytes(file.read_bytes()[:-3])
    for ask in (lambda: ClipStore(tmp_path).read("psnr"), lambda: ClipStore(tmp_path).names(range(2))):
        with pytest.raises(ValueError, match=r"00000-00002\.safetensors is cut off .*delete it"):
            ask()


def test_references_are_found_as_training_clips_are(tmp_path: Path) -> None:
    """In linked folders as well, and without the files that macOS hides next to each."""
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    (tmp_path / "store").mkdir()
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "linked").symlink_to(tmp_path / "store")
    for path in (*(tmp_path / "store" / f"{i}.mp4" for i in range(2)), tmp_path / "reference" / "own.mp4"):
        write_video(path, frames, 8)
        (path.parent / f"._{path.name}").write_bytes(b"Mac OS X")
    names = [path.name for path in reference.reference_videos(tmp_path / "reference")]
    assert names == ["0.mp4", "1.mp4", "own.mp4"]
