"""Cached features are those of the same protocol, and of no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.eval.feature_cache import cached_features, default_folder
from fewstep.eval.metrics.features import open_features

PROTOCOL = {
    **open_features("shapes-fd").protocol(),
    "reference": {"kind": "real videos", "clips": 2048, "files_sha256": "ab" * 32, "fps": 8.0, "sizes": [17, 64, 64]},
}


class Compute:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Tensor:
        self.times += 1
        return torch.full((3, 2), float(self.times))


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, str):
        return value + " "
    if isinstance(value, list):
        return [changed(value[0]), *value[1:]]
    return value + 1


def variants(protocol: dict[str, Any]) -> list[dict[str, Any]]:
    """The protocol with one field changed, left out or new, at every depth."""
    protocols = [protocol | {"more": 1}]
    for key, value in protocol.items():
        others = variants(value) if isinstance(value, dict) else [changed(value)]
        protocols += [protocol | {key: other} for other in others]
        protocols.append({name: kept for name, kept in protocol.items() if name != key})
    return protocols


def test_the_same_protocol_is_computed_once(tmp_path: Path) -> None:
    compute = Compute()
    first = cached_features(PROTOCOL, compute, tmp_path)
    turned = dict(reversed(PROTOCOL.items()))
    assert torch.equal(cached_features(turned, compute, tmp_path), first) and compute.times == 1


def test_a_protocol_that_differs_in_any_field_is_computed_anew(tmp_path: Path) -> None:
    compute = Compute()
    cached_features(PROTOCOL, compute, tmp_path)
    others = variants(PROTOCOL)
    for times, other in enumerate(others, start=2):
        assert float(cached_features(other, compute, tmp_path)[0, 0]) == times, other
    assert len(others) > 20 and compute.times == len(others) + 1


def test_a_damaged_or_renamed_file_is_computed_anew(tmp_path: Path) -> None:
    compute = Compute()
    cached_features(PROTOCOL, compute, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    assert float(cached_features(PROTOCOL, compute, tmp_path)[0, 0]) == 2
    other = PROTOCOL | {"frames": 9}
    cached_features(other, compute, tmp_path)
    (stranger,) = set(tmp_path.glob("*.safetensors")) - {path}
    stranger.rename(path)
    assert float(cached_features(PROTOCOL, compute, tmp_path)[0, 0]) == 4


def test_an_interrupted_computation_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(PROTOCOL, interrupted, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    assert cached_features(PROTOCOL, Compute(), tmp_path).shape == (3, 2)


def test_the_usual_folder_is_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "fewstep" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "fewstep" / "features"
