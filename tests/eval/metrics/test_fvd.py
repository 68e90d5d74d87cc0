"""FVD's network against a scripted one that is built as the public archive is said to be; the archive is not here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fewstep.eval.metrics import fvd
from fewstep.eval.metrics.fvd import FvdFeatures
from fewstep.eval.metrics.i3d import I3D
from fewstep.eval.metrics.preprocess import eight_bits, resized
from fewstep.teacher.files.checksums import sha256

BLOCKS = {
    "mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}


class ScriptedUnit(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, epsilon: float) -> None:
        super().__init__()
        before, after = {1: (0, 0), 3: (1, 1), 7: (2, 3)}[kernel]
        self.pad = nn.ConstantPad3d((before, after) * 3, 0.0)
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, 2 if kernel == 7 else 1, bias=False)
        self.batch3d = nn.BatchNorm3d(outputs, eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.batch3d(self.conv3d(self.pad(x))))


class ScriptedPool(nn.Module):
    def __init__(
        self, padding: tuple[int, int, int, int, int, int], kernel: tuple[int, int, int], stride: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.pad = nn.ConstantPad3d(padding, 0.0)
        self.pool = nn.MaxPool3d(kernel, stride, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.pad(x))


class ScriptedBlock(nn.Module):
    def __init__(self, inputs: int, a: int, b: int, c: int, d: int, e: int, f: int, epsilon: float) -> None:
        super().__init__()
        self.branch_0 = ScriptedUnit(inputs, a, 1, epsilon)
        self.branch_1 = nn.Sequential(ScriptedUnit(inputs, b, 1, epsilon), ScriptedUnit(b, c, 3, epsilon))
        self.branch_2 = nn.Sequential(ScriptedUnit(inputs, d, 1, epsilon), ScriptedUnit(d, e, 3, epsilon))
        pool = ScriptedPool((1,) * 6, (3, 3, 3), (1, 1, 1))
        self.branch_3 = nn.Sequential(pool, ScriptedUnit(inputs, f, 1, epsilon))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], 1)


class ScriptedLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, 400, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(x)


class Scripted(nn.Module):
    """Names of parts and the call of forward as in the archive."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.conv3d_1a_7x7 = ScriptedUnit(3, 64, 7, epsilon)
        self.conv3d_2b_1x1, self.conv3d_2c_3x3 = ScriptedUnit(64, 64, 1, epsilon), ScriptedUnit(64, 192, 3, epsilon)
        self.thin = ScriptedPool((0, 1, 0, 1, 0, 0), (1, 3, 3), (1, 2, 2))
        self.thick = ScriptedPool((0, 1, 0, 1, 0, 1), (3, 3, 3), (2, 2, 2))
        self.last = ScriptedPool((0,) * 6, (2, 2, 2), (2, 2, 2))
        blocks = {name: ScriptedBlock(*sizes, epsilon) for name, sizes in BLOCKS.items()}
        self.mixed_3b, self.mixed_3c = blocks["mixed_3b"], blocks["mixed_3c"]
        self.mixed_4b, self.mixed_4c, self.mixed_4d = (blocks[f"mixed_4{i}"] for i in "bcd")
        self.mixed_4e, self.mixed_4f = blocks["mixed_4e"], blocks["mixed_4f"]
        self.mixed_5b, self.mixed_5c = blocks["mixed_5b"], blocks["mixed_5c"]
        self.conv3d_0c_1x1 = ScriptedLogits()
        self.avg_pool = nn.AvgPool3d((2, 7, 7), (1, 1, 1))

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        assert not rescale and not resize
        x = self.thin(self.conv3d_2c_3x3(self.conv3d_2b_1x1(self.thin(self.conv3d_1a_7x7(x)))))
        x = self.thick(self.mixed_3c(self.mixed_3b(x)))
        x = self.mixed_4f(self.mixed_4e(self.mixed_4d(self.mixed_4c(self.mixed_4b(x)))))
        x = self.conv3d_0c_1x1(self.avg_pool(self.mixed_5c(self.mixed_5b(self.last(x)))))
        logits = x.squeeze(3).squeeze(3).mean(2)
        return logits if return_features else logits.softmax(1)


