"""Devices that are there or refused, and silence while loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.utils import logging as of_diffusers
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as of_transformers

from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.loading import find_device, without_bars


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device("cpu") == find_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device() == torch.device("cpu")


@pytest.mark.parametrize("device", ["foo", "cuda:99", "", "meta"])
def test_devices_that_are_not_there_are_refused(tiny_wan_folder: Path, device: str) -> None:
    with pytest.raises(ValueError, match="use cpu"):
        load_teacher(tiny_wan_folder, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tiny_wan_folder: Path) -> None:
    with pytest.raises(ValueError, match="there is no device cuda on this machine: use cpu"):
        load_teacher(tiny_wan_folder, device="cuda")


@pytest.mark.parametrize("hub_silent", [False, True])
def test_bars_are_silent_while_loading_and_then_as_before(hub_silent: bool) -> None:
    was_silent = are_progress_bars_disabled()
    (disable_progress_bars if hub_silent else enable_progress_bars)()
    states = (of_diffusers.is_progress_bar_enabled, of_transformers.is_progress_bar_enabled)
    before = [state() for state in states]
    with without_bars():
        assert not any(state() for state in states) and are_progress_bars_disabled()
    assert [state() for state in states] == before
    assert are_progress_bars_disabled() == hub_silent
    (disable_progress_bars if was_silent else enable_progress_bars)()


def test_loading_prints_nothing(tiny_wan_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_teacher(tiny_wan_folder, device="cpu")
    assert capfd.readouterr() == ("", "")
