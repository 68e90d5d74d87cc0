"""Metrics in anyone's loop: the evaluation's figures, whatever the batches, copies and processes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchmetrics import MetricCollection

from fewstep.eval.metrics.clips import Clips, Figures, Metric
from fewstep.eval.metrics.frechet import frechet
from fewstep.eval.metrics.fvd import FvdFeatures
from fewstep.eval.metrics.i3d import I3D
from fewstep.metrics import (
    FVD,
    PSNR,
    SSIM,
    Blank,
    Broken,
    Contrast,
    Distance,
    Diversity,
    Flicker,
    KernelDistance,
    LatentMSE,
    Motion,
    PromptAccuracy,
    Saturation,
    TemporalError,
    open_features,
    rms,
)
from tests.eval.metrics import metric_process as process
from tests.forked import run_scripts

EVERY = [
    Motion, Flicker, Saturation, Contrast, Blank, Broken, PSNR, SSIM, LatentMSE, TemporalError, PromptAccuracy,
    lambda: Diversity("diversity-rms", rms, seeds=2),
]  # fmt: skip


def flat(figures: Figures) -> dict[str, float]:
    ends = {"": "value", "-low": "low", "-high": "high"}
    return {name + end: figure[key] for name, figure in figures.items() for end, key in ends.items()}


def small(seed: int) -> torch.Tensor:
    return process.clips(seed)[:4, :, :, :, :]


@pytest.mark.parametrize("make", EVERY)
def test_what_a_loop_computes_is_what_an_evaluation_does(make: Any) -> None:
    metric: Metric = make()
    own, teacher, prompts = small(0), small(1), process.PROMPTS * 2
    for start in (0, 2):
        part = slice(start, start + 2)
        metric.update(own[part], prompts=prompts[part], teacher=teacher[part])
    shown = Clips.of(teacher, teacher, prompts)
    measured = metric.measure(Clips.of(own, own, prompts, shown))
    of_teacher = None if metric.paired else metric.measure(shown)
    assert {n: float(v) for n, v in metric.compute().items()} == flat(metric.figures(measured, of_teacher))
    if isinstance(metric, Motion):
        assert "motion-ratio" in metric.compute()
    metric.reset()
    with pytest.raises(ValueError, match="has seen no clips yet"), pytest.warns(UserWarning, match="before"):
        metric.compute()


def test_distances_share_features_and_may_keep_the_real_ones() -> None:
    judge, arguments = open_features("shapes-fd"), list[int]()
    features = judge.features
    judge.features = lambda videos: (arguments.append(len(videos)), features(videos))[1]  # type: ignore[method-assign,func-returns-value]
    metrics = MetricCollection([Distance(judge, reset_real_features=False), KernelDistance(judge)])
    metrics.update(small(2), real=True)
    arguments.clear()
    metrics.update(small(0))
    computed = metrics.compute()
    assert arguments == [4]
    distance = Distance(judge)
    distance.reference = features(small(2))
    expected = flat(distance.figures(features(small(0)), None))
    # both give the kernel distance, so torchmetrics puts their names before all
    assert {n: float(v) for n, v in computed.items() if n[0] == "D"} == {
        f"Distance_{n}": v for n, v in expected.items()
    }
    assert {n: float(v) for n, v in computed.items() if n[0] == "K"} == {
        f"KernelDistance_{name}": value for name, value in expected.items() if "kernel" in name
    }
    alone = Distance(judge, reset_real_features=False)
    alone.update(small(2), real=True)
    alone(small(1))
    alone.reset()
    alone.update(small(0))
    assert {name: float(value) for name, value in alone.compute().items()} == expected
    with pytest.raises(ValueError, match="has seen no real clips yet"):
        distance.reset()
        distance.update(small(0))
        distance.compute()


def test_fvd_opens_its_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(I3D().state_dict(), tmp_path / "i3d.safetensors")
    monkeypatch.setattr(FvdFeatures, "features", lambda self, videos: videos.flatten(1)[:, :5])  # I3D takes seconds
    metric = FVD(str(tmp_path / "i3d.safetensors"), reset_real_features=False)
    metric.update(small(1), real=True)
    metric.update(small(0))
    features = [small(seed).flatten(1)[:, :5] for seed in (0, 1)]
    assert float(metric.compute()["fvd"]) == frechet(*features)
    with pytest.raises(ValueError, match="there are no weights at"):
        FVD(tmp_path / "none.pt")


def test_metrics_are_cloned_pickled_and_never_taken_for_one_another() -> None:
    metrics = process.collection()
    frozen = small(0)[:2, :, :1].expand(-1, -1, 17, -1, -1)  # no motion, and nothing broken: both are 0 at first
    metrics.update(frozen, prompts=process.PROMPTS, teacher=frozen)
    copies = [metrics.clone(), pickle.loads(pickle.dumps(metrics))]
    broken = small(1)[:2].clone()
    broken[0, 0, 3] = torch.nan
    for one in (metrics, *copies):
        one.update(broken, prompts=process.PROMPTS, teacher=small(2)[:2])
        one["Distance"].update(small(3), real=True)
    computed = [process.figures(one) for one in (metrics, *copies)]
    assert computed[0] == computed[1] == computed[2] and computed[0]["broken"] == 0.25 and computed[0]["motion"] > 0.1


def test_a_metric_in_a_model_that_is_trained_stays_as_it_is() -> None:
    accuracy, metric = PromptAccuracy(), Motion()
    torch.nn.ModuleList([accuracy, metric]).train()
    assert not any(module.training for module in accuracy.modules())
    assert float(metric(small(0))["motion"]) > 0 and float(metric.compute()["motion"]) > 0  # forward, as in Lightning


@pytest.mark.parametrize(
    ("metric", "arguments", "sentence"),
    [
        (Motion(), (torch.zeros(3, 5, 8, 8),), r"motion takes videos \(B, 3, F, H, W\)"),
        (Motion(), (torch.zeros(1, 3, 5, 8, 8, dtype=torch.uint8),), "floats in -1..1, not torch.uint8"),
        (Motion(), (torch.zeros(2, 3, 5, 8, 8), ["a"]), "2 clips and 1 prompts"),
        (PSNR(), (torch.zeros(1, 3, 5, 8, 8),), "psnr compares clips with the teacher's"),
        (PSNR(), (torch.zeros(2, 3, 5, 8, 8), None, torch.zeros(1, 3, 5, 8, 8)), "compares clips one by one"),
        (LatentMSE(), (torch.zeros(2, 4),), r"latents \(B, C, F, H, W\)"),
        (PromptAccuracy(), (torch.zeros(1, 3, 17, 64, 64),), "pass prompts"),
        (Diversity("d", rms, 4), (torch.zeros(6, 3, 5, 8, 8),), "d compares 4 clips of each prompt"),
    ],
)
def test_what_it_cannot_measure_is_refused_in_one_sentence(
    metric: Metric, arguments: tuple[Any, ...], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        metric.update(*arguments)


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    """However the clips are shared, also where one process has none."""
    shares = [[[0, 4], [4, 8]], [[0, 2], [2, 8]], [[0, 8], [8, 8]]]
    run_scripts(2, process.__file__, json.dumps(shares), tmp_path, logs=tmp_path)
    alone = process.collection()
    process.update(alone, 0, 8)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [process.figures(alone)] * 3