def piergiaj(name: str) -> str:
    """As pytorch-i3d calls a part."""
    branches = {"0.": "b0.", "1.0.": "b1a.", "1.1.": "b1b.", "2.0.": "b2a.", "2.1.": "b2b.", "3.1.": "b3b."}
    for theirs, other in branches.items():
        name = name.replace(f"branch_{theirs}", other)
    return (
        name.replace("conv3d_0c_1x1", "logits")
        .replace("batch3d", "bn")
        .replace("mixed", "Mixed")
        .replace("conv3d_", "Conv3d_")
    )


@pytest.fixture(scope="module")
def scripted() -> Scripted:
    torch.manual_seed(0)
    network = Scripted(epsilon=1e-5).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):  # statistics that tell one epsilon, and one channel, from another
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.05)
            nn.init.uniform_(module.running_var, 0.01, 0.1)
            nn.init.normal_(module.bias, std=0.2)
    return network


@pytest.fixture(scope="module")
def archive(scripted: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fvd") / "i3d_torchscript.pt"
    torch.jit.script(scripted).save(str(path))
    return path


def videos(count: int, frames: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, frames, 20, 28, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_features_are_the_logits_of_the_scripted_network(
    scripted: Scripted, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fvd, "ARCHIVE_SHA256", sha256(archive))
    network = FvdFeatures(archive)
    clip = videos(1, 17)
    theirs = scripted(resized(eight_bits(clip)[:, :, :16], 224, 224, antialias=False), return_features=True)
    torch.testing.assert_close(network.features(clip), theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    assert network.protocol()["weights_of_stylegan_v"] and network.protocol()["weights_sha256"] == sha256(archive)
    with pytest.raises(ValueError, match="at least 10 frames, and these have 9"):
        network.features(videos(1, 9))


def test_an_archive_that_computes_something_else_is_refused(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted.thin.pad, "padding", (1, 0, 1, 0, 0, 0))  # the same weights, otherwise padded
    path = tmp_path / "other.pt"
    torch.jit.script(scripted).save(str(path))
    monkeypatch.setattr(fvd, "ARCHIVE_SHA256", sha256(path))
    with pytest.raises(ValueError, match="does not give the logits"):
        FvdFeatures(path)


def test_a_download_that_is_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(I3D().state_dict(), tmp_path / "i3d.safetensors")
    monkeypatch.setattr(fvd, "find_file", lambda *_: tmp_path / "i3d.safetensors")
    with pytest.raises(ValueError, match="not the file that FVD is known for"):
        FvdFeatures()


def test_unknown_archives_are_never_run(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(torch.jit, "load", run)
    with pytest.raises(ValueError, match="can run code"):
        FvdFeatures(archive)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_weight_of_pytorch_i3d_finds_its_place(scripted: Scripted, tmp_path: Path, suffix: str) -> None:
    state = {piergiaj(name): weight for name, weight in scripted.state_dict().items()}
    assert {"Conv3d_1a_7x7.conv3d.weight", "Mixed_5c.b3b.bn.running_var", "logits.conv3d.bias"} <= set(state)
    path = tmp_path / f"rgb_imagenet{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    network = FvdFeatures(path)
    own = network._network.state_dict()
    for name, weight in scripted.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(own[name], weight), name
    assert not network.protocol()["weights_of_stylegan_v"]


def test_weights_that_are_not_there_or_not_of_i3d_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no weights at"):
        FvdFeatures(tmp_path / "nothing.pt")
    with pytest.raises(ValueError, match=r"i3d_torchscript.pt of flateon/FVD-I3D-torchscript is neither"):
        FvdFeatures()
    state = I3D().state_dict()
    wrong = {
        "is missing": {name: weight for name, weight in state.items() if name != "mixed_4b.branch_0.conv3d.weight"},
        "is not expected": state | {"head.weight": torch.zeros(1)},
        "of another size": state | {"conv3d_0c_1x1.conv3d.bias": torch.zeros(600)},
    }
    for text, weights in wrong.items():
        save_file(weights, tmp_path / "i3d.safetensors")
        with pytest.raises(ValueError, match=text):
            FvdFeatures(tmp_path / "i3d.safetensors")
    (tmp_path / "i3d.safetensors").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="no plain tensors"):
        FvdFeatures(tmp_path / "i3d.safetensors")
    torch.save({"weights": I3D}, tmp_path / "code.pt")
    with pytest.raises(ValueError, match="no plain tensors"):
        FvdFeatures(tmp_path / "code.pt")
