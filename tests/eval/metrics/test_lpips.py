"""LPIPS against torchmetrics and the lpips package on one random trunk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchmetrics.functional.image.lpips as of_torchmetrics
from safetensors.torch import save_file
from torch import Tensor, nn

from fewstep.eval.metrics.clips import Clips
from fewstep.eval.metrics.lpips import LPIPS, Lpips, LpipsGap, VideoLpips, open_lpips


@pytest.fixture(scope="module")
def trunk() -> dict[str, Tensor]:
    """A random AlexNet as torchvision saves one, with its classifier."""
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    generator = torch.Generator().manual_seed(0)
    state = {"classifier.1.weight": torch.zeros(2, 2)}
    for i, shape in shapes.items():
        scale = (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        state[f"features.{i}.weight"] = torch.randn(shape, generator=generator) * scale
        state[f"features.{i}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return state


def pictures(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_to_torchmetrics(trunk: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """torchmetrics' own network, which would take its trunk from torchvision."""
    own = Lpips(trunk)
    alexnet = nn.Sequential(*own.features, nn.MaxPool2d(3, 2))
    monkeypatch.setattr(of_torchmetrics, "_get_tv_model_features", lambda *_, **__: alexnet)
    theirs = of_torchmetrics._LPIPS(net="alex", pnet_rand=True)
    first, second = pictures(0, 3, 3, 48, 64), pictures(1, 3, 3, 48, 64)
    torch.testing.assert_close(own(first, second), theirs(first, second).flatten(), rtol=0, atol=1e-6)
    assert own(first, first).abs().max() == 0 and own(first, second).min() > 0.01


def test_equal_to_the_lpips_package(trunk: dict[str, Tensor]) -> None:
    try:
        from lpips import LPIPS
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"the lpips package does not import: {error}")
    own, theirs = Lpips(trunk), LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    weights = [own.features.get_parameter(name) for name, _ in own.features.named_parameters()]
    for parameter, weight in zip(theirs.net.parameters(), weights, strict=True):
        parameter.data.copy_(weight)
    first, second = pictures(0, 3, 3, 64, 64), pictures(1, 3, 3, 64, 64)
    torch.testing.assert_close(own(first, second), theirs(first, second).flatten(), rtol=0, atol=1e-6)
    assert VideoLpips(own).protocol() == VideoLpips(theirs).protocol()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_clip_has_the_mean_over_its_frames(trunk: dict[str, Tensor], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"alexnet{suffix}"
    if suffix == ".pth":
        torch.save(trunk, path)
    else:
        save_file(trunk, path)
    metric = LpipsGap(open_lpips(path))
    own, teacher = pictures(0, 2, 3, 18, 32, 32), pictures(1, 2, 3, 18, 32, 32)
    distances = metric.measure(Clips.of(own, own, ["", ""], Clips.of(teacher, teacher, ["", ""])))
    each = [Lpips(trunk)(o.transpose(0, 1), t.transpose(0, 1)).mean() for o, t in zip(own, teacher, strict=True)]
    torch.testing.assert_close(distances, torch.stack(each), rtol=0, atol=1e-6)
    assert len(metric.protocol()["trunk_sha256"]) == 64
    by_itself = LPIPS(str(path))
    by_itself.update(own, teacher=teacher)
    assert float(by_itself.compute()["lpips"]) == metric.figures(distances, None)["lpips"]["value"]


def test_wrong_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        open_lpips(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="no weights that can be read safely"):
        open_lpips(tmp_path / "text.pth")
    save_file({"features.0.weight": torch.zeros(2)}, tmp_path / "vgg.safetensors")
    with pytest.raises(ValueError, match="not those of torchvision's AlexNet"):
        open_lpips(tmp_path / "vgg.safetensors")
