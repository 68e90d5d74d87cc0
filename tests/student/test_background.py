"""Clips that are decoded in the background are the same, one batch at a time, and errors reach whoever waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fewstep.student.background import Background, decoded_meanwhile
from fewstep.student.chain import PreviousSampler
from fewstep.student.sampler import Sampler, SamplingOptions, teacher_sampler
from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher


@pytest.fixture
def sampler(tiny_teacher: Teacher) -> Sampler:
    return teacher_sampler(tiny_teacher, "tiny", SamplingOptions(2, 1.0))


def latents(sampler: Sampler) -> list[Tensor]:
    return [sampler.latents(["a ring"], [seed]) for seed in range(3)]


def test_clips_are_the_same_and_in_order(sampler: Sampler) -> None:
    made = latents(sampler)
    actual = list(decoded_meanwhile(sampler, made))
    assert all(torch.equal(video, sampler.decode(z)) for video, z in zip(actual, made, strict=True))
    assert not any(video.requires_grad for video in actual) and list(decoded_meanwhile(sampler, [])) == []


def test_a_batch_is_decoded_while_the_next_is_made(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    made, begun, next_one, threads = latents(sampler)[:2], threading.Event(), threading.Event(), set[str]()
    decode = Sampler.decode

    def watched(self: Sampler, z: Tensor) -> Tensor:
        threads.add(threading.current_thread().name)
        begun.set()
        assert next_one.wait(20)  # it ends only once the second batch is being made
        return decode(self, z)

    def batches() -> Iterator[Tensor]:
        yield made[0]
        assert begun.wait(20)
        next_one.set()
        yield made[1]

    monkeypatch.setattr(Sampler, "decode", watched)
    assert len(list(decoded_meanwhile(sampler, batches()))) == 2
    assert threads == {"decode_0"}


def test_an_error_of_decoding_is_raised(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    made = latents(sampler)[:1]

    def no_memory(self: Sampler, z: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    monkeypatch.setattr(Sampler, "decode", no_memory)
    with pytest.raises(torch.OutOfMemoryError, match="80 GiB"):
        list(decoded_meanwhile(sampler, made))


def test_clips_of_pictures_are_refused(sampler: Sampler, tiny_svd_folder: Path) -> None:
    of_picture = teacher_sampler(load_teacher(tiny_svd_folder, device="cpu"), "svd", SamplingOptions(2, 1.0))
    for refused in (of_picture, replace(sampler, before=PreviousSampler(sampler, {}, 1))):
        with pytest.raises(ValueError, match="--overlap is for clips that are made from prompts alone"):
            Background(refused)
